"""The recipe section `ingest`."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, field_validator, model_validator

from biollm.core.alphabets import DOUBLE_STRANDED, Modality
from biollm.core.errors import listed, repeated
from biollm.core.recipe import Section
from biollm.corpus.options import AuditOptions
from biollm.ingest.builds import build_key
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.sites.config import SiteOptions
from biollm.ingest.sites.modifications import BASE_OF
from biollm.modeling.tracks import TRACK_NAME, TrackConfig

_COLUMN_NAME = r"^[a-z][a-z0-9_]*$"
_ALIGNED = ("dna", "rna", "protein")  # what MMseqs2 reads
SourceKind = Literal["sequences", "records", "reads"]


def split_member(resource: str) -> tuple[str, str]:
    """A resource, and the file in it that is meant, or "".

    >>> split_member("data/splits.zip::one/two.csv")
    ('data/splits.zip', 'one/two.csv')
    """
    archive, _, member = resource.partition("::")
    return archive, member


class SourceConfig(Section):
    """One origin of records: a genome to cut into windows, a file of records, or sequenced reads."""

    name: str = Field(description="what the source is called in tables, for example the species")
    sequences: str | None = Field(
        default=None,
        description="a genome, cut into windows: FASTA, FASTQ, GenBank, EMBL, GFF3 with sequence or 2bit; a file, folder or glob",
    )
    build: str | None = Field(
        default=None, min_length=1, description="the build of `sequences`, for example GRCh38 or TAIR10; tracks of another are refused"
    )
    annotation: str | None = Field(default=None, description="features over `sequences`: GFF3, GTF, BED, GenBank or EMBL")
    regions: str | None = Field(default=None, description="BED; only windows inside these intervals are kept")
    records: str | None = Field(
        default=None,
        description="files in which each record is one example: tables, FASTA, SMILES, text, XML, OBO, h5ad; archive.zip::member for one "
        "file of a zip archive",
    )
    read: RecordOptions = Field(default=RecordOptions(), description="how `records` are read")
    reads: str | None = Field(default=None, description="BAM of bisulfite reads, or with MM/ML tags; or a read table of MethylBERT")
    read_bam: ReadOptions = Field(default=ReadOptions(), description="how `reads` are read")

    @model_validator(mode="after")
    def _is_one_thing(self) -> SourceConfig:
        given = [kind for kind in ("sequences", "records", "reads") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"source '{self.name}' has {given or 'none of sequences, records, reads'}; give exactly one of the three")
        if given != ["sequences"] and (self.annotation or self.regions or self.build):
            raise ValueError(f"source '{self.name}': annotation, regions and build belong to `sequences`")
        return self

    @model_validator(mode="after")
    def _names_one_member(self) -> SourceConfig:
        if self.records and (member := split_member(self.records)[1]) and self.read.archive.member not in (None, member):
            raise ValueError(f"records name the member '{member}', and read.archive.member '{self.read.archive.member}'; keep one of them")
        return self

    @property
    def kind(self) -> SourceKind:
        return "sequences" if self.sequences else "records" if self.records else "reads"

    def resources(self) -> list[str]:
        own = (self.sequences, self.annotation, self.regions, split_member(self.records)[0] if self.records else None, self.reads)
        return [*(r for r in own if r is not None), *self.read_bam.resources()]


class SequencePolicy(Section):
    """What becomes of letters that are no plain bases."""

    iupac: Literal["unknown", "refuse"] = Field(default="unknown", description="ambiguity codes such as R: N, counted, or an error")
    soft_mask: Literal["fold", "unknown"] = Field(default="fold", description="lower-case letters: the same bases, or N (counted)")


class FeatureWindows(Section):
    """Windows at features of the annotation instead of one behind the other."""

    feature: str = Field(
        description="type in the annotation, for example gene, CDS, exon; intron is derived from exons; BED rows are 'interval'"
    )
    anchor: Literal["whole", "start", "end", "center"] = Field(
        default="whole",
        description="the whole feature, cut into window_bases; or a window around its start (5' end), end (3' end) or center",
    )
    before_bases: int = Field(default=0, ge=0, description="bases upstream of the anchor, in the direction of the feature's strand")
    after_bases: int = Field(default=0, ge=0, description="bases downstream, the anchor's own base among them")

    @model_validator(mode="after")
    def _has_a_width(self) -> FeatureWindows:
        width = self.before_bases + self.after_bases
        if (self.anchor == "whole") != (width == 0):
            raise ValueError("anchor 'whole' takes no before_bases and after_bases; start, end and center need at least one of them")
        return self


class LabelConfig(Section):
    """A yes/no question about each window, answered by the annotation."""

    name: str = Field(pattern=_COLUMN_NAME, description="the column is called label_<name>")
    feature: str = Field(default="interval", description="feature type in column 3 of the GFF, for example CDS; 'interval' for BED")
    intervals: str | None = Field(default=None, description="another annotation file that holds this feature, for example a BED file")
    against: str | None = Field(
        default=None, description="an annotation file of the opposite: windows that are neither get no label (null) instead of 0"
    )
    min_fraction: float = Field(default=0.5, gt=0, le=1, description="share of the window that such features cover, on either strand")


class SiteTrack(Section):
    """A measured track: methylation calls or any other signal along the genome."""

    name: str = Field(pattern=TRACK_NAME, description="the channel's name; the columns are track_<name> and coverage_<name>")
    kind: Literal["sites"] = Field(description="measured values at positions of the genome")
    files: str = Field(description="Bismark, bedMethyl, CGmap, allc, BSMAP, bedGraph, bigWig, array table, or BAM with MM/ML tags")
    source: str | None = Field(default=None, description="the source whose sequences the positions lie on; default: the only one")
    sites: SiteOptions = Field(default=SiteOptions(), description="how the files are read")


class CytosineLetters(Section):
    """Methylation written into the sequences themselves, for models without fusion: the alternative to `expand.fusion`."""

    written: Literal["bisulfite", "methylation"] = Field(
        description="bisulfite: an unmethylated C is read as T, as sequencing reads it (of the window's own strand); methylation: a "
        "methylated C is the letter M, a G opposite one W (modality methylated_dna)"
    )
    tracks: list[str] = Field(min_length=1, description="names of `tracks` that hold the levels; a C that none has a value for stays C")
    threshold: float = Field(default=0.5, gt=0, le=1, description="methylated from this level on")


class SplitConfig(Section):
    """Which records serve for fitting, for choices, and for the final scores."""

    by: Literal["auto", "block", "contig", "source", "group", "similarity", "random", "given"] = Field(
        default="auto",
        description="what stays together: position blocks (windows), contigs, sources, the group column, similar sequences, single "
        "records; or given: the records' own split column, or `contigs`. auto: block for windows; for records given, group or random, "
        "whichever their file has first",
    )
    block_bases: int = Field(default=50_000, ge=1, description="windows of one block stay in one split")
    gap_bases: int = Field(default=1_000, ge=0, description="no two windows of different splits lie closer than this on a contig")
    contigs: dict[Literal["train", "validation", "test"], list[str]] = Field(
        default={}, description="for by: given, which contigs (or sources) go to which split; the others go to train"
    )
    similarity: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="for by: similarity, from where on records stay together: the k-mer Jaccard index (builtin), or the identity over an "
        "alignment of 80 % of the shorter one (mmseqs2)",
    )
    tool: Literal["builtin", "mmseqs2"] = Field(
        default="builtin",
        description="for by: similarity, what finds the similar ones: shared k-mers, or also alignments by MMseqs2, which sees distant "
        "proteins; never chosen by what is installed, so that a recipe splits alike everywhere",
    )
    stratify: str | None = Field(default=None, description="a label whose classes every split has in equal shares")
    assign: Literal["auto", "balanced", "stable"] = Field(
        default="auto",
        description="balanced: shares are met as closely as the groups allow. stable: a hash decides for each group alone, so that "
        "added records move none of the others. auto: balanced for blocks, contigs, sources and with stratify, else stable",
    )
    validation: float = Field(default=0.15, gt=0, lt=1, description="share of records for choices such as hyper-parameters")
    test: float = Field(default=0.2, gt=0, lt=1, description="share of records that only the final scores see")

    @model_validator(mode="after")
    def _leaves_a_train_split(self) -> SplitConfig:
        if self.validation + self.test >= 0.9:
            raise ValueError(f"validation + test is {self.validation + self.test:.2f}; leave at least 0.1 for train")
        if self.contigs and self.by != "given":
            raise ValueError("split.contigs needs split.by: given")
        if self.tool != "builtin" and self.by != "similarity":
            raise ValueError(f"split.tool is {self.tool}, but split.by is {self.by}; a tool is for by: similarity")
        if self.stratify and self.assign == "stable":
            raise ValueError("split.stratify needs split.assign: balanced")
        return self


class DuplicateConfig(Section):
    """What becomes of records that say the same. A sequence of DNA or RNA and its reverse complement are the same."""

    exact: Literal["drop", "keep"] = Field(
        default="drop", description="drop all but the first, listed in dropped.parquet, or keep them together"
    )
    conflicting: Literal["refuse", "drop"] = Field(
        default="refuse", description="equal records with different labels: an error, or all of them dropped and listed"
    )
    near: float | None = Field(
        default=None, gt=0, lt=1, description="drop records whose k-mer Jaccard index with a kept one is at least this"
    )


def _track_of_kind(value: Any, _: ValidatorFunctionWrapHandler) -> TrackConfig | SiteTrack:
    """Not by pydantic's discriminator: that puts the kind into the path of every error (tracks.0.sites.sites.context)."""
    if isinstance(value, (TrackConfig, SiteTrack)):
        return value
    if not isinstance(value, dict):
        raise ValueError("should be a section with the keys name, kind and those of its kind")
    kinds: dict[str, type[TrackConfig | SiteTrack]] = {"cpg_observed_expected": TrackConfig, "sites": SiteTrack}
    if (kind := value.get("kind")) not in list(kinds):
        raise ValueError(f"kind is {kind!r}; expected {' or '.join(kinds)}")
    known = list(kinds[kind].model_fields)
    if unknown := [key for key in value if key not in known]:
        close = difflib.get_close_matches(str(unknown[0]), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys of kind {kind}: {', '.join(known)}"
        raise ValueError(f"unknown key '{unknown[0]}'; {hint}")
    return kinds[kind].model_validate(value)


# SiteTrack first: messages about unknown keys look up the keys of a nested section in the first class that has some
Track = Annotated[SiteTrack | TrackConfig, WrapValidator(_track_of_kind)]


class Config(Section):
    """Raw files into a corpus of records with labels, tracks and splits."""

    modality: Modality = Field(default="dna", description="what the records are written in")
    sources: list[SourceConfig] = Field(min_length=1)
    window_bases: int = Field(default=256, ge=8, description="length of every window")
    stride_bases: int | None = Field(default=None, ge=1, description="distance between window starts; default: window_bases")
    strands: Literal["plus", "both"] = Field(
        default="plus", description="both: each window also as its reverse complement, in the same split"
    )
    features: FeatureWindows | None = Field(default=None, description="windows at features; default: one window behind the other")
    policy: SequencePolicy = SequencePolicy()
    max_unknown_fraction: float = Field(default=0.05, ge=0, le=1, description="windows with a larger share of N are dropped")
    labels: list[LabelConfig] = []
    tracks: list[Track] = []
    cytosines: CytosineLetters | None = Field(default=None, description="write methylation into the sequences")
    duplicates: DuplicateConfig = DuplicateConfig()
    split: SplitConfig = SplitConfig()
    audit: AuditOptions = Field(default=AuditOptions(), description="the leak audit of the finished corpus")

    @field_validator("sources", "labels", "tracks")
    @classmethod
    def _names_are_unique(cls, entries: list[Section]) -> list[Section]:
        if twice := repeated(getattr(entry, "name") for entry in entries):  # noqa: B009 (entries of three classes, each with a name)
            raise ValueError(f"several are called {listed(twice)}; names must differ")
        return entries

    @model_validator(mode="after")
    def _sources_are_of_one_kind(self) -> Config:
        if len(kinds := {source.kind for source in self.sources}) > 1:
            raise ValueError(f"sources are {sorted(kinds)}; one corpus is made of one kind: write a recipe for each")
        if self.kind != "records" and self.modality not in DOUBLE_STRANDED:
            raise ValueError(f"modality is {self.modality}, but {self.kind} are nucleotides; give `records`, or modality dna or rna")
        wanted = "dna" if self.cytosines is None or self.cytosines.written == "bisulfite" else "methylated_dna"
        if self.kind == "sequences" and self.modality != "rna" and self.modality != wanted:
            raise ValueError(f"modality is {self.modality}, but with these cytosines windows are {wanted}; set modality: {wanted}")
        if self.kind != "sequences" and (self.labels or self.tracks or self.features):
            raise ValueError(
                "labels, tracks and features of windows need a source with `sequences`; labels of records stand in `read.labels`"
            )
        return self

    @model_validator(mode="after")
    def _splits_fit_the_kind(self) -> Config:
        by = self.split.by
        if self.split.tool == "mmseqs2" and self.modality not in _ALIGNED:
            raise ValueError(f"split.tool is mmseqs2, which aligns {', '.join(_ALIGNED)}, not {self.modality}; set split.tool: builtin")
        if by in ("block", "contig") and self.kind == "records":
            raise ValueError(f"split.by is {by}, but records have no place on a genome; choose group, similarity, random, source or given")
        if self.kind == "sequences" and by == "group":
            raise ValueError("split.by is group, but windows have none; choose block, contig, source, similarity, random or given")
        if by == "given" and self.kind != "records" and not self.split.contigs:
            raise ValueError(f"split.by is given, but {self.kind} have no split column; say in split.contigs what goes where")
        if by in ("auto", "block") and self.kind == "sequences":
            widest = self.window_bases
            if self.features and self.features.anchor != "whole":
                widest = self.features.before_bases + self.features.after_bases
            if self.split.block_bases < (least := self.split.gap_bases + widest):
                raise ValueError(
                    f"split.block_bases is {self.split.block_bases}; it should be at least gap_bases + window_bases = {least}, "
                    "or windows of different splits could overlap"
                )
        return self

    @model_validator(mode="after")
    def _labels_and_features_have_an_annotation(self) -> Config:
        what = "labels" if any(label.intervals is None for label in self.labels) else "features" if self.features else ""
        if what and (bare := [s.name for s in self.sources if s.annotation is None]):
            raise ValueError(f"{what} need an annotation, but sources {bare} have none; add 'annotation: …gff.gz' to them")
        return self

    @model_validator(mode="after")
    def _site_tracks_have_a_source(self) -> Config:
        names = [source.name for source in self.sources]
        for track in self.site_tracks:
            if track.source is None and len(names) > 1:
                raise ValueError(f"track '{track.name}': say which source it lies on; sources are {names}")
            if track.source is not None and track.source not in names:
                raise ValueError(f"track '{track.name}': no source is called '{track.source}'; sources are {names}")
            source = self.sources[names.index(track.source)] if track.source else self.sources[0]
            if source.build and track.sites.build and build_key(source.build) != build_key(track.sites.build):
                raise ValueError(
                    f"track '{track.name}' is of build {track.sites.build}, but source '{source.name}' of build {source.build}; give the "
                    "track of that build, lift its positions over, or correct the build that is wrong"
                )
        return self

    @model_validator(mode="after")
    def _cytosines_have_levels(self) -> Config:
        if self.cytosines is None:
            return self
        if self.kind != "sequences" or self.modality == "rna":
            raise ValueError("cytosines are written in windows of DNA `sequences`; for reads set read_bam.convert_cytosines")
        names = [track.name for track in self.site_tracks]
        if unknown := [name for name in self.cytosines.tracks if name not in names]:
            raise ValueError(f"cytosines.tracks names {unknown}, but the measured tracks are {names}; the names must agree")
        for track in self.site_tracks:
            if track.name in self.cytosines.tracks and (other := [m for m in track.sites.modifications if BASE_OF.get(m) != "C"]):
                raise ValueError(
                    f"cytosines.tracks names '{track.name}', whose modification {other[0]} does not sit on C; choose a track of 5mC"
                )
        return self

    @property
    def kind(self) -> SourceKind:
        return self.sources[0].kind

    @property
    def label_names(self) -> list[str]:
        """The labels that the corpus will have, each once, in the order of the recipe."""
        of_records = [name for source in self.sources for name in source.read.labels]
        of_reads = ["ctype" for source in self.sources if source.read_bam.kind == "methylbert"]
        return list(dict.fromkeys([*(label.name for label in self.labels), *of_records, *of_reads]))

    @property
    def site_tracks(self) -> list[SiteTrack]:
        return [track for track in self.tracks if isinstance(track, SiteTrack)]

    @property
    def computed_tracks(self) -> list[TrackConfig]:
        return [track for track in self.tracks if isinstance(track, TrackConfig)]

    def programs(self) -> list[str]:
        return ["mmseqs"] if self.split.tool == "mmseqs2" else []

    def resources(self) -> list[str]:
        of_labels = [r for label in self.labels for r in (label.intervals, label.against) if r is not None]
        of_tracks = [r for track in self.site_tracks for r in (track.files, *track.sites.resources())]
        return [*(r for source in self.sources for r in source.resources()), *of_labels, *of_tracks]
