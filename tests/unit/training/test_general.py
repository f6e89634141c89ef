"""General text in documents: none lost, named apart, and in groups that say what belongs together."""

from __future__ import annotations

from pathlib import Path

from biollm.training.general import groups_of, read_documents


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    for folder, text in (("a", "first text\n"), ("b", "second text\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(text)
    documents = read_documents(tmp_path.glob("*/x.txt"))
    assert documents == {"a/x.txt line 1": "first text", "b/x.txt line 1": "second text"}


def test_documents_of_one_file_are_one_group_unless_it_is_the_only_file(tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text("".join(f"{name} sentence {i} is this long.\n" for i in range(200)))
    of_two = groups_of(list(read_documents([tmp_path / "one.txt", tmp_path / "two.txt"])))
    assert set(of_two) == {"one.txt", "two.txt"}
    of_one = groups_of(list(read_documents([tmp_path / "one.txt"])))
    assert len(of_one) > 2
    assert len(set(of_one)) == len(of_one)
