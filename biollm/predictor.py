"""A saved head that scores new records, with the model whose embeddings it was fitted on: found beside it, checked by digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biollm.classify.config import CLASS_TASKS
from biollm.classify.features import CovariateBlock, EmbeddingBlock, Inputs, KmerBlock, PositionalBlock, TrackBlock
from biollm.classify.measures import called_positive
from biollm.classify.metrics import BoolArray, FloatArray
from biollm.classify.rows import BASE, FUSED, MODEL_STAGES, PRETRAIN, SHUFFLED
from biollm.classify.saved import CARD, HeadCard, SavedHead, load_head, results_folder
from biollm.core.alphabets import Modality
from biollm.core.artifacts import MANIFEST, open_artifact
from biollm.core.errors import ArtifactError, ConfigError, DataError, listed
from biollm.core.files import read_json
from biollm.core.progress import say
from biollm.core.resources import HUB, PACKAGE, digest_folder, digest_resource, model_folder, resolve_base
from biollm.corpus.columns import COVERAGE, TRACK
from biollm.embed.config import Config as EmbedConfig
from biollm.embed.embedder import Embedder, open_model
from biollm.embed.inputs import ID_COLUMN
from biollm.embed.reading import GivenTracks
from biollm.ingest.records.clean import cleaner_of
from biollm.ingest.records.config import RecordOptions, SmilesOptions
from biollm.modeling.base import normal_folder
from biollm.modeling.channels import OTHER_OPERATORS, check_cytosines, check_track
from biollm.modeling.tracks import Track, TrackConfig, compute_track
from biollm.modeling.vocabulary import DomainVocabulary


@dataclass(frozen=True)
class Records:
    """Some records to score. table: a row each, with the tracks and covariates that the head reads; tracks: those that the model reads."""

    ids: list[str]
    sequences: list[str]
    table: pl.DataFrame
    tracks: list[GivenTracks] | None = None

    @classmethod
    def of(cls, sequences: Sequence[str], ids: Sequence[str] | None = None) -> Records:
        """Records that are nothing but sequences."""
        names = list(ids) if ids is not None else [str(i) for i in range(len(sequences))]
        return cls(names, list(sequences), pl.DataFrame({ID_COLUMN: names}, schema={ID_COLUMN: pl.String}))


@dataclass(frozen=True)
class Predictor:
    """A head with what makes its features. modality: what its sequences are written in; smiles: how its molecules were."""

    head: SavedHead
    modality: Modality
    embedders: dict[str, Embedder]
    smiles: SmilesOptions

    @classmethod
    def open(cls, head: str | Path, model: str | Path | None = None, modality: Modality | None = None) -> Predictor:
        """Open a head folder, or the best adapted head of a results folder (best on validation or inner rows; stderr says which).

        model: the model that it reads; default: the one beside the head, results/<recipe>/<stage>, or the base that the recipe named.
        modality: of the sequences; default: what the results or the model say.
        Raises ArtifactError if there is no head, or if the model is not the one that the head was fitted on, naming both digests;
        ConfigError where model or modality cannot be known and was not given, the modality is not what these say, or a head of molecules
        does not say how they were written.
        """
        folder = find_head(Path(head))
        card = load_head(folder).card
        blocks = [block for block in card.features if isinstance(block, EmbeddingBlock)]
        models = {block.set: _find_model(folder, block, model) for block in blocks}
        digests = {_digest_of(place) for place in models.values()}
        saved = load_head(folder, digests.pop() if digests else None)
        folders = {name: normal_folder(_model_of(name, place))[0] for name, place in models.items()}
        read = list(dict.fromkeys(name for place in folders.values() for name in _modalities(place)))
        told = _find_modality(folder, card, read)
        if modality is not None and told is not None and modality != told:
            raise ConfigError(f"{folder}: reads {told}, but modality is {modality}; leave it out, or choose another head")
        known = modality or told
        if known is None:
            several = f" (it reads {listed(read)})" if read else ""
            raise ConfigError(
                f"{folder}: neither the head nor its model says what its sequences are{several}; say it with --modality "
                f"({', '.join(read) if read else 'dna, protein, text, …'})"
            )
        smiles = _smiles_options(folder, card) if known == "smiles" else SmilesOptions()
        return cls(saved, known, {block.set: _embedder(folders[block.set], block, known) for block in blocks}, smiles)

    @cached_property
    def channels(self) -> list[str]:
        """The measured tracks that the embedding models read."""
        return list(dict.fromkeys(name for embedder in self.embedders.values() for name in embedder.measured_tracks))

    @cached_property
    def columns(self) -> list[str]:
        """The columns that a table needs beside the sequence: tracks and covariates."""
        found = [TRACK + name for name in self.channels]
        for block in self.head.card.features:
            if isinstance(block, TrackBlock):
                found += [TRACK + name for name in block.measured] + [COVERAGE + name for name in block.with_coverage]
            elif isinstance(block, CovariateBlock):
                found += block.covariates
        return list(dict.fromkeys(found))

    def features(self, records: Records, *, own_tracks: bool = True) -> FloatArray:
        """(n, columns) what the head reads of some records. own_tracks: whether the tracks are those of these sequences, not of others that
        they were made from. Raises DataError naming a record that cannot be read."""
        sequences = self.clean(records)
        if (covariates := self.head.card.covariates) is not None:
            covariates.check(records.table, records.ids, RecordOptions().missing)
        self._check_lengths(sequences, records)
        self._check_tracks(sequences, records, own_tracks=own_tracks)
        vectors: dict[str, FloatArray] = {}
        for name, embedder in self.embedders.items():
            tracks = records.tracks if self.channels and embedder.settings.tracks == "auto" else None
            found = embedder.embed_counted(sequences, tracks, names=records.ids, show_progress=False, own_tracks=own_tracks)
            vectors[name] = found.vectors.astype(np.float64)
        return self.head.features(Inputs(sequences, vectors, self._with_computed(records.table, sequences)))

    def output(self, records: Records) -> FloatArray:
        """(n,) probability of the second of two classes, quantity or rank score; (n, C) probabilities of classes or labels."""
        return self.head.output(self.features(records))

    def table(self, records: Records) -> pl.DataFrame:
        """The predictions as `biollm predict` writes them, a row for each record (see docs/predict.md)."""
        features = self.features(records)
        answers = self.head.answers(features) if self.head.card.task in CLASS_TASKS else None
        return as_table(self.head.card, records.ids, self.head.output(features), answers)

    def _check_lengths(self, sequences: Sequence[str], records: Records) -> None:
        """Raises DataError naming records that are not as long as a head of letters by position reads."""
        for block in (block for block in self.head.card.features if isinstance(block, PositionalBlock)):
            if odd := [name for name, sequence in zip(records.ids, sequences, strict=True) if len(sequence) != block.length]:
                raise DataError(
                    f"{len(odd)} records are not {block.length} letters long: {listed(odd, 5)}; the head reads letters by position; "
                    "give sequences of that length, or choose a head that reads any"
                )

    def _check_tracks(self, sequences: Sequence[str], records: Records, *, own_tracks: bool) -> None:
        """Raises DataError naming a record whose tracks, as the head itself reads them, are none of its sequence, or not of the kind that
        the head was fitted on; or that has tracks for a model that reads none."""
        if not self.channels and (given := [i for i, tracks in enumerate(records.tracks or []) if tracks is not None]):
            raise DataError(
                f"record {records.ids[given[0]]}: has tracks for the model, but no model of this head reads any; leave them out"
            )
        for block in self._track_blocks:
            for name in block.measured:
                levels = _lists(records.table, TRACK + name)
                coverages = _lists(records.table, COVERAGE + name) if name in block.with_coverage else [None] * len(levels)
                for record, sequence, level, coverage in zip(records.ids, sequences, levels, coverages, strict=True):
                    if level is None and coverage is None:
                        continue
                    track = Track(np.full(len(sequence), np.nan, dtype=np.float32) if level is None else level, coverage)
                    check_track(name, track, len(sequence), record, is_share=name in block.shares)
                    if own_tracks and name in block.cytosines:
                        check_cytosines(name, track, sequence, record)

    @cached_property
    def _track_blocks(self) -> list[TrackBlock]:
        return [block for block in self.head.card.features if isinstance(block, TrackBlock)]

    def _with_computed(self, table: pl.DataFrame, sequences: Sequence[str]) -> pl.DataFrame:
        """A table with the tracks that the head reads and that follow from the sequences, whatever stood there."""
        tracks = [TrackConfig.model_validate(track) for block in self._track_blocks for track in block.computed]
        return table.with_columns(
            pl.Series(TRACK + track.name, [compute_track(track, sequence) for sequence in sequences], pl.List(pl.Float32))
            for track in tracks
        )

    def clean(self, records: Records) -> list[str]:
        """The sequences as the head reads them. Raises DataError naming a record that cannot be read."""
        clean = cleaner_of(self.modality, self.smiles)
        found = []
        for name, raw in zip(records.ids, records.sequences, strict=True):
            cleaned = clean(raw)
            if problem := cleaned.wrong or cleaned.drop:
                raise DataError(f"record {name}: {problem} (the head reads {self.modality})")
            found.append(cleaned.sequence)
        return found


def _lists(table: pl.DataFrame, column: str) -> list[NDArray[np.float32] | None]:
    """The numbers of each row of a column of lists, NaN for null; None where there is no list."""
    if (values := table[column]).dtype == pl.Null:  # no record has any
        return [None] * table.height
    inner = getattr(values.dtype, "inner", None)
    if inner is None or not (inner.is_numeric() or inner == pl.Null):
        raise DataError(f"column {column} holds {values.dtype}; expected lists of numbers; give a Parquet table")
    lists = values.cast(pl.List(pl.Float32))
    return [None if row is None else row.fill_null(float("nan")).to_numpy() for row in lists]


def as_table(card: HeadCard, ids: Sequence[str], output: FloatArray, answers: BoolArray | None) -> pl.DataFrame:
    """Predictions as columns: id and score of two classes, quantities and ranks; score, probability_<class> of several classes, where the
    score is that of the predicted one; probability_<label> and predicted_<label> of labels. Classes have `predicted` and `answers` too."""
    columns: dict[str, pl.Series] = {"id": pl.Series(ids, dtype=pl.String)}
    if card.task == "multilabel":
        for i, name in enumerate(card.classes):
            columns |= {
                f"probability_{name}": pl.Series(output[:, i]),
                f"predicted_{name}": pl.Series(called_positive(output[:, i]).astype(np.int8)),
            }
        return pl.DataFrame(columns)
    columns["score"] = pl.Series(output if output.ndim == 1 else output.max(axis=1), dtype=pl.Float64)
    if card.task in ("binary", "multiclass"):
        called = called_positive(output).astype(np.int64) if output.ndim == 1 else output.argmax(axis=1)
        columns["predicted"] = pl.Series([card.classes[i] for i in called.tolist()], dtype=pl.String)
        if output.ndim == 2:
            columns |= {f"probability_{name}": pl.Series(output[:, i]) for i, name in enumerate(card.classes)}
        assert answers is not None
        columns["answers"] = pl.Series(answers)
    return pl.DataFrame(columns)


# --- which head, which model ---------------------------------------------------------------------------------------------------


def find_head(place: Path) -> Path:
    """The folder of a head: `place` itself, or of the results in it the adapted head that was best where choices are made.

    Raises ArtifactError if there is none.
    """
    if (place / CARD).is_file():
        return place
    stage = place if (place / "heads").is_dir() else place / "classify"
    if not (stage / "heads").is_dir():
        raise ArtifactError(
            f"{place}: neither a head ({CARD} is missing) nor results with heads; "
            "expected results/<recipe> or results/<recipe>/classify/heads/<row>; make one with: biollm run <recipe>"
        )
    facts = open_artifact(stage).facts
    key = f"validation_{facts['measure']['name']}"
    able = [row for row in facts["rows"] if (stage / "heads" / row["name"] / CARD).is_file()]
    adapted = [row for row in able if not row["is_baseline"] and SHUFFLED not in row["features"] and row[key] is not None]
    if not adapted:
        names = [row["name"] for row in able]
        raise ArtifactError(f"{stage}: no adapted model has a head here; name one of {listed(names)}: {stage / 'heads'}/<row>")
    best = max(adapted, key=lambda row: float(row[key]))
    say(f"head: {best['name']} ({best['title']}), of {len(adapted)} the best by {facts['measure']['title']} in validation, {best[key]:.4f}")
    return stage / "heads" / str(best["name"])


def _find_model(head: Path, block: EmbeddingBlock, given: str | Path | None) -> Path:
    """The folder (or GGUF file) of the model that a head reads."""
    if block.set == SHUFFLED:
        raise ConfigError(f"{head}: reads the tracks of other records, a control that predicts nothing; choose another head")
    if given is not None:
        return Path(given) if Path(given).is_file() else model_folder(given)
    remedy = f"name the model that it was fitted on ({block.title}) with --model"
    results = results_folder(head)
    if results is None:
        raise ArtifactError(f"{head}: lies outside of results, so its model is not beside it; {remedy}")
    if block.set != BASE:
        stage = PRETRAIN if block.set.startswith(FUSED) else next((name for name in MODEL_STAGES if block.set.startswith(name)), block.set)
        if not (results / stage / MANIFEST).is_file():
            raise ArtifactError(f"{head}: its model is not beside it in {results / stage}; {remedy}")
        return results / stage
    made = _inputs_of(results / "embed")
    name = next((name for name, digest in made.items() if digest == block.model_digest), None)
    if name is None or not name.startswith((PACKAGE, HUB)):
        raise ArtifactError(f"{head}: where its base model lies is not known{f' ({name} beside the recipe)' if name else ''}; {remedy}")
    return resolve_base(name, Path())


def _model_of(name: str, place: Path) -> Path:
    """The model that made a set of embeddings, in the folder of its stage."""
    return place / OTHER_OPERATORS / name.removeprefix(FUSED) if name.startswith(FUSED) else place


def _inputs_of(artifact: Path) -> dict[str, str]:
    path = artifact / MANIFEST
    return dict(read_json(path)["inputs"]) if path.is_file() else {}


def _digest_of(model: Path) -> str:
    """The digest that head.json knows a model by: its artifact's, or that of its files."""
    if model.is_file():
        return digest_resource(model.name, model.parent)
    return open_artifact(model).digest if (model / MANIFEST).is_file() else digest_folder(model)


def _find_modality(head: Path, card: HeadCard, read: list[Modality]) -> Modality | None:
    """What the results, the head or its models say that sequences are; None if none does. read: what the models read."""
    results = results_folder(head)
    if results is not None and (manifest := results / "ingest" / MANIFEST).is_file():
        return cast(Modality, read_json(manifest)["facts"].get("modality", "dna"))
    if of_kmers := [block.modality for block in card.features if isinstance(block, KmerBlock)]:
        return of_kmers[0]
    return read[0] if len(read) == 1 else None


def _modalities(model: Path) -> list[Modality]:
    vocabulary = DomainVocabulary.load(model)
    return vocabulary.sequence_modalities if vocabulary else []


def _smiles_options(head: Path, card: HeadCard) -> SmilesOptions:
    """How the molecules were written that a head was fitted on."""
    if card.canonical_smiles is None:
        raise ConfigError(
            f"{head}: {CARD} does not say whether molecules were written as RDKit writes them, because the sources of its corpus differ in "
            "read.smiles.canonical or an earlier version wrote it; make them agree, and run the stage classify again"
        )
    return SmilesOptions(canonical=card.canonical_smiles)


def _embedder(folder: Path, block: EmbeddingBlock, modality: Modality) -> Embedder:
    """As the stage embed opened it."""
    made = EmbedConfig.model_validate(block.settings["recipe"])
    with_tracks = not block.set.endswith("_without_tracks")
    return open_model(folder, made, modality=modality, is_base=block.set == BASE, with_tracks=with_tracks)
