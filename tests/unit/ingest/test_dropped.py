"""What is left out is counted by reason, and listed with its id; and neither depends on the order of files."""

from __future__ import annotations

import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pysam
import pytest

from biollm.core.job import Job
from biollm.corpus.columns import DROPPED, RECORDS
from biollm.ingest import dropped as listing
from biollm.ingest.config import Config
from biollm.ingest.dropped import Dropped
from biollm.ingest.stage import run

Dna = Callable[[int, int], str]
Text = Callable[..., str]


def ingest(folder: Path, config: dict[str, Any]) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    settings = Config.model_validate(config)
    job = Job(config=settings, seed=1, inputs={}, out=folder, work=folder, logs=folder, recipe_folder=folder, base_model="none")
    facts = run(job)
    return pl.read_parquet(folder / RECORDS), pl.read_parquet(folder / DROPPED), facts


def counted(rows: pl.DataFrame) -> dict[str, int]:
    return dict(rows["reason"].value_counts().iter_rows())


@pytest.mark.parametrize("strands", ["plus", "both"])
def test_every_dropped_window_is_listed_with_its_reason(tmp_path: Path, dna: Dna, fasta_text: Text, strands: str) -> None:
    sequence = dna(1000, 1)
    (tmp_path / "a.fa").write_text(fasta_text({"c": sequence[:500] + "N" * 40 + sequence[540:] + sequence[:25], "tiny": "ACGT"}))
    (tmp_path / "r.bed").write_text("c\t0\t900\nc\t960\t1020\ntiny\t0\t4\n")
    config = {
        "sources": [{"name": "s", "sequences": "a.fa", "regions": "r.bed"}],
        "window_bases": 20, "strands": strands, "split": {"block_bases": 60, "gap_bases": 20, "validation": 0.25, "test": 0.25},
    }  # fmt: skip
    _, rows, facts = ingest(tmp_path, config)
    assert counted(rows) == facts["dropped"]
    ids = {reason: part["id"].to_list() for (reason,), part in rows.group_by("reason", maintain_order=True)}
    assert ids["shorter_than_window"] == ["c:1020-1025", "tiny:0-4"]
    assert ids["outside_the_regions"] == ["c:900-920", "c:920-940", "c:940-960"]
    assert ids["too_many_unknown_bases"] == ["c:500-520", "c:520-540"]
    assert set(ids) == {"shorter_than_window", "outside_the_regions", "too_many_unknown_bases", "duplicate", "near_another_split"}


def test_windows_at_features_that_are_dropped_keep_their_strand(tmp_path: Path, dna: Dna, fasta_text: Text, gff_text: Text) -> None:
    (tmp_path / "a.fa").write_text(fasta_text({"c": dna(2000, 1)}))
    (tmp_path / "a.gff").write_text(gff_text([("c", "gene", 5 + 60 * i, 40 + 60 * i) for i in range(30)]).replace("\t+\t", "\t-\t", 1))
    features = {"feature": "gene", "anchor": "end", "before_bases": 20, "after_bases": 30}
    split = {"by": "random", "validation": 0.2, "test": 0.2}
    config = {"sources": [{"name": "s", "sequences": "a.fa", "annotation": "a.gff"}], "features": features, "split": split}
    _, rows, facts = ingest(tmp_path, config)
    assert facts["dropped"]["beyond_the_contig"] == 1
    assert rows.row(0) == ("c:-25-25(-)", "beyond_the_contig", None)


def test_dropped_reads_are_listed_by_name(tmp_path: Path) -> None:
    header = pysam.AlignmentHeader.from_dict({"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": "c", "LN": 10_000}]})
    rng = np.random.default_rng(3)
    with pysam.AlignmentFile(str(tmp_path / "r.bam"), "wb", header=header) as file:
        for number in range(60):
            read = pysam.AlignedSegment(header)
            read.query_name, read.reference_id, read.reference_start = f"m{number}", 0, 100 * number
            read.query_sequence, read.cigarstring = "C" + "".join(rng.choice(list("AGT"), 39)), "40M"
            read.flag, read.mapping_quality = 0x400 if number == 7 else 0, 60 if number else 1
            if number != 9:
                read.set_tag("MM", "C+m?,0;")
                read.set_tag("ML", array.array("B", [255]))
            file.write(read)
    table, rows, facts = ingest(tmp_path, {"sources": [{"name": "r", "reads": "r.bam"}]})
    assert facts["dropped"] == {"low_mapq": 1, "duplicate": 1, "no_mm": 1}
    assert rows.rows() == [("m0", "low_mapq", None), ("m7", "duplicate", None), ("m9", "no_mm", None)]
    assert table.height == 57


@pytest.mark.parametrize("few", [3, 64])
def test_the_list_is_written_in_row_groups_as_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(listing, "_ROWS", 10)
    monkeypatch.setattr(listing, "_FEW", few)
    with Dropped(tmp_path / "d.parquet") as dropped:
        for number in range(25):
            dropped.list_one(f"a{number}", "x")
        for number in range(0, 30, 6):
            dropped.add(pl.Series([f"b{i}" for i in range(number, number + 6)]), "y", pl.Series(["k"] * 6))
        assert dropped._held < 10
    table = pl.read_parquet(tmp_path / "d.parquet")
    assert table["id"].to_list() == [f"a{i}" for i in range(25)] + [f"b{i}" for i in range(30)]
    assert table["kept_id"].to_list() == [None] * 25 + ["k"] * 30
    assert dropped.counts == {"y": 30}


def two_orders(tmp_path: Path, contents: list[str], names: tuple[str, str], config: Callable[[str, str], dict[str, Any]]) -> list[Any]:
    """What an ingest writes with two files, and with their names swapped; and with the sources in the other order."""
    found = []
    for order, swapped in enumerate(((0, 1), (1, 0))):
        folder = tmp_path / str(order)
        folder.mkdir()
        for name, number in zip(names, swapped, strict=True):
            (folder / name).write_text(contents[number])
        ingest(folder, config(*(names[place] for place in swapped)))
        found.append([(folder / name).read_bytes() for name in (RECORDS, DROPPED)])
    return found


@pytest.mark.parametrize("split", [{}, {"by": "random"}, {"by": "similarity"}, {"by": "contig", "validation": 0.3, "test": 0.3}])
@pytest.mark.parametrize("exact", ["drop", "keep"])
def test_two_fasta_files_in_either_order_give_the_same_bytes(
    tmp_path: Path, dna: Dna, fasta_text: Text, split: dict[str, Any], exact: str
) -> None:
    shared = dna(300, 9)
    contents = [fasta_text({f"{a}{i}": dna(600, 10 * j + i) + shared[: 100 * i] for i in range(3)}) for j, a in enumerate("ba")]
    config = {
        "sources": [{"name": "s", "sequences": "*.fa"}], "window_bases": 20, "duplicates": {"exact": exact, "near": 0.3},
        "split": {"block_bases": 60, "gap_bases": 0, "validation": 0.25, "test": 0.25} | split,
        "audit": {"leakage": {"allow": "repeats are part of this test"}},
    }  # fmt: skip
    one, other = two_orders(tmp_path, contents, ("x.fa", "y.fa"), lambda *_: config)
    assert one == other


def _tables(dna: Dna) -> list[str]:
    same = [dna(30, 900 + i) for i in range(20)]
    return [
        "name,seq\n" + "".join(f"{letter}{i},{dna(30, number * 100 + i)}\n" for i in range(40))
        + "".join(f"{letter}same{i},{sequence}\n" for i, sequence in enumerate(same))
        for number, letter in enumerate("ba")
    ]  # fmt: skip


@pytest.mark.parametrize("split", [{"by": "random"}, {"by": "random", "assign": "balanced"}, {"by": "similarity"}])
@pytest.mark.parametrize("exact", ["drop", "keep"])
@pytest.mark.parametrize("sources", ["one", "two"])
def test_two_tables_in_either_order_give_the_same_bytes(tmp_path: Path, dna: Dna, split: dict[str, Any], exact: str, sources: str) -> None:
    def config(first: str, second: str) -> dict[str, Any]:
        files = {"s": "*.csv"} if sources == "one" else {"p": first, "q": second}
        listed = [{"name": name, "records": file, "read": {"sequence": "seq", "id": "name"}} for name, file in files.items()]
        return {"sources": listed if first < second else listed[::-1], "split": split, "duplicates": {"exact": exact}}

    one, other = two_orders(tmp_path, _tables(dna), ("x.csv", "y.csv"), config)
    assert one == other
