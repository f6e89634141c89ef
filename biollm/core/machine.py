"""What the machine at hand has, alike on Linux and macOS."""

from __future__ import annotations

import gc
import os
import platform
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from threadpoolctl import threadpool_limits


def collect_rarely() -> None:
    """Let Python look for dead cycles of objects every 20,000 new ones, not every 700: torch, transformers and deepspeed are imported in a
    tenth less time, which is a second."""
    gc.set_threshold(20_000)


def usable_cores() -> int:
    """CPU cores that this process may use: a container's or a scheduler's limit counts where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def granted_cores() -> int:
    """Cores to compute on: those that a user or a workflow engine granted in OMP_NUM_THREADS, or all that are usable."""
    granted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # a list is for nested teams
    return int(granted or usable_cores())


def interface_towards(host: str) -> str | None:
    """The network interface on the way to a host, or that of the default route where the host's name means loopback here (as Debian's
    /etc/hosts has it for a machine's own name). None if there is neither. Nothing is sent."""
    for target in (host, "192.0.2.1"):  # the second stands for any address beyond this network (RFC 5737)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((target, 9))
            except OSError:  # an unknown name, or no way there
                continue
            own = probe.getsockname()[0]
        if not own.startswith("127."):
            return own_addresses().get(own)
    return None


def own_addresses() -> dict[str, str]:
    """The addresses of this machine, and the interface of each."""
    return {address.address: name for name, found in psutil.net_if_addrs().items() for address in found}


@cache
def processor_flags() -> frozenset[str]:
    """What a Linux kernel says that the processor can do, such as avx512_bf16; nothing on other systems."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), ()))


def thread_limits(threads: int) -> dict[str, str]:
    """The environment that holds every numerical library to so many threads."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within it, each product of matrices is computed by the thread that asks for it alone.

    NumPy and SciPy bring a BLAS each, with threads of its own. Code that goes to and fro between them (L-BFGS) waits on two cores for
    both to take turns, ten times longer than it computes. And with one thread the last bits do not depend on the number of cores. It
    reaches libraries that are loaded already, and only from the thread that set a limit first: what hands work to threads enters it before.
    """
    with threadpool_limits(1, user_api="blas"):
        yield


def available_memory_gib() -> float:
    """Memory that can be taken without swapping."""
    return float(psutil.virtual_memory().available) / 2**30


def peak_memory_mib() -> float:
    """The largest resident memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


def describe_machine() -> dict[str, Any]:
    """The facts of a machine that decide the last bits of floating-point results. No host name."""
    torch = sys.modules.get("torch")  # only what the stage itself loaded
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "torch_threads": torch.get_num_threads() if torch is not None else None,
    }
