"""The read table of MethylBERT: bisulfite reads as reference 3-mers with a methylation string (Jeong et al. 2025, Nat Commun 16:788)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from biollm.core.alphabets import ALPHABETS
from biollm.core.errors import DataError
from biollm.core.streams import read_lines
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.modifications import Floats
from biollm.ingest.reads.records import converted, list_column, unique_id

_COLUMNS = ("name", "flag", "ref_name", "ref_pos", "dna_seq", "methyl_seq", "ctype")
_KMER = 3
_AS_IT_IS = ReadOptions(kind="methylbert")


def read_methylbert_table(file: Path, options: ReadOptions = _AS_IT_IS) -> pl.DataFrame:
    """The rows of a tab-separated table (its name may end in .csv): one read each.

    Columns: id (unique), contig, start_0based (of the alignment), end, group (read name: mates share it), sequence (reference bases along
    the plus strand, as the 3-mers spell them: one fewer than the read has), track_5mC List(Float32) at the C of each CpG of the plus
    strand, for reads of either strand (1 methylated, 0 unmethylated, null none), label_ctype (what the reads come from: T tumour, N
    normal).
    The other columns of such tables tell the label (run id, the read itself, XM, MD) and are not taken; a read name may tell it too, so
    group and id are no features. The 3-mer number i covers bases i..i+2, and its methylation is that of base i+1.
    options: of them only convert_cytosines counts, which writes the plus strand as bisulfite sequencing would read it.
    Raises DataError naming file and line for a missing column, 3-mers that are none or do not overlap, another letter than 0, 1 and 2, a
    methylation string of another length, a call that is not at a CpG, and an empty label.
    """
    lines = read_lines(file)
    _, first = next(lines, (1, ""))
    header = first.split("\t")
    if missing := [name for name in _COLUMNS if name not in header]:
        raise DataError(f"{file} line 1: no column '{missing[0]}'; expected a tab-separated table with {', '.join(_COLUMNS)}")
    index = [header.index(name) for name in _COLUMNS]
    numbers: dict[str, int] = {}
    rows: list[tuple[str, str, int, int, str, str, str]] = []
    tracks: list[Floats] = []
    for number, line in lines:
        if not line:
            continue
        fields = line.split("\t")
        place = f"{file} line {number}"
        if len(fields) != len(header):
            raise DataError(f"{place}: {len(fields)} tab-separated columns; the header has {len(header)}")
        name, flag, contig, start, kmers, methylation, label = (fields[i] for i in index)
        if not name or not label:
            raise DataError(f"{place}: the {'name' if not name else 'ctype'} is empty; every read needs one")
        if not (flag.isdecimal() and start.isdecimal() and int(start) >= 1):
            raise DataError(f"{place}: flag '{flag}' and ref_pos '{start}'; expected whole numbers, ref_pos from 1")
        sequence = _join(place, kmers)
        mate = {0x40: "/1", 0x80: "/2"}.get(int(flag) & 0xC0, "")
        tracks.append(_track(place, sequence, methylation))
        text = converted(sequence, {"5mC": tracks[-1]}, options)
        rows.append((unique_id(name + mate, numbers), contig, int(start) - 1, int(start) - 1 + len(text), name, text, label))
    if not rows:
        raise DataError(f"{file}: holds no read behind its header; export it again")
    frame = pl.DataFrame(rows, schema=["id", "contig", "start_0based", "end", "group", "sequence", "label_ctype"], orient="row")
    return frame.insert_column(6, list_column(tracks).alias("track_5mC"))


def _join(place: str, kmers: str) -> str:
    first, middle, last, between = (kmers[offset :: _KMER + 1] for offset in range(_KMER + 1))
    if not last or len(first) != len(last) or between.strip(" "):
        raise DataError(f"{place}: dna_seq '{kmers[:20]}' is not a row of 3-mers with one space between them")
    if first[1:] != middle[:-1] or middle[1:] != last[:-1]:
        raise DataError(f"{place}: the 3-mers of dna_seq do not overlap by two bases; the table is not of one stretch per read")
    sequence = first + middle[-1] + last[-1]
    dna = ALPHABETS["dna"]
    if (foreign := dna.foreign(sequence)) is not None:
        raise DataError(f"{place}: dna_seq holds {sequence[foreign]!r} at base {foreign + 1}; DNA may hold {dna.accepted}")
    return dna.read(sequence)


def _track(place: str, sequence: str, methylation: str) -> Floats:
    if len(methylation) != len(sequence) - _KMER + 1:
        raise DataError(
            f"{place}: methyl_seq has {len(methylation)} letters and dna_seq {len(sequence) - _KMER + 1} 3-mers; expected as many"
        )
    if other := set(methylation) - set("012"):
        raise DataError(f"{place}: methyl_seq holds '{min(other)}'; expected 0 (unmethylated), 1 (methylated) and 2 (none)")
    values = np.frombuffer(methylation.encode("ascii"), dtype=np.uint8) - ord("0")
    bases = np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)
    called = values < 2
    if (wrong := called & ((bases[1:-1] != ord("C")) | (bases[2:] != ord("G")))).any():
        at = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{place}: methyl_seq calls 3-mer {at + 1} '{sequence[at : at + _KMER]}', which has no CpG in its middle")
    track = np.full(len(sequence), np.nan, dtype=np.float32)
    track[1:-1][called] = values[called]
    return track
