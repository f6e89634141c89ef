"""What every benchmark shares: ours and the peers in turn in one run, medians, a table, a JSON file."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from biollm.core.artifacts import package_versions
from biollm.core.machine import processor_flags, usable_cores

RESULTS = Path(__file__).parent / "results"
# What decides whether bf16 and int8 are any faster.
_TOLD = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"}


def compare(name: str, ours: Callable[[], object], peers: dict[str, Callable[[], object]], unit: str, rounds: int = 7) -> None:
    """Time ours and each peer in turn, `rounds` times after one warm-up; print medians and peer / ours, and write results/<name>.json."""
    runs = {"ours": ours, **peers}
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    for round_number in range(rounds + 1):
        for label, run in runs.items():
            started = time.perf_counter()
            run()
            if round_number:  # the first round warms caches and allocators
                seconds[label].append(time.perf_counter() - started)
    medians = {label: statistics.median(times) for label, times in seconds.items()}
    ratios = {label: medians[label] / medians["ours"] for label in peers}
    print(f"{name}: median of {rounds}, {unit}")
    for label, median in medians.items():
        print(f"  {label:<40} {median:8.3f} s" + (f"   ours is {ratios[label]:.2f}x as fast" if label in ratios else ""))
    record(name, medians["ours"], {p: medians[p] for p in peers}, ratios, unit)


def record(name: str, ours: float, peers: dict[str, float], ratios: dict[str, float], unit: str, **more: Any) -> None:
    """Write results/<name>.json: the figures, and on what they were measured."""
    result = {
        "name": name, "ours": ours, "peers": peers, "ratios": ratios, "unit": unit, **more,
        "versions": package_versions(), "command": f"make bench NAME={Path(sys.argv[0]).stem}",
        "hardware": {"processor": _processor(), "cores": usable_cores(), "instructions": sorted(processor_flags() & _TOLD)},
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


def _processor() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
