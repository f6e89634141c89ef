"""Every operation of the file system fails once, in turn, while an artifact is made over an older one (as SQLite tests itself).

Whatever fails, `folder` holds the older artifact or the new one, whole; nothing partial is left; the next run succeeds.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from biollm.core.artifacts import Artifact, make_artifact, open_artifact
from biollm.core.errors import ArtifactError, ResourceError

# What a full or failing disk can refuse. Removing and reading are not among them.
_OS_CALLS = ("fsync", "rename", "replace", "mkdir")


def make(folder: Path, text: str, key: str) -> Artifact:
    def fill(out: Path, work: Path) -> dict[str, Any]:
        (out / "a.txt").write_text(text)
        (out / "sub").mkdir()
        (out / "sub" / "b.txt").write_text(text)
        return {"text": text}

    return make_artifact(folder, stage="ingest", key=key * 64, config={}, seed=0, inputs={}, reproducibility="bitwise", fill=fill)


@contextmanager
def fault_at(number: int | None, monkeypatch: pytest.MonkeyPatch, *, stays: bool = False) -> Iterator[list[str]]:
    """Let the `number`-th write, fsync, rename or mkdir fail with ENOSPC; with `stays`, all after it too. Yields the calls so far."""
    calls: list[str] = []

    def counted(name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            writes = name != "open" or any(sign in str(args[1] if len(args) > 1 else kwargs.get("mode", "r")) for sign in "wax+")
            if writes:
                calls.append(f"{name} {args[0] if isinstance(args[0], (str, Path)) else ''}")
                if number is not None and (len(calls) == number or (stays and len(calls) > number)):
                    raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in _OS_CALLS:
            patch.setattr(os, name, counted(name, getattr(os, name)))
        opener = counted("open", io.open)
        patch.setattr(io, "open", opener)
        patch.setattr(builtins, "open", opener)
        yield calls


def operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    make(tmp_path / "count" / "ingest", "old", "1")
    with fault_at(None, monkeypatch) as calls:
        make(tmp_path / "count" / "ingest", "new", "2")
    assert {call.split()[0] for call in calls} == {"open", *_OS_CALLS}
    return len(calls)


@pytest.mark.parametrize("stays", [False, True], ids=["one fault", "fault stays"])
def test_a_fault_of_any_single_write_leaves_an_artifact_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stays: bool) -> None:
    total = operations(tmp_path, monkeypatch)
    assert total > 10
    broken: list[str] = []
    for number in range(1, total + 1):
        folder = tmp_path / str(number) / "ingest"
        make(folder, "old", "1")
        error = None
        with fault_at(number, monkeypatch, stays=stays) as calls:
            try:
                make(folder, "new", "2")
            except ResourceError as caught:
                error = str(caught)
        # A fault of the first mkdir, of a folder that exists, is none.
        assert error is None or f"{folder}: cannot write: the disk is full" in error
        # Where every rename fails from the second one on, nothing can bring the older artifact back: it waits as .replaced.
        replaced = folder.with_name(".ingest.replaced")
        place = replaced if stays and not folder.exists() else folder
        try:
            assert open_artifact(place).facts["text"] in (("new",) if error is None else ("old", "new"))
            assert not (folder.parent / ".ingest.partial").exists(), "a partial artifact is left"
        except (ArtifactError, AssertionError) as problem:
            broken.append(f"operation {number} ({calls[number - 1]}): {str(problem).splitlines()[0]}")
        assert make(folder, "new", "2").facts == {"text": "new"}, "the same command again succeeds"
        assert sorted(p.name for p in folder.parent.iterdir()) == [".ingest.lock", "ingest"]
    assert not broken, "\n".join(broken)


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_artifact_faults as t
from biollm.core.artifacts import open_artifact

root, number, survived = Path(sys.argv[1]), 0, False
while not survived:
    number += 1
    folder = root / str(number) / "ingest"
    t.make(folder, "old", "1")
    child = os.fork()
    if child == 0:
        left = number
        def deadly(real):
            def call(*args, **kwargs):
                global left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)
            return call
        for name in t._OS_CALLS + ("rmdir", "unlink"):
            setattr(os, name, deadly(getattr(os, name)))
        t.make(folder, "new", "2")
        os._exit(0)
    survived = os.waitpid(child, 0)[1] == 0
    names = sorted(p.name for p in folder.parent.iterdir())
    if folder.exists():
        assert open_artifact(folder).facts["text"] in ("old", "new"), names
    else:
        assert open_artifact(folder.with_name(".ingest.replaced")).facts["text"] == "old", names
    assert t.make(folder, "new", "2").facts == {"text": "new"}
    assert sorted(p.name for p in folder.parent.iterdir()) == [".ingest.lock", "ingest"], names
print(number)
"""


def test_a_kill_at_any_step_leaves_an_artifact_whole_and_the_next_run_succeeds(tmp_path: Path) -> None:
    # In a process of its own: it forks, and a fork of a process with torch's threads could hang.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", _KILLED, str(tmp_path), str(Path(__file__).parent)]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) > 10
