"""What is classified: records, targets and vectors, checked before anything is fitted.

All arrays of one `Dataset` have the order of the corpus; embeddings and predictions are brought into it by id.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from biollm.classify.config import CLASS_TASKS, Config
from biollm.classify.metrics import BoolArray, FloatArray
from biollm.classify.targets import Targets, read_targets, resolve_task, without_choice
from biollm.core.artifacts import MANIFEST
from biollm.core.errors import DataError, first_line, listed
from biollm.core.files import read_json
from biollm.corpus.columns import COVERAGE, LABEL, SPLITS, TRACK
from biollm.corpus.records import column_names

# Fewer rows of a class can neither be fitted nor ranked with any meaning.
MIN_PER_CLASS = 2
_MORE_DATA = "bring more data, or change ingest.split"
_CORE = ("id", "sequence", "group", "split")


@dataclass(frozen=True)
class Dataset:
    """The labelled records. table: id, sequence, group, split, and the tracks, coverages and covariates of each, in corpus order.

    query: the column whose equal values are one list (ranking), else "".
    """

    table: pl.DataFrame
    targets: Targets
    place: str
    unlabelled: frozenset[str] = frozenset()  # ids of records for which the question has no answer; they are in nothing else here
    query: str = ""

    def __len__(self) -> int:
        return self.table.height

    @property
    def ids(self) -> list[str]:
        return self.table["id"].to_list()

    @property
    def sequences(self) -> list[str]:
        return self.table["sequence"].to_list()

    @property
    def groups(self) -> list[str]:
        return self.table["group"].to_list()

    @property
    def track_names(self) -> list[str]:
        return [name.removeprefix(TRACK) for name in self.table.columns if name.startswith(TRACK)]

    def mask(self, *splits: str) -> BoolArray:
        """(n,) True for the records of these splits."""
        return self.table["split"].is_in(splits).to_numpy()


def load_dataset(path: Path, config: Config, place: str = "") -> Dataset:
    """Read the labelled records of a corpus. Records without a label (null) are left out. place: for messages; default: the path.

    Raises DataError if a column is not there, a label is not one of the task's (NaN is none) or the same for all records, a group or list
    is missing, or groups tear a list where they go into folds. What the splits must hold depends on the scheme: see `folds`.
    """
    place = place or str(path)
    existing = column_names(path)
    labels = [LABEL + name for name in (config.labels or [config.label])]
    there = [name.removeprefix(LABEL) for name in existing if name.startswith(LABEL)]
    for column in labels:
        if column not in existing:
            name = column.removeprefix(LABEL)
            raise DataError(
                f"{place}: classify.{'labels names' if config.labels else 'label is'} '{name}', but there is no column '{column}'; "
                f"the labels of this corpus are: {', '.join(there) or 'none'}; name one of them, or add it under ingest.labels"
            )
    by = [config.split.by] if config.split.scheme != "given" else []
    query = [config.query] if config.task == "ranking" else []
    for option, names in (("covariates", config.covariates), ("split.by", by), ("query", query)):
        for name in names:
            if name not in existing:
                raise DataError(
                    f"{place}: classify.{option} names the column '{name}', which is not there; columns: {', '.join(existing)}; "
                    "name one of them, or let ingest keep it (read.covariates)"
                )
    tracks = [name for name in existing if name.startswith((TRACK, COVERAGE))]
    wanted = dict.fromkeys([*(name for name in _CORE if name in existing), *labels, *config.covariates, *by, *query, *tracks])
    table = pl.read_parquet(path, columns=list(wanted))
    without = table.filter(pl.any_horizontal(pl.col(name).is_null() for name in labels))
    table = table.drop_nulls(labels)
    if not len(table):
        raise DataError(
            f"{place}: no record has a label in {', '.join(labels)}; expected some; name another label, or add it under ingest.labels"
        )
    if query:
        _check_present(
            table,
            place,
            query[0],
            "one for each, because records are ranked within lists; fill it in, or name another column in classify.query",
        )
    task = resolve_task(config.task, [table[name] for name in labels])
    targets = read_targets(table, labels, task, config.classes, config.query, place)
    if why := without_choice(targets):
        what = f"by '{config.query}', " if task == "ranking" else ""
        raise DataError(
            f"{place}: {', '.join(labels)}: {what}{why}, so there is nothing to predict; bring records that differ, or "
            f"{'leave that label out' if task == 'multilabel' else 'name another column'}"
        )
    if by:
        table = table.with_columns(pl.col(by[0]).cast(pl.String).alias("group"))
    _check_present(
        table,
        place,
        by[0] if by else "group",
        "one for each, because folds and intervals keep groups together; fill it in, or name another column in classify.split.by",
        "group",
    )
    dataset = Dataset(table, targets, place, frozenset(without["id"].to_list()), "".join(query))
    if by:
        _check_lists_whole(
            dataset, "group", f"'{by[0]}'", f"set classify.split.by to '{dataset.query}', or to a column that holds lists whole"
        )
    return dataset


def _check_present(table: pl.DataFrame, place: str, name: str, expected: str, column: str = "") -> None:
    """Raises DataError naming the records that have nothing in a column. name: of the column for people, `column` where it differs."""
    missing = table.filter(pl.col(column or name).is_null())["id"].to_list()
    if missing:
        raise DataError(f"{place}: {len(missing)} records have no '{name}': {listed(missing, 5)}; expected {expected}")


def _check_lists_whole(dataset: Dataset, column: str, what: str, remedy: str) -> None:
    """Raises DataError if a list (ranking) has records of several values of a column, naming lists and records."""
    if not dataset.query:
        return
    name, table = dataset.query, dataset.table
    # `group` may be the column of the lists itself.
    rows = pl.DataFrame({"id": table["id"], "list": table[name].cast(pl.String), "part": table[column]})
    first = rows.unique(["list", "part"], keep="first", maintain_order=True)
    torn = first.filter(pl.len().over("list") > 1).group_by("list", maintain_order=True).head(2)
    told = [
        f"{list_name} ({', '.join(f'{id_} in {part}' for id_, part in zip(of_list['id'], of_list['part'], strict=True))})"
        for (list_name,), of_list in torn.group_by("list", maintain_order=True)
    ]
    if told:
        raise DataError(
            f"{dataset.place}: {len(told)} lists by '{name}' lie in more than one {what}: {listed(told, 3)}; expected each list whole in "
            f"one, because records are ranked within it by one head; {remedy}"
        )


def check_given_splits(dataset: Dataset, label: str, remedy: str = _MORE_DATA) -> None:
    """Raises DataError if a split lacks a class (other tasks: is empty or has nothing to predict), if splits tear a list (ranking), or if
    all test records are in one group: then nothing says how far the scores would vary. remedy: for messages."""
    targets, place = dataset.targets, dataset.place
    _check_lists_whole(
        dataset,
        "split",
        "split",
        f"keep lists together: name '{dataset.query}' as the group (read.group) and set ingest.split.by to group, or use folds "
        f"(classify.split) by '{dataset.query}'",
    )
    for split in SPLITS:
        values = targets.values[dataset.mask(split)]
        if targets.task == "binary":
            positives, negatives = int((values == 1).sum()), int((values == 0).sum())
            if min(positives, negatives) < MIN_PER_CLASS:
                no, yes = targets.classes
                raise DataError(
                    f"{place}: the {split} split has {positives} records with {label} = {yes} and {negatives} with {no}; expected at least "
                    f"{MIN_PER_CLASS} of each; {remedy} so that both classes reach every split"
                )
        elif not len(values):
            raise DataError(f"{place}: the {split} split has no records with {label}; expected some; {remedy}")
        elif targets.task in CLASS_TASKS and len(np.unique(values)) < 2:
            raise DataError(
                f"{place}: all {len(values)} records of the {split} split are of one class, '{targets.classes[int(values[0])]}'; "
                f"expected two or more classes; {remedy}"
            )
        elif why := _split_without_choice(targets.take(np.flatnonzero(dataset.mask(split)))):
            raise DataError(f"{place}: the {split} split cannot be told apart by {label}: {why}; {remedy}")
    test_groups = set(dataset.table.filter(pl.col("split") == "test")["group"].to_list())
    if len(test_groups) < 2:
        raise DataError(
            f"{place}: all records of the test split are in one group, '{min(test_groups)}'; expected at least 2 groups, because the "
            f"intervals come from resampling groups; {remedy} (of windows: make ingest.split.block_bases smaller)"
        )


def _split_without_choice(targets: Targets) -> str:
    """Of several labels some may be the same for a whole split, which is left out of their means; not all of them."""
    if targets.task == "multilabel" and (targets.values != targets.values[0]).any():
        return ""
    return without_choice(targets)


def load_embeddings(
    path: str | Path, ids: list[str], unlabelled: frozenset[str] = frozenset(), dimensions: int | None = None
) -> FloatArray:
    """The embedding of each id, (ids, dimensions), in their order. Those of unlabelled records are left out.

    path: a file of the stage embed, or a folder of `biollm embed-file`. dimensions: what the stage that wrote the file says it has.
    Raises DataError if the file or folder is not whole, is of another width, its other ids are not these ids, each once, or a value is
    not finite.
    """
    path = Path(path)
    table = _read_vectors(path)
    if unlabelled:
        table = table.filter(~pl.col("id").is_in(unlabelled))
    _check_ids(path, table["id"].to_list(), ids)
    order = _positions(table["id"].to_list(), ids)
    vectors = table["embedding"].to_numpy().astype(np.float64)[order]
    if dimensions is not None and vectors.shape[1] != dimensions:
        raise DataError(
            f"{path}: the embeddings have {vectors.shape[1]} numbers each, those that the stage embed describes have {dimensions}; "
            "this file is of another model; run the stage embed again"
        )
    if broken := [ids[i] for i in np.flatnonzero(~np.isfinite(vectors).all(axis=1))]:
        raise DataError(
            f"{path}: the embeddings of {len(broken)} records hold NaN or infinity: {listed(broken, 5)}; expected finite numbers; "
            "the model's training has probably diverged: lower its learning rate and run again"
        )
    return vectors


def _read_vectors(path: Path) -> pl.DataFrame:
    remedy = "run the stage embed again"
    source = path
    if path.is_dir():
        remedy, source = "run the same `biollm embed-file` again", path / "part-*.parquet"
        if not (path / MANIFEST).is_file() or not read_json(path / MANIFEST).get("complete"):
            raise DataError(f"{path}: not a whole folder of embeddings ({MANIFEST} does not say so); {remedy}, or name a .parquet file")
    try:
        table = pl.read_parquet(source)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected embeddings; {remedy}") from None
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Parquet file ({first_line(error)}); it is half written or damaged; {remedy}") from None
    if missing := [name for name in ("id", "embedding") if name not in table.columns]:
        raise DataError(f"{path}: has no column {', '.join(missing)}; expected id and embedding; {remedy}")
    vectors = table["embedding"]
    if vectors.dtype == pl.List(pl.Float32):
        lengths = vectors.list.len()
        if lengths.n_unique() != 1:
            odd = table.filter(lengths != lengths[0])["id"].to_list()
            raise DataError(
                f"{path}: {len(odd)} embeddings are not {lengths[0]} numbers long like the first: {listed(odd, 5)}; "
                f"they are of several models; {remedy}"
            )
        table = table.with_columns(vectors.list.to_array(int(lengths[0])))
    return table.select("id", "embedding")


def load_predictions(path: Path, ids: list[str], classes: int = 2) -> dict[str, FloatArray]:
    """Each fine-tuning method's probabilities for `ids` (validation and test records), in their order: (ids,) of the positive of two
    classes, (ids, classes) of more.

    Raises DataError if a method's ids are not these ids, each once, or a score is not between 0 and 1.
    """
    column = "score" if classes == 2 else "scores"
    table = pl.read_parquet(path)
    if column not in table.columns:
        raise DataError(
            f"{path}: has no column '{column}', which predictions of {classes} classes have; the model was fine-tuned on another label; "
            "run the stage finetune again"
        )
    scores: dict[str, FloatArray] = {}
    for method in table["method"].unique(maintain_order=True).to_list():
        rows = table.filter(pl.col("method") == method)
        _check_ids(path, rows["id"].to_list(), ids)
        values = np.stack([np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in rows[column].to_list()])
        if values.shape[1] != (1 if classes == 2 else classes):
            raise DataError(
                f"{path}: method '{method}' has {values.shape[1]} scores a record; expected {classes}; run the stage finetune again"
            )
        outside = ~((values >= 0) & (values <= 1)).all(axis=1)
        if outside.any():
            names = rows["id"].filter(pl.Series(outside)).to_list()
            raise DataError(
                f"{path}: method '{method}' has {len(names)} scores outside 0 to 1: {listed(names, 5)}; "
                "expected probabilities; run the stage finetune again"
            )
        ordered = values[_positions(rows["id"].to_list(), ids)]
        scores[method] = ordered[:, 0] if classes == 2 else ordered
    return scores


def _check_ids(path: Path, found: list[str], expected: list[str]) -> None:
    remedy = "run the stage that wrote it again, on this corpus"
    if missing := sorted(set(expected) - set(found)):
        raise DataError(f"{path}: {len(missing)} of the {len(expected)} expected records are missing: {listed(missing, 5)}; {remedy}")
    if unknown := sorted(set(found) - set(expected)):
        raise DataError(
            f"{path}: holds {len(unknown)} ids that were not expected: {listed(unknown, 5)}; expected ids of the corpus; {remedy}"
        )
    if len(found) != len(expected):
        repeated = sorted(id_ for id_, count in Counter(found).items() if count > 1)
        raise DataError(f"{path}: {len(repeated)} ids stand more than once: {listed(repeated, 5)}; expected each once; {remedy}")


def _positions(found: list[str], wanted: list[str]) -> list[int]:
    place = {id_: i for i, id_ in enumerate(found)}
    return [place[id_] for id_ in wanted]
