"""Reading FASTA: ours, which checks every letter, against Biopython and pyfastx, of which neither does.

One sequence of random bases in lines of 60, as chromosomes come; the same number in records of 12,000 with lines of 80, as assemblies
come; and the first gzipped. Every reader gives the sequences as its users get them; all in turn, medians of 5. Lengths are compared.
"""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import RESULTS, _processor

from biollm.core.artifacts import package_versions
from biollm.core.machine import usable_cores
from biollm.ingest.config import SequencePolicy
from biollm.ingest.fasta import read_contigs

BASES, ROUNDS, RECORD_BASES = 120_000_000, 5, 12_000


def write_fasta(path: Path, bases: int, width: int, record_bases: int) -> None:
    rng = np.random.default_rng(7)
    with path.open("wb") as file:
        for number in range(bases // record_bases):
            letters = rng.choice(np.frombuffer(b"ACGT", dtype=np.uint8), record_bases)
            lines = np.full((record_bases // width, width + 1), ord("\n"), dtype=np.uint8)
            lines[:, :width] = letters[: len(lines) * width].reshape(-1, width)
            file.write(f">record{number} synthetic\n".encode() + lines.tobytes())


def ours(path: Path) -> int:
    return sum(len(contig.sequence) for contig in read_contigs([path], SequencePolicy()))


def biopython(path: Path) -> int:
    from Bio import SeqIO

    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return sum(len(record.seq) for record in SeqIO.parse(file, "fasta"))


def pyfastx_plain(path: Path) -> int:
    import pyfastx

    return sum(len(sequence) for _, sequence in pyfastx.Fastx(str(path)))


READERS: dict[str, Callable[[Path], int]] = {"ours": ours, "Biopython SeqIO": biopython, "pyfastx.Fastx": pyfastx_plain}


def main() -> None:
    tables = {}
    with tempfile.TemporaryDirectory() as folder:
        one, many, packed = (Path(folder) / name for name in ("one.fa", "many.fa", "one.fa.gz"))
        write_fasta(one, BASES, 60, BASES)
        write_fasta(many, BASES, 80, RECORD_BASES)
        with one.open("rb") as file, gzip.open(packed, "wb", compresslevel=1) as target:
            shutil.copyfileobj(file, target)
        for path in (one, many, packed):
            seconds: dict[str, list[float]] = {name: [] for name in READERS}
            for round_number in range(ROUNDS + 1):
                lengths = {}
                for name, reader in READERS.items():
                    started = time.perf_counter()
                    lengths[name] = reader(path)
                    if round_number:  # the first round warms the page cache and compiles
                        seconds[name].append(time.perf_counter() - started)
                assert len(set(lengths.values())) == 1, lengths
            medians = {name: statistics.median(times) for name, times in seconds.items()}
            tables[path.name] = {name: medians[name] / medians["ours"] for name in READERS if name != "ours"}
            print(f"{path.name:10} " + "   ".join(f"{name}: ours is {ratio:.2f}x as fast" for name, ratio in tables[path.name].items()))
    result = {
        "name": "fasta", "ours": 1.0, "peers": {name: 1 / ratio for name, ratio in tables["one.fa"].items()}, "ratios": tables["one.fa"],
        "tables": tables, "unit": "speed, ours = 1; ratios: ours over the peer; one.fa and many.fa plain, one.fa.gz gzipped",
        "versions": package_versions(), "command": "make bench NAME=fasta",
        "hardware": {"processor": _processor(), "cores": usable_cores()},
    }  # fmt: skip
    (RESULTS / "fasta.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
