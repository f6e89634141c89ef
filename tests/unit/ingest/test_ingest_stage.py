"""Raw files into the corpus, through the stage itself."""

from __future__ import annotations

import array
import gzip
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pysam
import pytest
from pydantic import ValidationError

from biollm.core.alphabets import reverse_complement
from biollm.core.errors import DataError, ResourceError
from biollm.core.job import Job
from biollm.corpus.columns import RECORDS
from biollm.doctor import examine
from biollm.ingest import genome
from biollm.ingest.config import Config
from biollm.ingest.stage import run
from biollm.modeling.corpus import TrackTable
from biollm.stages import Run

Dna = Callable[[int, int], str]
Text = Callable[..., str]


def ingest(folder: Path, fasta: str, gff: str | None = None, **config: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
    (folder / "a.fa").write_text(fasta)
    source: dict[str, Any] = {"name": "s", "sequences": "a.fa"}
    if gff is not None:
        (folder / "a.gff").write_text(gff)
        source["annotation"] = "a.gff"
    values: dict[str, Any] = {
        "sources": [source],
        "window_bases": 20,
        "split": {"block_bases": 60, "gap_bases": 0, "validation": 0.25, "test": 0.25},
    }
    seed = config.pop("seed", 0)
    settings = Config.model_validate(values | config)
    job = Job(config=settings, seed=seed, inputs={}, out=folder, work=folder, logs=folder, recipe_folder=folder, base_model="none")
    facts = run(job)
    return pl.read_parquet(folder / RECORDS), facts


def test_windows_are_the_sequence_cut_in_order_and_the_tail_is_counted(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    sequence = dna(255, 1)
    table, facts = ingest(tmp_path, fasta_text({"chr1": sequence}))
    assert table["sequence"].to_list() == [sequence[i : i + 20] for i in range(0, 240, 20)]
    assert table["id"].to_list()[:2] == ["chr1:0-20", "chr1:20-40"]
    assert (table["end"] - table["start_0based"]).unique().to_list() == [20]
    assert facts["dropped"] == {"shorter_than_window": 1, "too_many_unknown_bases": 0}


def test_every_window_is_kept_or_counted_as_dropped(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    contigs = {"a": dna(300, 1) + "N" * 50 + dna(205, 2), "short": "ACGT", "b": dna(400, 3)}
    _, facts = ingest(
        tmp_path, fasta_text(contigs), stride_bases=7, split={"block_bases": 60, "gap_bases": 30}, duplicates={"exact": "keep"}
    )
    starts = sum(-(-len(sequence) // 7) for sequence in contigs.values())
    assert sum(facts["records"].values()) + sum(facts["dropped"].values()) == starts
    assert all(count > 0 for count in facts["dropped"].values())


def test_a_window_with_exactly_the_allowed_share_of_n_is_kept(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    at, above = "N" * 5 + dna(15, 1), "N" * 6 + dna(14, 2)
    table, facts = ingest(tmp_path, fasta_text({"c": dna(240, 3) + at + above}), max_unknown_fraction=0.25)
    assert at in table["sequence"].to_list()
    assert above not in table["sequence"].to_list()
    assert facts["dropped"]["too_many_unknown_bases"] == 1


@pytest.mark.parametrize("percent", range(1, 100, 4))
def test_the_n_limit_holds_at_every_percent(tmp_path: Path, dna: Dna, fasta_text: Text, percent: int) -> None:
    limit = "N" * percent + dna(100 - percent, percent)
    split = {"block_bases": 100, "gap_bases": 0}
    table, _ = ingest(tmp_path, fasta_text({"c": dna(1500, 1) + limit}), window_bases=100, max_unknown_fraction=percent / 100, split=split)
    assert limit in table["sequence"].to_list()


def test_a_label_holds_from_exactly_its_fraction_on(tmp_path: Path, dna: Dna, fasta_text: Text, gff_text: Text) -> None:
    # windows of 20, min_fraction 0.35 is 7 bases: [0, 20) has 7 in two parts that overlap, [20, 40) has 6, [40, 60) all
    rows = [("c", "CDS", 1, 5), ("c", "CDS", 4, 7), ("c", "CDS", 35, 60), ("c", "gene", 61, 240)]
    labels = [{"name": "coding", "feature": "CDS", "min_fraction": 0.35}, {"name": "genic", "feature": "gene", "min_fraction": 1.0}]
    table, facts = ingest(tmp_path, fasta_text({"c": dna(250, 1)}), gff_text(rows), labels=labels)
    assert table["label_coding"].to_list() == [1, 0, 1] + [0] * 9
    assert table["label_genic"].to_list() == [0, 0, 0] + [1] * 9
    assert sum(facts["positives"]["coding"].values()) == 2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_splits(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    text = fasta_text({"c": dna(3000, 1)})
    written = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        ingest(tmp_path / name, text, seed=seed)
        written.append((tmp_path / name / "records.parquet").read_bytes())
    assert written[0] == written[1] != written[2]


def test_every_source_has_its_share_of_every_split(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    (tmp_path / "b.fa").write_text(fasta_text({"y": dna(6000, 2)}))
    sources = [{"name": "x", "sequences": "a.fa"}, {"name": "y", "sequences": "b.fa"}]
    table, _ = ingest(tmp_path, fasta_text({"x": dna(3000, 1)}), sources=sources)
    for source, windows in (("x", 150), ("y", 300)):
        counts = dict(table.filter(pl.col("source") == source)["split"].value_counts().iter_rows())
        assert max(abs(counts[split] - windows / 4) for split in ("validation", "test")) <= 3, counts


def test_an_id_in_two_sources_is_refused(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    (tmp_path / "b.fa").write_text(fasta_text({"c": dna(300, 2)}))
    sources = [{"name": "x", "sequences": "a.fa"}, {"name": "y", "sequences": "b.fa"}]
    with pytest.raises(DataError, match="sources 'x' and 'y' both hold a record 'c'; ids must differ over all sources"):
        ingest(tmp_path, fasta_text({"c": dna(300, 1)}), sources=sources)


def test_a_corpus_without_a_window_is_refused(tmp_path: Path, fasta_text: Text) -> None:
    with pytest.raises(DataError, match=r"no window of 20 bases is left .*'shorter_than_window': 1.*lower window_bases"):
        ingest(tmp_path, fasta_text({"c": "ACGT"}))


def test_an_empty_split_is_refused_with_the_way_out(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    with pytest.raises(DataError, match=r"the splits \['validation', 'test'\] are empty .*; lower ingest.split.block_bases \(now 9000\)"):
        ingest(tmp_path, fasta_text({"c": dna(300, 1)}), split={"block_bases": 9000, "gap_bases": 0})


def test_a_missing_track_value_is_null_and_never_nan_or_zero(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    tracks = [{"name": "cpg", "kind": "cpg_observed_expected", "window_bases": 8}]
    no_c = "ATTA" * 5
    table, _ = ingest(tmp_path, fasta_text({"c": no_c + dna(240, 1)}), tracks=tracks)
    assert table["track_cpg"][0].to_list() == [None] * 20
    assert all(value is None or np.isfinite(value) for values in table["track_cpg"].to_list() for value in values)
    assert any(value is not None and value > 0 for values in table["track_cpg"].to_list() for value in values)
    first = TrackTable(tmp_path, ["cpg"])[0]["cpg"].level
    assert first.dtype == np.float32
    assert np.isnan(first).all()
    assert len(first) == 20


def test_duplicates_are_dropped_listed_and_their_blocks_stay_in_one_split(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    sequence = dna(1200, 1)
    copied = sequence[:20] + dna(580, 2) + reverse_complement(sequence[20:40]) + dna(600, 3)  # both in blocks of their own
    table, facts = ingest(tmp_path, fasta_text({"a": sequence, "b": copied}))
    dropped = pl.read_parquet(tmp_path / "dropped.parquet").filter(reason="duplicate").sort("id")
    assert dropped.select("id", "kept_id").rows() == [("b:0-20", "a:0-20"), ("b:600-620", "a:20-40")]
    assert facts["dropped"]["duplicate"] == 2
    split_of = {
        contig: dict(rows.select(pl.col("start_0based") // 60, "split").iter_rows()) for (contig,), rows in table.group_by("contig")
    }
    assert split_of["a"][0] == split_of["b"][0] == split_of["b"][10]


def test_one_worker_and_four_gzip_and_plain_and_parts_give_the_same_records(
    tmp_path: Path, dna: Dna, fasta_text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = fasta_text({f"c{i}": dna(300 + 40 * i, i) for i in range(12)})
    tables = []
    for name, workers, part in (("one", 1, 10**6), ("four", 4, 10**6), ("parts", 3, 25)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(genome, "usable_cores", lambda workers=workers: workers)
        monkeypatch.setattr(genome, "_PART_WINDOWS", part)
        tables.append(ingest(tmp_path / name, text, tracks=[{"name": "cpg", "kind": "cpg_observed_expected", "window_bases": 8}])[0])
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped" / "b.fa.gz").write_bytes(gzip.compress(text.encode()))
    packed = ingest(tmp_path / "zipped", text, sources=[{"name": "s", "sequences": "b.fa.gz"}],
                    tracks=[{"name": "cpg", "kind": "cpg_observed_expected", "window_bases": 8}])[0]  # fmt: skip
    assert all(tables[0].equals(table) for table in (*tables[1:], packed))
    assert len(list((tmp_path / "parts" / "records.parquet").glob("part-*.parquet"))) > 3
    assert (tmp_path / "one" / "records.parquet").read_bytes() == (tmp_path / "four" / "records.parquet").read_bytes()


def test_parts_that_a_killed_run_finished_are_not_written_again(
    tmp_path: Path, dna: Dna, fasta_text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = fasta_text({f"c{i}": dna(600, i) for i in range(6)})
    (tmp_path / "whole").mkdir()
    monkeypatch.setattr(genome, "_PART_WINDOWS", 25)
    whole, _ = ingest(tmp_path / "whole", text)
    write, written = genome._write_part, []

    def killed(contigs: Any, path: Path, *rest: Any) -> None:
        if len(written) == 2 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        written.append(path.name)
        write(contigs, path, *rest)

    monkeypatch.setattr(genome, "_write_part", killed)
    monkeypatch.setattr(genome, "usable_cores", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        ingest(tmp_path, text)
    (tmp_path / "again").touch()
    table, _ = ingest(tmp_path, text)
    assert len(written) == len(set(written)) == 6
    assert table.equals(whole)


def test_a_measured_track_of_a_bedgraph_is_turned_with_its_window(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    sequence = dna(400, 5)
    (tmp_path / "s.bedgraph").write_text("".join(f"c\t{i}\t{i + 1}\t{i}\n" for i in range(400) if i % 7))
    tracks = [{"name": "s", "kind": "sites", "files": "s.bedgraph", "sites": {"format": "bedgraph"}}]
    table, facts = ingest(tmp_path, fasta_text({"c": sequence}), tracks=tracks, strands="both")
    for row in table.iter_rows(named=True):
        places = list(range(row["start_0based"], row["end"]))
        places = places if row["strand"] == "+" else places[::-1]
        assert row["track_s"] == [float(i) if i % 7 else None for i in places]
        assert row["coverage_s"] == [None] * 20
    assert facts["site_tracks"][0]["sites"] == sum(1 for i in range(400) if i % 7)


def test_sites_of_other_coordinates_are_refused_with_the_shift_that_fits(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    sequence = dna(2000, 6)
    rows = [f"c\t{i}\t{i}\t50.0\t5\t5\n" for i, base in enumerate(sequence) if base == "C"]  # from 0, in a format that counts from 1
    (tmp_path / "m.cov").write_text("".join(rows[1:]))
    tracks = [{"name": "m", "kind": "sites", "files": "m.cov", "sites": {"format": "bismark_cov"}}]
    with pytest.raises(DataError, match=r"track 'm' \(m\.cov\).*would lie right shifted by \+1.*declare coordinates: 0"):
        ingest(tmp_path, fasta_text({"c": sequence}), tracks=tracks)


def test_a_label_against_another_annotation_leaves_the_rest_unlabelled(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    (tmp_path / "te.bed").write_text("c\t0\t20\nc\t100\t140\n")
    (tmp_path / "gene.bed").write_text("c\t20\t40\nc\t100\t140\n")
    labels = [{"name": "te", "intervals": "te.bed", "against": "gene.bed"}]
    table, facts = ingest(tmp_path, fasta_text({"c": dna(260, 1)}), labels=labels)
    assert table["label_te"].to_list() == [1, 0] + [None] * 11
    assert sum(facts["unlabelled"]["te"].values()) == 11


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ({"by": "contig"}, lambda t: t.group_by("contig").agg(pl.col("split").n_unique())["split"].max() == 1),
        (
            {"by": "given", "contigs": {"test": ["c1"], "validation": ["c2", "c3"]}},
            lambda t: set(t.filter(contig="c1")["split"]) == {"test"},
        ),
        ({"by": "random"}, lambda t: t.group_by("contig").agg(pl.col("split").n_unique())["split"].min() > 1),
        ({"by": "similarity"}, lambda t: t["group"].n_unique() == t.height),
    ],
)
def test_windows_are_split_as_the_recipe_says(
    tmp_path: Path, dna: Dna, fasta_text: Text, split: dict[str, Any], wanted: Callable[[pl.DataFrame], bool]
) -> None:
    contigs = {f"c{i}": dna(900, i) for i in range(8)}
    table, facts = ingest(tmp_path, fasta_text(contigs), split=split)
    assert wanted(table)
    assert facts["split_by"] == split["by"]


def _table(folder: Path, rows: list[str], **read: Any) -> dict[str, Any]:
    (folder / "t.csv").write_text("name,seq,active,donor,set\n" + "".join(f"{row}\n" for row in rows))
    options = {"sequence": "seq", "id": "name", "labels": {"active": "active"}} | read
    return {"modality": "protein", "sources": [{"name": "t", "records": "t.csv", "read": options}]}


def _peptides(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 20)) for _ in range(count)]


def run_records(folder: Path, config: dict[str, Any]) -> tuple[pl.DataFrame, dict[str, Any]]:
    settings = Config.model_validate(config)
    job = Job(config=settings, seed=1, inputs={}, out=folder, work=folder, logs=folder, recipe_folder=folder, base_model="none")
    facts = run(job)
    return pl.read_parquet(folder / RECORDS), facts


def test_a_labelled_table_keeps_its_groups_together(tmp_path: Path) -> None:
    rows = [f"p{i},{sequence},{i % 2},d{i // 5}," for i, sequence in enumerate(_peptides(200))]
    table, facts = run_records(tmp_path, _table(tmp_path, rows, group="donor"))
    assert table.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
    assert facts["split_by"] == "group"
    assert facts["dropped"] == {}
    assert facts["sources"]["t"]["counts"]["read"] == 200
    assert facts["records"] == {split: int((table["split"] == split).sum()) for split in ("train", "validation", "test")}
    assert sum(facts["positives"]["active"].values()) == 100


def test_reads_become_records_with_their_group_and_track(tmp_path: Path) -> None:
    header = pysam.AlignmentHeader.from_dict({"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": "c", "LN": 10_000}]})
    rng = np.random.default_rng(3)
    with pysam.AlignmentFile(str(tmp_path / "r.bam"), "wb", header=header) as file:
        for number in range(60):
            read = pysam.AlignedSegment(header)
            read.query_name, read.reference_id, read.reference_start = f"m{number // 2}", 0, 100 * number
            read.query_sequence, read.cigarstring = "C" + "".join(rng.choice(list("AGT"), 39)), "40M"
            read.flag, read.mapping_quality = 0, 60 if number else 1
            read.query_qualities = None
            read.set_tag("MM", "C+m?,0;")
            read.set_tag("ML", array.array("B", [255 if number % 2 else 0]))
            file.write(read)
    table, facts = run_records(tmp_path, {"sources": [{"name": "r", "reads": "r.bam"}]})
    assert facts["dropped"] == {"low_mapq": 1} or sum(facts["dropped"].values()) == 1
    assert table.height == 59
    assert table.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
    assert {round(values[0]) for values in table["track_5mC"].to_list()} == {0, 1}
    assert table["track_5mC"][0].null_count() == 39


def _methylbert(folder: Path, name: str, seed: int) -> None:
    """200 reads of 41 bases with a CpG at their end, on 8 contigs, 200 bases from start to start, the first one at 100 * seed."""
    rng, rows = np.random.default_rng(seed), ["name\tflag\tref_name\tref_pos\tdna_seq\tmethyl_seq\tctype"]
    for number in range(200):
        bases = "".join(rng.choice(list("ACGT"), 38)).replace("CG", "CA") + "CGA"
        kmers = " ".join(bases[i : i + 3] for i in range(39))
        start, called = 1 + 200 * (number // 8) + 100 * seed, number % 2
        rows.append(f"m{number}\t0\tchr{number % 8}\t{start}\t{kmers}\t{'2' * 37}{called}2\t{'TN'[called]}")
    (folder / name).write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("by", ["group", "contig", "block"])
def test_read_tables_of_methylbert_become_records_split_as_asked(tmp_path: Path, by: str) -> None:
    for seed, name in enumerate(("one.csv", "two.csv")):  # the same read names in both
        _methylbert(tmp_path, name, seed)
    config = {
        "sources": [{"name": "m", "reads": "*.csv", "read_bam": {"kind": "methylbert", "convert_cytosines": "all"}}],
        "split": {"by": by, "block_bases": 500, "gap_bases": 100},
        "duplicates": {"conflicting": "drop"},
    }
    table, facts = run_records(tmp_path, config)
    assert facts["sources"]["m"]["counts"] == {"records": 400, "kept": 400}
    assert {"m0", "m0#2"} <= set(table["id"])
    assert table.height == 400 - facts["dropped"].get("near_another_split", 0)
    assert table["label_ctype"].value_counts().height == 2
    methylated = table["track_5mC"].list.sum() == 1
    assert (table["sequence"].str.count_matches("C") == methylated.cast(pl.UInt32)).all(), "the C that is left is the methylated one"
    if by == "block":
        key = pl.format("{}:{}", "contig", pl.col("start_0based") // 500)
        assert facts["dropped"]["near_another_split"] > 0
        ordered = table.sort("contig", "start_0based")
        follows = ordered.with_columns(
            (pl.col("start_0based").shift(-1) - pl.col("end")).alias("gap"),
            (pl.col("contig") == pl.col("contig").shift(-1)).alias("beside"),
            (pl.col("split") != pl.col("split").shift(-1)).alias("other"),
        ).filter("beside", "other")
        assert follows.height > 5
        assert (follows["gap"] >= 100).all()
    else:
        key = pl.col("contig") if by == "contig" else pl.col("id").str.split("#").list.first()
    assert table.group_by(key).agg(pl.col("split").n_unique())["split"].max() == 1
    assert table["split"].n_unique() == 3


def test_the_reads_of_methylbert_leak_by_their_names_and_nothing_else_between_blocks(tmp_path: Path) -> None:
    real = Path(__file__).parents[4] / "shared" / "data" / "human_tumour_normal_reads_methylbert"
    if not real.is_dir():
        pytest.skip(f"no real data at {real}")
    (tmp_path / "real").symlink_to(real)
    config: dict[str, Any] = {
        "sources": [{"name": "m", "reads": "real/*_seq.csv", "read_bam": {"kind": "methylbert"}}],
        "split": {"by": "block"},
        "duplicates": {"conflicting": "drop"},
    }
    with pytest.raises(DataError, match=r"(?s)the splits leak[^\n]*\n[^\n]*'id' alone predicts 'label_ctype': AUROC 1\.000[^\n]*\nMend"):
        run_records(tmp_path, config)
    reason = "the run is in the read's name, which no model sees"
    table, facts = run_records(tmp_path, config | {"audit": {"leakage": {"allow": reason}}})
    assert table.height + sum(facts["dropped"].values()) == 2041
    config["split"] = {"by": "group"}
    with pytest.raises(DataError, match=r"test rows \([89]\d\.\d %\) have a near copy in an earlier split"):
        run_records(tmp_path, config)


@pytest.mark.parametrize("place", ["t.zip::in/t.csv", "*.zip::in/t.csv"])
def test_a_member_of_a_zip_is_named_in_the_resource_too(tmp_path: Path, place: str) -> None:
    rows = [f"p{i},{sequence},{i % 2},," for i, sequence in enumerate(_peptides(60))]
    config = _table(tmp_path, rows)
    wanted, _ = run_records(tmp_path, config)
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.write(tmp_path / "t.csv", "in/t.csv")
        archive.writestr("other.csv", "a,b\n1,2\n")
    config["sources"][0]["records"] = place
    found, _ = run_records(tmp_path, config)
    assert found.equals(wanted)
    settings = Config.model_validate(config)
    assert settings.resources() == [place.partition("::")[0]], "what counts for running again is the archive"
    with pytest.raises(DataError, match=r"t\.zip: no member 'in/x\.csv'; it holds in/t\.csv, other\.csv"):
        run_records(tmp_path, config | {"sources": [config["sources"][0] | {"records": "t.zip::in/x.csv"}]})
    config["sources"][0]["read"]["archive"] = {"member": "other.csv"}
    with pytest.raises(ValidationError, match=r"records name the member 'in/t\.csv', and read\.archive\.member 'other\.csv'; keep one"):
        Config.model_validate(config)


def test_members_of_a_zip_are_refused_where_they_are_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "g.zip", "w") as archive:
        archive.writestr("g.fa", ">a\nACGT\n")
    with pytest.raises(ResourceError, match=r"g\.zip::g\.fa: only `records` of ingest are read out of a zip archive; unpack it"):
        run_records(tmp_path, {"sources": [{"name": "g", "sequences": "g.zip::g.fa"}]})


def test_a_split_by_similarity_names_its_tool_and_keeps_relatives_together(tmp_path: Path) -> None:
    founders = _peptides(60)
    rows = [
        f"p{i}-{k},{founder[:k]}W{founder[k + 1 :]},{i % 2}," + ","
        for i, founder in enumerate(founders)
        for k in (3, 16)
        if founder[k] != "W"
    ]
    config = _table(tmp_path, rows) | {"split": {"by": "similarity", "similarity": 0.3}}
    table, facts = run_records(tmp_path, config)
    assert facts["split_tool"] == "builtin"
    family = table.group_by(pl.col("id").str.split("-").list.first()).agg(pl.col("split").n_unique(), pl.col("group").n_unique())
    assert family["split"].max() == family["group"].max() == 1
    config["split"]["tool"] = "mmseqs2"
    if shutil.which("mmseqs") is None:
        with pytest.raises(ResourceError, match="no program 'mmseqs' is on the PATH"):
            run_records(tmp_path, config)
        return
    by_alignment, facts = run_records(tmp_path, config)
    assert facts["split_tool"].startswith("mmseqs2 ")
    assert by_alignment.equals(table), "one substitution in 20 residues: both tools see the same families"
    again, _ = run_records(tmp_path, config)
    assert again.equals(by_alignment)


def test_a_tool_that_is_installed_is_spoken_of_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"p{i},{sequence},{i % 2},," for i, sequence in enumerate(_peptides(60))]
    config = _table(tmp_path, rows) | {"split": {"by": "similarity"}}
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    without, _ = run_records(tmp_path, config)
    assert "MMseqs2" not in capsys.readouterr().err
    (tmp_path / "bin" / "mmseqs").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "mmseqs").chmod(0o755)
    beside, facts = run_records(tmp_path, config)
    assert "MMseqs2 is installed here; split.tool: mmseqs2 would keep distant relatives together" in capsys.readouterr().err
    assert beside.equals(without)
    assert facts["split_tool"] == "builtin"


def test_doctor_says_that_the_tool_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    config = _table(tmp_path, ["p,MKV,1,,"]) | {"split": {"by": "similarity", "tool": "mmseqs2"}}
    (tmp_path / "r.yaml").write_text(json.dumps({"name": "r", "ingest": config}))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not examine(Run.load(tmp_path / "r.yaml"))
    assert re.search(r"MISSING\s+ingest runs mmseqs\s+not on the PATH", capsys.readouterr().out)
    (tmp_path / "mmseqs").write_text("#!/bin/sh\n")
    (tmp_path / "mmseqs").chmod(0o755)
    assert examine(Run.load(tmp_path / "r.yaml"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"split": {"by": "random", "tool": "mmseqs2"}}, "split.tool is mmseqs2, but split.by is random; a tool is for by: similarity"),
        ({"modality": "text", "split": {"by": "similarity", "tool": "mmseqs2"}}, "mmseqs2, which aligns dna, rna, protein, not text"),
    ],
)
def test_a_tool_that_cannot_be_used_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(_table(tmp_path, []) | changed)


def test_equal_records_with_two_labels_are_refused_and_equal_ones_dropped(tmp_path: Path) -> None:
    peptides = _peptides(60)
    rows = [f"p{i},{sequence},{i % 2},," for i, sequence in enumerate(peptides)]
    table, facts = run_records(tmp_path, _table(tmp_path, [*rows, f"again,{peptides[3]},1,,"]))
    assert facts["dropped"]["duplicate"] == 1
    assert "again" not in table["id"].to_list()
    with pytest.raises(DataError, match=r"1 sequences .* different values of 'active', first those of records 'p3' and 'again'"):
        run_records(tmp_path, _table(tmp_path, [*rows, f"again,{peptides[3]},0,,"]))
    table, facts = run_records(tmp_path, _table(tmp_path, [*rows, f"again,{peptides[3]},0,,"]) | {"duplicates": {"conflicting": "drop"}})
    assert facts["dropped"]["conflicting_labels"] == 2
    assert not {"p3", "again"} & set(table["id"])


def test_given_splits_that_leak_stop_the_run_unless_a_reason_is_given(tmp_path: Path) -> None:
    peptides = _peptides(90)
    rows = [f"p{i},{sequence},{i % 2},,{('train', 'validation', 'test')[i % 3]}" for i, sequence in enumerate(peptides)]
    rows.append(f"leak,{peptides[0]},0,,test")
    config = _table(tmp_path, rows, split="set") | {"duplicates": {"exact": "keep"}}
    with pytest.raises(DataError, match=r"(?s)the splits leak.*leakage: \{allow:"):
        run_records(tmp_path, config)
    reason = "the published split is kept for comparison"
    _, facts = run_records(tmp_path, config | {"audit": {"leakage": {"allow": reason}}})
    assert facts["audit"]["allowed"] == reason
    assert facts["audit"]["verdict"] == "leaks"


def test_a_track_that_one_source_does_not_carry_is_missing_at_every_residue_of_its_records() -> None:
    from biollm.ingest.examples import _without_values

    table = pl.DataFrame({"sequence": ["ACG", "AC"], "track_h": [None, [0.5, None]]}, schema_overrides={"track_h": pl.List(pl.Float32)})
    assert table.select(_without_values(table, "track_h"))["track_h"].to_list() == [[None] * 3, [0.5, None]]
