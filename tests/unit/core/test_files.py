from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from biollm.core.errors import ConfigError
from biollm.core.files import canonical_json, files_below, make_once, read_json, sha256_file, sha256_json, write_json, write_text_atomic


def test_an_atomic_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a long old content")
    write_text_atomic(path, "new\n")
    assert path.read_bytes() == b"new\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("refused", ["fsync", "replace"])
def test_a_refused_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, refused, full)
    with pytest.raises(OSError, match="No space"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_never_holds_nan_or_infinity_and_the_old_file_stays(tmp_path: Path, number: float) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": number})
    assert read_json(path) == {"a": 1}


def test_canonical_json_does_not_depend_on_key_order() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'
    assert sha256_json({"b": 1, "a": 2}) == sha256_json({"a": 2, "b": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})


def test_broken_json_is_refused_with_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{\n"a": }')
    with pytest.raises(ConfigError, match=r"a\.json: not valid JSON \(.*line 2 column 6.*restore the file"):
        read_json(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match=r"a\.json: not valid JSON"):
        read_json(path)


def test_files_below_lists_every_file_in_one_order(tmp_path: Path) -> None:
    for name in ("b", "a/z", "a-b", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [p.relative_to(tmp_path).as_posix() for p in files_below(tmp_path)] == [".hidden", "a-b", "a/z", "b"]


def test_a_digest_is_the_standard_sha256(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_is_made_once_and_again_if_it_is_not_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, made = tmp_path / "below" / "values.bin", []

    def make(path: Path) -> None:
        made.append(path)
        path.write_bytes(bytes(1000))

    assert make_once(file, make) == make_once(file, make) == file
    assert made == [file]
    file.write_bytes(bytes(999) + b"\1")
    make_once(file, make)
    assert "values.bin is damaged, and made again" in capsys.readouterr().err
    assert len(made) == 2
    file.write_bytes(bytes(1000))
    make_once(file, make)
    assert len(made) == 2, "another time, the same bytes"
    (file.parent / "values.bin.sha256").write_bytes(b"\xff\xfe")
    make_once(file, make)
    assert len(made) == 3, "nothing says that it is whole"

    def cut(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    file.unlink()
    with pytest.raises(KeyboardInterrupt):
        make_once(file, cut)
    make_once(file, make)
    assert (len(made), file.read_bytes()) == (4, bytes(1000))
