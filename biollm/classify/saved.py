"""Heads on disk: a folder with the model (skops or XGBoost's UBJSON, no pickle) and head.json, which says all that a prediction needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biollm.classify.calibration import Abstention, Calibrator
from biollm.classify.config import HeadName, Task
from biollm.classify.covariates import CovariateEncoder
from biollm.classify.features import Block, CovariateBlock, EmbeddingBlock, Inputs, compute_block
from biollm.classify.fitting import FittedHead
from biollm.classify.heads import HEADS
from biollm.classify.measures import called_positive
from biollm.classify.metrics import BoolArray, FloatArray
from biollm.classify.rows import FUSED, MODEL_STAGES, PRETRAIN, no_nan
from biollm.core.artifacts import MANIFEST, open_artifact
from biollm.core.errors import ArtifactError, DataError
from biollm.core.files import read_json, read_sidecar, write_json
from biollm.core.recipe import Section
from biollm.core.resources import digest_folder

CARD = "head.json"
SCHEMA_VERSION = 1


class HeadCard(Section):
    """head.json. canonical_smiles: see the function of that name."""

    schema_version: int = SCHEMA_VERSION
    row: str
    title: str
    head: HeadName
    task: Task
    labels: list[str]
    classes: list[str]
    seen: list[bool]
    features: list[Block]
    covariates: CovariateEncoder | None
    columns: int
    model_file: str
    settings: dict[str, Any]
    choice: str
    pca: int | None
    calibration: Calibrator | None
    abstention: Abstention | None
    fitted_on: str
    measures: dict[str, Any]
    seed: int
    canonical_smiles: bool | None = None


@dataclass(frozen=True)
class SavedHead:
    """A head that was read back, with its card."""

    card: HeadCard
    head: FittedHead

    @property
    def classes(self) -> list[str]:
        return self.card.classes

    def features(self, inputs: Inputs) -> FloatArray:
        """(n, columns) the table that this head reads, from sequences, vectors by embedding set, and a table of tracks and covariates."""
        return stack_blocks(self.card.features, self.card.covariates, inputs)

    def output(self, features: FloatArray) -> FloatArray:
        """(n,) probability of the second of two classes, quantity or rank score; (n, C) of classes or labels.

        Raises DataError if the table is of another width or holds NaN or infinity.
        """
        return self.head.output(self._checked(features))

    def uncalibrated(self, features: FloatArray) -> FloatArray:
        """What the model itself says, in the shape of `output`: probabilities, or distances from the border (svm, ridge)."""
        return self.head.model.output(self._checked(features))

    def _checked(self, features: FloatArray) -> FloatArray:
        table = np.asarray(features, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != self.card.columns:
            raise DataError(
                f"features have the shape {table.shape}; the head '{self.card.row}' was fitted on (rows, {self.card.columns}); "
                "make them as its head.json says"
            )
        if broken := np.flatnonzero(~np.isfinite(table).all(axis=1)).tolist():
            raise DataError(f"features hold NaN or infinity in {len(broken)} rows, the first is row {broken[0]}; expected finite numbers")
        return table

    def predict_proba(self, features: FloatArray) -> FloatArray:
        """(n, classes) probabilities in the order of `classes`; of labels each on its own. Raises DataError for quantities."""
        if self.card.task in ("regression", "ranking"):
            raise DataError(f"the head '{self.card.row}' does {self.card.task}, which has no probabilities; use predict")
        output = self.output(features)
        return np.column_stack([1 - output, output]) if output.ndim == 1 else output

    def predict(self, features: FloatArray) -> np.ndarray[Any, Any]:
        """(n,) names of classes, (n, labels) 0 and 1, or (n,) quantities."""
        output = self.output(features)
        if self.card.task in ("regression", "ranking"):
            return output
        called = called_positive(output).astype(np.int64)
        if self.card.task == "multilabel":
            return called
        return np.asarray(np.array(self.card.classes, dtype=np.str_)[called if output.ndim == 1 else output.argmax(axis=1)])

    def answers(self, features: FloatArray) -> BoolArray:
        """(n,) where the head is sure enough to answer; all of them if the recipe set no `abstain`."""
        chosen = self.card.abstention
        if chosen is None:
            return np.ones(len(features), dtype=bool)
        return chosen.answered(self.predict_proba(features).max(axis=1))


def stack_blocks(blocks: list[Block], covariates: CovariateEncoder | None, inputs: Inputs) -> FloatArray:
    """(n, columns) the blocks side by side."""
    parts = []
    for block in blocks:
        if isinstance(block, CovariateBlock):
            assert covariates is not None
            parts.append(covariates.transform(inputs.table))
        else:
            parts.append(compute_block(block, inputs))
    return np.hstack(parts)


def canonical_smiles(ingest: dict[str, Any]) -> bool | None:
    """Whether molecules were written as RDKit writes them, so that new ones are. ingest: the settings of the corpus, as its manifest has
    them. None if its sources differ in that, and where sequences are no molecules."""
    if ingest.get("modality") != "smiles":
        return None
    said = {source["read"]["smiles"]["canonical"] for source in ingest["sources"]}
    return bool(said.pop()) if len(said) == 1 else None


def results_folder(head: Path) -> Path | None:
    """results/<recipe> of the head …/classify/heads/<row>; None if a head lies too near to the root to have one."""
    parents = head.absolute().parents
    return parents[2] if len(parents) > 2 else None


def save_head(folder: Path, head: FittedHead, card: dict[str, Any]) -> None:
    """Write <folder>/<row>.skops or .ubj, then head.json. card: what the head itself does not know (see HeadCard)."""
    folder.mkdir(parents=True)
    model_file = f"{card['row']}{head.model.suffix}"
    head.model.save(folder / model_file)
    values = HeadCard(
        head=head.kind,
        task=head.task,
        classes=list(head.classes),
        seen=[bool(flag) for flag in head.seen],
        columns=head.columns,
        model_file=model_file,
        settings=head.settings,
        choice=head.choice,
        calibration=head.calibrator,
        abstention=head.abstention,
        **card,
    )
    write_json(folder / CARD, no_nan(values.model_dump(mode="json")))


def embedding_digest(place: Path) -> str:
    """The digest of the model that made some embeddings: of a stage's model that of its artifact; of a base, and of a folder of
    `biollm embed-file`, that of the model's files. place: see `load_head`.

    Raises ArtifactError if nothing beside the embeddings says which model made them.
    """
    folder = place if place.is_dir() else place.parent
    path = folder / MANIFEST
    told = read_json(path) if path.is_file() else {}
    if (made_from := told.get("made_from")) is not None:
        return str(made_from["model"])
    if told.get("stage") != "embed" or place.is_dir():
        raise ArtifactError(
            f"{place}: nothing here says which model made these embeddings; expected results/<recipe>/embed/<set>.parquet with its "
            f"{MANIFEST}, or a folder of `biollm embed-file`; name such a place, or give model_digest"
        )
    artifact = open_artifact(folder)
    if place.name not in artifact.manifest.files or place.stem not in artifact.facts["sets"]:
        raise ArtifactError(f"{place}: not one of the embeddings of this stage; expected one of {', '.join(artifact.facts['sets'])}")
    facts, inputs = artifact.facts["sets"][place.stem], artifact.manifest.inputs
    bases = [digest for name, digest in inputs.items() if name not in ("ingest", *MODEL_STAGES)]
    return str(facts.get("model_digest") or (bases[0] if bases else artifact.manifest.files[place.name]))


def _is_model(head: Path, block: EmbeddingBlock, digest: str) -> bool:
    """Whether a digest is that of the model of a block. `biollm embed-file` knows a stage's model by its files: the one beside the head is
    looked at for that."""
    if block.model_digest == digest:
        return True
    results = results_folder(head)
    stage = PRETRAIN if block.set.startswith(FUSED) else next((name for name in MODEL_STAGES if block.set.startswith(name)), None)
    if results is None or stage is None or not (results / stage / MANIFEST).is_file():
        return False
    # of another operator, in operators/<name> of the stage
    models = (results / stage).glob(f"*/{block.set.removeprefix(FUSED)}") if block.set.startswith(FUSED) else [results / stage]
    return any(digest_folder(model) == digest for model in models) and open_artifact(results / stage).digest == block.model_digest


def load_head(folder: str | Path, model_digest: str | None = None, embeddings: str | Path | None = None) -> SavedHead:
    """Open a head folder (`…/classify/heads/<row>`).

    An array of numbers carries no digest: a head that is asked about one believes that it comes from the model that it was fitted on, and
    only checks its width. To have the model checked, name one of these:
    model_digest: of the model whose embeddings it will be given.
    embeddings: where they lie: a file of the stage embed (`results/<recipe>/embed/<set>.parquet`), or a folder of `biollm embed-file`.
    Raises ArtifactError if the folder is no head or damaged, or if it was fitted on embeddings of another model, naming both digests.
    """
    folder = Path(folder)
    path = folder / CARD
    if not path.is_file():
        raise ArtifactError(f"{folder}: no head here ({CARD} is missing); expected a folder like results/<recipe>/classify/heads/<row>")
    card = read_sidecar(path, HeadCard)
    if card.schema_version != SCHEMA_VERSION:
        raise ArtifactError(f"{path}: written by another version of biollm (schema {card.schema_version}); run the stage classify again")
    known = [] if model_digest is None else [model_digest]
    if embeddings is not None:
        known.append(embedding_digest(Path(embeddings)))
    for digest in known:
        for block in card.features:
            if isinstance(block, EmbeddingBlock) and not _is_model(folder, block, digest):
                raise ArtifactError(
                    f"{folder}: fitted on embeddings of the model with digest {block.model_digest} ('{block.set}', {block.title}), "
                    f"but given those of the model with digest {digest}; embed with the model that the head was fitted on, or fit it "
                    "again"
                )
    file = folder / card.model_file
    if not file.is_file():
        raise ArtifactError(f"{file}: missing; the head is not whole; run the stage classify again")
    model = HEADS[card.head].load(file, card.task, len(card.classes))
    return SavedHead(
        card,
        FittedHead(
            kind=card.head, task=card.task, classes=tuple(card.classes), model=model, settings=card.settings, choice=card.choice,
            inner_score=float("nan"), columns=card.columns, seen=np.array(card.seen, dtype=bool), calibrator=card.calibration,
            abstention=card.abstention,
        ),
    )  # fmt: skip
