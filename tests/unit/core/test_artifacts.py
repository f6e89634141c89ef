"""Artifacts are whole or not there, and every byte of them is vouched for."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from biollm.core.artifacts import SEAL, Artifact, make_artifact, open_artifact
from biollm.core.errors import ArtifactError, ResourceError, storage_error

Fill = Callable[[Path, Path], dict[str, Any]]


def two_files(text: str = "one") -> Fill:
    def fill(out: Path, work: Path) -> dict[str, Any]:
        (out / "sub").mkdir()
        (out / "a.txt").write_text(text)
        (out / "sub" / "b.bin").write_bytes(b"\0\1\2")
        return {"text": text}

    return fill


def make(folder: Path, fill: Fill, key: str = "k" * 64, stage: str = "ingest") -> Artifact:
    return make_artifact(folder, stage=stage, key=key, config={}, seed=0, inputs={"x": "y"}, reproducibility="bitwise", fill=fill)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_a_made_artifact_opens_with_its_facts(tmp_path: Path) -> None:
    made = make(tmp_path / "r" / "ingest", two_files())
    opened = open_artifact(made.folder)
    assert opened.manifest == made.manifest
    assert (opened.facts, opened.manifest.inputs, sorted(opened.manifest.files)) == ({"text": "one"}, {"x": "y"}, ["a.txt", "sub/b.bin"])
    assert names(tmp_path / "r") == ["ingest"]


def test_the_manifest_names_no_host_and_no_place(tmp_path: Path) -> None:
    make(tmp_path / "ingest", two_files())
    text = (tmp_path / "ingest" / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert os.uname().nodename not in text


def test_same_content_has_the_same_digest_and_other_content_another(tmp_path: Path) -> None:
    first = make(tmp_path / "a", two_files(), key="1" * 64)
    again = make(tmp_path / "elsewhere" / "a", two_files(), key="2" * 64)
    other = make(tmp_path / "c", two_files("two"))
    assert first.digest == again.digest != other.digest


def test_an_error_in_the_stage_leaves_the_previous_artifact_and_no_partial_one(tmp_path: Path) -> None:
    folder = tmp_path / "ingest"
    before = make(folder, two_files()).manifest

    def fails(out: Path, work: Path) -> dict[str, Any]:
        two_files("two")(out, work)
        raise RuntimeError("a bug of a stage")

    with pytest.raises(RuntimeError, match="a bug of a stage"):
        make(folder, fails)
    assert open_artifact(folder).manifest == before
    assert not (tmp_path / ".ingest.partial").exists()


def test_an_interrupt_leaves_no_partial_artifact_but_keeps_the_work(tmp_path: Path) -> None:
    def interrupted(out: Path, work: Path) -> dict[str, Any]:
        (out / "half").write_text("x")
        (work / "checkpoint").write_text("50")
        raise KeyboardInterrupt

    folder = tmp_path / "pretrain"
    with pytest.raises(KeyboardInterrupt):
        make(folder, interrupted, key="1" * 64)
    assert names(tmp_path) == [".pretrain.work"]

    found: list[list[str]] = []

    def goes_on(out: Path, work: Path) -> dict[str, Any]:
        found.append(sorted(p.name for p in work.iterdir() if p.name != "made_from.json"))
        return two_files()(out, work)

    make(folder, goes_on, key="1" * 64)
    assert found == [["checkpoint"]]
    assert names(tmp_path) == ["pretrain"], "the work of a whole artifact is removed"


def test_work_of_another_key_is_never_continued(tmp_path: Path) -> None:
    def interrupted(out: Path, work: Path) -> dict[str, Any]:
        (work / "checkpoint").write_text("50")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "pretrain", interrupted, key="1" * 64)

    def begins(out: Path, work: Path) -> dict[str, Any]:
        assert [p.name for p in work.iterdir()] == ["made_from.json"]
        assert not (work.parent / ("1" * 16)).exists()
        return {}

    make(tmp_path / "pretrain", begins, key="2" * 64)


@pytest.mark.parametrize("name", ["a.txt", "sub/b.bin", "manifest.json"])
def test_a_flipped_byte_anywhere_in_any_file_is_detected(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "ingest"
    make(folder, two_files())
    file = folder / name
    whole = file.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=rf"{Path(name).name}: .*; remove the folder .*ingest and run again"):
            open_artifact(folder)
    file.write_bytes(whole)
    open_artifact(folder)


def test_a_manifest_that_was_edited_by_hand_is_detected(tmp_path: Path) -> None:
    folder = tmp_path / "ingest"
    make(folder, two_files())
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(values | {"facts": {"text": "better"}}))
    with pytest.raises(ArtifactError, match=r"manifest.json: changed after it was written"):
        open_artifact(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not a manifest that this version of biollm wrote"):
        open_artifact(folder)


def test_an_added_and_a_missing_file_are_detected(tmp_path: Path) -> None:
    folder = tmp_path / "ingest"
    make(folder, two_files())
    (folder / "sub" / "new").write_text("x")
    with pytest.raises(ArtifactError, match="sub/new: was added after the artifact was written"):
        open_artifact(folder)
    (folder / "sub" / "new").unlink()
    (folder / "a.txt").unlink()
    with pytest.raises(ArtifactError, match=r"a.txt: is missing after the artifact was written"):
        open_artifact(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"no artifact here \(manifest.json is missing\)"):
        open_artifact(folder)


def test_a_file_that_became_a_broken_link_is_detected(tmp_path: Path) -> None:
    folder = tmp_path / "ingest"
    make(folder, two_files())
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=r"a\.txt"):
        open_artifact(folder)


def test_a_kill_between_the_two_renames_is_recovered(tmp_path: Path) -> None:
    folder = tmp_path / "ingest"
    before = make(folder, two_files()).manifest
    folder.rename(tmp_path / ".ingest.replaced")  # exactly what a kill at that instant leaves

    def fails(out: Path, work: Path) -> dict[str, Any]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        make(folder, fails)
    assert open_artifact(folder).manifest == before
    assert names(tmp_path)[0] != ".ingest.replaced"


def test_a_partial_artifact_of_a_killed_run_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / ".ingest.partial").mkdir()
    (tmp_path / ".ingest.partial" / "left over").write_text("x")
    assert sorted(make(tmp_path / "ingest", two_files()).manifest.files) == ["a.txt", "sub/b.bin"]


def test_a_stage_that_is_being_made_cannot_be_begun_again(tmp_path: Path) -> None:
    def begins_again(out: Path, work: Path) -> dict[str, Any]:
        with pytest.raises(
            ArtifactError, match="another process is running the stage 'ingest' there; wait for it, or choose another --out"
        ):
            make(tmp_path / "ingest", two_files())
        make(tmp_path / "tokenizer", two_files())  # another stage may
        return two_files()(out, work)

    make(tmp_path / "ingest", begins_again)
    make(tmp_path / "ingest", two_files())  # and now again


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (OSError(errno.EDQUOT, "x"), "the disk quota is used up"),
        (OSError(errno.EFBIG, "x"), "the file would exceed the file-size limit"),
        (OSError(errno.EROFS, "x"), "the file system is read-only"),
        (PermissionError(errno.EACCES, "x"), "permission was denied"),
        (PermissionError(errno.EPERM, "x"), "permission was denied"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("IOError: [Errno 27] Error writing bytes to file"), "the file would exceed the file-size limit"),
    ],
)
def test_a_refused_write_is_a_resource_error_in_one_line(tmp_path: Path, error: Exception, reason: str) -> None:
    def fails(out: Path, work: Path) -> dict[str, Any]:
        raise error

    with pytest.raises(ResourceError, match=f"ingest: cannot write: {reason}.*nothing finished before was changed.*--out") as caught:
        make(tmp_path / "ingest", fails)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.__cause__ is error


def test_what_torch_could_write_in_part_only_is_told_as_a_full_disk(
    tmp_path: Path, files_of_at_most: Callable[[int], AbstractContextManager[None]]
) -> None:
    """DeepSpeed's shares of ZeRO 1 to 3 are written by torch.save, which keeps the system's reason to itself."""

    def saves(out: Path, work: Path) -> dict[str, Any]:
        with files_of_at_most(10_000):
            torch.save({"weights": torch.zeros(10_000)}, out / "share.pt")
        return {}

    with pytest.raises(ResourceError, match=r"pretrain: cannot write: the disk is full, or a quota or .*; nothing finished before was"):
        make(tmp_path / "pretrain", saves)


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    assert storage_error(OSError(errno.ENOENT, "x"), tmp_path) is None
    assert storage_error(ValueError("line 28 of os"), tmp_path) is None


def test_an_input_that_may_not_be_read_is_not_reported_as_a_refused_write(tmp_path: Path) -> None:
    def reads(out: Path, work: Path) -> dict[str, Any]:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "genome.fa"))

    with pytest.raises(Exception, match=r"genome\.fa") as caught:
        make(tmp_path / "ingest", reads)
    assert "cannot write" not in str(caught.value)


def test_sealed_work_of_another_run_is_never_thrown_away_unasked(tmp_path: Path) -> None:
    folder = tmp_path / "pretrain"

    def cut(out: Path, work: Path) -> dict[str, Any]:
        (work / "checkpoint-1").mkdir(parents=True)
        (work / "checkpoint-1" / SEAL).write_text("{}")
        raise KeyboardInterrupt

    def run(key: str, rate: float, fill: Any) -> Artifact:
        config = {"learning_rate": rate, "steps": 3}
        return make_artifact(
            folder, stage="pretrain", key=key * 64, config=config, seed=1, inputs={}, reproducibility="bitwise", fill=fill
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        run("a", 0.1, cut)
    with pytest.raises(ArtifactError, match=r"config\.learning_rate was 0\.1, is 0\.2\. Put that back to go on, or remove .*pretrain"):
        run("b", 0.2, lambda out, work: {})
    with pytest.raises(ArtifactError, match="biollm itself, its packages or the thread count changed"):
        run("c", 0.1, lambda out, work: {})
    assert not folder.exists()
    found: list[bool] = []
    run("a", 0.1, lambda out, work: found.append((work / "checkpoint-1" / SEAL).exists()) or {})
    assert found == [True]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ([{"name": "full", "rate": 0.5}, {"name": "lora"}], [{"rate": 0.1, "name": "full"}, {"name": "lora"}], ".0.rate was 0.5, is 0.1"),
        ([["q", "v"]], [["q", "k"]], '.0.1 was "v", is "k"'),
        (["q"], ["q", "v"], ' was ["q"], is ["q", "v"]'),
        ([{"a": "x" * 60}], [{"a": "x" * 60}] * 2, f' was [{{"a": "{"x" * 49}… (1 in all), is [{{"a": "{"x" * 49}… (2 in all)'),
        (None, {"b": 1, "a": 2}, ' was null, is {"a": 2, "b": 1}'),
    ],
)
def test_what_differs_within_a_list_is_told_by_its_place(tmp_path: Path, old: Any, new: Any, told: str) -> None:
    def cut(out: Path, work: Path) -> dict[str, Any]:
        (work / SEAL).write_text("{}")
        raise KeyboardInterrupt

    def run(key: str, methods: Any) -> Artifact:
        config = {"methods": methods}
        return make_artifact(tmp_path / "finetune", stage="", key=key * 64, config=config, seed=1, inputs={}, reproducibility="", fill=cut)

    with pytest.raises(KeyboardInterrupt):
        run("a", old)
    with pytest.raises(ArtifactError, match=re.escape(f"config.methods{told}. Put that back")):
        run("b", new)
