"""Bisulfite reads: Bismark's tags, calls of C against T over a reference, and conversion as text.

Everything is given in the direction of the strand that was converted (XG CT: plus, as the reference; XG GA: minus), so that a call sits on
a C (methylated) or a T (unmethylated) in every record, of read 1 and of read 2 alike.

The letters of a call string, one per base: Z CG, X CHG, H CHH, U unknown context; upper case methylated; '.' no call (Bismark's XM tag).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pysam
from numpy.typing import NDArray

from biollm.core.errors import DataError
from biollm.ingest.reads.bam import Alignments, Counts, Reference, bases_at, check_alignment, molecule_bases, reference_places
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.modifications import CONTEXTS, Bases, Floats, cytosine_contexts, to_bases

_LETTERS = b"zxhu"  # in the order of CONTEXTS
_STRANDS = {"CT": "+", "GA": "-"}
_FOREIGN = re.compile(r"[^.zZxXhHuU]")
_A, _C, _G, _T, _DOT = b"ACGT."
_LOWER = 0x20  # the bit that tells lower from upper case in ASCII


@dataclass(frozen=True)
class BisulfiteRecord:
    """A record and its calls. bases, calls: (L,) ASCII codes in the direction of the converted strand, which `strand` names."""

    record: pysam.AlignedSegment
    strand: str
    bases: Bases
    calls: Bases


def bisulfite_records(
    alignments: Alignments, options: ReadOptions, reference: Reference | None, counts: Counts
) -> Iterator[BisulfiteRecord]:
    """The kept records whose strand is known and whose calls are given (XM) or follow from the reference.

    Dropped and counted: "no_xg": without the strand that was converted; "no_xm": without calls, and without a reference to make them from.
    Raises DataError naming file and read for tags that do not fit the sequence.
    """
    for record in alignments.records(options, counts):
        why = "no_xg" if not record.has_tag("XG") else "no_xm" if not record.has_tag("XM") and reference is None else None
        if why:
            alignments.drop(record, why, counts)
            continue
        place = f"{alignments.file}: read '{record.query_name}'"
        if (strand := _STRANDS.get(xg := _text_tag(place, record, "XG"))) is None:
            raise DataError(f"{place}: XG is '{xg}'; expected CT (plus strand) or GA (minus strand), as Bismark writes it")
        bases = molecule_bases(to_bases(str(record.query_sequence)), strand == "-")
        if record.has_tag("XM"):
            calls = _read_xm(place, _text_tag(place, record, "XM"), bases, strand)
        else:
            assert reference is not None
            if record.is_unmapped:
                alignments.drop(record, "no_xm", counts)
                continue
            calls = _call(alignments, record, bases, strand, reference)
        yield BisulfiteRecord(record, strand, bases, calls)


def _text_tag(place: str, record: pysam.AlignedSegment, tag: str) -> str:
    try:
        return str(record.get_tag(tag))
    except UnicodeDecodeError:
        raise DataError(f"{place}: the tag {tag} is not text; the file is damaged: write it again") from None


def _read_xm(place: str, xm: str, bases: Bases, strand: str) -> Bases:
    if len(xm) != len(bases):
        raise DataError(
            f"{place}: XM has {len(xm)} letters and the sequence {len(bases)} bases; a tool cut one of them: call methylation again"
        )
    if foreign := _FOREIGN.search(xm):
        raise DataError(
            f"{place}: XM holds '{foreign[0]}' at base {foreign.start() + 1}; expected letters of .zZxXhHuU, as Bismark writes them"
        )
    calls = to_bases(xm)[:: -1 if strand == "-" else 1]
    called = calls != _DOT
    wrong = called & (bases != np.where(calls & _LOWER, _T, _C))
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{place}: XM calls '{chr(calls[at])}' on {chr(bases[at])} at base {at + 1} of the {strand} strand; methylated calls sit on C "
            "and unmethylated ones on T there: XM was written for another sequence or strand: call methylation again"
        )
    return calls


def _call(alignments: Alignments, record: pysam.AlignedSegment, bases: Bases, strand: str, reference: Reference) -> Bases:
    """Calls of a record without XM: where the reference has C, a C that was read is methylated, a T is not."""
    contig = str(record.reference_name)
    reference.check(alignments.file, contig, alignments.contig_bases(contig))
    check_alignment(alignments, record)
    genome = reference.bases(contig)
    places = reference_places(record)[:: -1 if strand == "-" else 1]
    calls = np.full(len(bases), _DOT, dtype=np.uint8)
    aligned = np.flatnonzero(places >= 0)
    cytosines = aligned[(bases_at(genome, places[aligned], strand == "-") == _C) & ((bases[aligned] == _C) | (bases[aligned] == _T))]
    contexts = cytosine_contexts(genome, places[cytosines], strand == "-")
    letters = np.frombuffer(_LETTERS, dtype=np.uint8)[contexts]
    calls[cytosines] = np.where(bases[cytosines] == _C, letters & ~np.uint8(_LOWER), letters)
    return calls


def call_values(calls: Bases, contexts: tuple[str, ...]) -> Floats:
    """1 methylated, 0 unmethylated, NaN no call, or a call in another context: (L,) float32."""
    letters = [letter for letter, context in zip(_LETTERS, CONTEXTS, strict=True) if context in contexts]
    lower = calls | _LOWER
    values = np.where(calls & _LOWER, np.float32(0), np.float32(1))
    return np.where(np.isin(lower, letters), values, np.float32(np.nan))


def bisulfite_text(sequence: str, calls: str) -> str:
    """What a bisulfite sequencer reads of a molecule: C at methylated calls, T at unmethylated ones, all else as given.

    sequence: in the direction of the converted strand, before conversion or after it (then it is returned as it is); calls: as long.
    Raises DataError if the lengths differ, or a call sits on another base than C or T.

    >>> bisulfite_text("ACGTCA", ".Z..h.")
    'ACGTTA'
    """
    bases, letters = _with_calls(sequence, calls)
    called = letters != _DOT
    bases[called] = np.where(letters[called] & _LOWER, _T, _C)
    return bases.tobytes().decode("ascii")


def restore_cytosines(sequence: str, calls: str) -> str:
    """The molecule before conversion, as far as the calls tell: C at every call. Undoes `bisulfite_text`, and raises as it does.

    >>> restore_cytosines("ACGTTA", ".Z..h.")
    'ACGTCA'
    """
    bases, letters = _with_calls(sequence, calls)
    bases[letters != _DOT] = _C
    return bases.tobytes().decode("ascii")


def _with_calls(sequence: str, calls: str) -> tuple[Bases, Bases]:
    if len(sequence) != len(calls):
        raise DataError(f"a bisulfite read has {len(sequence)} bases and {len(calls)} call letters; give one letter per base")
    if foreign := _FOREIGN.search(calls):
        raise DataError(f"the calls hold {foreign[0]!r} at base {foreign.start() + 1}; expected letters of .zZxXhHuU")
    bases, letters = to_bases(sequence).copy(), to_bases(calls)
    wrong = (letters != _DOT) & (bases != _C) & (bases != _T)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise DataError(f"call '{calls[at]}' sits on '{sequence[at]}' at base {at + 1}; calls sit on C or T of the converted strand")
    return bases, letters


def convert(sequence: str, methylated_mask: NDArray[np.bool_], strand: Literal["+", "-"]) -> str:
    """A sequence after bisulfite conversion: unmethylated C becomes T on the plus strand, G becomes A for the minus strand.

    sequence: upper-case, along the reference for either strand; methylated_mask: (L,), True = methylated, which protects. What the mask
    says of other bases means nothing. Raises DataError if the lengths differ.

    >>> convert("ACGCG", np.array([0, 1, 0, 0, 0], dtype=bool), "+"), convert("ACGCG", np.array([0, 0, 1, 0, 0], dtype=bool), "-")
    ('ACGTG', 'ACGCA')
    """
    if len(sequence) != len(methylated_mask):
        raise DataError(f"a sequence of {len(sequence)} bases has a methylation mask of {len(methylated_mask)}; give one value per base")
    bases = to_bases(sequence)
    before, after = (_C, _T) if strand == "+" else (_G, _A)
    return np.where((bases == before) & ~methylated_mask, np.uint8(after), bases).tobytes().decode("ascii")
