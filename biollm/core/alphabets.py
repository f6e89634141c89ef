"""Residue alphabets: which letters a sequence may hold, and what the rare ones become."""

from __future__ import annotations

# The letters that a DNA corpus holds. Case is folded up at the door (soft masking is not kept).
DNA = "ACGTN"
# IUPAC ambiguity codes mean "one of several bases": they become N, counted. U is RNA's spelling of T.
DNA_AMBIGUOUS = "RYSWKMBDHV"
DNA_ACCEPTED = "ACGTUN" + DNA_AMBIGUOUS
DNA_FOLD = str.maketrans({"U": "T"} | dict.fromkeys(DNA_AMBIGUOUS, "N"))

_COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def reverse_complement(sequence: str) -> str:
    """The other strand, read 5' to 3'. Expects upper-case ACGTN.

    >>> reverse_complement("AACGN")
    'NCGTT'
    """
    return sequence.translate(_COMPLEMENT)[::-1]


def canonical(sequence: str) -> str:
    """The smaller of a sequence and its reverse complement: equal for the two strands of one stretch.

    >>> canonical("TTT"), canonical("AAA")
    ('AAA', 'AAA')
    """
    return min(sequence, reverse_complement(sequence))
