"""What the columns of a row's table are: blocks side by side, each described so that a saved head can be fed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import Field

from biollm.classify.baselines import kmer_frequencies, kmer_names, positional_names, positional_one_hot, random_vectors
from biollm.classify.metrics import FloatArray
from biollm.classify.tracks import track_feature_names, track_features
from biollm.core.alphabets import Modality
from biollm.core.errors import DataError, listed
from biollm.core.recipe import Section
from biollm.corpus.columns import COVERAGE, TRACK


class EmbeddingBlock(Section):
    """Vectors of a language model: `set` as the stage embed calls it, the digest of the model, and all that the stage says of how."""

    kind: Literal["embedding"] = "embedding"
    set: str
    title: str
    columns: int
    model_digest: str
    settings: dict[str, Any] = Field(description="of the stage embed: pooling and what else it says of its vectors")

    def names(self) -> list[str]:
        return [f"{self.title}, dimension {i}" for i in range(self.columns)]


class KmerBlock(Section):
    """Shares of k-mers."""

    kind: Literal["kmers"] = "kmers"
    k: int
    modality: Modality

    @property
    def columns(self) -> int:
        return len(self.names())

    def names(self) -> list[str]:
        return kmer_names(self.k, self.modality)


class PositionalBlock(Section):
    """One-hot letters by position."""

    kind: Literal["positional"] = "positional"
    length: int
    letters: str

    @property
    def columns(self) -> int:
        return self.length * len(self.letters)

    def names(self) -> list[str]:
        return positional_names(self.length, self.letters)


class RandomBlock(Section):
    """Numbers that know nothing but which sequences are equal."""

    kind: Literal["random"] = "random"
    columns: int
    seed: int

    def names(self) -> list[str]:
        return [f"random {i}" for i in range(self.columns)]


class TrackBlock(Section):
    """Tracks summed up over a record. shares, cytosines: those whose values were all from 0 to 1, or on no A or T, where it was fitted;
    computed: how those follow that follow from the sequence (a modeling.tracks.TrackConfig each)."""

    kind: Literal["tracks"] = "tracks"
    tracks: list[str]
    with_coverage: list[str]
    shares: list[str] = []
    cytosines: list[str] = []
    computed: list[dict[str, Any]] = []

    @property
    def measured(self) -> list[str]:
        """The tracks that new records have to bring."""
        return [name for name in self.tracks if name not in {track["name"] for track in self.computed}]

    @property
    def columns(self) -> int:
        return len(self.names())

    def names(self) -> list[str]:
        return track_feature_names(self.tracks, self.with_coverage)


class CovariateBlock(Section):
    """Columns of the corpus. Their encoder is fitted with the head (on train rows), so their width is known then."""

    kind: Literal["covariates"] = "covariates"
    covariates: list[str]


Block = Annotated[EmbeddingBlock | KmerBlock | PositionalBlock | RandomBlock | TrackBlock | CovariateBlock, Field(discriminator="kind")]


@dataclass(frozen=True)
class Inputs:
    """What features are made from, all in one order. vectors: (n, columns) of each embedding set; table: tracks and covariates, if any."""

    sequences: list[str]
    vectors: dict[str, FloatArray]
    table: pl.DataFrame


def compute_block(block: Block, inputs: Inputs) -> FloatArray:
    """The (n, columns) table of a block; covariates are encoded elsewhere. Raises DataError if the inputs lack what the block needs."""
    match block:
        case EmbeddingBlock():
            if block.set not in inputs.vectors:
                raise DataError(f"the head reads embeddings of the set '{block.set}' ({block.title}), which were not given; give them")
            vectors = inputs.vectors[block.set]
            if vectors.shape[1] != block.columns:
                raise DataError(
                    f"the embeddings '{block.set}' have {vectors.shape[1]} numbers each; the head was fitted on {block.columns}; "
                    "embed with the model and settings that head.json names"
                )
            return vectors
        case KmerBlock():
            return kmer_frequencies(inputs.sequences, block.k, block.modality)
        case PositionalBlock():
            if odd := [str(i) for i, sequence in enumerate(inputs.sequences) if len(sequence) != block.length]:
                raise DataError(
                    f"{len(odd)} sequences are not {block.length} long, the first are numbers {listed(odd, 5)}; "
                    "the head reads letters by position; give sequences of that length"
                )
            return positional_one_hot(inputs.sequences, block.length, block.letters)
        case RandomBlock():
            return random_vectors(inputs.sequences, block.columns, block.seed)
        case TrackBlock():
            wanted = [TRACK + name for name in block.tracks] + [COVERAGE + name for name in block.with_coverage]
            if missing := [name for name in wanted if name not in inputs.table.columns]:
                raise DataError(f"the head reads the columns {', '.join(missing)}, which the table does not have; give the tracks")
            return track_features(inputs.table.select(wanted), block.tracks)
        case CovariateBlock():
            raise AssertionError("covariates are encoded by the head's own encoder")
