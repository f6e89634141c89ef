"""What is classified: records, labels and features, checked before anything is fitted.

All arrays of one `Dataset` have the order of the corpus; embeddings and predictions are brought into it by id.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from biollm.classify.metrics import BoolArray, FloatArray
from biollm.core.errors import DataError, listed
from biollm.corpus.columns import LABEL, SPLITS
from biollm.corpus.records import column_names

# Fewer rows of a class can neither be fitted nor ranked with any meaning.
_MIN_PER_CLASS = 2


@dataclass(frozen=True)
class Dataset:
    """The labelled records."""

    ids: list[str]
    sequences: list[str]
    groups: list[str]
    split: list[str]
    positive: BoolArray
    unlabelled: frozenset[str] = frozenset()  # ids of records for which the question has no answer; they are in nothing else here

    def mask(self, *splits: str) -> BoolArray:
        """True for the records of these splits."""
        return np.isin(np.array(self.split, dtype=np.str_), splits)

    def only(self, *splits: str) -> Dataset:
        """The records of these splits, in corpus order."""
        kept = np.flatnonzero(self.mask(*splits))
        return Dataset(
            ids=[self.ids[i] for i in kept],
            sequences=[self.sequences[i] for i in kept],
            groups=[self.groups[i] for i in kept],
            split=[self.split[i] for i in kept],
            positive=self.positive[kept],
        )


def load_dataset(path: Path, label: str) -> Dataset:
    """Read the corpus and the column `label_<label>`. Records without a label (null) are left out.

    Raises DataError if the label is unknown, a label is not 0 or 1, a split lacks one of the classes, or all test records are
    in one group (then nothing says how far the scores would vary).
    """
    column = LABEL + label
    existing = [name.removeprefix(LABEL) for name in column_names(path) if name.startswith(LABEL)]
    if label not in existing:
        raise DataError(
            f"{path}: classify.label is '{label}', but there is no column '{column}'; the labels of this corpus are: "
            f"{', '.join(existing) or 'none'}; name one of them, or add it under ingest.labels"
        )
    table = pl.read_parquet(path, columns=["id", "sequence", "group", "split", column])
    unlabelled = frozenset(table.filter(pl.col(column).is_null())["id"].to_list())
    table = table.drop_nulls(column)
    strange = table.filter(~pl.col(column).is_in([0, 1]))
    if len(strange):
        raise DataError(
            f"{path}: {len(strange)} records have no 0 or 1 in '{column}': {listed(strange['id'].to_list(), 5)}; "
            "expected 0, 1 or nothing for each; correct them"
        )
    dataset = Dataset(
        ids=table["id"].to_list(),
        sequences=table["sequence"].to_list(),
        groups=table["group"].to_list(),
        split=table["split"].to_list(),
        positive=table[column].to_numpy().astype(bool),
        unlabelled=unlabelled,
    )
    _check_splits(dataset, path, column)
    return dataset


def load_embeddings(path: Path, ids: list[str], unlabelled: frozenset[str] = frozenset()) -> FloatArray:
    """The embedding of each id, (ids, dimensions), in their order. Those of unlabelled records are left out.

    Raises DataError if the other ids of the file are not these ids, each once, or a value is not finite.
    """
    table = pl.read_parquet(path, columns=["id", "embedding"])
    if unlabelled:
        table = table.filter(~pl.col("id").is_in(unlabelled))
    _check_ids(path, table["id"].to_list(), ids)
    order = _positions(table["id"].to_list(), ids)
    vectors = table["embedding"].to_numpy().astype(np.float64)[order]
    if broken := [ids[i] for i in np.flatnonzero(~np.isfinite(vectors).all(axis=1))]:
        raise DataError(
            f"{path}: the embeddings of {len(broken)} records hold NaN or infinity: {listed(broken, 5)}; expected finite numbers; "
            "the model's training has probably diverged: lower its learning rate and run again"
        )
    return vectors


def load_predictions(path: Path, ids: list[str]) -> dict[str, FloatArray]:
    """Each fine-tuning method's probabilities of the positive class for `ids` (validation and test records), in their order.

    Raises DataError if a method's ids are not these ids, each once, or a score is not between 0 and 1.
    """
    table = pl.read_parquet(path, columns=["id", "method", "score"])
    scores: dict[str, FloatArray] = {}
    for method in table["method"].unique(maintain_order=True).to_list():
        rows = table.filter(pl.col("method") == method)
        _check_ids(path, rows["id"].to_list(), ids)
        outside = rows.filter(~pl.col("score").is_between(0, 1).fill_null(False))
        if len(outside):
            raise DataError(
                f"{path}: method '{method}' has {len(outside)} scores outside 0 to 1: {listed(outside['id'].to_list(), 5)}; "
                "expected probabilities; run the stage finetune again"
            )
        scores[method] = rows["score"].to_numpy().astype(np.float64)[_positions(rows["id"].to_list(), ids)]
    return scores


def _check_splits(dataset: Dataset, path: Path, column: str) -> None:
    for split in SPLITS:
        labels = dataset.only(split).positive
        positives, negatives = int(labels.sum()), int((~labels).sum())
        if min(positives, negatives) < _MIN_PER_CLASS:
            raise DataError(
                f"{path}: the {split} split has {positives} records with {column} = 1 and {negatives} with 0; expected at least "
                f"{_MIN_PER_CLASS} of each; bring more data, or change ingest.split so that both classes reach every split"
            )
    test_groups = set(dataset.only("test").groups)
    if len(test_groups) < 2:
        raise DataError(
            f"{path}: all records of the test split are in one group, '{min(test_groups)}'; expected at least 2 groups, because the "
            "intervals come from resampling groups; bring more data or make ingest.split.block_bases smaller"
        )


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
