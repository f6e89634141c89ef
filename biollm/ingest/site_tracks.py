"""Measured tracks on their way from files to windows.

Sites are put on disk by contig, checked against the sequence, and read back contig by contig: memory holds those that are being worked on.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from biollm.core.errors import DataError
from biollm.core.progress import progress
from biollm.core.streams import suffix_of
from biollm.corpus.columns import COVERAGE, TRACK
from biollm.ingest.config import Config, SiteTrack
from biollm.ingest.cytosines import check_levels
from biollm.ingest.genomes import read_genome
from biollm.ingest.sites.check import SiteCheck, check_names, check_sites, judge
from biollm.ingest.sites.join import Columns, missing_lists, site_columns, sort_sites, window_lists
from biollm.ingest.sites.pileups import PileFacts, PileGenome, read_pileup
from biollm.ingest.sites.read import read_sites
from biollm.ingest.windows import Windows

_FOLDER = "sites"
_GENOMES = ".genomes"  # no track can be called so


@dataclass(frozen=True)
class Measured:
    """The sites of one contig, by track: position, level, coverage, in the order of positions."""

    of_track: dict[str, Columns | None]

    def columns(self, windows: Windows) -> Iterator[tuple[str, pa.LargeListArray]]:
        """Name and lists of each column: one float32 a base of each window, in the direction of its strand, null where missing."""
        places = windows.starts, windows.ends, windows.minus
        for name, sites in self.of_track.items():
            if sites is None:
                level = coverage = missing_lists(windows.starts, windows.ends)
            else:
                level, coverage = window_lists(sites[0], sites[1:], *places)
            yield TRACK + name, level
            yield COVERAGE + name, coverage


class SiteTracks:
    """The measured tracks of a corpus.

    files: gives the files that a resource names. Raises DataError for a bad file as it is read, here.
    """

    def __init__(self, config: Config, files: Callable[[str], list[Path]], work: Path) -> None:
        self._tracks = {track.name: track for track in config.site_tracks}
        self._source_of = {track.name: track.source or config.sources[0].name for track in config.site_tracks}
        self._cytosines = config.cytosines.tracks if config.cytosines else []
        self._folder = work / _FOLDER
        self._contigs: dict[str, dict[str, int]] = {}
        self._checks: dict[str, list[SiteCheck]] = {name: [] for name in self._tracks}
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()
        self._piled: dict[str, PileFacts] = {}
        self._genomes: dict[str, PileGenome] = {}
        self._config, self._files = config, files
        for name, track in self._tracks.items():
            self._contigs[name] = self._spill(track)
        self._genomes.clear()
        shutil.rmtree(self._folder / _GENOMES, ignore_errors=True)

    def check(self, source: str, contig: str, sequence: NDArray[np.uint8]) -> None:
        """Compare the sites of a contig with its sequence; what is found is judged when all contigs were seen."""
        for name in self._tracks:
            if self._source_of[name] == source and (sites := self._read(name, contig)) is not None:
                found = check_sites(sites, sequence)
                sort_sites(sites)
                if name in self._cytosines:
                    check_levels(sites, f"track '{name}' ({self._tracks[name].files})")
                with self._lock:
                    self._checks[name].append(found)

    def judge(self, contigs: Mapping[str, Sequence[str]]) -> None:
        """Raises DataError if sites do not lie on the bases that their modification needs, or if no sequence has their names.

        contigs: of each source.
        """
        for name, track in self._tracks.items():
            check_names(self._contigs[name], contigs[self._source_of[name]], f"track '{name}' ({track.files})")
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
                **({"build": track.sites.build} if track.sites.build else {}),
                "sites": sum(self._contigs[name].values()),
                "sites_checked": sum(check.sites for check in self._checks[name]),
                "sites_on_another_base": sum(check.misses for check in self._checks[name]),
                "contigs_without_sequence": sorted(set(self._contigs[name]) - {check.contig for check in self._checks[name]})[:20],
                **({"reads": self._piled[name].counts} if name in self._piled else {}),
            }
            for name, track in self._tracks.items()
        ]

    def _spill(self, track: SiteTrack) -> dict[str, int]:
        """Sites to one file a contig; contig -> how many."""
        folder = self._folder / track.name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*"):
            old.unlink()
        counts: dict[str, int] = {}
        for file in self._files(track.files):
            for batch in progress(self._frames(file, track), f"sites of {track.name}", unit="batch"):
                for (contig,), part in batch.group_by("contig", maintain_order=True):
                    number = self._numbers.setdefault(str(contig), len(self._numbers))
                    part.write_ipc(folder / f"{number}.{counts.get(str(contig), 0)}.arrow")
                    counts[str(contig)] = counts.get(str(contig), 0) + part.height
        if not counts:
            raise DataError(f"track '{track.name}': {track.files} holds no site; give the file of the calls")
        for contig in sorted(self._piled[track.name].foreign) if track.name in self._piled else []:
            counts.setdefault(contig, 0)
        return counts

    def _frames(self, file: Path, track: SiteTrack) -> Iterator[pl.DataFrame]:
        """The site frames of a file: a pileup of a BAM, else a table."""
        placed = {
            name: str(self._files(value)[0]) for name in ("manifest", "aliases") if isinstance(value := getattr(track.sites, name), str)
        }
        options = track.sites.model_copy(update=placed)
        if suffix_of(file) == ".bam":
            facts = self._piled.setdefault(track.name, PileFacts())
            yield from read_pileup(file, options, self._genome(self._source_of[track.name]), facts)
            return
        yield from read_sites(file, options.format, options)

    def _genome(self, source: str) -> PileGenome:
        """The sequences of a source, on disk: a pileup asks for one contig after the other."""
        if source not in self._genomes:
            config = next(one for one in self._config.sources if one.name == source)
            assert config.sequences is not None
            folder = self._folder / _GENOMES / str(len(self._genomes))
            folder.mkdir(parents=True, exist_ok=True)
            contigs: dict[str, NDArray[np.uint8]] = {}
            for contig in read_genome(self._files(config.sequences), self._config.policy):
                path = folder / f"{len(contigs)}.npy"
                np.save(path, contig.sequence)
                contigs[contig.name] = np.load(path, mmap_mode="r").view(np.ndarray)
            self._genomes[source] = PileGenome(f"source '{source}'", contigs, config.build)
        return self._genomes[source]

    def _read(self, track: str, contig: str) -> pl.DataFrame | None:
        if not self._contigs[track].get(contig):
            return None
        parts = sorted((self._folder / track).glob(f"{self._numbers[contig]}.*.arrow"), key=lambda path: int(path.name.split(".")[1]))
        return pl.concat([pl.read_ipc(path) for path in parts])
