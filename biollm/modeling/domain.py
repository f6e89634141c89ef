"""The domain tokenizer as later stages read it: a folder with tokenizer.json, domain.json and probe.txt.

`tokenizer.json` is a stock one over plain residue letters and is complete without the rest. `domain.json` says what it reads, so that
nobody has to guess it from the model; `probe.txt` holds sequences that the training never saw, one per line (of text: its lines).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from biollm.core.alphabets import ALPHABETS, Modality
from biollm.core.errors import ArtifactError, ConfigError, DataError
from biollm.core.files import read_sidecar, write_json, write_text_atomic
from biollm.modeling.vocabulary import TOKENIZER, load_tokenizer
from tokenizers import Tokenizer

DOMAIN = "domain.json"
PROBE = "probe.txt"
Kind = Literal["bpe", "wordpiece", "unigram", "kmer", "char"]
# WordPiece and k-mer vocabularies hold this token; it has number 0 and stands for no residue. The other kinds have none.
UNKNOWN = "[UNK]"
# What a WordPiece token that continues a piece begins with.
PREFIX = "∙∙"  # not "##", which may stand in SMILES
# Unigram scores are multiples of this, so that a JSON file gives them to the last bit and sums of them are exact: ties stay ties.
SCORE_STEP = 2.0**-7


class DomainSpec(BaseModel):
    """The sidecar `domain.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    modality: Modality
    kind: Kind
    residues: str  # every letter that has a token; "" for text, whose letters are bytes
    case: Literal["upper", "kept"]  # "upper": lower-case letters are read as upper-case ones, and decode gives upper case
    vocab_size: int = Field(ge=1)  # all tokens, UNKNOWN included
    piece_residues: int | None  # sequences are cut into pieces of so many residues before tokens are looked for; None: not cut
    kmer: int | None
    overlapping: bool  # the tokenizer reads k-mers with spaces between: see spell_kmers
    strands: Literal[1, 2]  # 2: trained on the reverse complement too

    @model_validator(mode="after")
    def _holds_together(self) -> DomainSpec:
        if (self.kind == "kmer") != (self.kmer is not None) or (self.overlapping and self.kind != "kmer"):
            raise ValueError(f"kind {self.kind}, kmer {self.kmer} and overlapping {self.overlapping} contradict each other")
        return self

    def check(self, sequence: str, name: str) -> None:
        """Raise DataError naming `name`, letter and position if the sequence is empty or holds a letter that has no token."""
        if not sequence:
            raise DataError(f"sequence {name} is empty; remove it")
        if self.modality == "text":
            return
        allowed = set(self.residues) | (set(self.residues.lower()) if self.case == "upper" else set())
        if foreign := set(sequence) - allowed:
            position = min(sequence.index(letter) for letter in foreign)
            either = " in either case" if self.case == "upper" else ""
            raise DataError(
                f"sequence {name} holds {sequence[position]!r} at position {position + 1}; "
                f"this {self.modality} tokenizer reads {self.residues}{either}"
            )


@dataclass(frozen=True)
class DomainTokenizer:
    """A domain tokenizer with what is known about it."""

    tokenizer: Tokenizer
    spec: DomainSpec
    probe: list[str]

    @classmethod
    def load(cls, folder: Path) -> DomainTokenizer:
        """Open a folder that the stage `tokenizer` wrote, or one of those under tokenizers/.

        Raises ArtifactError if domain.json or probe.txt is missing, damaged or empty, or if domain.json does not belong to tokenizer.json;
        ConfigError for a missing or damaged tokenizer.json.
        """
        remedy = "make it again with the stage 'tokenizer', or take one of those under tokenizers/"
        for name in (DOMAIN, PROBE):
            if not (folder / name).is_file():
                raise ArtifactError(f"{folder}: no domain tokenizer ({name} is missing); {remedy}")
        try:
            spec = read_sidecar(folder / DOMAIN, DomainSpec)
            probe = (folder / PROBE).read_text(encoding="utf-8").split("\n")[:-1]
        except ConfigError as error:
            raise ArtifactError(str(error)) from None
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{folder / PROBE}: not UTF-8 text (byte {error.start}); {remedy}") from None
        tokenizer = load_tokenizer(folder)
        if (size := tokenizer.get_vocab_size()) != spec.vocab_size:
            raise ArtifactError(f"{folder}: {DOMAIN} speaks of {spec.vocab_size} tokens, but {TOKENIZER} has {size}; {remedy}")
        if not probe:
            raise ArtifactError(f"{folder / PROBE}: holds no sequence; expected at least one that the training never saw; {remedy}")
        for number, sequence in enumerate(probe, start=1):
            try:
                spec.check(sequence, f"in line {number}")
            except DataError as error:
                raise ArtifactError(f"{folder / PROBE}: {error}; {remedy}") from None
        return cls(tokenizer, spec, probe)

    def save(self, folder: Path) -> None:
        """Write the three files into a folder that exists. The same tokenizer gives the same bytes."""
        write_text_atomic(folder / TOKENIZER, self.tokenizer.to_str(pretty=True) + "\n")
        write_json(folder / DOMAIN, self.spec.model_dump())
        write_text_atomic(folder / PROBE, "".join(f"{sequence}\n" for sequence in self.probe))

    def encode_batch(self, sequences: Sequence[str], names: Sequence[str] | None = None) -> list[list[int]]:
        """Token numbers of each sequence. Raises DataError naming one that is empty or holds a letter without a token."""
        for position, sequence in enumerate(sequences):
            self.spec.check(sequence, names[position] if names else f"number {position}")
        texts = [spell_kmers(s, self._k) for s in sequences] if self.spec.overlapping else sequences
        return [e.ids for e in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The sequence that some token numbers stand for; of overlapping k-mers, the sequence that they were cut from."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        return join_kmers(text) if self.spec.overlapping else text

    def normal(self, sequence: str) -> str:
        """What decode gives back for a sequence: upper case where the tokenizer reads both cases alike."""
        return sequence.upper() if self.spec.case == "upper" else sequence

    @property
    def _k(self) -> int:
        assert self.spec.kmer is not None
        return self.spec.kmer


def case_of(modality: Modality) -> Literal["upper", "kept"]:
    """Whether the tokenizers of a modality read lower-case letters as upper-case ones."""
    return "upper" if ALPHABETS[modality].folds_case else "kept"


def spell_kmers(sequence: str, k: int) -> str:
    """A sequence as its overlapping k-mers with spaces between, as an overlapping tokenizer reads it; a shorter one is one word.

    >>> spell_kmers("GATTACA", 3)
    'GAT ATT TTA TAC ACA'
    >>> spell_kmers("GA", 3)
    'GA'
    """
    return " ".join(sequence[i : i + k] for i in range(max(len(sequence) - k + 1, 1)))


def join_kmers(text: str) -> str:
    """The sequence that spell_kmers wrote.

    >>> join_kmers("GAT ATT TTA TAC ACA")
    'GATTACA'
    """
    first, *rest = text.split(" ")
    return first + "".join(word[-1] for word in rest)


def probe_of(sequences: Iterable[str], max_residues: int, max_bytes: int) -> list[str]:
    """Held-out sequences for probe.txt: the first `max_residues` residues of each, as many as fit into `max_bytes`, in order.

    Of a text of several lines, each line counts as one: probe.txt has a line for each, and blank ones would be no sequence.
    """
    probe: list[str] = []
    used = 0
    for line in (line for sequence in sequences for line in sequence.splitlines() if line):
        head = line[:max_residues]
        used += len(head.encode()) + 1
        if used > max_bytes:
            break
        probe.append(head)
    return probe
