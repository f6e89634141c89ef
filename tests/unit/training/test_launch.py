"""Where the processes of several hosts are started, and what is said of one that died."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from biollm.core.errors import ConfigError, DataError
from biollm.training import launch, launcher, worker
from biollm.training.config import TrainingConfig

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(sys.platform != "linux", reason="only there does the kernel kill so")
def test_a_worker_that_the_kernel_killed_is_told_with_what_needs_less_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun itself ends with 1, as for any other failure. The worker is a child of the process that it is told to end with."""
    dies = "import os\nos.kill(os.getpid(), 9 if os.getppid() == int(os.environ['BIOLLM_LAUNCHER']) else 15)\n"
    (tmp_path / "worker_that_dies.py").write_text(dies)
    monkeypatch.setattr(launch, "_WORKER", "worker_that_dies")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    config = TrainingConfig(steps=1, learning_rate=1.0, processes=2)
    told = r"died \(SIGKILL\); Linux ends a process so when memory runs out: raise gradient_accumulation \(now 1\).*workers\.log; run again"
    with pytest.raises(DataError, match=told):
        launch.launch(tmp_path / "task.json", config, "test")


def test_a_worker_whose_launcher_is_dead_ends_before_it_loads_anything() -> None:
    """It was killed while Python started, when nothing of ours ran yet."""
    command = [sys.executable, "-X", "importtime", "-m", "biollm.training.worker", "task.json"]
    dead = os.environ | {"BIOLLM_LAUNCHER": str(os.getppid())}  # whatever is not the worker's own parent
    done = subprocess.run(command, cwd=ROOT, env=dead, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "biollm.training.launcher" in done.stderr
    assert not any(loaded in done.stderr for loaded in ("Traceback", "psutil", "pydantic", "torch"))


def test_a_launcher_whose_starter_is_dead_is_not_begun() -> None:
    for starter, code in ((os.getpid(), 0), (os.getppid(), 1)):
        done = subprocess.run(["true"], preexec_fn=partial(launcher.die_with_parent, starter), check=False)
        assert done.returncode == code


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),  # as safetensors says it
    ConfigError("{work}: cannot write: the disk is full; nothing finished before was changed"),
])  # fmt: skip
def test_a_worker_tells_of_a_full_disk_without_a_byte_more_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(run: object) -> None:
        raise error

    def end(code: int) -> None:
        raise SystemExit(code)

    task = tmp_path / "task.json"
    task.write_text("{}")
    place = task.with_name(launch.ERROR)
    monkeypatch.setenv("BIOLLM_LAUNCHER", "1")
    monkeypatch.setenv("MASTER_ADDR", launch.LOOPBACK)
    monkeypatch.setattr(worker, "die_with_parent", lambda parent: place.write_bytes(b" " * launch.ERROR_BYTES))
    monkeypatch.setitem(sys.modules, "biollm.training.trainer", SimpleNamespace(fit=fails))
    monkeypatch.setattr(sys, "argv", ["worker", str(task)])
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(SystemExit, match="1"):
        worker.main()
    assert place.read_text().replace("{work}", str(tmp_path)).startswith(f"{tmp_path}: cannot write: the disk is full; nothing finished")
    assert place.stat().st_size == launch.ERROR_BYTES


def test_an_address_is_here_only_if_an_interface_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where net.ipv4.ip_nonlocal_bind is set, as for keepalived, a socket may be bound to any address."""
    monkeypatch.setattr(
        psutil, "net_if_addrs", lambda: {"eth9": [SimpleNamespace(address="192.0.2.9"), SimpleNamespace(address="fd00::9")]}
    )
    monkeypatch.setattr(socket.socket, "bind", lambda *_: None)
    names = ("192.0.2.9", "fd00::9", "127.0.1.1", "::1", "192.0.2.8", "fd00::8")
    assert [name for name in names if launch._is_this_machine.__wrapped__(name)] == list(names[:4])


def a_command(folder: Path, name: str, script: str) -> None:
    """A stand-in for a command of Slurm, which no test machine has: what it says is what Slurm 22.05 said."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Job 7 on n1 and n2, seen from inside a step that has n1 alone."""
    a_command(tmp_path, "squeue", '[ "$2" = --jobs=7 ] && echo "n[1-2]"')
    a_command(tmp_path, "scontrol", 'case "$3" in "n[1-2]") printf "n1\\nn2\\n";; *) echo "$3";; esac')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    return tmp_path


def test_processes_of_a_slurm_job_are_started_by_srun_on_all_its_nodes(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig(steps=1, learning_rate=1.0, processes=2, nodes=2, batch_size=4)
    hosts = launch._slurm_hosts(config)
    assert [(host.name, host.slots) for host in hosts] == [("n1", 2), ("n2", 2)]
    assert launch._meeting_place(hosts) == "n1"
    assert launch._on(hosts[1], ["python", "-m", "x"], {})[-5:] == ["--ntasks=1", "--nodelist=n2", "python", "-m", "x"]
    assert launch._on(launch.Host("far", 2), ["python"], {"PATH": "/a b"})[:4] == ["ssh", "-o", "BatchMode=yes", "far"]
    assert launch._environment(config, launchers_here=0)["OMP_NUM_THREADS"]  # a hostfile without this machine
    monkeypatch.setattr(launch, "granted_cores", lambda: 8)
    assert [launch._environment(config, launchers)["OMP_NUM_THREADS"] for launchers in (1, 2, 16)] == ["4", "2", "1"]


def test_another_host_is_told_what_decides_the_run_but_no_secrets() -> None:
    decides = {"NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "ib0", "CUDA_VISIBLE_DEVICES": "0,1", "HF_HOME": "/hf cache"}
    command = launch._on(launch.Host("far", 2), ["python"], decides | {"HF_TOKEN": "secret", "HOME": "/home/me"})[-1]
    assert all(told in command for told in ("NCCL_SOCKET_IFNAME=ib0", "GLOO_SOCKET_IFNAME=ib0", "CUDA_VISIBLE_DEVICES=0,1"))
    assert "HF_HOME='/hf cache'" in command
    assert "secret" not in command
    assert "HOME=/home" not in command


def test_a_launcher_ends_when_what_started_it_is_gone() -> None:
    """As on another host, when ssh was killed."""
    code = "import threading, time; from biollm.training import launcher; threading.Thread(target=launcher._end_with_input).start()"
    running = subprocess.Popen([sys.executable, "-c", f"{code}; print('on', flush=True); time.sleep(60)"], stdin=-1, stdout=-1)
    assert running.stdin is not None
    assert running.stdout is not None
    assert running.stdout.readline() == b"on\n"
    assert running.poll() is None
    running.stdin.close()
    assert running.wait(10) == -signal.SIGTERM
    running.stdout.close()


def test_hosts_meet_where_the_hostfile_says_or_by_this_machine_s_name() -> None:
    def place(*names: str) -> str:
        return launch._meeting_place([launch.Host(name, 1) for name in names])

    assert place("far", "localhost") == "far"
    assert place("localhost", "far") == socket.getfqdn()
    assert place("localhost", "127.0.0.1") == "127.0.0.1"
    name = socket.gethostname()
    assert launch.Host(name, 1).is_here
    assert place(name, "far") == name


def test_too_few_nodes_are_refused(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig(steps=1, learning_rate=1.0, nodes=3, batch_size=3)
    with pytest.raises(ConfigError, match=r"nodes is 3, but Slurm gave 2 \(n\[1-2\]\); ask it for more nodes"):
        launch._slurm_hosts(config)
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(ConfigError, match="this is no Slurm job; name a hostfile"):
        launch._slurm_hosts(config)
