"""Where the processes of several hosts are started, and what is said of one that died."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from biollm.core.errors import ConfigError, DataError
from biollm.training import launch
from biollm.training.config import TrainingConfig

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(sys.platform != "linux", reason="only there does the kernel kill so")
def test_a_worker_that_the_kernel_killed_is_told_with_what_needs_less_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun itself ends with 1, as for any other failure."""
    (tmp_path / "worker_that_dies.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    monkeypatch.setattr(launch, "_WORKER", "worker_that_dies")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    config = TrainingConfig(steps=1, learning_rate=1.0, processes=2)
    told = r"died \(SIGKILL\); Linux ends a process so when memory runs out: raise gradient_accumulation \(now 1\).*workers\.log; run again"
    with pytest.raises(DataError, match=told):
        launch.launch(tmp_path / "task.json", config, "test")


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


def test_processes_of_a_slurm_job_are_started_by_srun_on_all_its_nodes(slurm: Path) -> None:
    config = TrainingConfig(steps=1, learning_rate=1.0, processes=2, nodes=2, batch_size=4)
    hosts = launch._slurm_hosts(config)
    assert [(host.name, host.slots) for host in hosts] == [("n1", 2), ("n2", 2)]
    assert launch._meeting_place(hosts) == "n1"
    assert launch._on(hosts[1], ["python", "-m", "x"], {})[-5:] == ["--ntasks=1", "--nodelist=n2", "python", "-m", "x"]
    assert launch._on(launch.Host("far", 2), ["python"], {"PATH": "/a b"})[:4] == ["ssh", "-o", "BatchMode=yes", "far"]
    assert launch._environment(config, launchers_here=0)["OMP_NUM_THREADS"]  # a hostfile without this machine


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
