"""A suite: labelled tables with their split, metric and published figures, in one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from biollm.classify.config import Task
from biollm.classify.measures import MEASURES
from biollm.core.alphabets import Modality
from biollm.core.errors import listed, repeated
from biollm.core.recipe import Section, read_recipe
from biollm.corpus.options import AllowLeakage, AuditOptions
from biollm.ingest.config import Config as IngestConfig
from biollm.ingest.config import DuplicateConfig, SourceConfig, SplitConfig
from biollm.ingest.records.config import FormatName, OntologyOptions, RecordOptions, TableOptions

_NAME, _LABEL = r"^[a-z0-9][a-z0-9_.-]*$", r"^[a-z][a-z0-9_]*$"
_METRICS = sorted({measure.name for measures in MEASURES.values() for measure in measures})
_MARKED = AllowLeakage(allow="biollm benchmark scores a leaking table too, and marks it beside the score")
_BY: dict[str, Literal["given", "group", "similarity"]] = {"given": "given", "grouped": "group", "random": "similarity"}


class Columns(Section):
    """What the columns of a table are."""

    sequence: str | list[str] | None = Field(default=None, description="residues or text, or several that are joined; * is any letters")
    label: str = Field(default="label", description="what is predicted")
    id: str | None = Field(default=None, description="names of the rows")
    group: str | None = Field(default=None, description="what must not be torn apart (split: grouped)")
    split: str | None = Field(default=None, description="train, validation or test (split: given); default: the files are named so")


class Published(Section):
    """A figure that others report on this table. It is shown beside the scores, never ranked with them."""

    model: str = Field(min_length=1, description="whose figure it is, and how the model was used")
    value: float
    metric: str | None = Field(default=None, description="default: that of the table")
    source: str = Field(min_length=3, description="where it is reported: paper, table, DOI")
    note: str | None = Field(default=None, description="how the comparison falls short, for example another split")


class SuiteTable(Section):
    """One labelled table: a `path` with columns, or a whole section `ingest` as a recipe has it."""

    name: str = Field(pattern=_NAME, description="what it is called in the results")
    title: str = Field(default="", description="one line for people")
    path: str | None = Field(default=None, description="file, folder, glob or package:NAME/…, relative to the suite file")
    format: Literal["auto"] | FormatName = Field(default="auto", description="what the file is; auto: told by suffix and content")
    table: TableOptions = TableOptions()
    ontology: OntologyOptions = OntologyOptions()
    columns: Columns = Columns()
    modality: Modality = Field(default="dna", description="what the sequences are written in")
    split: Literal["given", "grouped", "random"] = Field(
        default="random", description="given: the table's own; grouped: by columns.group; random: at random, similar sequences together"
    )
    similarity: float = Field(default=0.5, gt=0, le=1, description="split random: k-mer Jaccard index from which on rows stay together")
    stratify: bool = Field(default=False, description="every split has the classes in like shares (not split given)")
    ingest: IngestConfig | None = Field(default=None, description="a section ingest instead of path, columns, modality and split")
    label: str = Field(default="label", pattern=_LABEL, description="what the label is called; with ingest: the one that is predicted")
    task: Literal["auto"] | Task = Field(default="auto", description="as in classify")
    classes: list[str | int] = Field(default=[], description="as in classify: the classes in order; default: those of the label")
    metric: str | None = Field(default=None, description=f"default: that of the task; one of {', '.join(_METRICS)}")
    kmer: int | None = Field(default=None, ge=1, le=6, description="length of the baseline's k-mers; default: by modality")
    audit: AuditOptions = Field(default=AuditOptions(), description="what counts as a leak; with ingest: stands there")
    published: list[Published] = []
    cite: str = Field(default="", description="whose data it is")

    @field_validator("metric")
    @classmethod
    def _metric_is_one(cls, name: str | None) -> str | None:
        if name is not None and name not in _METRICS:
            raise ValueError(f"is '{name}'; expected one of {', '.join(_METRICS)}")
        return name

    @model_validator(mode="after")
    def _is_one_thing(self) -> SuiteTable:
        if (self.path is None) == (self.ingest is None):
            raise ValueError(
                f"table '{self.name}' has {'neither path nor' if self.path is None else 'both path and'} ingest; give one of them"
            )
        of_path = {"format", "table", "ontology", "columns", "modality", "split", "similarity", "stratify", "audit"} & self.model_fields_set
        if self.ingest is not None and of_path:
            raise ValueError(f"table '{self.name}' has ingest, and beside it {', '.join(sorted(of_path))}; write these into ingest")
        if self.path is not None and (self.split == "grouped") != (self.columns.group is not None):
            raise ValueError(
                f"table '{self.name}': split is {self.split}, columns.group is {self.columns.group}; a group is for split grouped"
            )
        return self

    def corpus(self) -> IngestConfig:
        """How biollm's own ingest reads this table. A leak does not end it: it is marked beside the score.

        Given splits stay as they are, copies included; of the others copies are dropped, and so are equal records of different label.
        """
        if self.ingest is not None:
            audit = self.ingest.audit.model_copy(update={"leakage": _MARKED})
            return self.ingest.model_copy(update={"audit": audit})
        assert self.path is not None
        given, columns = self.split == "given", self.columns
        read = RecordOptions(
            format=self.format,
            sequence=columns.sequence,
            id=columns.id,
            labels={self.label: columns.label},
            group=columns.group,
            split=columns.split if given else None,
            split_from_name=given and columns.split is None,
            table=self.table,
            ontology=self.ontology,
        )
        stratify = {"stratify": self.label, "assign": "balanced"} if self.stratify and not given else {}
        return IngestConfig(
            modality=self.modality,
            sources=[SourceConfig(name=self.name, records=self.path, read=read)],
            duplicates=DuplicateConfig(exact="keep") if given else DuplicateConfig(conflicting="drop"),
            split=SplitConfig.model_validate({"by": _BY[self.split], "similarity": self.similarity, **stratify}),
            audit=self.audit.model_copy(update={"leakage": _MARKED}),
        )


class Suite(Section):
    """Labelled tables that model folders are scored on."""

    name: str = Field(pattern=_NAME, description="results go to results/benchmark/<name>/")
    title: str = Field(default="", description="one line for people")
    tables: list[SuiteTable] = Field(min_length=1)

    @field_validator("tables")
    @classmethod
    def _names_differ(cls, tables: list[SuiteTable]) -> list[SuiteTable]:
        if twice := repeated(table.name for table in tables):
            raise ValueError(f"several are called {listed(twice)}; names must differ")
        return tables


def load_suite(path: Path) -> Suite:
    """Read and check a suite file. Raises ConfigError naming file, key, what was found and what was expected."""
    return read_recipe(path, [], Suite)
