"""Several processes, on this machine or on many: torchrun on each, started from here, ended with us."""

from __future__ import annotations

import ipaddress
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from biollm.core.artifacts import SEAL
from biollm.core.errors import ConfigError, DataError
from biollm.core.machine import granted_cores, own_addresses, thread_limits
from biollm.training.config import TrainingConfig
from biollm.training.estimate import memory_knobs
from biollm.training.launcher import die_with_parent
from biollm.training.task import TRAINED

ERROR = "error.txt"
ERROR_BYTES = 4096
DIED = "died.txt"
LOOPBACK = "127.0.0.1"
_LAUNCHER, _WORKER = "biollm.training.launcher", "biollm.training.worker"


@dataclass(frozen=True)
class Host:
    """A line of a hostfile, or a node of a Slurm job, which Slurm itself starts processes on."""

    name: str
    slots: int
    in_slurm_job: bool = False

    @property
    def is_here(self) -> bool:
        return _is_this_machine(self.name)


@cache
def _is_this_machine(name: str) -> bool:
    """Whether a name means this machine: its own, whole or without its domain, or one of an address that it has."""
    own = {socket.gethostname(), socket.getfqdn()}
    if name in own | {whole.split(".")[0] for whole in own}:
        return True
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):  # unknown here: ssh may know it
        return False
    addresses = {str(address[0]) for *_, address in found}
    return bool(addresses & own_addresses().keys()) or any(ipaddress.ip_address(address).is_loopback for address in addresses)


def launch(task: Path, config: TrainingConfig, what: str) -> None:
    """Run training.worker in all processes of a run until all have ended.

    task: a file that every host sees. Raises ConfigError for a wrong hostfile, what a worker raised as DataError, and DataError with the
    end of its output if one died otherwise. However this ends, no worker is left: a launcher, here or on another host, ends when its
    standard input does, which we hold open.
    """
    error, died = task.with_name(ERROR), task.with_name(DIED)
    error.write_bytes(b" " * ERROR_BYTES)  # a worker writes over it: a disk that has become full has room for nothing new
    died.unlink(missing_ok=True)
    hosts = (
        read_hostfile(Path(config.hostfile), config) if config.hostfile else _slurm_hosts(config) or [Host("localhost", config.processes)]
    )
    meeting = ["--standalone", f"--local-addr={LOOPBACK}"]  # by a free port that it takes itself; a laptop's name may not be known to it
    if config.nodes > 1:
        meeting = [f"--master_addr={_meeting_place(hosts)}", f"--master_port={_free_port()}"]
    launchers: list[subprocess.Popen[bytes]] = []
    log = task.with_name("workers.log")
    try:
        with log.open("wb") as output:
            for rank, host in enumerate(hosts):
                command = _command(task, config, rank, meeting)
                environment = _environment(config, len([h for h in hosts if h.is_here]))
                if not host.is_here:
                    command = _on(host, command, environment)
                launchers.append(
                    subprocess.Popen(
                        command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=None if rank == 0 else output,
                        start_new_session=True, preexec_fn=partial(die_with_parent, os.getpid()) if sys.platform == "linux" else None,
                    )
                )  # fmt: skip
            codes = _wait_for(launchers)
    finally:
        for launcher in launchers:
            _end(launcher)
    if told := error.read_bytes().decode().strip():
        raise DataError(told)
    error.unlink()
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


# What another host is told by ssh. No tokens or passwords: they would stand in its list of processes.
_FORWARDED = (
    "PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "BIOLLM_CACHE", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE",
    "TOKENIZERS_PARALLELISM", *thread_limits(1),
)  # fmt: skip
_FORWARDED_PREFIXES = ("NCCL_", "GLOO_")


def _command(task: Path, config: TrainingConfig, rank: int, meeting: list[str]) -> list[str]:
    run = [sys.executable, "-m", _LAUNCHER, str(task.with_name(DIED).absolute())]
    run += [f"--nproc_per_node={config.processes}", f"--nnodes={config.nodes}"]
    return [*run, f"--node_rank={rank}", *meeting, "-m", _WORKER, str(task.absolute())]


def _on(host: Host, command: list[str], environment: dict[str, str]) -> list[str]:
    """The command on another host: by srun in a Slurm job, which hands on environment and folder and ends what it started, else by ssh."""
    if host.in_slurm_job:
        return ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={host.name}", *command]
    told = {name: value for name, value in environment.items() if name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES)}
    remote = " ".join(f"{name}={shlex.quote(value)}" for name, value in told.items())
    return ["ssh", "-o", "BatchMode=yes", host.name, f"cd {shlex.quote(str(Path.cwd()))} && {remote} {shlex.join(command)}"]


def _meeting_place(hosts: Sequence[Host]) -> str:
    """What the others reach the first host by: as the hostfile calls it, unless that means this machine to every machine."""
    if all(host.is_here for host in hosts):
        return LOOPBACK
    first = hosts[0].name
    return socket.getfqdn() if first in ("localhost", "::1") or first.startswith("127.") else first


def _environment(config: TrainingConfig, launchers_here: int) -> dict[str, str]:
    """Ours, with the cores of this machine shared out to its processes, unless the recipe's threads are fewer."""
    threads = max(1, granted_cores() // (config.processes * max(1, launchers_here)))
    return os.environ | thread_limits(threads) | {"TOKENIZERS_PARALLELISM": "false"}


def _slurm_hosts(config: TrainingConfig) -> list[Host]:
    """The nodes of a Slurm job of several. Asked of Slurm: inside a step, which is how Snakemake's plugin runs rules, the environment names
    those of the step alone."""
    if config.nodes == 1:
        return []
    job = slurm_job(config)
    listed = _told_by("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip() or os.environ.get("SLURM_JOB_NODELIST", "")
    named = _told_by("scontrol", "show", "hostnames", listed).split()
    if len(named) < config.nodes:
        raise ConfigError(f"nodes is {config.nodes}, but Slurm gave {len(named)} ({listed}); ask it for more nodes")
    return [Host(name, config.processes, in_slurm_job=True) for name in named[: config.nodes]]


def slurm_job(config: TrainingConfig) -> str:
    """The job whose nodes a run of several without a hostfile takes. Raises ConfigError outside one."""
    if not (job := os.environ.get("SLURM_JOB_ID")):
        raise ConfigError(f"nodes is {config.nodes}, but no hostfile is named and this is no Slurm job; name a hostfile")
    return job


def _told_by(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


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
    assert launcher.stdin is not None
    launcher.stdin.close()


def _told(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
