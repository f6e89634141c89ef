"""Real files of nine tools, each against the genome that it was made on."""

from __future__ import annotations

import polars as pl
import pytest

from biollm.core.errors import DataError
from biollm.ingest.sites.check import check_sites, judge
from biollm.ingest.sites.config import SiteOptions
from biollm.ingest.sites.read import read_sites

CHR1 = "arabidopsis_methylqc_chr1/tair10_chr1_1-2050000.fa.gz"
LAMBDA = "gi|215104|gb|J02459.1|LAMCG"
BAM = "human_gm12878_chr19_modbam/"


def read(file, **options) -> pl.DataFrame:
    return pl.concat(read_sites(file, "auto", SiteOptions(**options)))


@pytest.mark.parametrize(
    ("path", "genome", "sites", "options"),
    [
        ("arabidopsis_methylqc_chr1/dowen2012_chr1_1-2050000.CGmap.gz", CHR1, 666_413, {}),
        (
            "arabidopsis_methylqc_chr1/dowen2012_lambda.CGmap.gz",
            "arabidopsis_methylqc_chr1/lambda.fasta",
            24_146,
            {"aliases": {"lambda": LAMBDA}},
        ),
        ("arabidopsis_methimpute_chr1/arabidopsis_bsseeker.CGmap.gz", CHR1, 110_927, {}),
        ("arabidopsis_methimpute_chr1/arabidopsis_toydata.CGmap.gz", CHR1, 200_000, {}),
        ("arabidopsis_methimpute_chr1/format_examples/arabidopsis_BSMAP.txt", CHR1, 9, {}),
        ("arabidopsis_methimpute_chr1/format_examples/arabidopsis_bismark.txt", CHR1, 4, {"aliases": {"1": "chr1"}}),
        ("arabidopsis_methimpute_chr1/format_examples/arabidopsis_methylpy.txt", CHR1, 9, {"aliases": {"1": "chr1"}, "coordinates": 0}),
        ("human_hg002_chr20_100kb/hg002_bsseq_chr20_demo.bed", "human_hg002_chr20_100kb/chr20_10000k_10100k.fa", 750, {"contexts": ["CG"]}),
    ],
)
def test_every_site_lies_on_its_base_in_its_context(path, genome, sites, options, real, read_fasta) -> None:
    found = read(real(path), **options)
    assert found.height == sites
    sequences = read_fasta(real(genome))
    checks = [check_sites(part, sequences[part["contig"][0]]) for part in found.partition_by("contig")]
    assert [(c.misses, c.context_misses) for c in checks] == [(0, 0)] * len(checks)
    assert sum(c.sites for c in checks) == sites


@pytest.mark.parametrize("tool", ["hifi", "ont"])
def test_pileups_of_modbam_lie_on_cytosines(tool, real, read_fasta) -> None:
    """On a reference rebuilt from reads, which begins somewhere in chr19."""
    found = read(real(f"{BAM}NAPA.{tool}.cpg.bedmethyl"))
    ((name, sequence),) = read_fasta(real(f"{BAM}NAPA.{tool}.ref_from_md.fa")).items()
    first = int(name.split(":")[1].split("-")[0])  # counted from 1
    shifted = found.with_columns(pl.col("position_0based") - (first - 1))
    judge([check_sites(shifted, sequence)], "pileup")


def test_counts_of_a_cytosine_report_become_levels(real) -> None:
    """Stroud et al. 2013: 374,952 cytosines in wild type and met1; the depth and the share of methylated reads at CG."""
    for name, depth, share in (("WT", 18.1, 0.161), ("met1-3", 38.0, 0.004)):
        found = read(real(f"arabidopsis_dmrcaller_chr3_wt_met1/dmrcaller_chr3_{name}.CX_report.txt.gz"))
        assert found.height == 374_952
        cg = found.filter(pl.col("context") == "CG")
        assert cg["coverage"].mean() == pytest.approx(depth, abs=0.05)
        assert (cg["level"] * cg["coverage"]).sum() / cg["coverage"].sum() == pytest.approx(share, abs=0.0005)
        assert (cg["level"].is_null() == (cg["coverage"] == 0)).all()


def test_two_strands_of_real_cpgs_are_merged_without_loss(real) -> None:
    file = real("arabidopsis_methylqc_chr1/dowen2012_chr1_1-2050000.CGmap.gz")
    both, merged = (read(file, strands=strands, contexts=["CG"]) for strands in ("both", "merge_cg"))
    assert merged["coverage"].sum() == both["coverage"].sum()
    assert both.height / 2 <= merged.height < 0.7 * both.height


def test_a_private_table_is_refused_with_the_known_formats(real) -> None:
    with pytest.raises(DataError, match=r"(?s)not one of the site formats.*10 columns parted by tabs; cgmap has 8"):
        read(real("arabidopsis_methimpute_chr1/format_examples/arabidopsis_rene.txt"))


def test_a_wrong_base_of_counting_is_found_in_real_files(real, read_fasta) -> None:
    found = read(real("arabidopsis_methimpute_chr1/arabidopsis_bsseeker.CGmap.gz"), coordinates=0)
    with pytest.raises(DataError, match="All 110,927 sites would lie right shifted by -1: the file counts from 1"):
        judge([check_sites(found, read_fasta(real(CHR1))["chr1"])], "CGmap")
    old_methylpy = read(real("arabidopsis_methimpute_chr1/format_examples/arabidopsis_methylpy.txt"))  # counts from 0, later ones from 1
    with pytest.raises(DataError, match=r"All 9 sites would lie right shifted by \+1: the file counts from 0"):
        judge([check_sites(old_methylpy, read_fasta(real(CHR1))["chr1"])], "allc")
