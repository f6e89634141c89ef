"""Several processes, on this machine or on many: torchrun on each, started from here, ended with us."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from biollm.core.artifacts import SEAL
from biollm.core.errors import ConfigError, DataError
from biollm.core.machine import granted_cores, thread_limits
from biollm.training.config import TrainingConfig
from biollm.training.estimate import memory_knobs
from biollm.training.task import TRAINED

ERROR = "error.txt"
DIED = "died.txt"
_LAUNCHER, _WORKER = "biollm.training.launcher", "biollm.training.worker"
_KILLED = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Host:
    """A line of a hostfile."""

    name: str
    slots: int

    @property
    def is_here(self) -> bool:
        return self.name in {"localhost", "127.0.0.1", "::1", socket.gethostname(), socket.getfqdn()}


def launch(task: Path, config: TrainingConfig, what: str) -> None:
    """Run training.worker in all processes of a run until all have ended.

    task: a file that every host sees. Raises ConfigError for a wrong hostfile, what a worker raised as DataError, and DataError with the
    end of its output if one died otherwise. However this ends, no worker is left.
    """
    error, died = task.with_name(ERROR), task.with_name(DIED)
    error.unlink(missing_ok=True)
    died.unlink(missing_ok=True)
    hosts = (
        read_hostfile(Path(config.hostfile), config) if config.hostfile else _slurm_hosts(config) or [Host("localhost", config.processes)]
    )
    meeting = ["--standalone", "--local-addr=127.0.0.1"]  # by a free port that it takes itself; a laptop's name may not be known to it
    if config.nodes > 1:
        address = "127.0.0.1" if all(host.is_here for host in hosts) else socket.getfqdn()
        meeting = [f"--master_addr={address}", f"--master_port={_free_port()}"]
    launchers: list[subprocess.Popen[bytes]] = []
    log = task.with_name("workers.log")
    try:
        with log.open("wb") as output:
            for rank, host in enumerate(hosts):
                command = _command(task, config, rank, meeting)
                environment = _environment(config, len([h for h in hosts if h.is_here]))
                if not host.is_here:
                    remote = " ".join(f"{name}={shlex.quote(environment[name])}" for name in _FORWARDED if name in environment)
                    command = [
                        "ssh",
                        "-o",
                        "BatchMode=yes",
                        host.name,
                        f"cd {shlex.quote(str(Path.cwd()))} && {remote} {shlex.join(command)}",
                    ]
                launchers.append(
                    subprocess.Popen(
                        command, env=environment, stdout=output, stderr=None if rank == 0 else output, start_new_session=True,
                        preexec_fn=die_with_parent if sys.platform == "linux" else None,
                    )
                )  # fmt: skip
            codes = _wait_for(launchers)
    finally:
        for launcher in launchers:
            _end(launcher)
    if error.is_file():
        raise DataError(error.read_text().strip())
    if any(codes) and not (task.parent / TRAINED / SEAL).is_file():
        workers = [int(code) for code in died.read_text().split()] if died.is_file() else []
        ends = list(dict.fromkeys(workers or filter(None, codes)))
        killed = -signal.SIGKILL in ends
        memory = f"; Linux ends a process so when memory runs out: {memory_knobs(config)}" if killed else ""
        raise DataError(
            f"{what}: a training process died ({', '.join(map(_told, ends))}){memory}; its output is in {log}; run again to go on"
        )


def read_hostfile(path: Path, config: TrainingConfig) -> list[Host]:
    """The first `nodes` hosts of a file with lines `host slots=4`. Raises ConfigError naming the line, or what is missing."""
    if not path.is_file():
        raise ConfigError(f"hostfile {path}: there is no such file; write a line 'host slots={config.processes}' for each machine")
    hosts, lines = list[Host](), dict[str, int]()
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        slots = words[1].removeprefix("slots=") if len(words) == 2 and words[1].startswith("slots=") else ""
        if not slots.isdigit():
            raise ConfigError(f"hostfile {path} line {number}: found {line.strip()!r}, expected 'host slots=number'")
        if words[0] in lines:
            raise ConfigError(
                f"hostfile {path} line {number}: found {words[0]} a second time (first in line {lines[words[0]]}), expected once; "
                "remove the line, and give the host as many slots as it has"
            )
        lines[words[0]] = number
        hosts.append(Host(words[0], int(slots)))
    if len(hosts) < config.nodes:
        raise ConfigError(f"hostfile {path}: has {len(hosts)} hosts, but nodes is {config.nodes}; add hosts, or lower nodes")
    if small := [host.name for host in hosts[: config.nodes] if host.slots < config.processes]:
        raise ConfigError(
            f"hostfile {path}: {small[0]} has fewer slots than processes ({config.processes}); lower processes, or raise its slots"
        )
    return hosts[: config.nodes]


def die_with_parent() -> None:
    """Let the kernel end this process with its parent, however that dies. Linux only; elsewhere a killed launcher leaves its workers."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_KILLED, signal.SIGKILL)


_FORWARDED = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "PYTHONPATH", "PATH")


def _command(task: Path, config: TrainingConfig, rank: int, meeting: list[str]) -> list[str]:
    run = [sys.executable, "-m", _LAUNCHER, str(task.with_name(DIED).absolute())]
    run += [f"--nproc_per_node={config.processes}", f"--nnodes={config.nodes}"]
    return [*run, f"--node_rank={rank}", *meeting, "-m", _WORKER, str(task.absolute())]


def _environment(config: TrainingConfig, launchers_here: int) -> dict[str, str]:
    """Ours, with the cores of this machine shared out to its processes, unless the recipe's threads are fewer."""
    threads = max(1, granted_cores() // (config.processes * launchers_here))
    return os.environ | thread_limits(threads) | {"TOKENIZERS_PARALLELISM": "false"}


def _slurm_hosts(config: TrainingConfig) -> list[Host]:
    """The hosts of a Slurm job of several nodes, as it lists them."""
    if config.nodes == 1:
        return []
    if not (listed := os.environ.get("SLURM_JOB_NODELIST")):
        raise ConfigError(f"nodes is {config.nodes}, but no hostfile is named and this is no Slurm job; name a hostfile")
    named = subprocess.run(["scontrol", "show", "hostnames", listed], capture_output=True, text=True, check=False).stdout.split()
    if len(named) < config.nodes:
        raise ConfigError(f"nodes is {config.nodes}, but Slurm gave {len(named)} ({listed}); ask it for more nodes")
    return [Host(name, config.processes) for name in named[: config.nodes]]


def _wait_for(launchers: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """The exit codes, once all have ended or one has failed."""
    while True:
        codes = [launcher.poll() for launcher in launchers]
        if all(code is not None for code in codes) or any(codes):
            return [code or 0 for code in codes]
        time.sleep(0.1)


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """End a launcher and all that it started."""
    if launcher.poll() is None:
        launcher.terminate()  # torchrun ends its workers
        try:
            launcher.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()


def _told(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
