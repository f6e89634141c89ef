"""BAM files: opened with their faults named, records chosen and counted, their bases laid beside the reference."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

import numpy as np
import pysam
from numpy.typing import NDArray

from biollm.core.errors import DataError
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.modifications import Bases, Positions, complement

Counts = dict[str, int]
_FLAGS = {"secondary": 0x100, "supplementary": 0x800, "duplicate": 0x400, "qc_fail": 0x200}
# Per CIGAR operation MIDNSHP=X does it use up bases of the read, of the reference?
_USES_READ = np.array([1, 1, 0, 0, 1, 0, 0, 1, 1], dtype=np.int64)
_USES_REFERENCE = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1], dtype=np.int64)
HARD_CLIP = 5


def add(counts: Counts, key: str, number: int = 1) -> None:
    counts[key] = counts.get(key, 0) + number


class Reference:
    """The genome that reads were aligned to. Holds one byte a base."""

    def __init__(self, contigs: Mapping[str, Bases], source: str = "the reference") -> None:
        """contigs: name -> (bases,) uint8, ASCII of upper-case ACGTN; source: what messages call it."""
        self._contigs = contigs
        self._source = source

    @classmethod
    def read(cls, file: Path) -> Self:
        """Raises DataError as `read_contigs` does."""
        from biollm.ingest.config import SequencePolicy
        from biollm.ingest.fasta import read_contigs

        return cls({contig.name: contig.sequence for contig in read_contigs([file], SequencePolicy())}, str(file))

    def __contains__(self, contig: str) -> bool:
        return contig in self._contigs

    def bases(self, contig: str) -> Bases:
        """(bases,) uint8."""
        return self._contigs[contig]

    def check(self, file: Path, contig: str, header_bases: int) -> None:
        """Raises DataError if the reference lacks a contig of a BAM, or has another length for it."""
        known = self._contigs.get(contig)
        if known is None:
            names = ", ".join(list(self._contigs)[:4])
            raise DataError(
                f"{file}: reads lie on '{contig}', which {self._source} lacks (it holds {names}); give the FASTA they were aligned to"
            )
        if len(known) != header_bases:
            raise DataError(
                f"{file}: '{contig}' has {header_bases} bases in the header and {len(known)} in {self._source}; "
                "this is another assembly: give the FASTA that the reads were aligned to"
            )


class Alignments:
    """A BAM file open for one pass over all its records. Use it as a context."""

    def __init__(self, file: Path, on_drop: Callable[[str, str], None] | None = None) -> None:
        """on_drop: is told the name of each record that is left out, and why. Raises DataError for what is no whole BAM with a header."""
        self.file = file
        self._on_drop = on_drop or (lambda name, why: None)
        self._verbosity = pysam.set_verbosity(0)  # what htslib prints, we raise
        try:
            self._bam = pysam.AlignmentFile(str(file), "rb", check_sq=False)
            header = str(self._bam.header)
            self._contig_bases = dict(zip(self._bam.references, self._bam.lengths, strict=True))
        except (OSError, ValueError) as error:
            pysam.set_verbosity(self._verbosity)
            raise DataError(self._unreadable(error)) from None
        if not self._bam.is_bam:
            self.__exit__()
            raise DataError(f"{file}: not a BAM file (SAM and CRAM are not read); make one: samtools view -b -o reads.bam {file}")
        found = re.search(r"^@HD\t(?:.*\t)?SO:(\w+)", header, re.MULTILINE)
        self.sort_order = found[1] if found else "unknown"
        # from the text: pysam's header as a dictionary fails at damage that it lets pass elsewhere
        self.assemblies = sorted(set(re.findall(r"^@SQ\t(?:.*\t)?AS:([^\t\n]+)", header, re.MULTILINE)))

    def _unreadable(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return f"{self.file}: no such file"
        if "EOF marker" in str(error):
            return f"{self.file}: the BAM file has no end block, so its end is missing; fetch or write it again"
        return f"{self.file}: not a BAM file with a header, or damaged ({error}); fetch or write it again"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._bam.close()
        except OSError:  # htslib tells again of the damage that ended the pass
            pass
        finally:
            pysam.set_verbosity(self._verbosity)

    @property
    def contigs(self) -> list[str]:
        """Those of the header, which may hold no read."""
        return list(self._contig_bases)

    def contig_bases(self, contig: str) -> int:
        return self._contig_bases[contig]

    def records(self, options: ReadOptions, counts: Counts) -> Iterator[pysam.AlignedSegment]:
        """The records that the options keep, in file order; counts "records", "kept" and "dropped_<why>".

        Raises DataError for damage, and for a kept record without sequence.
        """
        last = "the header"
        stream = self._bam.fetch(until_eof=True)
        while True:
            try:
                record = next(stream)
                name = record.query_name  # decoded here
            except StopIteration:
                return
            except (OSError, ValueError) as error:
                raise DataError(f"{self.file}: damaged behind {last} ({error}); fetch or write it again") from None
            last = f"read '{name}'"
            add(counts, "records")
            if why := _why_dropped(record, options):
                add(counts, f"dropped_{why}")
                self._on_drop(str(name), why)
                continue
            if not record.query_length:
                raise DataError(f"{self.file}: {last} has no sequence ('*'); its calls cannot be placed: write the BAM with sequences")
            add(counts, "kept")
            yield record

    def drop(self, record: pysam.AlignedSegment, why: str, counts: Counts) -> None:
        """Count a record that `records` gave as dropped after all, for a tag that it lacks. Raises DataError if its tags are damaged."""
        try:
            record.to_string()  # to htslib's look-up, a damaged tag is an absent one
        except ValueError as error:
            raise DataError(f"{self.file}: the tags of read '{record.query_name}' are damaged ({error}); write the file again") from None
        add(counts, f"dropped_{why}")
        add(counts, "kept", -1)
        self._on_drop(str(record.query_name), why)


def _why_dropped(record: pysam.AlignedSegment, options: ReadOptions) -> str | None:
    """The first reason to leave a record out, or None."""
    if record.is_unmapped and not options.keep_unmapped:
        return "unmapped"
    for why, bit in _FLAGS.items():
        if record.flag & bit and not (why == "supplementary" and options.keep_supplementary):
            return why
    return "low_mapq" if record.is_mapped and record.mapping_quality < options.min_mapq else None


def strand_of(record: pysam.AlignedSegment) -> str:
    return "-" if record.is_reverse else "+"


def molecule_bases(sequence: Bases, turned: bool) -> Bases:
    """Bases as BAM holds them (along the reference) in the direction of the molecule: turned = on the minus strand."""
    return complement(sequence[::-1]) if turned else sequence


def reference_places(record: pysam.AlignedSegment) -> Positions:
    """The 0-based reference position of each base as BAM holds it: (L,), -1 for inserted and soft-clipped ones. Check the record before.

    >>> record = pysam.AlignedSegment()
    >>> record.query_sequence, record.reference_start, record.cigarstring = "ACGTAC", 10, "1S2M1I1D2M"
    >>> reference_places(record)
    array([-1, 10, 11, -1, 13, 14])
    """
    cigar = np.array(record.cigartuples, dtype=np.int64).reshape(-1, 2)
    operation, length = cigar[:, 0], cigar[:, 1]
    in_read, in_reference = length * _USES_READ[operation], length * _USES_REFERENCE[operation]
    shift = record.reference_start + np.cumsum(in_reference) - in_reference - (np.cumsum(in_read) - in_read)
    aligned = (_USES_READ[operation] & _USES_REFERENCE[operation]).astype(bool)
    places = np.arange(in_read.sum()) + np.repeat(shift, in_read)
    places[~np.repeat(aligned, in_read)] = -1
    return np.asarray(places)


def check_alignment(alignments: Alignments, record: pysam.AlignedSegment) -> None:
    """Raises DataError if a mapped record has no place, or runs beyond its contig. That its CIGAR fits its bases, htslib sees to."""
    place = f"{alignments.file}: read '{record.query_name}'"
    if record.reference_id < 0 or record.reference_start < 0 or not record.cigartuples:
        raise DataError(f"{place} is marked as mapped, but has no position or no CIGAR; mend the tool that wrote it, or align again")
    if max(record.cigartuples)[0] >= len(_USES_READ):
        raise DataError(f"{place} has a CIGAR with an operation that is none of MIDNSHP=X; mend the tool that wrote it, or align again")
    contig_bases = alignments.contig_bases(str(record.reference_name))
    if (record.reference_end or 0) > contig_bases:
        raise DataError(
            f"{place} ends at {record.reference_end}, but '{record.reference_name}' has {contig_bases} bases; "
            "the header belongs to another assembly: align again"
        )


def bases_at(reference: Bases, places: NDArray[np.int64], minus: bool) -> Bases:
    """The reference base at each place, on the strand asked for."""
    found = reference[places]
    return complement(found) if minus else found
