"""Packing documents into rows: how full the rows are and how long a million take, against TRL's packer and plain order."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from datasets import Dataset
from harness import record
from numpy.typing import NDArray
from trl import pack_dataset

from biollm.training.packing import pack

ROW, ROUNDS = 2048, 3
rng = np.random.default_rng(0)
CORPORA: dict[str, NDArray[np.int64]] = {
    "windows of DNA (256 bases)": rng.normal(66, 4, 10**6).round().astype(np.int64).clip(30, 120),
    "sentences and abstracts": np.minimum(rng.lognormal(4, 1, 10**6).astype(np.int64) + 2, ROW),
}


def ours(lengths: NDArray[np.int64]) -> int:
    return len(pack(lengths, ROW))


def trl(lengths: NDArray[np.int64]) -> Callable[[], int]:
    ends = np.concatenate([[0], np.cumsum(lengths)])
    import pyarrow as pa

    column = pa.LargeListArray.from_arrays(pa.array(ends), pa.array(np.zeros(ends[-1], dtype=np.int8)))
    dataset = Dataset(pa.table({"input_ids": column}))
    dataset = dataset.with_format("arrow")
    return lambda: len(pack_dataset(dataset, ROW, strategy="bfd", map_kwargs={"batch_size": len(lengths), "keep_in_memory": True}))


def plain_order(lengths: NDArray[np.int64]) -> int:
    rows, room = 1, ROW
    for length in lengths.tolist():
        if length > room:
            rows, room = rows + 1, ROW
        room -= length
    return rows


pack(np.asarray([1, 2]), 4)  # compiled
table, ratios = {}, {}
for corpus, lengths in CORPORA.items():
    runs: dict[str, Callable[[], int]] = {
        "ours": lambda x=lengths: ours(x),
        "TRL bfd": trl(lengths),
        "plain order": lambda x=lengths: plain_order(x),
    }  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    fill = {}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = time.perf_counter()
            rows = run()
            seconds[name].append(time.perf_counter() - started)
            fill[name] = float(lengths.sum() / (ROW * rows))
    table[corpus] = {name: {"seconds": statistics.median(times), "fill": fill[name]} for name, times in seconds.items()}
    ratios |= {f"{name}, {corpus}": table[corpus][name]["seconds"] / table[corpus]["ours"]["seconds"] for name in runs if name != "ours"}
    for name, found in table[corpus].items():
        print(f"{corpus:30} {name:12} {found['seconds']:7.3f} s  {found['fill']:.4%} full")
first = next(iter(table.values()))
record(
    "packing", first["ours"]["seconds"], {n: v["seconds"] for n, v in first.items() if n != "ours"}, ratios,
    "seconds for a million documents into rows of 2,048 tokens, median of 3; TRL also copies the tokens", table=table,
)  # fmt: skip
