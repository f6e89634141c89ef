"""The stages, their order and their wiring: the one table that the CLI, the workflow, the docs and the tests follow."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from pydantic import PrivateAttr, ValidationInfo, create_model, model_validator
from threadpoolctl import threadpool_limits

from biollm.core.artifacts import MANIFEST, Artifact, make_artifact, open_artifact
from biollm.core.errors import ArtifactError, BiollmError, ConfigError
from biollm.core.files import sha256_file, sha256_json
from biollm.core.job import Job
from biollm.core.machine import granted_cores, thread_limits
from biollm.core.recipe import RECIPE_FOLDER, RecipeHeader, Section, read_recipe
from biollm.core.resources import FUSION_FILE, HUB, digest_resource, resolve_folder

BITWISE = "bitwise: same recipe, inputs and package versions give the same bytes"
BITWISE_ON_ONE_MACHINE = (
    "bitwise on the same CPU type, thread count and package versions; elsewhere floating-point sums differ in their last bits"
)


@dataclass(frozen=True)
class Stage:
    """One row of the table."""

    name: str
    reads: str
    writes: str
    needs: tuple[str, ...]  # upstream stages that must be in the recipe
    uses: tuple[str, ...] = ()  # upstream stages read where the recipe has them
    rooms: tuple[str, ...] = ("core", "corpus", "modeling", "training")  # shared code that the stage may import
    reads_base: bool = False
    reproducibility: str = BITWISE
    flags: tuple[str, ...] = ()  # switches of its section that its command has as options too

    def config_class(self) -> type[Section]:
        return cast(type[Section], importlib.import_module(f"biollm.{self.name}.config").Config)

    def runner(self) -> Callable[[Job[Any]], dict[str, Any]]:
        return cast(Callable[[Job[Any]], dict[str, Any]], importlib.import_module(f"biollm.{self.name}.stage").run)


STAGES: tuple[Stage, ...] = (
    Stage("ingest", "raw files", "corpus (Parquet)", needs=(), rooms=("core", "corpus", "modeling")),
    Stage(
        "tokenizer", "corpus (train split)", "domain tokenizer",
        needs=(), uses=("ingest",), rooms=("core", "corpus", "modeling"), reads_base=True,
    ),
    Stage(
        "merge", "base tokenizer + domain tokenizer", "merged tokenizer + id map",
        needs=(), uses=("ingest", "tokenizer"), rooms=("core", "corpus", "modeling"), reads_base=True,
    ),
    Stage(
        "expand", "base model + merged tokenizer", "model folder (+ fusion)",
        needs=("merge",), uses=("ingest",), reads_base=True, reproducibility=BITWISE_ON_ONE_MACHINE,
        flags=("compare_inits", "in_place_shards"),
    ),
    Stage("pretrain", "model + corpus", "model folder", needs=("ingest", "expand"), reproducibility=BITWISE_ON_ONE_MACHINE),
    Stage(
        "finetune", "model + labelled corpus", "model folder or adapter",
        needs=("ingest", "pretrain"), reproducibility=BITWISE_ON_ONE_MACHINE,
    ),
    Stage(
        "embed", "models + corpus", "embeddings (Parquet)",
        needs=("ingest",), uses=("expand", "pretrain"), reads_base=True, reproducibility=BITWISE_ON_ONE_MACHINE,
    ),
    Stage(
        "classify", "embeddings + labels", "heads, predictions, metrics",
        needs=("ingest", "embed"), uses=("finetune",), rooms=("core", "corpus"), reproducibility=BITWISE_ON_ONE_MACHINE,
    ),
    Stage(
        "report", "all manifests", "one self-contained HTML page",
        needs=(), uses=("ingest", "tokenizer", "merge", "expand", "pretrain", "finetune", "embed", "classify"),
        rooms=("core", "corpus"), reads_base=True,
        reproducibility="the page shows each stage's wall time and memory, which differ from run to run; all else is equal on one machine",
    ),
)  # fmt: skip
BY_NAME = {stage.name: stage for stage in STAGES}


@cache
def recipe_model() -> type[RecipeHeader]:
    """The pydantic model of a recipe: the header and one optional section per row of STAGES."""
    sections: dict[str, Any] = {stage.name: (stage.config_class() | None, None) for stage in STAGES}
    return create_model("Recipe", __base__=_CheckedHeader, **sections)


class _CheckedHeader(RecipeHeader):
    _base_is_fused: bool = PrivateAttr(False)

    @property
    def has_fusion(self) -> bool:
        """Whether the recipe's model reads tracks: by expand.fusion, or since its base does."""
        return self._base_is_fused or getattr(getattr(self, "expand", None), "fusion", None) is not None

    @model_validator(mode="after")
    def _stages_have_what_they_need(self, info: ValidationInfo) -> _CheckedHeader:
        if self.base.model and not self.base.model.startswith(HUB):
            with contextlib.suppress(BiollmError):  # what is wrong with it is told where it is read
                # a GGUF is no folder and has no fusion: it is not looked for, let alone fetched
                base = resolve_folder(self.base.model, info.context[RECIPE_FOLDER] if info.context else Path())
                self._base_is_fused = (base / FUSION_FILE).is_file()
        for stage in STAGES:
            if getattr(self, stage.name) is None:
                continue
            for need in stage.needs:
                if getattr(self, need) is None:
                    raise ValueError(f"the section '{stage.name}' needs a section '{need}'; add '{need}: {{}}' or more")
            if problems := getattr(self, stage.name).contradictions(self):
                raise ValueError("; ".join(problems))
        return self


@dataclass(frozen=True)
class Run:
    """A recipe and where its results go: everything that decides what each stage must produce."""

    path: Path
    recipe: RecipeHeader
    results: Path

    @classmethod
    def load(cls, path: Path, overrides: list[str] | None = None, out: Path | None = None) -> Run:
        """Read a recipe; results go to `out` or else to results/<recipe name> below the working folder."""
        recipe = read_recipe(path, overrides or [], recipe_model())
        return cls(path, recipe, out or Path("results") / recipe.name)

    @property
    def stages(self) -> list[Stage]:
        """The stages that this recipe has, in order."""
        return [stage for stage in STAGES if self.section(stage) is not None]

    def section(self, stage: Stage) -> Section | None:
        return cast(Section | None, getattr(self.recipe, stage.name))

    def upstream(self, stage: Stage) -> list[Stage]:
        """The stages whose artifacts `stage` reads in this recipe."""
        present = {s.name for s in self.stages}
        return [BY_NAME[name] for name in (*stage.needs, *stage.uses) if name in present]

    def needed_for(self, stage: Stage) -> list[Stage]:
        """A stage and all that it reads, directly or not, in order."""
        names = {stage.name} | {s.name for parent in self.upstream(stage) for s in self.needed_for(parent)}
        return [s for s in STAGES if s.name in names]

    def folder(self, stage: Stage) -> Path:
        return self.results / stage.name

    def resource_digests(self, stage: Stage) -> dict[str, str]:
        """Digests of the raw files that a stage reads, by resource name. Raises ResourceError if one is not there."""
        section = self.section(stage)
        named = (section.resources() if section else []) + (self.recipe.base.resources() if self._reads_base(stage) else [])
        return {name: digest_resource(name, self.path.parent) for name in named}

    def _reads_base(self, stage: Stage) -> bool:
        section = self.section(stage)
        return stage.reads_base and section is not None and section.reads_base()

    def own_key(self, stage: Stage) -> str:
        """What a stage is made from, but for the upstream artifacts: config, seed, code, raw files."""
        section = self.section(stage)
        assert section is not None, stage.name
        return sha256_json(
            {
                "stage": stage.name,
                "config": section.identity(),
                "base": self.recipe.base.model_dump(mode="json") if self._reads_base(stage) else None,
                "seed": self.recipe.seed,
                "threads": self.recipe.threads,
                "code": _code_digest(stage),
                "resources": self.resource_digests(stage),
            }
        )

    def key(self, stage: Stage, inputs: dict[str, Artifact]) -> str:
        """What an artifact is made from. Equal keys mean that it need not be made again."""
        return sha256_json([self.own_key(stage), {name: [artifact.digest, artifact.facts] for name, artifact in inputs.items()}])

    def state(self, stages: list[Stage] | None = None) -> Iterator[tuple[Stage, Artifact | None]]:
        """Each stage (or each of `stages`, in order and with all they need) with its artifact if whole and up to date, else None.

        Raises ArtifactError if an artifact was damaged, ResourceError if a raw file is missing.
        """
        ready: dict[str, Artifact] = {}
        for stage in self.stages if stages is None else stages:
            artifact = self._up_to_date(stage, ready)
            if artifact is not None:
                ready[stage.name] = artifact
            yield stage, artifact

    def _up_to_date(self, stage: Stage, ready: dict[str, Artifact]) -> Artifact | None:
        upstream = [s.name for s in self.upstream(stage)]
        folder = self.folder(stage)
        if not folder.is_dir() or not any(folder.iterdir()):  # Snakemake makes an empty one before it starts a job
            return None
        artifact = open_artifact(folder)
        if any(name not in ready for name in upstream):
            return None
        return artifact if artifact.manifest.key == self.key(stage, {name: ready[name] for name in upstream}) else None

    def run_stage(self, stage: Stage) -> tuple[Artifact, bool]:
        """Make one stage's artifact unless it is up to date. Returns it and whether it was made now.

        Raises ArtifactError if an upstream artifact is missing, damaged or stale: nothing stale is ever used.
        """
        section = self.section(stage)
        if section is None:
            raise ConfigError(f"{self.path}: has no section '{stage.name}', so there is nothing to do; add '{stage.name}: {{}}'")
        current = {s.name: artifact for s, artifact in self.state(self.needed_for(stage))}
        for name, artifact in current.items():
            if artifact is None and name != stage.name:
                raise ArtifactError(
                    f"{self.results / name}: missing or not up to date with {self.path}; "
                    f"make it first: biollm {name} {self.path}, or all of them: biollm run {self.path}"
                )
        if (done := current[stage.name]) is not None:
            with contextlib.suppress(OSError):  # a hint to engines that go by time; a read-only results folder may refuse it
                os.utime(done.folder / MANIFEST)
            return done, False
        inputs = {s.name: cast(Artifact, current[s.name]) for s in self.upstream(stage)}
        key = self.key(stage, inputs)

        def fill(out: Path, work: Path) -> dict[str, Any]:
            job: Job[Any] = Job(
                config=section,
                seed=self.recipe.seed,
                inputs=inputs,
                out=out,
                work=work,
                logs=self.results / "logs" / stage.name / key[:16],
                recipe_folder=self.path.parent,
                base_model=self.recipe.base.model,
            )
            with self._fixed_threads():
                return stage.runner()(job)

        made = make_artifact(
            self.folder(stage),
            stage=stage.name,
            key=key,
            config=section.model_dump(mode="json"),
            decides=section.identity(),
            seed=self.recipe.seed,
            inputs={name: artifact.digest for name, artifact in inputs.items()} | self.resource_digests(stage),
            reproducibility=stage.reproducibility,
            fill=fill,
        )
        return made, True

    @contextlib.contextmanager
    def _fixed_threads(self) -> Iterator[None]:
        """Fix the thread count, which decides the last bits of floating-point sums, while a stage runs: the recipe's, or all
        that were granted. The environment is as before afterwards."""
        before = dict(os.environ)
        threads = self.recipe.threads or granted_cores()
        os.environ |= thread_limits(threads)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(threads)
        try:
            with threadpool_limits(threads):  # NumPy's own libraries: they were loaded before the recipe was known
                yield
        finally:
            os.environ.clear()
            os.environ |= before


@cache
def _code_digest(stage: Stage) -> str:
    """A digest of the source that a stage may run, so that no result outlives the code that made it."""
    package = Path(__file__).parent
    sources = sorted(p for room in (*stage.rooms, stage.name) for p in (package / room).rglob("*") if p.suffix in {".py", ".j2"})
    return sha256_json([[p.relative_to(package).as_posix(), sha256_file(p)] for p in sources])
