"""Measured tracks on their way from files to windows.

Sites are put on disk by contig, checked against the sequence, and read back contig by contig: memory holds those that are being worked on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biollm.core.errors import DataError
from biollm.core.progress import progress
from biollm.core.streams import suffix_of
from biollm.corpus.columns import COVERAGE, TRACK
from biollm.ingest.config import Config, SiteTrack
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.pileup import pileup
from biollm.ingest.sites.check import SiteCheck, check_names, check_sites, judge
from biollm.ingest.sites.join import Columns, dense_values, site_columns, sort_sites
from biollm.ingest.sites.read import SCHEMA, read_sites
from biollm.ingest.windows import Windows

_FOLDER = "sites"


@dataclass(frozen=True)
class Measured:
    """The sites of one contig, by track: position, level, coverage, in the order of positions."""

    of_track: dict[str, Columns | None]

    def columns(self, windows: Windows) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Name and values of each column: (sum of widths,) float32, NaN = missing; in the direction of each window's strand."""
        turn = _turned(windows) if windows.minus.any() else None
        for name, sites in self.of_track.items():
            if sites is None:
                missing = np.full(int((windows.ends - windows.starts).sum()), np.nan, dtype=np.float32)
                level, coverage = missing, missing
            else:
                level, coverage, _ = dense_values(sites, windows.starts, windows.ends)
            for column, values in ((TRACK + name, level), (COVERAGE + name, coverage)):
                yield column, values if turn is None else values[turn]


class SiteTracks:
    """The measured tracks of a corpus.

    files: gives the files that a resource names. Raises DataError for a bad file as it is read, here.
    """

    def __init__(self, config: Config, files: Callable[[str], list[Path]], work: Path) -> None:
        self._tracks = {track.name: track for track in config.site_tracks}
        self._source_of = {track.name: track.source or config.sources[0].name for track in config.site_tracks}
        self._folder = work / _FOLDER
        self._contigs: dict[str, dict[str, int]] = {}
        self._checks: dict[str, list[SiteCheck]] = {name: [] for name in self._tracks}
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()
        for name, track in self._tracks.items():
            self._contigs[name] = self._spill(track, files)

    def check(self, source: str, contig: str, sequence: NDArray[np.uint8]) -> None:
        """Compare the sites of a contig with its sequence; what is found is judged when all contigs were seen."""
        for name in self._tracks:
            if self._source_of[name] == source and (sites := self._read(name, contig)) is not None:
                found = check_sites(sites, sequence)
                sort_sites(sites)
                with self._lock:
                    self._checks[name].append(found)

    def judge(self, contigs: Iterable[str]) -> None:
        """Raises DataError if sites do not lie on the bases that their modification needs, or if no sequence has their names."""
        seen = list(contigs)
        for name, track in self._tracks.items():
            check_names(self._contigs[name], seen, f"track '{name}' ({track.files})")
            judge(self._checks[name], f"track '{name}' ({track.files}) on source '{self._source_of[name]}'")

    def of_contig(self, source: str, contig: str) -> Measured:
        """The sites of one contig. Tracks of another source have none there."""
        found: dict[str, Columns | None] = {}
        for name in self._tracks:
            sites = self._read(name, contig) if self._source_of[name] == source else None
            found[name] = None if sites is None else site_columns(sort_sites(sites))
        return Measured(found)

    def facts(self) -> list[dict[str, Any]]:
        """What was read, for the manifest."""
        return [
            {
                "name": name,
                "source": self._source_of[name],
                "sites": sum(self._contigs[name].values()),
                "sites_checked": sum(check.sites for check in self._checks[name]),
                "sites_on_another_base": sum(check.misses for check in self._checks[name]),
                "contigs_without_sequence": sorted(set(self._contigs[name]) - {check.contig for check in self._checks[name]})[:20],
            }
            for name in self._tracks
        ]

    def _spill(self, track: SiteTrack, files: Callable[[str], list[Path]]) -> dict[str, int]:
        """Sites to one file a contig; contig -> how many."""
        folder = self._folder / track.name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*"):
            old.unlink()
        counts: dict[str, int] = {}
        for file in files(track.files):
            for batch in progress(_frames(file, track, files), f"sites of {track.name}", unit="batch"):
                for (contig,), part in batch.group_by("contig", maintain_order=True):
                    number = self._numbers.setdefault(str(contig), len(self._numbers))
                    part.write_ipc(folder / f"{number}.{counts.get(str(contig), 0)}.arrow")
                    counts[str(contig)] = counts.get(str(contig), 0) + part.height
        if not counts:
            raise DataError(f"track '{track.name}': {track.files} holds no site; give the file of the calls")
        return counts

    def _read(self, track: str, contig: str) -> pl.DataFrame | None:
        if contig not in self._contigs[track]:
            return None
        parts = sorted((self._folder / track).glob(f"{self._numbers[contig]}.*.arrow"), key=lambda path: int(path.name.split(".")[1]))
        return pl.concat([pl.read_ipc(path) for path in parts])


def _frames(file: Path, track: SiteTrack, files: Callable[[str], list[Path]]) -> Iterator[pl.DataFrame]:
    """The site frames of a file: a pileup of a BAM, else a table."""
    options = track.sites
    if suffix_of(file) == ".bam":
        asked = ReadOptions(modifications=tuple(options.modifications or ["5mC"]))
        for batch in pileup(file, asked):
            chosen = batch.filter(pl.col("context").is_in(options.contexts)) if options.contexts else batch
            level = pl.when(pl.col("coverage") >= options.min_coverage).then("level")
            yield chosen.with_columns(level).select(SCHEMA.keys())
        return
    placed = {name: str(files(value)[0]) for name in ("manifest", "aliases") if isinstance(value := getattr(options, name), str)}
    yield from read_sites(file, options.format, options.model_copy(update=placed))


def _turned(windows: Windows) -> NDArray[np.int64]:
    """Where the value of each base of each window stands: in reverse order for windows on the minus strand."""
    width = windows.ends - windows.starts
    begins = np.cumsum(width) - width
    within = np.arange(int(width.sum())) - np.repeat(begins, width)
    minus = np.repeat(windows.minus, width)
    turned: NDArray[np.int64] = np.repeat(begins, width) + np.where(minus, np.repeat(width, width) - 1 - within, within)
    return turned
