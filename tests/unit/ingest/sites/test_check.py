"""Sites that lie on wrong bases are found, counted, and the remedy is named."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from biollm.core.errors import DataError
from biollm.ingest.sites.check import check_names, check_sites, judge, suggest_aliases
from biollm.ingest.sites.config import SiteOptions
from biollm.ingest.sites.read import SCHEMA, read_sites


def frame(rows: list[tuple[int, str, str | None, str | None]]) -> pl.DataFrame:
    """(position_0based, strand, context, modification) as a site frame."""
    return pl.DataFrame([("c", *row, 0.5, 4.0) for row in rows], schema=list(SCHEMA), orient="row").cast(SCHEMA)


def bases(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8)


#              0123456789
SEQUENCE = bases("ACGTCAGGNC")


@pytest.mark.parametrize(
    ("site", "right"),
    [
        ((1, "+", None, "5mC"), True),
        ((2, "-", None, "5mC"), True),
        ((2, "+", None, "5hmC"), False),
        ((1, "-", None, "4mC"), False),
        ((1, ".", None, "C"), True),
        ((2, ".", None, "5mC"), True),
        ((3, ".", None, "5mC"), False),
        ((0, "+", None, "6mA"), True),
        ((3, "-", None, "6mA"), True),
        ((1, "+", None, "6mA"), False),
        ((8, "+", None, "5mC"), False),
        ((10, "+", None, "5mC"), False),
        ((-1, "+", None, "5mC"), False),
    ],
)
def test_each_modification_needs_its_base(site, right) -> None:
    check = check_sites(frame([site]), SEQUENCE)
    assert (check.sites, check.misses) == (1, 0 if right else 1)
    assert check.out_of_range == (site[0] in (-1, 10))


def test_signals_and_modifications_of_other_bases_need_none() -> None:
    check = check_sites(frame([(3, ".", None, None), (3, "+", None, "17802")]), SEQUENCE)
    assert (check.rows, check.sites, check.misses, check.out_of_range) == (2, 0, 0, 0)
    judge([check], "here")


def test_a_signal_beyond_the_end_is_refused_from_one_percent_on() -> None:
    inside = [(3, ".", None, None)] * 99
    judge([check_sites(frame([*inside, (99, ".", None, None)]), SEQUENCE)], "here")
    with pytest.raises(
        DataError, match=r"here: 2 of 101 positions \(2.0 %\) are beyond the end.*c position 99 \(from 0\) strand ., of 10 .*assembly"
    ):
        judge([check_sites(frame([*inside, *[(99, ".", None, None)] * 2]), SEQUENCE)], "here")
    with pytest.raises(DataError, match="1 of 1 positions"):
        judge([check_sites(frame([(0, ".", None, None)]), bases(""))], "here")


def test_no_site_is_no_fault() -> None:
    judge([check_sites(frame([]), SEQUENCE)], "here")


@pytest.mark.parametrize(
    ("position", "strand", "right", "wrong"),
    [(1, "+", "CG", "CHG"), (2, "-", "CG", "CHH"), (4, "+", "CHG", "CHH"), (6, "-", "CHG", "CG"), (2, ".", "CG", "CHH")],
)
def test_contexts_are_compared_with_the_sequence(position, strand, right, wrong) -> None:
    assert check_sites(frame([(position, strand, right, "5mC")]), SEQUENCE).context_misses == 0
    check = check_sites(frame([(position, strand, wrong, "5mC")]), SEQUENCE)
    assert (check.context_sites, check.context_misses, check.misses) == (1, 1, 0)
    with pytest.raises(DataError, match=rf"here: 1 of 1 sites \(100.0 %\) have another context.* is no {wrong}"):
        judge([check], "here")


def test_a_context_that_n_or_the_end_hides_is_not_compared() -> None:
    check = check_sites(frame([(9, "+", "CG", "5mC"), (7, "-", "CHH", "5mC")]), bases("ACGTCANGNC"))
    assert check.context_sites == 0


def sites_of(world, table_text, write, name: str, **options) -> list[pl.DataFrame]:
    return list(pl.concat(read_sites(write(table_text(name, world.sites)), "auto", SiteOptions(**options))).partition_by("contig"))


def judged(world, parts: list[pl.DataFrame]) -> None:
    judge([check_sites(part, bases(world.genome[part["contig"][0]])) for part in parts], "sites.cov against genome.fa")


@pytest.mark.parametrize("name", ["bismark_cov", "bismark_cx", "bedmethyl_18", "cgmap", "allc", "methratio"])
def test_ten_thousand_written_sites_all_lie_right(name, world, table_text, write) -> None:
    checks = [check_sites(part, bases(world.genome[part["contig"][0]])) for part in sites_of(world, table_text, write, name)]
    assert sum(check.sites for check in checks) == 10_000
    assert sum(check.misses + check.context_misses for check in checks) == 0


@pytest.mark.parametrize(
    ("name", "coordinates", "message"),
    [
        ("bismark_cx", 0, "All 10,000 sites would lie right shifted by -1: the file counts from 1: declare coordinates: 1"),
        ("bedmethyl_18", 1, r"All 10,000 sites would lie right shifted by \+1: the file counts from 0: declare coordinates: 0"),
    ],
)
def test_a_wrong_base_of_counting_is_named(name, coordinates, message, world, table_text, write) -> None:
    with pytest.raises(DataError, match=rf"sites.cov against genome.fa: [\d,]+ of 10,000 sites .*position \d+ .*{message}"):
        judged(world, sites_of(world, table_text, write, name, coordinates=coordinates))


def test_swapped_strands_and_a_shifted_minus_strand_are_named(world, table_text, write) -> None:
    parts = sites_of(world, table_text, write, "cgmap")
    minus = pl.col("strand") == "-"
    swapped = [part.with_columns(strand=pl.when(minus).then(pl.lit("+")).otherwise(pl.lit("-"))) for part in parts]
    with pytest.raises(DataError, match=r"All 10,000 sites would lie right with the strand flipped.*swap"):
        judged(world, swapped)
    for by, remedy in ((1, "-1"), (-1, r"\+1")):
        shifted = [part.with_columns(pl.col("position_0based") + by * minus.cast(pl.Int64)) for part in parts]
        with pytest.raises(DataError, match=f"All 10,000 sites would lie right if those on '-' are shifted by {remedy}"):
            judged(world, shifted)


def test_another_genome_is_named_as_such(world, table_text, write) -> None:
    parts = sites_of(world, table_text, write, "cgmap")
    genome = {"chr1": world.genome["chr2"], "chr2": world.genome["chr1"]}
    with pytest.raises(
        DataError, match=r"beyond the end of their sequence.*No shift and no strand would make them fit: .*another assembly"
    ):
        judge([check_sites(part, bases(genome[part["contig"][0]])) for part in parts], "here")


def test_one_percent_of_misses_passes_and_more_does_not() -> None:
    sequence = bases("C" * 1000 + "A" * 1000)
    right = [(i, "+", None, "5mC") for i in range(990)]
    judge([check_sites(frame(right + [(1000 + i, "+", None, "5mC") for i in range(10)]), sequence)], "here")
    with pytest.raises(DataError, match=r"11 of 1,001 sites \(1.1 %\)"):
        judge([check_sites(frame(right + [(1000 + i, "+", None, "5mC") for i in range(11)]), sequence)], "here")


def test_a_remedy_for_one_contig_is_not_advised_for_all() -> None:
    right, shifted = frame([(1, "+", None, "5mC")] * 50), frame([(0, "+", None, "5mC")] * 50)
    with pytest.raises(DataError, match=r"50 of 100 sites.*No shift and no strand would make them fit"):
        judge([check_sites(right, SEQUENCE), check_sites(shifted, SEQUENCE)], "here")


def test_contexts_of_an_adenine_are_not_compared() -> None:
    assert check_sites(frame([(0, "+", "CHH", "6mA")]), SEQUENCE).context_sites == 0


def test_positions_are_64_bit() -> None:
    sites = frame([(2**31 + 1, "+", "CG", "5mC")])
    assert check_sites(sites, SEQUENCE).out_of_range == 1


class TestNames:
    def test_contigs_that_the_genome_lacks_are_told(self) -> None:
        assert check_names({"chr1", "lambda"}, {"chr1", "chr2"}, "here") == ["lambda"]

    @pytest.mark.parametrize(
        ("sites", "genome", "hint"),
        [
            ({"chr1", "chr2"}, {"1", "2"}, "chr1: 1, chr2: 2"),
            ({"1", "X", "MT"}, {"chr1", "chrX", "chrM"}, "1: chr1, MT: chrM, X: chrX"),
            ({"chr1", "chrX"}, {"NC_000001.11", "NC_000023.11"}, "chr1: NC_000001.11, chrX: NC_000023.11"),
            ({"Chr01", "Chr02"}, {"chr1", "chr2"}, "Chr01: chr1, Chr02: chr2"),
            ({"chr1"}, {"NC_003070.9"}, "chr1: NC_003070.9"),
        ],
    )
    def test_names_of_another_style_are_matched(self, sites, genome, hint) -> None:
        with pytest.raises(DataError, match=rf"here: sites on {min(sites)}.*but the genome holds .*declare aliases: \{{{hint}\}}"):
            check_names(sites, genome, "here")

    def test_names_with_nothing_in_common_show_both_sets(self) -> None:
        with pytest.raises(
            DataError, match=r"sites on a1, a2, .* and 2 more, but the genome holds b1, b2: declare aliases, or give the genome"
        ):
            check_names({f"a{i}" for i in range(1, 9)}, {"b1", "b2"}, "here")

    def test_an_ambiguous_match_is_not_suggested(self) -> None:
        assert suggest_aliases({"chr1", "chr2"}, {"1", "Chr1", "2"}) == {"chr2": "2"}
        assert suggest_aliases({"chr1", "Chr1", "chr2"}, {"1", "2"}) == {"chr2": "2"}

    def test_a_contig_in_another_style_than_the_others_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"here: sites on 2, which the genome lacks, and none on chr2, .*declare aliases: \{2: chr2\}"):
            check_names({"chr1", "2", "lambda"}, {"chr1", "chr2", "chrM"}, "here")

    def test_a_spike_in_is_no_other_name_of_the_last_contig(self) -> None:
        assert check_names({"chr1", "lambda"}, {"chr1", "chrM"}, "here") == ["lambda"]
