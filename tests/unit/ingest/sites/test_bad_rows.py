"""Each fault of a file is named with its line, what was found and what was expected."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from biollm.core import streams
from biollm.core.errors import BiollmError, ConfigError, DataError
from biollm.ingest.sites import layouts, tables
from biollm.ingest.sites.config import SiteOptions
from biollm.ingest.sites.read import read_sites

CX = "c\t{}\t+\t1\t1\tCG\tCGA\n"
GOOD = {
    "bismark_cov": "c\t{0}\t{0}\t50.0\t1\t1\n",
    "bismark_cx": CX,
    "bedmethyl": "c\t{0}\t{1}\tm\t2\t+\t{0}\t{1}\t0,0,0\t2\t50\n",
    "cgmap": "c\tC\t{0}\tCG\tCG\t0.5\t1\t2\n",
    "allc": "c\t{0}\t+\tCGA\t1\t2\t1\n",
    "methratio": "c\t{0}\t-\tACGTT\t0.500\t2.00\t1\t2\t0\t0\t0.1\t0.9\n",
    "bedgraph": "c\t{0}\t{1}\t0.5\n",
}


def read(file: Path, format="auto", **options) -> int:
    return sum(frame.height for frame in read_sites(file, format, SiteOptions(**options)))


def good(format: str, rows: int = 20) -> str:
    return "# made by hand\n" + "".join(GOOD[format].format(10 * i, 10 * i + 1) for i in range(1, rows + 1))


FAULTS = [
    ("bismark_cov", "c\t300\t300\t50.0\t1\n", "5 columns parted by tabs; bismark_cov has 6"),
    ("bismark_cov", "c\t300\t300\t50.0\t1\t1\t9\n", "7 columns parted by tabs; bismark_cov has 6"),
    ("bismark_cov", "c\t300\t300\t50.0\t1\t1.5\n", r"column 6 \(unmethylated\) is '1.5'; expected a whole number, 0 or more"),
    ("bismark_cov", "c\t300\t300\t50.0\t-1\t3\n", r"methylated is -1; expected 0 or more"),
    ("bismark_cov", "c\t300\t299\t50.0\t1\t1\n", "start 300 and end 299; expected start <= end"),
    ("bismark_cov", "c\t300\t305\t50.0\t1\t1\n", "start 300 and end 305; a site is one base"),
    ("bismark_cov", "c\t300\t300\t80.0\t1\t1\n", "level 80.0, but the counts say 50 as percent; expected the same"),
    ("bismark_cov", "c\t300\t300\tnan\t1\t1\n", "the level is not a number, but the coverage is > 0"),
    ("bismark_cov", "c\t300\t300\tinf\t1\t1\n", "level inf; expected a finite number"),
    ("bismark_cov", "c\t300\t300\thigh\t1\t1\n", r"column 4 \(value\) is 'high'; expected a number"),
    ("bismark_cov", "\t300\t300\t50.0\t1\t1\n", r"column 1 \(contig\) is ''; expected a name, found nothing"),
    ("bismark_cov", "c\t300\t300\t50.0\t1\t\n", r"column 6 \(unmethylated\) is ''; expected a whole number"),
    ("bismark_cx", "c\tx\t+\t1\t1\tCG\tCGA\n", r"column 2 \(start\) is 'x'; expected a whole number"),
    ("bismark_cx", "c\t99999999999999999999\t+\t1\t1\tCG\tCGA\n", r"column 2 \(start\) is '99999999999999999999'"),
    ("bismark_cx", "c\t-5\t+\t1\t1\tCG\tCGA\n", "position -5 is negative"),
    ("bismark_cx", "c\t0\t+\t1\t1\tCG\tCGA\n", "position 0; the first base is 1 in bismark_cx; declare coordinates: 0"),
    ("bismark_cx", "c\t300\t*\t1\t1\tCG\tCGA\n", r"column 3 \(strand\) is '\*'; expected \+ or -"),
    ("bismark_cx", "c\t300\t+\t1\t1\tXY\tCGA\n", r"column 6 \(context\) is 'XY'; expected CG, CHG or CHH"),
    ("bismark_cx", "c\t20\t+\t1\t1\tCG\tCGA\n", r"c position 19 \(from 0\) strand \+ 5mC CG stands a second time"),
    ("bedmethyl", "c\t300\t301\tm\t2\t+\t0\t0\t0\t2\tnan\n", "the level is not a number, but the coverage is 2"),
    ("bedmethyl", "c\t300\t300\tm\t2\t+\t0\t0\t0\t2\t50\n", "start 300 and end 300; expected start < end"),
    ("bedmethyl", "c\t300\t301\tm\t2\t+\t0\t0\t0\t2\t150\n", "level 150.0; expected 0 to 100"),
    ("bedmethyl", "c\t300\t301\tm\t2\t+\t0\t0\t0\t2\t-5\n", "level -5.0 is negative; expected 0 to 100"),
    ("cgmap", "c\tA\t300\tCG\tCG\t0.5\t1\t2\n", r"column 2 \(nucleotide\) is 'A'; expected C or G"),
    ("cgmap", "c\tC\t300\tCG\tCG\t1.5\t3\t2\n", "3 methylated reads of 2; expected no more than all"),
    ("cgmap", "c\tC\t300\tCG\tCG\t0.9\t1\t2\n", "level 0.9, but the counts say 0.5 as fraction"),
    ("cgmap", "c\tC\t300\tCG\tCG\t50\t1\t2\n", "level 50.0, but the counts say 0.5 as fraction"),
    ("allc", "c\t300\t+\tGGA\t1\t2\t1\n", r"column 4 \(trinucleotide\) is 'GGA'; expected the bases from the C on"),
    ("methratio", "c\t300\t+\tACGTT\t0.5\t2.00\t1\t2\t0\t0\t0\t1\n", r"column 4 \(kmer\) is 'ACGTT'; expected CG, CHG, CHH, or five bases"),
    ("methratio", "c\t300\t-\tACGTT\t0.5\t-2.00\t1\t2\t0\t0\t0\t1\n", "effective count -2.0; expected 0 or more"),
    ("bedgraph", "c\t300\t301\n", "3 columns parted by tabs or spaces; bedgraph has 4"),
    ("bedgraph", "c\t300\t\t301\t1\n", "5 columns parted by tabs or spaces; bedgraph has 4"),
    ("bedgraph", "c\t300\t300\t1\n", "start 300 and end 300; expected start < end"),
    ("bedgraph", "c\t300\t9000000000000000000\t1\n", "end 9000000000000000000; expected that of a base"),
    ("bedgraph", "c\t9000000000000000000\t9000000000000000001\t1\n", "position 9000000000000000000; expected that of a base"),
    ("bedgraph", "c\t300\t301\t-1e39\n", r"level -1e\+39; expected a finite number"),
    ("bedgraph", "c\t-3\t300\t1\n", "position -3 is negative"),
    ("bedgraph", "c\t25\t32\t1\n", r"c position 30 \(from 0\) strand . stands a second time"),
]  # fmt: skip


@pytest.mark.parametrize(("format", "row", "message"), FAULTS, ids=lambda value: str(value)[:40].strip())
def test_a_bad_row_is_named_with_its_line(format, row, message, tmp_path, monkeypatch) -> None:
    file = tmp_path / "sites.txt"
    file.write_text(good(format) + row + good(format, 0))
    for size in (1 << 24, 100):  # in one block, and in one of many
        monkeypatch.setattr(tables, "read_blocks", lambda file, size=size: streams.read_blocks(file, size))
        with pytest.raises(DataError, match=rf"sites\.txt line 22: {message}"):
            read(file, format)


@pytest.mark.parametrize("format", GOOD)
def test_the_good_rows_of_these_tests_are_good(format, tmp_path) -> None:
    file = tmp_path / "sites.txt"
    file.write_text(good(format))
    assert read(file, format) == read(file) == 20


def test_comments_blank_lines_and_track_lines_do_not_shift_the_line_number(tmp_path) -> None:
    file = tmp_path / "x"
    file.write_text("track name=a\n\n#c\nc\t1\t2\t3\n\nbrowser hide all\n#x\ty\nc\t5\t6\t7\ntracks\t8\t7\t1\n")
    with pytest.raises(DataError, match="line 9: start 8 and end 7"):
        read(file)


def test_a_header_does_not_shift_the_line_number(tmp_path) -> None:
    file = tmp_path / "x"
    file.write_text("#x\nchrom\tpos\tstrand\tmc_class\tmc_count\ttotal\tmethylated\n" + GOOD["allc"].format(5) + "c\t6\t+\tCGA\t3\t2\t1\n")
    with pytest.raises(DataError, match="line 4: 3 methylated reads of 2"):
        read(file)


def test_a_site_that_stands_twice_is_found_however_far_apart(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tables, "read_blocks", lambda file: streams.read_blocks(file, 60))
    file = tmp_path / "x"
    rows = [CX.format(i) for i in range(1, 40)]
    for text, line in (
        ("".join(rows) + rows[3], 40),  # far behind its twin
        (rows[3] + "".join(reversed(rows)), 37),
        ("".join(row.replace("c", contig, 1) for row in rows for contig in ("c", "d")) + rows[5].replace("c", "d", 1), 79),
        ("".join(rows[:4]) + rows[3] + "".join(rows[4:]), 5),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=f"line {line}: .* stands a second time"):
            read(file)
    file.write_text("".join(reversed(rows)))
    assert read(file) == 39


def test_sites_that_differ_in_strand_context_or_modification_alone_are_no_duplicates(tmp_path, monkeypatch) -> None:
    file = tmp_path / "x"
    tail = "\t1\t{}\t5\t6\t0\t1\t100\t1\t0\t0\t0\t0\t0\t0\n"
    rows = [f"c\t5\t6\t{code}" + tail.format(strand) for code in ("m", "h", "a") for strand in "+-"]
    file.write_text("".join(rows))
    for size in (1 << 24, 40):  # with the one position in one block, and over many
        monkeypatch.setattr(tables, "read_blocks", lambda file, size=size: streams.read_blocks(file, size))
        assert read(file) == 6
    file.write_text("".join(rows) + rows[0])
    with pytest.raises(DataError, match=r"line 7: c position 5 \(from 0\) strand \+ 5mC stands a second time"):
        read(file)


def test_two_names_of_one_contig_cannot_hide_a_duplicate(tmp_path) -> None:
    file = tmp_path / "x"
    file.write_text(CX.format(5) + CX.format(5).replace("c", "chrC", 1))
    with pytest.raises(DataError, match="line 2: chrC position 4"):
        read(file, aliases={"c": "chrC"})


@pytest.mark.parametrize("text", ["", "\n\n", "# only\n# comments\n"])
def test_a_file_without_rows_is_refused(text, tmp_path) -> None:
    file = tmp_path / "x"
    file.write_text(text)
    for format in ("auto", "cgmap"):
        with pytest.raises(DataError, match="holds no row of data"):
            read(file, format)


def test_a_file_of_a_header_alone_is_refused(tmp_path) -> None:
    file = tmp_path / "x"
    file.write_text("chrom\tpos\tstrand\tmc_class\tmc_count\ttotal\tmethylated\n")
    with pytest.raises(DataError, match="line 1: holds a header and no row"):
        read(file)
    with pytest.raises(DataError, match="holds no row of data"):
        read(file, "allc")


def test_an_unknown_table_is_refused_with_what_each_format_would_need(tmp_path) -> None:
    file = tmp_path / "x"
    file.write_text("c\t5\t+\t1\n")
    with pytest.raises(DataError, match=r"(?s)not one of the site formats.*bismark_cov.*4 columns.*bedgraph.*column 3 \(end\) is '\+'"):
        read(file)


def test_a_table_that_fits_two_formats_must_be_declared(tmp_path, monkeypatch) -> None:
    twin = layouts.Layout("allc", layouts.LAYOUTS[1].columns, 1, "fraction")
    monkeypatch.setattr(layouts, "LAYOUTS", (*layouts.LAYOUTS, twin))
    file = tmp_path / "x"
    file.write_text(CX.format(5))
    with pytest.raises(DataError, match=r"could be bismark_cx: .* or allc: .*; say which with format"):
        read(file)


def test_a_row_of_the_wrong_width_far_down_is_found(tmp_path) -> None:
    """A short and a long row must not cancel out in the count of columns."""
    file = tmp_path / "x"
    rows = [CX.format(i) for i in range(1, 3000)]
    rows[2000] = "c\t2001\t+\t1\t1\tCG\n"
    rows[2500] = "c\t2501\t+\t1\t1\tCG\tCGA\tmore\n"
    file.write_text("".join(rows))
    with pytest.raises(DataError, match="line 2001: 6 columns"):
        read(file)


class TestUnits:
    @staticmethod
    def bed(rows: list[tuple[float, int]]) -> str:
        return "".join(f"c\t{i}\t{i + 1}\tm\t0\t+\t0\t0\t0\t{reads}\t{level}\n" for i, (level, reads) in enumerate(rows))

    @staticmethod
    def levels(file: Path, **options) -> list[float]:
        return [level for frame in read_sites(file, "auto", SiteOptions(**options)) for level in frame["level"].to_list()]

    def test_percent_is_seen_by_a_level_above_one_however_late(self, tmp_path) -> None:
        file = tmp_path / "x"
        file.write_text(self.bed([(1, 100)] * 3000 + [(50, 2)]))
        assert self.levels(file)[-2:] == [pytest.approx(0.01), 0.5]

    def test_fractions_are_seen_by_whole_numbers_of_reads(self, tmp_path) -> None:
        file = tmp_path / "x"
        file.write_text(self.bed([(0.25, 4), (1, 3), (0, 9)]))
        assert self.levels(file) == [0.25, 1, 0]

    def test_what_fits_both_must_be_declared(self, tmp_path) -> None:
        file = tmp_path / "x"
        file.write_text(self.bed([(1, 100), (0, 9)]))
        with pytest.raises(ConfigError, match="all levels are at most 1, which may be fractions or percent"):
            read(file)
        assert self.levels(file, unit="percent") == [pytest.approx(0.01), 0]
        assert self.levels(file, unit="fraction") == [1, 0]

    def test_all_zero_needs_no_unit(self, tmp_path) -> None:
        file = tmp_path / "x"
        file.write_text(self.bed([(0, 100), (0, 9)]))
        assert self.levels(file) == [0, 0]

    def test_a_wrongly_declared_unit_is_refused_either_way(self, tmp_path) -> None:
        file = tmp_path / "x"
        file.write_text(self.bed([(0.25, 4), (67, 3)]))
        with pytest.raises(DataError, match=r"line 2: level 67.0; expected 0 to 1; it counts in percent"):
            read(file, unit="fraction")
        file.write_text(self.bed([(1, 3), (0.25, 4)]))
        with pytest.raises(ConfigError, match=r"line 2: level 0.25 at coverage 4 is no whole number of reads as percent"):
            read(file, unit="percent")

    def test_counts_decide_where_there_are_counts(self, tmp_path) -> None:
        file = tmp_path / "x"
        file.write_text("c\t5\t5\t0.5\t1\t1\nc\t7\t7\t1\t2\t0\n")  # a coverage file in fractions
        assert self.levels(file) == [0.5, 1.0]
        file.write_text("c\t5\t5\t0.5\t1\t1\nc\t7\t7\t100\t2\t0\n")
        with pytest.raises(DataError, match=r"line 2: level 100.0, but the counts say 1 as fraction"):
            read(file)
        file.write_text("c\t5\t5\t50\t1\t1\n")
        with pytest.raises(DataError, match=r"line 1: level 50.0, but the counts say 0.5 as fraction.*unit is declared wrongly"):
            read(file, unit="fraction")

    def test_the_unit_of_earlier_blocks_holds_for_later_ones(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(tables, "read_blocks", lambda file: streams.read_blocks(file, 20))
        file = tmp_path / "x"
        file.write_text("c\t5\t5\t0.5\t1\t1\nc\t7\t7\t100\t2\t0\n")
        with pytest.raises(DataError, match=r"line 2: level 100.0, but the counts say 1 as fraction"):
            read(file)

    def test_the_level_is_that_of_the_counts_not_the_rounded_one(self, tmp_path) -> None:
        file = tmp_path / "x"
        file.write_text("c\tC\t5\tCG\tCG\t0.33\t1\t3\n")
        assert self.levels(file) == [pytest.approx(1 / 3, abs=1e-7)]

    def test_methratio_corrected_for_variants_keeps_its_level(self, tmp_path) -> None:
        file = tmp_path / "x"
        file.write_text("c\t5\t+\tAACGA\t0.500\t4.00\t2\t8\t3\t6\t0\t1\nc\t9\t+\tAACGA\t1.000\t1.50\t2\t3\t3\t6\t0\t1\n")
        assert self.levels(file) == [0.5, 1.0]

    @pytest.mark.parametrize("word", ["na", "NA", "nan", "-", "."])
    def test_a_missing_level_without_reads_is_missing(self, word, tmp_path) -> None:
        file = tmp_path / "x"
        file.write_text(f"c\tC\t5\tCG\tCG\t{word}\t0\t0\nc\tC\t9\tCG\tCG\t1.0\t2\t2\n")
        assert self.levels(file) == [None, 1.0]


@pytest.mark.parametrize("format", GOOD)
def test_no_damage_of_a_good_file_raises_anything_but_our_errors(format, tmp_path) -> None:
    """Every byte of a small file replaced, in turn, by a few others: read, or refused."""
    file = tmp_path / "x"
    text = good(format, 2).encode()
    for i in range(len(text)):
        for byte in (b"\t", b"\n", b"-", b"x", b"", b"\xff", b" ", b'"'):
            file.write_bytes(text[:i] + byte + text[i + 1 :])
            with suppress(BiollmError):
                read(file, format)
