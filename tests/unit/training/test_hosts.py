"""Two hosts that reach each other by ssh: network namespaces with addresses of their own, or loopback where the kernel refuses those."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .test_run import Pretrain, losses, started_elsewhere, workers

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(SSHD is None, reason="needs sshd: apt install openssh-server")]
NEAR, FAR, LINK, SPACE, PORT = "10.219.73.1", "10.219.73.2", "biollm-link", "biollm-far", "22073"
# Both ends of the cable have one name, each in its own namespace.
CABLE = [
    ["ip", "netns", "add", SPACE],
    ["ip", "link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", SPACE],
    ["ip", "address", "add", f"{NEAR}/30", "dev", LINK],
    ["ip", "link", "set", LINK, "up"],
    ["ip", "-n", SPACE, "address", "add", f"{FAR}/30", "dev", LINK],
    ["ip", "-n", SPACE, "link", "set", LINK, "up"],
    ["ip", "-n", SPACE, "link", "set", "lo", "up"],
]


def succeeds(command: list[str]) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A hostfile of two, and the folder of an `ssh` that knows how to log in at the second."""
    folder = tmp_path_factory.mktemp("hosts")
    apart = all(succeeds(command) for command in CABLE)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it there
    options = {"HostKey": folder / "host", "AuthorizedKeysFile": folder / "user.pub", "PidFile": "none", "StrictModes": "no", "Port": PORT}
    assert SSHD is not None
    daemon = [SSHD, "-D", "-f", "/dev/null", *(f"-o{name}={value}" for name, value in options.items())]
    server = subprocess.Popen(["ip", "netns", "exec", SPACE, *daemon] if apart else daemon)
    settings = {"HostName": FAR if apart else "127.0.0.1", "Port": PORT, "User": getpass.getuser(), "IdentityFile": folder / "user"}
    settings |= {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null", "LogLevel": "ERROR", "ConnectionAttempts": 20}
    (folder / "config").write_text("Host far\n" + "".join(f"  {name} {value}\n" for name, value in settings.items()))
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder / "config"} "$@"\n')
    ssh.chmod(0o755)
    (folder / "hostfile").write_text(f"{NEAR if apart else 'localhost'} slots=1\nfar slots=1\n")
    yield folder / "hostfile", f"{ssh.parent}:{os.environ['PATH']}"
    server.terminate()
    server.wait()
    succeeds(["ip", "netns", "delete", SPACE])  # with its end of the cable, and so the other


def test_two_hosts_run_one_job_through_a_hostfile(
    pretrain: Pretrain, hosts: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostfile, path = hosts
    monkeypatch.setenv("PATH", path)
    one = pretrain("decoder", tmp_path / "one")
    two = pretrain("decoder", tmp_path / "two", nodes=2, hostfile=str(hostfile), zero=1)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)


def test_killed_without_warning_no_worker_is_left_on_any_host(
    arguments: Callable[..., dict[str, Any]], hosts: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostfile, path = hosts
    monkeypatch.setenv("PATH", path)
    settings = {"nodes": 2, "hostfile": str(hostfile), "steps": 200, "log_steps": 2, "checkpoint_steps": 2}
    running = started_elsewhere(arguments("decoder", **settings), tmp_path)
    assert len(workers(tmp_path)) > 1
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    deadline = time.monotonic() + 30
    while workers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers(tmp_path)
