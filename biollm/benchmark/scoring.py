"""One table scored: a head on each set of features, fitted on train rows, its settings chosen on validation rows, scored on test rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from biollm.benchmark.tables import Draw, Prepared
from biollm.classify.baselines import DEFAULT_K, kmer_frequencies, positional_letters, positional_one_hot
from biollm.classify.config import HeadName
from biollm.classify.data import Dataset
from biollm.classify.fitting import Method, fit_head
from biollm.classify.folds import Fold, given_fold
from biollm.classify.heads import HEAD_TITLES, HEADS, heads_for, plain_head
from biollm.classify.measures import measure_plain
from biollm.classify.metrics import FloatArray
from biollm.classify.models import Examples
from biollm.classify.scoring import majority_outcome
from biollm.core.alphabets import Modality
from biollm.core.artifacts import MANIFEST, open_artifact
from biollm.core.errors import ConfigError, listed, repeated
from biollm.core.resources import digest_folder, model_folder
from biollm.core.seeding import derive_seed
from biollm.embed.embedder import Embedder
from biollm.modeling.base import normal_folder
from biollm.modeling.vocabulary import DomainVocabulary

# Vectors that differ by less are the same: what is left is rounding.
_ALIKE = 1e-4
Kind = Literal["model", "baseline"]


@dataclass(frozen=True)
class BenchmarkModel:
    """A model folder in the benchmark: what it is called, where it lies, and the digest of its artifact or its files."""

    name: str
    folder: Path
    digest: str


@dataclass(frozen=True)
class Entry:
    """What one set of features scored on a table: every measure of its task for each seed, in their order, or only once where no seed
    changes anything: the splits are given and the head draws nothing. note: how it was read, or the head of a baseline."""

    name: str
    kind: Kind
    measures: list[dict[str, float]]
    note: str = ""


def open_models(names: list[str]) -> list[BenchmarkModel]:
    """The models of a benchmark. Raises ResourceError for one that is not there, ConfigError for two of one name."""
    models = []
    for name in names:
        folder, _ = normal_folder(model_folder(name))
        digest = open_artifact(folder).digest if (folder / MANIFEST).is_file() else digest_folder(folder)
        models.append(BenchmarkModel(_shown(name), folder, digest))
    if twice := repeated(model.name for model in models):
        raise ConfigError(f"--models names {listed(twice)} twice; name each model once")
    return models


def score_model(model: BenchmarkModel, prepared: Prepared, head: HeadName | None) -> Entry:
    """A head on the mean-pooled embeddings of a model. Each distinct sequence is embedded once, whatever the number of seeds."""
    embedder, notes = _open_embedder(model, prepared.modality)
    sequences = list(dict.fromkeys(s for draw in prepared.draws for s in draw.dataset.sequences))
    vectors = embedder.embed(sequences).astype(np.float64)
    if np.ptp(vectors, axis=0).max() < _ALIKE:
        notes.append("all sequences look alike to it (unknown to its tokenizer?)")
    place = {sequence: i for i, sequence in enumerate(sequences)}

    def features(dataset: Dataset) -> FloatArray:
        return np.asarray(vectors[[place[sequence] for sequence in dataset.sequences]])

    task = prepared.draws[0].dataset.targets.task
    kind = heads_for(task, [head])[0] if head else plain_head(task)
    draws = _different(prepared, kind)
    found = [_fit_and_score(features(d.dataset), d.dataset, kind, derive_seed(d.seed, "benchmark", model.name)) for d in draws]
    return Entry(model.name, "model", found, ", ".join(notes))


def score_baselines(prepared: Prepared) -> list[Entry]:
    """What needs no language model: the majority class (or mean), k-mers, and letters by position where all sequences are of one length.

    A baseline has one name for all tasks, so that ranks over tables of several are its own; the note says what it is here.
    """
    first = prepared.draws[0].dataset
    task = first.targets.task
    head = plain_head(task)
    draws = _different(prepared, head)
    trivial = "mean of train" if task in ("regression", "ranking") else "majority class"
    entries = [Entry("trivial", "baseline", [_majority(draw.dataset) for draw in _different(prepared, None)], trivial)]
    k = prepared.table.kmer or DEFAULT_K[prepared.modality]
    unit = "k-grams of letters, " if prepared.modality in ("smiles", "text") else ""
    found = [_scored(d.dataset, kmer_frequencies(d.dataset.sequences, k, prepared.modality), head, d.seed, "kmers") for d in draws]
    entries.append(Entry("k-mers", "baseline", found, f"{HEAD_TITLES[head]}, {unit}k = {k}"))
    shape = positional_letters([s for draw in prepared.draws for s in draw.dataset.sequences], prepared.modality)
    if not isinstance(shape, str):
        found = [_scored(d.dataset, positional_one_hot(d.dataset.sequences, *shape), head, d.seed, "positional") for d in draws]
        entries.append(Entry("letters by position", "baseline", found, HEAD_TITLES[head]))
    return entries


def _different(prepared: Prepared, head: HeadName | None) -> list[Draw]:
    """The draws that another seed makes another fit of. With given splits that is one, unless the head itself draws. None: no head."""
    alike = prepared.split_by == "given" and (head is None or not HEADS[head].draws)
    return prepared.draws[:1] if alike else prepared.draws


def _scored(dataset: Dataset, features: FloatArray, head: HeadName, seed: int, name: str) -> dict[str, float]:
    return _fit_and_score(features, dataset, head, derive_seed(seed, "benchmark", name))


def _fit_and_score(features: FloatArray, dataset: Dataset, head: HeadName, seed: int) -> dict[str, float]:
    fold = _fold(dataset)
    fitted = fit_head(Method(head, seed=seed), Examples(features, dataset.targets), fold.inner, fold.refit, fold.train)
    return measure_plain(dataset.targets.take(fold.test), fitted.output(features[fold.test]))


def _majority(dataset: Dataset) -> dict[str, float]:
    fold = _fold(dataset)
    return measure_plain(dataset.targets.take(fold.test), majority_outcome(dataset, [fold]).output[fold.test])


def _fold(dataset: Dataset) -> Fold:
    return given_fold(dataset.table["split"].to_list())


def _open_embedder(model: BenchmarkModel, modality: Modality) -> tuple[Embedder, list[str]]:
    """The model as it reads sequences of a modality: by its own vocabulary of them, or else as text. With what is worth knowing of that."""
    vocabulary = DomainVocabulary.load(model.folder)
    if vocabulary is None or vocabulary.sequence_domain(modality) is None:
        return Embedder(model.folder, input="text", tracks="off"), [] if modality == "text" else [f"reads {modality} as text"]
    embedder = Embedder(model.folder, input="sequence", modality=modality)
    if embedder.fusion is None or not embedder.fusion.needs_measured:
        return embedder, []
    return Embedder(model.folder, input="sequence", modality=modality, tracks="off"), ["measured tracks withheld"]


def _shown(name: str) -> str:
    """A model's name in results, which hold no absolute path."""
    path = Path(name)
    return "/".join(path.parts[-2:]) if path.is_absolute() else path.as_posix() if path.is_dir() else name
