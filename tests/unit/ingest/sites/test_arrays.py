"""Illumina arrays: betas lie where the manifest says."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from biollm.core.errors import ConfigError, DataError
from biollm.ingest.sites.config import SiteOptions
from biollm.ingest.sites.read import read_sites

MANIFEST = (
    "Illumina, Inc.,,,\n[Heading],,,\nDescriptor File Name,x.csv,,\n[Assay],,,\n"
    'IlmnID,Name,Genome_Build,CHR,MAPINFO\ncg01,cg01,37,16,1001\ncg02,cg02,37,X,"2001"\nch.1.5F,ch.1.5F,37,1,31\nrs77,rs77,37,1,9\n'
    "cg03,cg03,37,,\n[Controls],,,,\n21630339,STAINING,-99,DNP (20K)\n"
)
BETAS = "ID_REF,s1,s2\ncg01,0.25,0.5\ncg02,NA,1\nch.1.5F,0.125,0\nrs77,0.5,0.5\ncg03,0.5,0.5\nctl_1,0,0\n"


@pytest.fixture
def files(write) -> tuple[Path, str]:
    return write(BETAS, "betas.csv"), str(write(MANIFEST, "manifest.csv"))


def read(file: Path, format="auto", **options) -> pl.DataFrame:
    return pl.concat(read_sites(file, format, SiteOptions(**options)))


def test_probes_of_one_sample_become_sites(files) -> None:
    found = read(files[0], manifest=files[1], sample="s1", aliases={"16": "chr16"})
    assert found.rows() == [
        ("chr16", 1000, "+", "CG", "5mC", 0.25, None), ("X", 2000, "+", "CG", "5mC", None, None), ("1", 30, ".", None, "5mC", 0.125, None)
    ]  # fmt: skip
    assert read(files[0], manifest=files[1], sample="s2")["level"].to_list() == [0.5, 1, 0]


def test_a_series_matrix_with_quotes_and_tabs_is_read(files, write) -> None:
    text = '!Series_title\t"x"\n' + "\n".join(
        "\t".join(f'"{f}"' if i == 0 else f for i, f in enumerate(r.split(","))) for r in BETAS.split()
    )
    assert read(write(text, "matrix.txt"), manifest=files[1], sample="s1")["level"].to_list() == [0.25, None, 0.125]


def test_a_header_without_a_name_for_the_probes_is_read_as_r_writes_it(files, write) -> None:
    text = BETAS.replace("ID_REF,", "").replace(",", "\t")
    assert read(write(text), manifest=files[1], sample="s2")["level"].to_list() == [0.5, 1, 0]


def test_percent_is_seen(files, write) -> None:
    assert read(write("ID,s\ncg01,25\ncg02,0.5\n"), manifest=files[1])["level"].to_list() == [0.25, pytest.approx(0.005)]


def test_a_sesame_manifest_counts_from_0(files, write) -> None:
    manifest = write("CpG_chrm\tCpG_beg\tCpG_end\tProbe_ID\nchr16\t1000\t1002\tcg01\nchrX\t2000\t2002\tcg02\nNA\tNA\tNA\tcg03\n", "m.tsv")
    assert read(files[0], manifest=str(manifest), sample="s1")["position_0based"].to_list() == [1000, 2000]


def test_replicate_probes_of_one_site_are_averaged(write) -> None:
    manifest = write("IlmnID,Name,CHR,MAPINFO\ncg01_TC11,cg01,chr1,11\ncg01_BC12,cg01,chr1,11\n", "m.csv")
    assert read(write("ID,s\ncg01_TC11,0.2\ncg01_BC12,0.4\n"), manifest=str(manifest))["level"].to_list() == [pytest.approx(0.3)]
    assert read(write("ID,s\ncg01,0.2\n"), manifest=str(manifest))["position_0based"].to_list() == [10]


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        (BETAS, {}, ConfigError, r"line 1: 2 samples \(s1, s2…\); say which with sample"),
        (BETAS, {"sample": "s9"}, ConfigError, "no sample 's9'; the columns are s1, s2"),
        (BETAS, {"sample": "s1", "min_coverage": 3}, ConfigError, "illumina has no read counts"),
        ("ID,s\ncg01,0.5\ncg02,0.5,1\n", {}, DataError, "line 3: 3 columns; the header has 2"),
        ("ID,s\ncg01,0.5\ncg02,high\n", {}, DataError, "line 3: beta of cg02 is 'high'"),
        ("ID,s\ncg01,0.5\ncg02,-1.5\n", {}, DataError, r"line 3: level -1\.5; expected 0 to 1; M values"),
        ("ID,s\ncg01,0.5\ncg02,67\n", {"unit": "fraction"}, DataError, r"line 3: level 67\.0; expected 0 to 1"),
        ("ID,s\ncg01,0.5\ncg01,0.6\n", {}, DataError, "line 3: probe cg01 stands twice"),
        ("ID,s\ncg77,0.5\ncg78,0.6\n", {}, DataError, r"gives a place to 0 of 2 CpG probes \(not to cg77, cg78\)"),
    ],
)  # fmt: skip
def test_faults_are_named(text, options, error, message, files, write) -> None:
    with pytest.raises(error, match=message):
        read(write(text), manifest=files[1], **options)


def test_a_missing_or_wrong_manifest_is_named(files, write) -> None:
    with pytest.raises(ConfigError, match="give the array's manifest with manifest"):
        read(files[0], sample="s1")
    with pytest.raises(DataError, match=r"no\.csv: no manifest: no line names columns IlmnID"):
        read(files[0], sample="s1", manifest=str(write("a,b\n", "no.csv")))
    with pytest.raises(DataError, match="probe cg01 has position 'x'; expected a whole number"):
        read(files[0], sample="s1", manifest=str(write("IlmnID,CHR,MAPINFO\ncg01,1,x\n", "no.csv")))
    with pytest.raises(DataError, match=r"no\.csv line 2: 2 columns; the manifest's header has 3"):
        read(files[0], sample="s1", manifest=str(write("IlmnID,CHR,MAPINFO\ncg01,1\n", "no.csv")))
    with pytest.raises(DataError, match="from line 2: not a table in quotes"):
        read(files[0], sample="s1", manifest=str(write('IlmnID,CHR,MAPINFO\ncg01,1,5\ncg02,"' + "1,6\n" * 50_000, "no.csv")))
    with pytest.raises(DataError, match="no table of beta values"):
        read(write("only\n", "b"), "illumina", manifest=files[1])
