"""The recipe section `tokenizer`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from biollm.core.alphabets import ALPHABETS, DOUBLE_STRANDED, Modality
from biollm.core.recipe import Section
from biollm.modeling.domain import Kind
from biollm.modeling.sequence_tables import MOST_BPE_TOKENS

_BYTES = 256
_OF_FILES: Modality = "dna"


class Config(Section):
    """The domain tokenizer, trained on the train split of the corpus or on files of its own."""

    kind: Kind | None = Field(
        default=None,
        description="the model; default: that of the base tokenizer (it must be that one for a merge with strategy isolate). For SMILES "
        "bpe, wordpiece and unigram cut through no atom that they were trained on; char makes a token of each letter, of Cl two",
    )
    vocab_size: int = Field(
        default=1024, ge=4, description="number of tokens, all included (bpe: at most 32,768); kmer and char have the number they have"
    )
    piece_residues: int = Field(
        default=50,
        ge=8,
        description="for kind wordpiece: sequences are cut into pieces of this length first; WordPiece is quadratic in it, and BERT "
        "refuses words of over 100 letters, which are 50 residues after a merge",
    )
    modality: Modality | None = Field(
        default=None, description="what the sequences are written in; default: as the corpus, or dna for `files`"
    )
    kmer: int | None = Field(default=None, ge=1, le=12, description="for kind kmer: residues per token")
    overlapping: bool = Field(
        default=False, description="for kind kmer: a token at every position; the tokenizer then reads k-mers with spaces between"
    )
    reverse_complement: bool = Field(default=False, description="for DNA and RNA: train on both strands")
    files: list[str] = Field(
        default=[],
        description="train on these instead of the corpus: FASTA, one sequence per line, or a table (plain or gzip; Parquet); 1 in 20 "
        "sequences is held out",
    )
    column: str | None = Field(default=None, description="the column of the tables among `files` that holds the sequences")
    max_residues: int | None = Field(
        default=None, ge=1000, description="train on at most so many residues, evenly spread; default: 20 million (unigram: 4 million)"
    )

    @model_validator(mode="after")
    def _belongs_together(self) -> Config:
        if self.kind == "kmer" and self.kmer is None:
            raise ValueError("kind is kmer, but kmer is not set; say how many residues a token has, for example kmer: 6")
        if self.kind != "kmer" and (self.kmer is not None or self.overlapping):
            raise ValueError(f"kmer and overlapping are for kind kmer, but kind is {self.kind or 'that of the base'}; remove them")
        if self.column is not None and not self.files:
            raise ValueError("column is set, but files is empty; name the tables in files")
        if (self.modality or self.files) and (misfit := self._misfit(self.modality or _OF_FILES)):
            raise ValueError(misfit)
        return self

    def modality_beside(self, corpus: Modality | None) -> Modality:
        """What the sequences are written in. corpus: what that of `ingest` is."""
        return self.modality or (_OF_FILES if self.files or corpus is None else corpus)

    def _misfit(self, modality: Modality) -> str | None:
        """What does not fit a modality, if anything does not."""
        if self.kind == "kmer" and modality == "smiles":
            return (
                "kind is kmer, but k-mers cut through the atoms of SMILES (Cl, [nH]); choose bpe, wordpiece or unigram, or char for letters"
            )
        if self.kind == "kmer" and modality == "text":
            return "kind is kmer, but text has no k-mers; choose bpe, wordpiece, unigram or char"
        if self.reverse_complement and modality not in DOUBLE_STRANDED:
            return f"reverse_complement is true, but {modality} has no second strand; remove it"
        if self.kind is not None and (much := above_fast_path(self.kind, modality, self.vocab_size)):
            return much
        if self.kind in ("bpe", "wordpiece", "unigram") and self.vocab_size < (least := least_vocab_size(self.kind, modality)):
            return below_alphabet(self.kind, modality, self.vocab_size, least)
        return None

    def resources(self) -> list[str]:
        return list(self.files)

    def reads_base(self) -> bool:
        return self.kind is None  # then the tokenizer is of the base's kind

    def contradictions(self, recipe: Any) -> list[str]:
        found = []
        if self.kind is None and not recipe.base.model:
            found.append(
                "tokenizer.kind is not set and there is no base whose kind it could be; set tokenizer.kind, or add 'base: {model: …}'"
            )
        if not self.files:
            if recipe.ingest is None:
                found.append("tokenizer has nothing to train on; add a section 'ingest', or name files in tokenizer.files")
            elif self.modality is None:
                if misfit := self._misfit(recipe.ingest.modality):
                    found.append(f"tokenizer: {misfit}")
            elif recipe.ingest.modality != self.modality:
                found.append(
                    f"tokenizer.modality is {self.modality}, but the corpus of 'ingest' is {recipe.ingest.modality}; "
                    f"make them one, or name {self.modality} files in tokenizer.files"
                )
        return found


def least_vocab_size(kind: Kind, modality: Modality) -> int:
    """The number of tokens without which some residue would have none."""
    residues = len(ALPHABETS[modality].residues) or _BYTES
    return 2 * residues + 1 if kind == "wordpiece" else residues


def above_fast_path(kind: Kind, modality: Modality, vocab_size: int) -> str | None:
    """Why a BPE is too large for the fast path that reads its sequences, or None. (Words are no sequences.)"""
    if kind != "bpe" or modality == "text" or vocab_size <= MOST_BPE_TOKENS:
        return None
    return (
        f"tokenizer.vocab_size is {vocab_size}, but sequences are encoded with BPE tokenizers of at most {MOST_BPE_TOKENS} tokens; lower it"
    )


def below_alphabet(kind: Kind, modality: Modality, vocab_size: int, least: int) -> str:
    return (
        f"tokenizer.vocab_size is {vocab_size}, but a {kind} tokenizer for {modality} has at least {least} tokens, "
        "or some letters would have none; raise it"
    )
