"""Sites of every format come out where, and as, they were written."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from biollm.core.errors import ConfigError, DataError
from biollm.ingest.sites import tables
from biollm.ingest.sites.config import SITE_FORMATS, SiteOptions
from biollm.ingest.sites.layouts import LAYOUTS, detect
from biollm.ingest.sites.read import SCHEMA, read_sites

NAMES = [
    "bismark_cov", "bismark_cx", "bedmethyl_11", "bedmethyl_18", "bedmethyl_18_spaces", "cgmap", "allc", "methratio", "bedgraph"
]  # fmt: skip


def read(file: Path, format="auto", **options) -> pl.DataFrame:
    return pl.concat(read_sites(file, format, SiteOptions(**options)))


def expected(writer, sites, level_where_no_reads: bool = False) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "contig": [s.contig for s in sites],
            "position_0based": [s.index for s in sites],
            "strand": [s.strand if writer.strand else "." for s in sites],
            "context": [s.context if writer.context else None for s in sites],
            "level": [s.fraction if s.reads or not writer.coverage else None for s in sites],
            "coverage": [float(s.reads) if writer.coverage else None for s in sites],
        },
        schema_overrides={"context": pl.String, "level": pl.Float64, "coverage": pl.Float64},
    )


@pytest.mark.parametrize("shuffled", [False, True], ids=["sorted", "shuffled"])
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_sites_come_back_none_off_by_one(name, shuffled, world, writers, table_text, write) -> None:
    import random

    sites = list(world.sites)
    if shuffled:
        random.Random(1).shuffle(sites)
    options = {"unit": "fraction"} if name == "bedgraph" else {}
    found = read(write(table_text(name, sites)), **options)
    assert dict(found.schema) == SCHEMA
    assert not found["level"].is_nan().any()
    wanted = expected(writers[name], sites)
    same = ["contig", "position_0based", "strand", "context", "coverage"]
    assert found.select(same).with_columns(pl.col("coverage").cast(pl.Float64)).equals(wanted.select(same))
    assert found["modification"].unique().to_list() == ["5mC"]
    assert (found["level"].is_null() == wanted["level"].is_null()).all()
    assert (found["level"] - wanted["level"]).abs().max() <= writers[name].tolerance


@pytest.mark.parametrize("name", NAMES)
def test_the_format_is_seen_in_the_content(name, world, writers, table_text, write) -> None:
    found = detect(write(table_text(name, world.sites[:50]), "no_telling.dat"))
    assert getattr(found, "format", None) == writers[name].format


@pytest.mark.parametrize("name", NAMES)
def test_small_blocks_gzip_and_line_endings_change_nothing(name, world, table_text, write, tmp_path, monkeypatch) -> None:
    from biollm.core import streams

    text = table_text(name, world.sites[:3000])
    whole = read(write(text))
    packed = tmp_path / "x.gz"
    packed.write_bytes(gzip.compress(text.replace("\n", "\r\n").encode()))
    monkeypatch.setattr(tables, "read_blocks", lambda file: streams.read_blocks(file, 5000))
    assert read(packed).equals(whole)


def test_every_text_format_has_a_layout_and_an_oracle(writers) -> None:
    assert {layout.format for layout in LAYOUTS} | {"bigwig", "illumina"} == set(SITE_FORMATS)
    assert {writer.format for writer in writers.values()} == {layout.format for layout in LAYOUTS}


def test_a_declared_base_moves_every_site(world, table_text, write) -> None:
    file = write(table_text("bismark_cx", world.sites[:100]))
    moved = read(file, coordinates=0)["position_0based"] - read(file)["position_0based"]
    assert moved.unique().to_list() == [1]


def test_rows_of_several_modifications_are_kept_apart(write) -> None:
    tail = "\t10\t+\t5\t6\t255,0,0\t10\t{}\t{}\t0\t0\t0\t0\t0\t0\n"
    rows = [f"c\t5\t6\t{code}" + tail.format(10.0 * i, i) for i, code in enumerate(["m", "h", "a", "21839", "17802"])]
    file = write("".join(rows))
    assert read(file).select("modification", "level").rows() == [
        ("5mC", 0.0), ("5hmC", pytest.approx(0.1)), ("6mA", pytest.approx(0.2)), ("4mC", pytest.approx(0.3)), ("17802", pytest.approx(0.4))
    ]  # fmt: skip
    assert read(file, modifications=["6mA", "5hmC"])["modification"].to_list() == ["5hmC", "6mA"]


def test_modkit_motifs_become_contexts(write) -> None:
    file = write("c\t5\t6\th,CG,0\t1\t+\t5\t6\t0,0,0\t1\t100.00\t1\t0\t0\t0\t0\t0\t0\n")
    assert read(file).row(0)[3:5] == ("CG", "5hmC")


def test_contexts_are_filtered_or_declared(world, table_text, write) -> None:
    cg = [site for site in world.sites if site.context == "CG"]
    assert read(write(table_text("cgmap", world.sites)), contexts=["CG"]).height == len(cg)
    assert read(write(table_text("bismark_cov", cg)), contexts=["CG"])["context"].unique().to_list() == ["CG"]


def test_too_few_reads_leave_no_level_but_their_coverage(world, table_text, write) -> None:
    found = read(write(table_text("cgmap", world.sites)), min_coverage=7)
    assert (found["level"].is_null() == (found["coverage"] < 7)).all()
    assert 0 < found["level"].null_count() < found.height


def test_intervals_come_base_by_base_in_bounded_frames(write, monkeypatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROWS", 4)
    frames = list(read_sites(write("c\t2\t5\t-7.5\nc\t5\t6\tnan\nd 3000000000 3000000007 1e3\n"), "auto", SiteOptions()))
    assert max(frame.height for frame in frames) == 4
    found = pl.concat(frames)
    assert found["position_0based"].to_list() == [2, 3, 4, 5, *range(3_000_000_000, 3_000_000_007)]
    assert found["level"].to_list() == [-7.5] * 3 + [None] + [1000.0] * 7
    assert found["modification"].null_count() == found["coverage"].null_count() == found.height


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(intervals=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5), st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=20))
def test_any_intervals_mean_one_value_a_base(intervals, tmp_path) -> None:
    rows, values, end = [], {}, 0
    for length, gap, value in intervals:
        start, end = end + gap, end + gap + length
        rows.append(f"c\t{start}\t{end}\t{value!r}\n")
        values |= dict.fromkeys(range(start, end), value)
    file = tmp_path / "x.bedGraph"
    file.write_text("".join(rows))
    found = read(file)
    assert dict(zip(found["position_0based"], found["level"], strict=True)) == pytest.approx(values, rel=1e-6)


def test_bigwig_gives_what_was_written(tmp_path) -> None:
    pybigtools = pytest.importorskip("pybigtools")
    file = tmp_path / "track.bw"
    writer = pybigtools.open(str(file), "w")
    values = [("c", 0, 2, 0.5), ("c", 2, 3, float("nan")), ("c", 2_000_000, 2_000_001, 1.0), ("d", 9, 10, 0.25)]
    writer.write({"c": 3_000_000, "d": 10}, iter(values))
    writer.close()
    file = file.rename(tmp_path / "no_telling")
    found = read(file, unit="fraction", aliases={"d": "chrD"})
    assert found.select("contig", "position_0based", "strand", "modification", "level").rows() == [
        ("c", 0, ".", "5mC", 0.5), ("c", 1, ".", "5mC", 0.5), ("c", 2_000_000, ".", "5mC", 1.0), ("chrD", 9, ".", "5mC", 0.25)
    ]  # fmt: skip
    assert read(file)["modification"].null_count() == 4
    with pytest.raises(ConfigError, match="bigWig counts from 0"):
        read(file, coordinates=1)
    damaged = tmp_path / "cut.bw"
    whole = file.read_bytes()
    data = int.from_bytes(whole[16:24], "little") + 8  # behind the number of blocks, where the header says that the data begin
    for content in (whole[:200], whole[:data] + bytes(20) + whole[data + 20 :]):
        damaged.write_bytes(content)
        with pytest.raises(DataError, match=r"cut\.bw: not a whole bigWig file"):
            read(damaged)
    with pytest.raises(DataError, match="not a bigWig file"):
        read(_text(tmp_path), "bigwig")
    bigbed = tmp_path / "x.bb"
    bigbed.write_bytes(bytes.fromhex("ebf28987") + bytes(60))
    with pytest.raises(DataError, match="bigBed"):
        read(bigbed)


def test_bigwig_levels_out_of_the_declared_unit_are_refused(tmp_path) -> None:
    pybigtools = pytest.importorskip("pybigtools")
    file = tmp_path / "track.bw"
    writer = pybigtools.open(str(file), "w")
    writer.write({"c": 100}, iter([("c", 4, 5, 50.0)]))
    writer.close()
    assert read(file, unit="percent")["level"].to_list() == [0.5]
    for declared in ({"unit": "fraction"}, {"contexts": ["CG"]}, {"modifications": ["5mC"]}):
        with pytest.raises(DataError, match=r"c position 4 \(from 0\) has level 50.0; expected 0 to 1; .*declare unit: percent"):
            read(file, **declared)
    for declared in ({"contexts": ["CG", "CHG"]}, {"modifications": ["5mC", "5hmC"]}):
        with pytest.raises(ConfigError, match=r"bigWig names no \w+ to choose .* from; one entry declares that of all values"):
            read(file, **declared)
    found = read(file, unit="percent", contexts=["CG"])
    assert found.select("context", "modification", "level").rows() == [("CG", "5mC", 0.5)]


def test_a_bedgraph_that_is_declared_to_be_methylation_holds_fractions_of_it(write) -> None:
    file = write("c\t4\t5\t0.5\n")
    assert read(file).select("context", "modification").rows() == [(None, None)]
    assert read(file, contexts=["CG"]).select("context", "modification", "level").rows() == [("CG", "5mC", 0.5)]
    assert read(file, modifications=["6mA"]).select("context", "modification").rows() == [(None, "6mA")]
    file = write("c\t4\t5\t50\n")
    assert read(file, contexts=["CG"], unit="percent")["level"].to_list() == [0.5]
    for declared in ({"contexts": ["CG"]}, {"modifications": ["5mC"]}):
        with pytest.raises(DataError, match=r"line 1: level 50.0; expected 0 to 1; it counts in percent\? declare unit: percent"):
            read(file, **declared)


def _text(folder: Path) -> Path:
    file = folder / "t.txt"
    file.write_text("c\t1\t2\t3\n")
    return file


def test_aliases_rename_contigs_from_a_map_or_a_file(write) -> None:
    sites = write("1\t5\t+\t1\t1\tCG\tCGA\n")
    assert read(sites, aliases={"1": "chr1"})["contig"][0] == "chr1"
    assert read(sites, aliases=str(write("# old\tnew\n1\tNC_1\n", "names.tsv")))["contig"][0] == "NC_1"
    with pytest.raises(DataError, match=r"names.tsv line 1: 1 columns; expected two"):
        read(sites, aliases=str(write("1 chr1\n", "names.tsv")))
    with pytest.raises(DataError, match=r"names.tsv line 2: '1' stands twice"):
        read(sites, aliases=str(write("1\ta\n1\tb\n", "names.tsv")))


def test_zero_based_and_merged_coverage_files_must_be_declared(write) -> None:
    file = write("c\t10\t11\t50\t1\t1\n")
    with pytest.raises(DataError, match=r"line 1: start 10 and end 11; expected start = end.*coordinates: 0.*merged_CpG"):
        read(file)
    assert read(file, coordinates=0)["position_0based"][0] == 10
    assert read(file, coordinates=1)["position_0based"][0] == 9


def test_options_that_a_format_cannot_answer_are_refused(world, table_text, write) -> None:
    cov, signal = write(table_text("bismark_cov", world.sites[:9]), "a"), write("c\t1\t2\t3\n", "b")
    with pytest.raises(ConfigError, match="bedgraph has no coverage, so min_coverage 5 means nothing"):
        read(signal, min_coverage=5)
    with pytest.raises(ConfigError, match="bismark_cov has no contexts to choose"):
        read(cov, contexts=["CG", "CHG"])
    with pytest.raises(ConfigError, match="bismark_cov names no modification"):
        read(cov, modifications=["5mC", "6mA"])
    with pytest.raises(ConfigError, match="sample and manifest are for tables of Illumina arrays"):
        read(cov, sample="s1")
    with pytest.raises(ConfigError, match="strands is merge_cg, but no row is a CG on strand"):
        read(cov, strands="merge_cg")


def test_merging_strands_of_contexts_that_are_left_out_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"contexts keeps only .*add CG"):
        SiteOptions(strands="merge_cg", contexts=["CHH"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("5mc", r"modifications: '5mc' is no modification; did you mean 5mC\?"),
        ("glue", "'glue' is no modification; expected one of .*5mC, "),
    ],
)
def test_a_modification_that_there_is_not_is_refused(name, message) -> None:
    with pytest.raises(ValidationError, match=message):
        SiteOptions(modifications=[name])


def test_nothing_left_is_an_error_that_says_what_was_there(write) -> None:
    file = write("c\t5\t+\t1\t1\tCHH\tCAA\n")
    with pytest.raises(DataError, match=r"no site is left; the file holds contigs c; contexts CHH; modifications 5mC.*\['CG'\]"):
        read(file, contexts=["CG"])


def test_contexts_and_modifications_that_a_file_does_not_know_stay_unknown(write) -> None:
    file = write("c\tG\t2\t--\t--\t0.11\t1\t9\nc\tC\t4\tCG\tCG\t0.0\t0\t3\n")
    assert read(file)["context"].to_list() == [None, "CG"]


class TestMergedStrands:
    ROWS = (
        "c\t11\t+\t3\t1\tCG\tCGA\nc\t12\t-\t1\t5\tCG\tCGT\nc\t20\t+\t0\t0\tCG\tCGA\nc\t21\t-\t1\t0\tCG\tCGT\n"
        "c\t30\t-\t2\t2\tCG\tCGT\nc\t40\t+\t1\t1\tCHH\tCAT\n"
    )
    MERGED = [(10, "+", "CG", 0.4, 10.0), (19, "+", "CG", 1.0, 1.0), (28, "+", "CG", 0.5, 4.0), (39, "+", "CHH", 0.5, 2.0)]

    @staticmethod
    def rows(file: Path) -> list[tuple]:
        found = read(file, strands="merge_cg").sort("position_0based")
        return found.select("position_0based", "strand", "context", pl.col("level").cast(pl.Float64).round(6), "coverage").rows()

    def test_reads_of_both_strands_are_summed_on_the_plus_c(self, write) -> None:
        assert self.rows(write(self.ROWS)) == self.MERGED

    def test_order_and_blocks_do_not_matter(self, write, monkeypatch) -> None:
        from biollm.core import streams

        monkeypatch.setattr(tables, "read_blocks", lambda file: streams.read_blocks(file, 30))
        by_strand = sorted(self.ROWS.splitlines(keepends=True), key=lambda row: row.split("\t")[2], reverse=True)
        assert self.rows(write("".join(by_strand))) == self.MERGED

    def test_no_read_is_lost(self, world, table_text, write) -> None:
        file = write(table_text("cgmap", world.sites))
        assert read(file, strands="merge_cg")["coverage"].sum() == read(file)["coverage"].sum()
        cg = read(file, strands="merge_cg", contexts=["CG"])
        assert cg["strand"].unique().to_list() == ["+"]
        assert not cg.select("contig", "position_0based").is_duplicated().any()
