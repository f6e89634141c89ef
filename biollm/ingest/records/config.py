"""How files of records are read: the settings that a source of the recipe holds."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from biollm.core.recipe import Section

FormatName = Literal[
    "fasta", "fastq", "uniprot", "genbank", "table", "parquet", "jsonl", "json", "arff", "smi",
    "text", "pubmed", "jats", "chat", "obo", "icd10cm", "h5ad", "conll",
]  # fmt: skip
_NAME = r"^[a-z][a-z0-9_]*$"


class TableOptions(Section):
    """Tables as text: CSV, TSV and their kin."""

    separator: Literal["auto", "comma", "semicolon", "tab", "pipe"] = Field(
        default="auto", description="what stands between fields; auto: a .tsv has tabs, else the sign that gives the first line most fields"
    )
    header: bool = Field(default=True, description="the first line names the columns; without it they are column_1, column_2, …")
    skip_lines: int = Field(default=0, ge=0, description="lines before the header that are no part of the table")


class SmilesOptions(Section):
    """Molecules, checked by RDKit (extra `chemistry`)."""

    canonical: bool = Field(default=True, description="write each molecule the way RDKit writes it, so that equal ones read alike")
    max_invalid_fraction: float = Field(default=0.05, ge=0, le=1, description="with a larger share of invalid SMILES a file is refused")


class TextOptions(Section):
    """Plain text."""

    documents: Literal["lines", "paragraphs"] = Field(default="lines", description="a document is a line, or all between blank lines")


class OntologyOptions(Section):
    """Terms of an ontology, in OBO."""

    root: str | None = Field(default=None, description="only the terms below this id, for example HP:0000118; default: all terms")
    level: int | None = Field(
        default=None, ge=0, description="`ancestor` names the one ancestor this many is_a steps below the root (HPO categories: 1)"
    )
    synonyms: bool = Field(default=True, description="the text names the synonyms too")
    question: str | None = Field(
        default=None,
        pattern=r"\{name\}",
        description="make each definition the answer to this question about {name}, to tune on instructions; terms without one are dropped",
    )


class CellOptions(Section):
    """Cells as sentences of gene names, the most expressed first."""

    genes: int = Field(default=1000, ge=1, description="the length of a sentence at most, in genes")
    gene_names: str | None = Field(default=None, description="the column of var that holds the gene names; default: the index of var")
    medians: str | None = Field(
        default=None, description="the column of var by which expression is divided before ranking (Geneformer's non-zero medians)"
    )


class ArchiveOptions(Section):
    """Files inside a .zip."""

    member: str | None = Field(default=None, description="which file of a .zip is read, for example splits/one_vs_rest.csv")
    max_bytes: int = Field(default=1 << 32, ge=1, description="a member that unpacks to more bytes is refused")


class RecordOptions(Section):
    """Where in the files the sequence of a record is, and what is known of it."""

    format: Literal["auto"] | FormatName = Field(default="auto", description="what the files are; auto: told by suffix and content")
    sequence: str | list[str] | None = Field(
        default=None, description="the column of the residues or the text, or several that are joined; * stands for any letters"
    )
    id: str | None = Field(default=None, description="the column of the ids; default: header or accession, else <file>:<row or line>")
    labels: dict[str, str] = Field(default={}, description="name of a label: its column")
    group: str | None = Field(default=None, description="the column of what must not be torn apart by a split (patient, family, scaffold)")
    split: str | None = Field(default=None, description="the column that says train, validation or test")
    split_validation: str | None = Field(
        default=None, description="the column that is true for the rows of train that are the validation split (as FLIP has it)"
    )
    split_from_name: bool = Field(default=False, description="the file names say the split: train.csv, dev.csv, test.csv")
    covariates: dict[str, str] = Field(default={}, description="name of a covariate: its column")
    missing: list[str] = Field(
        default=["", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL"], description="what stands for no value; never applied to sequences"
    )
    table: TableOptions = TableOptions()
    smiles: SmilesOptions = SmilesOptions()
    text: TextOptions = TextOptions()
    ontology: OntologyOptions = OntologyOptions()
    cells: CellOptions = CellOptions()
    archive: ArchiveOptions = ArchiveOptions()

    @field_validator("labels", "covariates")
    @classmethod
    def _names_are_column_names(cls, columns: dict[str, str]) -> dict[str, str]:
        if bad := [name for name in columns if not re.match(_NAME, name)]:
            raise ValueError(f"names {bad} should be lower-case letters, digits and _, for example 'toxicity'")
        return columns

    @model_validator(mode="after")
    def _splits_come_from_one_place(self) -> RecordOptions:
        if self.split and self.split_from_name:
            raise ValueError("split and split_from_name both say the split; keep one of them")
        if self.split_validation and not self.split:
            raise ValueError("split_validation divides the train rows of `split`; name that column too")
        return self

    def columns(self) -> dict[str, str]:
        """Column of the result -> column of the file, for all but the sequence."""
        single = {"id": self.id, "group": self.group, "split": self.split, "split_validation": self.split_validation}
        named = {f"label_{name}": column for name, column in self.labels.items()}
        named |= {f"covariate_{name}": column for name, column in self.covariates.items()}
        return {name: column for name, column in single.items() if column is not None} | named
