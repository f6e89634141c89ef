"""A genome of three gigabases with 28 million methylation sites into windows with tracks: time, and the memory that it takes.

The genome is random: 24 contigs of 125 million bases in lines of 60, a CG about every 107 bases; the sites are those CGs, as a Bismark
coverage file. `biollm ingest` runs in a process of its own; the peak is that of the process and all its threads. There is no peer that does
the same; the limit is 2 GiB. `--bases N` for a smaller genome, which writes nothing.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import psutil
from harness import RESULTS, _processor

from biollm.core.artifacts import package_versions
from biollm.core.machine import usable_cores

BASES, CONTIGS, SITES, LIMIT_MIB = 3_000_000_000, 24, 28_000_000, 2048
RECIPE = """
name: genome
ingest:
  sources: [{name: synthetic, sequences: genome.fa}]
  window_bases: 256
  tracks: [{name: cg, kind: sites, files: sites.cov, sites: {format: bismark_cov}}]
  split: {block_bases: 1000000, gap_bases: 1000}
"""


def write_inputs(folder: Path, bases: int, contigs: int, sites: int) -> int:
    """genome.fa and sites.cov; returns the number of sites."""
    rng, written, width = np.random.default_rng(7), 0, 60
    length = bases // contigs // width * width
    with (folder / "genome.fa").open("wb") as fasta, (folder / "sites.cov").open("wb") as calls:
        for number in range(contigs):
            letters = np.frombuffer(b"ACGT", dtype=np.uint8)[rng.integers(0, 4, length, dtype=np.uint8)]
            # a random sequence has a CG every 16 bases; all but enough of them are broken up
            c = np.flatnonzero((letters[:-1] == ord("C")) & (letters[1:] == ord("G")))
            kept = rng.random(len(c)) < sites / contigs / len(c)
            letters[c[~kept]] = ord("T")
            lines = np.full((length // width, width + 1), ord("\n"), dtype=np.uint8)
            lines[:, :width] = letters.reshape(-1, width)
            fasta.write(f">chr{number + 1}\n".encode())
            fasta.write(lines.tobytes())
            position = np.flatnonzero((letters[:-1] == ord("C")) & (letters[1:] == ord("G"))) + 1
            methylated, depth = rng.integers(0, 11, len(position)), 10
            table = pl.DataFrame({
                "contig": pl.repeat(f"chr{number + 1}", len(position), eager=True), "start": position, "end": position,
                "percent": methylated * 10.0, "methylated": methylated, "unmethylated": depth - methylated,
            })  # fmt: skip
            table.write_csv(calls, separator="\t", include_header=False)
            written += len(position)
    return written


def main() -> None:
    bases = int(sys.argv[sys.argv.index("--bases") + 1]) if "--bases" in sys.argv else BASES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sites = write_inputs(folder, bases, CONTIGS, SITES * bases // BASES)
        (folder / "genome.yaml").write_text(RECIPE)
        started = time.perf_counter()
        process = psutil.Popen([sys.executable, "-m", "biollm", "ingest", str(folder / "genome.yaml"), "--out", str(folder / "out")])
        peak = 0.0
        while process.poll() is None:
            try:
                peak = max(peak, process.memory_info().rss / 2**20)
            except psutil.Error:
                break
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        if process.wait():
            sys.exit("biollm ingest failed")
        manifest = json.loads((folder / "out" / "ingest" / "manifest.json").read_text())
        size = sum(path.stat().st_size for path in (folder / "out" / "ingest").rglob("*.parquet")) / 2**20
    windows = sum(manifest["facts"]["records"].values())
    print(f"{bases / 1e9:g} gigabases, {sites:,} sites, {windows:,} windows: {seconds:.0f} s, {size:,.0f} MiB written")
    print(f"peak {peak:,.0f} MiB (limit {LIMIT_MIB:,})")
    if bases != BASES:
        return
    result = {
        "name": "genome", "ours": peak, "peers": {"limit": LIMIT_MIB}, "ratios": {"limit": peak / LIMIT_MIB},
        "unit": "MiB of peak resident memory; lower is better", "seconds": seconds, "sites": sites, "windows": windows, "written_mib": size,
        "versions": package_versions(), "command": "make bench NAME=genome",
        "hardware": {"processor": _processor(), "cores": usable_cores()},
    }  # fmt: skip
    (RESULTS / "genome.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    if peak > LIMIT_MIB:
        sys.exit(f"peak memory {peak:,.0f} MiB is above the limit")


if __name__ == "__main__":
    main()
