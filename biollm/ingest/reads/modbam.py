"""Records of a BAM with MM/ML tags, as ONT and PacBio write them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pysam

from biollm.core.errors import DataError
from biollm.ingest.reads.bam import HARD_CLIP, Alignments, Counts, molecule_bases
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.modifications import BASE_OF_NAME, CONTEXTS, Bases, ModTrack, cytosine_contexts, parse_modifications, to_bases


@dataclass(frozen=True)
class ModRecord:
    """A record and its calls. `bases` and each track are (L,), in the direction of the original molecule."""

    record: pysam.AlignedSegment
    bases: Bases
    tracks: list[ModTrack]


def modified_records(alignments: Alignments, options: ReadOptions, counts: Counts) -> Iterator[ModRecord]:
    """The kept records that have a usable MM.

    Dropped and counted: "no_mm"; "mn_disagrees": the tag MN says that MM was written for another sequence than the record holds;
    "hard_clipped_without_mn": MM may count bases that were cut off (htslib#1566). Raises DataError naming file and read.
    """
    wanted = frozenset(options.modifications)
    for record in alignments.records(options, counts):
        if why := _unusable(record):
            alignments.drop(record, why, counts)
            continue
        bases = molecule_bases(to_bases(str(record.query_sequence)), record.is_reverse)
        try:
            mm = record.get_tag("MM" if record.has_tag("MM") else "Mm")
            if not isinstance(mm, str):
                raise ValueError("MM is not text")
            tracks = parse_modifications(bases, mm, _ml(record), wanted, counts, options.skipped_bases == "unknown")
        except ValueError as error:
            raise DataError(
                f"{alignments.file}: read '{record.query_name}': {error}; the tags do not belong to this sequence: "
                "carry MM, ML and MN through every tool that cuts or aligns reads, or call modifications again"
            ) from None
        yield ModRecord(record, bases, tracks)


def _unusable(record: pysam.AlignedSegment) -> str | None:
    if not (record.has_tag("MM") or record.has_tag("Mm")):
        return "no_mm"
    if record.has_tag("MN"):
        return None if record.get_tag("MN") == record.query_length else "mn_disagrees"
    cigar = record.cigartuples or [(0, 0)]
    return "hard_clipped_without_mn" if HARD_CLIP in (cigar[0][0], cigar[-1][0]) else None


def _ml(record: pysam.AlignedSegment) -> Bases | None:
    for tag in ("ML", "Ml"):
        if record.has_tag(tag):
            values = record.get_tag(tag)
            if getattr(values, "typecode", None) != "B":
                raise ValueError(f"{tag} is not of the type B,C (an array of bytes)")
            return np.frombuffer(values, dtype=np.uint8)  # type: ignore[arg-type]
    return None


def keep_contexts(track: ModTrack, bases: Bases, options: ReadOptions) -> ModTrack:
    """A track without the calls at cytosines whose context in the read was not asked for. Other bases are left alone."""
    if BASE_OF_NAME.get(track.name) != "C" or len(options.contexts) == len(CONTEXTS):
        return track
    called = np.flatnonzero(~np.isnan(track.probability))
    wanted = np.isin(cytosine_contexts(bases, called, track.opposite), [CONTEXTS.index(context) for context in options.contexts])
    probability = track.probability.copy()
    probability[called[~wanted]] = np.nan
    return ModTrack(track.name, track.opposite, probability)
