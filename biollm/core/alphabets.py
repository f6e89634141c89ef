"""Residue alphabets: which letters a sequence may hold, and what the rare ones become."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Modality = Literal["dna", "methylated_dna", "rna", "protein", "smiles", "text"]
DOUBLE_STRANDED: tuple[Modality, ...] = ("dna", "methylated_dna", "rna")  # sequences that have a reverse complement

# The letters that a DNA corpus holds. Case is folded up at the door (soft masking is not kept).
DNA = "ACGTN"
RNA = "ACGUN"
# M: a methylated C; W: a G whose C on the other strand is methylated.
METHYLATED = "ACGTNMW"
PROTEIN = string.ascii_uppercase
SMILES = string.ascii_letters + string.digits + "()[]=#@+-%./\\*:$"
# IUPAC ambiguity codes mean "one of several bases": they become N, counted. U is RNA's spelling of T.
DNA_AMBIGUOUS = "RYSWKMBDHV"
DNA_ACCEPTED = "ACGTUN" + DNA_AMBIGUOUS
DNA_FOLD = str.maketrans({"U": "T"} | dict.fromkeys(DNA_AMBIGUOUS, "N"))
_METHYLATED_FOLD = str.maketrans({"U": "T"} | dict.fromkeys("RYSKBDHV", "N"))
RNA_FOLD = str.maketrans({"T": "U"} | dict.fromkeys(DNA_AMBIGUOUS, "N"))

_COMPLEMENT = str.maketrans("ACGTNMW", "TGCANWM")
# The same for arrays of ASCII codes, with the ambiguity codes; other codes stand for themselves.
COMPLEMENT_CODES = np.arange(256, dtype=np.uint8)
COMPLEMENT_CODES[list(b"ACGTMRWSYKVHDBN")] = list(b"TGCAKYWSRMBDHVN")
_RNA_COMPLEMENT = str.maketrans("ACGUN", "UGCAN")


@dataclass(frozen=True)
class Alphabet:
    """What the sequences of one modality are written in.

    residues: the letters of a clean sequence, in order; "" for text, which may hold any letter.
    accepted: the letters that an input may hold, after folding case; those beyond `residues` are replaced by `fold`.
    unknown: the residue that says "not known", which no token is worth joining with; "" if there is none.
    """

    residues: str
    accepted: str
    folds_case: bool = True
    unknown: str = ""
    fold: dict[int, str] = field(default_factory=dict, hash=False)

    @cached_property
    def _foreign(self) -> re.Pattern[str]:
        return re.compile(f"[^{re.escape(self.accepted)}]")

    def read(self, raw: str) -> str:
        """A sequence in residues: case folded up where it means nothing, rare letters replaced. Does not check."""
        if not self.residues:
            return raw
        return (raw.upper() if self.folds_case else raw).translate(self.fold)

    def foreign(self, raw: str) -> int | None:
        """The 0-based position of the first letter that a sequence may not hold, or None."""
        if not self.residues:
            return None
        # Only ASCII is folded: str.upper would make "SS" of "ß", and shift what stands behind it.
        found = self._foreign.search(raw.translate(_ASCII_UPPER) if self.folds_case else raw)
        return found.start() if found else None


_ASCII_UPPER = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
ALPHABETS: dict[str, Alphabet] = {
    "dna": Alphabet(DNA, DNA_ACCEPTED, unknown="N", fold=DNA_FOLD),
    "methylated_dna": Alphabet(METHYLATED, METHYLATED + "URYSKBDHV", unknown="N", fold=_METHYLATED_FOLD),
    "rna": Alphabet(RNA, DNA_ACCEPTED, unknown="N", fold=RNA_FOLD),
    "protein": Alphabet(PROTEIN, PROTEIN, unknown="X"),
    "smiles": Alphabet(SMILES, SMILES, folds_case=False),
    "text": Alphabet("", "", folds_case=False),
}


def reverse_complement(sequence: str) -> str:
    """The other strand, read 5' to 3'. Expects upper-case ACGTN, and M and W of methylated DNA.

    >>> reverse_complement("AACGN"), reverse_complement("TMG")
    ('NCGTT', 'CWA')
    """
    return sequence.translate(_COMPLEMENT)[::-1]


def reverse_complement_rna(sequence: str) -> str:
    """The other strand of RNA, read 5' to 3'. Expects upper-case ACGUN.

    >>> reverse_complement_rna("AACGN")
    'NCGUU'
    """
    return sequence.translate(_RNA_COMPLEMENT)[::-1]


def canonical(sequence: str) -> str:
    """The smaller of a sequence and its reverse complement: equal for the two strands of one stretch.

    >>> canonical("TTT"), canonical("AAA")
    ('AAA', 'AAA')
    """
    return min(sequence, reverse_complement(sequence))


def stands_on(sequence: str, letters: str) -> NDArray[np.bool_]:
    """(L,) whether a residue is one of some letters, in either case."""
    return np.isin(np.frombuffer(sequence.upper().encode("ascii", "replace"), dtype=np.uint8), [ord(letter) for letter in letters])
