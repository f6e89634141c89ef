"""Measured tracks on their way into a corpus: BAM files piled up on the genome, and what is refused."""

from __future__ import annotations

import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pysam
import pytest
from pydantic import ValidationError

from biollm.core.alphabets import reverse_complement
from biollm.core.errors import BiollmError, ConfigError, DataError
from biollm.core.job import Job
from biollm.core.recipe import RecipeHeader, read_recipe
from biollm.corpus.columns import RECORDS
from biollm.ingest.config import Config
from biollm.ingest.stage import run

Dna = Callable[[int, int], str]
Text = Callable[..., str]
READS = 6
NAPA = Path(__file__).parents[4] / "shared" / "data" / "human_gm12878_chr19_modbam"


def config_of(tracks: list[dict[str, Any]], build: str | None = None, **config: Any) -> Config:
    source = {"name": "s", "sequences": "a.fa", "build": build}
    split = {"block_bases": 100, "gap_bases": 0}
    return Config.model_validate({"sources": [source], "window_bases": 50, "split": split, "tracks": tracks} | config)


def whole_facts(folder: Path, fasta: str, file: str, genome_build: str | None = None, config: Any = None, **sites: Any) -> dict[str, Any]:
    (folder / "a.fa").write_text(fasta)
    settings = config_of([{"name": "m", "kind": "sites", "files": file, "sites": sites}], genome_build, **(config or {}))
    job = Job(config=settings, seed=0, inputs={}, out=folder, work=folder, logs=folder, recipe_folder=folder, base_model="none")
    return run(job)


def ingest(folder: Path, *arguments: Any, **options: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The records, and the facts of the track."""
    facts = whole_facts(folder, *arguments, **options)
    return pl.read_parquet(folder / RECORDS), facts["site_tracks"][0]


def values(table: pl.DataFrame, column: str = "track_m") -> dict[tuple[str, int], float]:
    """(contig, position) -> value, where there is one."""
    rows = table.select("contig", "start_0based", column).iter_rows()
    return {(contig, start + i): value for contig, start, row in rows for i, value in enumerate(row) if value is not None}


def refusal(*arguments: Any, error: type[BiollmError] = DataError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        ingest(*arguments, **options)
    return str(caught.value)


# --- BAM ---------------------------------------------------------------------------------------------------------------------


def is_modified(read: int, position: int) -> bool:
    return (read // 2 + position) % 3 == 0


def write_bam(file: Path, contigs: dict[str, str], base: str = "C", code: str = "m", **header: Any) -> None:
    """READS reads of each whole contig, in turn of the plus and the minus strand, with a call at each C (or other base) of their strand."""
    sequences = [{"SN": name, "LN": len(sequence), **header} for name, sequence in contigs.items()]
    with pysam.AlignmentFile(str(file), "wb", header={"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": sequences}) as bam:
        for name, sequence in contigs.items():
            for number in range(READS):
                record = pysam.AlignedSegment(bam.header)
                record.query_name, record.query_sequence, record.flag = f"{name}.{number}", sequence, 16 * (number % 2)
                record.reference_name, record.reference_start, record.mapping_quality = name, 0, 60
                record.cigarstring = f"{len(sequence)}M"
                molecule = reverse_complement(sequence) if number % 2 else sequence
                places = [i for i, letter in enumerate(molecule) if letter == base]
                places = [len(sequence) - 1 - i for i in places] if number % 2 else places
                record.set_tag("MM", f"{base}+{code}?" + ",0" * len(places) + ";")
                record.set_tag("ML", array.array("B", [255 if is_modified(number, place) else 0 for place in places]))
                bam.write(record)


def level(position: int, minus: bool) -> float:
    """What the reads of one strand say there."""
    called = range(int(minus), READS, 2)
    return sum(is_modified(read, position) for read in called) / len(called)


def contexts_of(sequence: str) -> dict[int, str]:
    """Position of each cytosine of either strand, away from the ends -> its context."""
    found = {}
    for i in range(2, len(sequence) - 2):
        if sequence[i] in "CG":
            bases = sequence[i : i + 3] if sequence[i] == "C" else reverse_complement(sequence[i - 2 : i + 1])
            found[i] = "CG" if bases[1] == "G" else "CHG" if bases[2] == "G" else "CHH"
    return found


@pytest.mark.parametrize("contexts", [[], ["CG"], ["CHG", "CHH"]])
def test_a_bam_becomes_the_levels_of_the_cytosines_asked_for(tmp_path: Path, dna: Dna, fasta_text: Text, contexts: list[str]) -> None:
    genome = {"chr1": dna(1000, 1), "chr2": dna(500, 2)}
    write_bam(tmp_path / "r.bam", genome)
    table, facts = ingest(tmp_path, fasta_text(genome), "r.bam", contexts=contexts)
    inner = {place: value for place, value in values(table).items() if 2 <= place[1] < len(genome[place[0]]) - 2}
    wanted = {
        (name, i): pytest.approx(level(i, sequence[i] == "G"))
        for name, sequence in genome.items()
        for i, context in contexts_of(sequence).items()
        if context in (contexts or ["CG", "CHG", "CHH"])
    }
    assert inner == wanted
    assert set(values(table, "coverage_m").values()) == {READS / 2}
    assert facts["reads"]["kept"] == 2 * READS
    assert facts["sites_checked"] == facts["sites"] > 0 == facts["sites_on_another_base"]


def test_a_variant_in_one_read_is_left_out_and_counted(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    """Such a read called a C over the reference's G, whose site is on the minus strand: two sites on one base."""
    sequence = dna(1000, 1)
    at = sequence.index("G", 500)
    write_bam(tmp_path / "r.bam", {"c": sequence})
    with pysam.AlignmentFile(str(tmp_path / "r.bam")) as bam:
        header, reads = bam.header, list(bam)
    reads[0].query_sequence = sequence[:at] + "C" + sequence[at + 1 :]
    number = sequence.count("C") + 1
    reads[0].set_tag("MM", "C+m?" + ",0" * number + ";")
    reads[0].set_tag("ML", array.array("B", [0] * number))
    with pysam.AlignmentFile(str(tmp_path / "v.bam"), "wb", header=header) as bam:
        for read in reads:
            bam.write(read)
    table, facts = ingest(tmp_path, fasta_text({"c": sequence}), "v.bam")
    assert values(table)["c", at] == pytest.approx(level(at, minus=True))
    assert (facts["reads"]["sites_off_reference"], facts["reads"]["sites_refuted"]) == (1, 0)


def test_options_of_a_bam_are_honoured(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    sequence = dna(1000, 1)
    write_bam(tmp_path / "r.bam", {"1": sequence})
    fasta, aliases = fasta_text({"chr1": sequence}), {"1": "chr1"}
    cg = [i for i, context in contexts_of(sequence).items() if context == "CG" and sequence[i] == "C"]
    table, _ = ingest(tmp_path, fasta, "r.bam", aliases=aliases, strands="merge_cg", contexts=["CG"])
    assert values(table) == {("chr1", i): pytest.approx((level(i, False) + level(i + 1, True)) / 2) for i in cg}
    assert set(values(table, "coverage_m").values()) == {READS}
    (tmp_path / "names.tsv").write_text("1\tchr1\n")
    table, _ = ingest(tmp_path, fasta, "r.bam", aliases="names.tsv", min_coverage=4)
    assert values(table) == {}
    assert values(table, "coverage_m").keys() >= {("chr1", i) for i in cg}
    write_bam(tmp_path / "a.bam", {"1": sequence}, base="A", code="a")
    table, _ = ingest(tmp_path, fasta, "a.bam", aliases=aliases, modifications=["6mA"])
    assert {sequence[place] for _, place in values(table)} == {"A", "T"}


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({"format": "bedmethyl"}, "format is bedmethyl, which means nothing for a BAM file; leave format out"),
        ({"coordinates": 1}, "coordinates is 1, which"),
        ({"unit": "percent"}, "unit is percent, which"),
        ({"sample": "x"}, "sample is x, which"),
        ({"modifications": ["17802"]}, "modifications holds '17802', which MM tags do not name; expected one of 5mC, .*ChEBI:<number>"),
    ],
)
def test_options_that_mean_nothing_for_a_bam_are_refused(tmp_path: Path, dna: Dna, fasta_text: Text, sites: Any, message: str) -> None:
    write_bam(tmp_path / "r.bam", {"c": (sequence := dna(400, 1))})
    with pytest.raises(ConfigError, match=f"r.bam: {message}"):
        ingest(tmp_path, fasta_text({"c": sequence}), "r.bam", **sites)


def test_a_bam_of_other_names_lengths_bases_or_contexts_is_refused(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    sequence = dna(1000, 1)
    write_bam(tmp_path / "r.bam", {"1": sequence, "2": dna(300, 2)})
    other = fasta_text({"chr1": sequence, "chr2": dna(300, 2)})
    assert "sites on 1, 2, but the genome holds chr1, chr2: declare aliases: {1: chr1, 2: chr2}" in refusal(tmp_path, other, "r.bam")
    found = refusal(tmp_path, fasta_text({"1": sequence + "A"}), "r.bam")
    assert "'1' has 1000 bases in the header and 1001 in source 's'; this is another assembly" in found
    found = refusal(tmp_path, fasta_text({"1": dna(1000, 3)}), "r.bam")
    assert "lie on another base of the reference" in found
    plain = "ACGTT" * 80
    write_bam(tmp_path / "p.bam", {"c": plain})
    found = refusal(tmp_path, fasta_text({"c": plain}), "p.bam", contexts=["CHG"])
    assert "no site is left; the file holds contigs c; contexts CG" in found


def test_reads_on_contigs_that_the_genome_lacks_are_counted(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    sequence = dna(1000, 1)
    write_bam(tmp_path / "r.bam", {"c": sequence, "lambda": dna(300, 2)})
    _, facts = ingest(tmp_path, fasta_text({"c": sequence}), "r.bam")
    assert facts["reads"]["dropped_contig_not_in_the_genome"] == READS == facts["reads"]["kept"]
    assert facts["contigs_without_sequence"] == ["lambda"]
    write_bam(tmp_path / "r.bam", {"chr1": sequence, "2": dna(300, 2)})
    found = refusal(tmp_path, fasta_text({"chr1": sequence, "chr2": dna(300, 2)}), "r.bam")
    assert "sites on 2, which the genome lacks, and none on chr2, which seem to be the same: declare aliases: {2: chr2}" in found


@pytest.mark.skipif(not NAPA.is_dir(), reason=f"no real data at {NAPA}")
@pytest.mark.parametrize("options", [{}, {"contexts": ["CG"], "strands": "merge_cg"}], ids=["all", "merged"])
@pytest.mark.parametrize("tool", ["ont", "hifi"])
def test_real_reads_become_the_levels_of_an_independent_pileup(tmp_path: Path, tool: str, options: dict[str, Any]) -> None:
    """On the stretch of chr19 that was rebuilt from the reads' MD tags; the BAM is moved to its beginning."""
    head, *lines = (NAPA / f"NAPA.{tool}.ref_from_md.fa").read_text().split("\n")
    first, sequence = int(head.split(":")[1].split("-")[0]) - 1, "".join(lines).upper()
    moved = {"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": "chr19", "LN": len(sequence)}]}
    with (
        pysam.AlignmentFile(str(NAPA / f"NAPA.{tool}.bam")) as bam,
        pysam.AlignmentFile(str(tmp_path / "r.bam"), "wb", header=moved) as out,
    ):
        for read in bam.fetch(until_eof=True):
            fields = read.to_dict() | {"ref_name": "chr19", "ref_pos": str(read.reference_start - first + 1), "next_ref_name": "*"}
            out.write(pysam.AlignedSegment.from_dict(fields, out.header))
    config = {
        "window_bases": 500,
        "split": {"block_bases": 5000, "gap_bases": 0},
        "audit": {"leakage": {"allow": "repeats, of no concern to the levels"}},
    }
    table, facts = ingest(tmp_path, f">chr19\n{sequence}\n", "r.bam", config=config, **options)
    assert facts["reads"]["sites_refuted"] < 0.01 * facts["reads"]["sites_checked"]
    assert facts["sites_checked"] == facts["sites"] > 1000
    if options:
        rows = [line.split("\t") for line in (NAPA / f"NAPA.{tool}.cpg.bedmethyl").read_text().splitlines()]
        expected = {int(row[1]) - first: (int(row[9]), float(row[10]) / 100) for row in rows}
        levels, reads = values(table), values(table, "coverage_m")
        equal = [i for i, (n, share) in expected.items() if reads.get(("chr19", i)) == n and abs(levels["chr19", i] - share) < 1e-4]
        # the expectation has reads of any mapping quality, and no bases that MM skips without a mode
        assert len(equal) > {"ont": 0.99, "hifi": 0.85}[tool] * len(expected)


# --- tables ------------------------------------------------------------------------------------------------------------------


def test_a_track_of_another_build_is_refused_at_once_and_a_build_is_recorded(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    with pytest.raises(ValidationError, match="track 'm' is of build hg19, but source 's' of build GRCh38; give the track of that build"):
        config_of([{"name": "m", "kind": "sites", "files": "x.cov", "sites": {"build": "hg19"}}], "GRCh38")
    sequence = dna(1000, 1)
    write_bam(tmp_path / "r.bam", {"c": sequence}, AS="NCBI36")
    found = refusal(tmp_path, fasta_text({"c": sequence}), "r.bam", "GRCh38")
    assert "@SQ AS) says that the reads were aligned to NCBI36, but source 's' is GRCh38" in found
    write_bam(tmp_path / "r.bam", {"c": sequence}, AS="my own name")
    facts = whole_facts(tmp_path, fasta_text({"c": sequence}), "r.bam", "GRCh38.p14", build="hg38")
    assert facts["sources"]["s"]["build"] == "GRCh38.p14"
    assert facts["site_tracks"][0]["build"] == "hg38"


def test_a_build_belongs_to_a_genome() -> None:
    with pytest.raises(ValidationError, match="annotation, regions and build belong to `sequences`"):
        Config.model_validate({"sources": [{"name": "s", "records": "a.csv", "build": "GRCh38"}]})


def test_shifted_sites_cannot_hide_behind_what_is_declared(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    sequence = dna(2000, 6)
    fasta = fasta_text({"c": sequence})
    cg = [i for i in range(1, 1990) if sequence[i : i + 2] == "CG"]
    (tmp_path / "m.cov").write_text("".join(f"c\t{i}\t{i}\t50.0\t5\t5\n" for i in cg))  # from 0, in a format that counts from 1
    with pytest.raises(ValidationError, match=r"modifications: '5mc' is no modification; did you mean 5mC\?"):
        ingest(tmp_path, fasta, "m.cov", modifications=["5mc"])
    assert "declare coordinates: 0" in refusal(tmp_path, fasta, "m.cov", modifications=["5hmC"])
    found = refusal(tmp_path, fasta, "m.cov", modifications=["6mA"], error=ConfigError)
    assert "bismark_cov holds calls of C, and 6mA does not sit on it; leave modifications out" in found
    (tmp_path / "s.bedgraph").write_text("".join(f"c\t{i - 1}\t{i}\t0.5\n" for i in cg))
    assert r"would lie right shifted by +1" in refusal(tmp_path, fasta, "s.bedgraph", contexts=["CG"])
    ingest(tmp_path, fasta, "s.bedgraph")  # a signal may lie anywhere
    (tmp_path / "s.bedgraph").write_text("".join(f"c\t{i + 2000}\t{i + 2001}\t0.5\n" for i in cg))
    assert "beyond the end of their sequence: c position" in refusal(tmp_path, fasta, "s.bedgraph")


def test_one_contig_in_another_style_is_refused_with_its_alias(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    (tmp_path / "s.bedgraph").write_text("chr1\t5\t6\t0.5\n2\t5\t6\t0.5\nlambda\t1\t2\t0\n")
    fasta = fasta_text({"chr1": dna(1000, 1), "chr2": dna(1000, 2)})
    found = refusal(tmp_path, fasta, "s.bedgraph")
    assert "track 'm' (s.bedgraph): sites on 2, which the genome lacks, and none on chr2" in found
    assert "declare aliases: {2: chr2}" in found
    _, facts = ingest(tmp_path, fasta, "s.bedgraph", aliases={"2": "chr2"})
    assert facts["contigs_without_sequence"] == ["lambda"]


def test_cytosines_are_not_written_by_percent_or_by_what_is_no_methylation(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    sequence = dna(1000, 1)
    fasta = fasta_text({"c": sequence})
    written = {"cytosines": {"written": "bisulfite", "tracks": ["m"]}}
    at = sequence.index("C", 100)
    (tmp_path / "s.bedgraph").write_text(f"c\t{at}\t{at + 1}\t10\n")
    found = refusal(tmp_path, fasta, "s.bedgraph", config=written)
    assert f"track 'm' (s.bedgraph): c position {at} (from 0) has the value 10; " in found
    assert "say unit: percent" in found
    table, _ = ingest(tmp_path, fasta, "s.bedgraph", config=written, unit="percent")
    assert "".join(table.sort("start_0based")["sequence"])[at] == "T"
    at = sequence.index("A", 100)
    tail = f"\t10\t+\t{at}\t{at + 1}\t0,0,0\t10\t10.0\t1\t9\t0\t0\t0\t0\t0\n"
    (tmp_path / "a.bed").write_text(f"c\t{at}\t{at + 1}\ta{tail}")
    assert "is a site of 6mA, which does not sit on C" in refusal(tmp_path, fasta, "a.bed", config=written)
    with pytest.raises(ValidationError, match=r"cytosines.tracks names 'm', whose modification 6mA does not sit on C"):
        ingest(tmp_path, fasta, "a.bed", config=written, modifications=["6mA"])


@pytest.mark.parametrize(
    ("track", "message"),
    [
        (
            "{name: m, kind: sites, files: x, sites: {context: [CG]}}",
            r"unknown key 'ingest.tracks.0.sites.context'; did you mean 'contexts'\?",
        ),
        ("{name: m, kind: sites, files: x, sites: {zzz: 1}}", "'ingest.tracks.0.sites.zzz'; known keys here: format, coordinates, unit,"),
        ("{name: m, kind: sites, file: x}", r"ingest.tracks.0: unknown key 'file'; did you mean 'files'\?"),
        ("{name: m, kind: sites, zzz: x}", "ingest.tracks.0: unknown key 'zzz'; known keys of kind sites: name, kind, files"),
        ("{name: m, kind: cpg_observed_expected, windows: 3}", r"unknown key 'windows'; did you mean 'window_bases'\?"),
        ("{name: m, kind: sites}", "key 'ingest.tracks.0.files' is missing"),
        ("{name: m, kind: [sites]}", r"ingest.tracks.0: kind is \['sites'\]; expected cpg_observed_expected or sites"),
        ("m", "ingest.tracks.0 is 'm'; it should be a section"),
        ("{name: m, kind: sites, files: x, sites: {contexts: [CG, CG]}}", "ingest.tracks.0.sites: contexts has CG twice"),
    ],
)
def test_a_fault_of_a_track_is_named_by_its_own_keys(tmp_path: Path, track: str, message: str) -> None:
    class Recipe(RecipeHeader):
        ingest: Config

    (tmp_path / "r.yaml").write_text(f"name: r\ningest:\n  sources: [{{name: s, sequences: a.fa}}]\n  tracks:\n    - {track}\n")
    with pytest.raises(ConfigError, match=message):
        read_recipe(tmp_path / "r.yaml", [], Recipe)


@pytest.mark.filterwarnings("error")
def test_tracks_of_both_kinds_come_back_from_what_is_written_of_them() -> None:
    tracks = [
        {"name": "cpg", "kind": "cpg_observed_expected", "window_bases": 16},
        {"name": "m", "kind": "sites", "files": "m.cov", "sites": {"contexts": ["CG"]}},
    ]
    config = config_of(tracks, "TAIR10")
    assert Config.model_validate(config.model_dump(mode="json")) == config
    assert [track.name for track in config.site_tracks] == ["m"]
    assert [track.name for track in config.computed_tracks] == ["cpg"]
