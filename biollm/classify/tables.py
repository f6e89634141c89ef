"""What the rows of the score table can be made of: the blocks that the corpus and the embeddings allow, and their numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl

from biollm.classify.baselines import DEFAULT_K, hashed_kmer_names, positional_letters
from biollm.classify.config import Config
from biollm.classify.covariates import CovariateEncoder, fit_covariates
from biollm.classify.data import Dataset, load_embeddings
from biollm.classify.features import (
    Block,
    CovariateBlock,
    EmbeddingBlock,
    Inputs,
    KmerBlock,
    PositionalBlock,
    RandomBlock,
    TrackBlock,
    compute_block,
)
from biollm.classify.metrics import FloatArray, IntArray
from biollm.classify.rows import BASE, COVARIATES, KMERS, POSITIONAL, RANDOM, TRACKS, RowPlan
from biollm.classify.tracks import holds_shares, stands_on_cytosines
from biollm.core.alphabets import Modality
from biollm.core.job import Job
from biollm.core.seeding import derive_seed
from biollm.corpus.columns import COVERAGE, TRACK


@dataclass(frozen=True)
class Tables:
    """blocks and their (n, columns) numbers, by name; covariates have no numbers before an encoder is fitted.

    left_out: why a block that others have is not there, by name.
    """

    blocks: dict[str, Block]
    titles: dict[str, str]
    numbers: dict[str, FloatArray]
    table: pl.DataFrame
    left_out: dict[str, str] = field(default_factory=dict)

    def encoder(self, plan: RowPlan, train: IntArray) -> CovariateEncoder | None:
        """The covariates of a row, fitted on these rows."""
        if COVARIATES not in plan.features:
            return None
        block = self.blocks[COVARIATES]
        assert isinstance(block, CovariateBlock)
        return fit_covariates(self.table[train], block.covariates)

    def features(self, plan: RowPlan, encoder: CovariateEncoder | None) -> FloatArray:
        """(n, columns) the row's blocks side by side."""
        parts = []
        for name in plan.features:
            if name == COVARIATES:
                assert encoder is not None
                parts.append(encoder.transform(self.table))
            else:
                parts.append(self.numbers[name])
        return parts[0] if len(parts) == 1 else np.hstack(parts)

    def nbytes(self, plan: RowPlan) -> int:
        """The memory of a row's blocks; covariates, which are few columns, are not counted."""
        return sum(self.numbers[name].nbytes for name in plan.features if name != COVARIATES)

    def names(self, plan: RowPlan, encoder: CovariateEncoder | None) -> list[str]:
        """What each column is, for people."""
        found: list[str] = []
        for name in plan.features:
            block = self.blocks[name]
            if isinstance(block, CovariateBlock):
                assert encoder is not None
                found += encoder.names()
            elif isinstance(block, KmerBlock):
                found += self._kmer_names
            else:
                found += block.names()
        return found

    @cached_property
    def _kmer_names(self) -> list[str]:
        block = self.blocks[KMERS]
        assert isinstance(block, KmerBlock)
        return hashed_kmer_names(block.k, self.table["sequence"].to_list()) if block.modality in ("smiles", "text") else block.names()


def build_tables(job: Job[Config], dataset: Dataset, modality: Modality) -> Tables:
    """Read every embedding set and compute every baseline's features. Raises DataError for what is half written or of another model."""
    embedded = {name: _embedding_block(job, name) for name in job.facts_of("embed")["sets"]}
    vectors = {
        name: load_embeddings(job.input("embed") / f"{name}.parquet", dataset.ids, dataset.unlabelled, block.columns or None)
        for name, block in embedded.items()
    }
    blocks: dict[str, Block] = {name: block.model_copy(update={"columns": vectors[name].shape[1]}) for name, block in embedded.items()}
    k = job.config.kmer or DEFAULT_K[modality]
    titles = {KMERS: f"{k}-mers" if modality not in ("smiles", "text") else f"{k}-grams"}
    blocks[KMERS] = KmerBlock(k=k, modality=modality)
    left_out: dict[str, str] = {}
    found = positional_letters(dataset.sequences, modality)
    if isinstance(found, str):
        left_out[POSITIONAL] = found
    else:
        blocks[POSITIONAL], titles[POSITIONAL] = PositionalBlock(length=found[0], letters=found[1]), "letters by position"
    if vectors:
        width = vectors[BASE if BASE in vectors else next(iter(vectors))].shape[1]
        blocks[RANDOM] = RandomBlock(columns=width, seed=derive_seed(job.seed, "classify", "random embeddings"))
        titles[RANDOM] = "random embeddings"
    if dataset.track_names:
        blocks[TRACKS], titles[TRACKS] = _track_block(job, dataset, modality), "tracks"
    else:
        left_out[TRACKS] = "the corpus has no tracks"
    if job.config.covariates:
        blocks[COVARIATES], titles[COVARIATES] = CovariateBlock(covariates=job.config.covariates), "covariates"
    inputs = Inputs(dataset.sequences, vectors, dataset.table)
    numbers = {name: compute_block(block, inputs) for name, block in blocks.items() if name != COVARIATES}
    return Tables(blocks, titles, numbers, dataset.table, left_out)


def _track_block(job: Job[Config], dataset: Dataset, modality: Modality) -> TrackBlock:
    """The tracks of the corpus, and what their values are, so that those of new records can be told to be others."""
    names, table = dataset.track_names, dataset.table
    computed = [track for track in job.facts_of("ingest")["tracks"] if track["name"] in names]
    measured = [name for name in names if name not in {track["name"] for track in computed}]
    return TrackBlock(
        tracks=names,
        with_coverage=[name for name in names if COVERAGE + name in table.columns],
        shares=[name for name in measured if holds_shares(table[TRACK + name])],
        cytosines=[name for name in measured if modality == "dna" and stands_on_cytosines(table[TRACK + name], table["sequence"])],
        computed=computed,
    )


def set_titles(job: Job[Config]) -> dict[str, str]:
    """The embedding sets and their names for people."""
    return {name: facts.get("title", name) for name, facts in job.facts_of("embed")["sets"].items()}


def _embedding_block(job: Job[Config], name: str) -> EmbeddingBlock:
    """How a set was made, with the digest of its model: the stage's artifact, or the base model's files. A set whose model is not known
    is named by the digest of its own file."""
    artifact = job.inputs["embed"]
    facts = artifact.facts["sets"][name]
    made_from = artifact.manifest.inputs
    stage = next((stage for stage in ("expand", "pretrain", "finetune") if name.startswith(stage)), "")
    digest = (
        facts.get("model_digest") or made_from.get(job.base_model if name == BASE else stage) or artifact.manifest.files[f"{name}.parquet"]
    )
    settings = {key: value for key, value in artifact.facts.items() if key != "sets"}
    return EmbeddingBlock(
        set=name,
        title=facts.get("title", name),
        columns=facts.get("dim", 0),
        model_digest=digest,
        settings={"recipe": artifact.manifest.config, **settings, **{key: value for key, value in facts.items() if key != "title"}},
    )
