"""`biollm doctor`: what a recipe needs, whether it is here, and what the run will cost."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from biollm.core.alphabets import DOUBLE_STRANDED
from biollm.core.errors import BiollmError
from biollm.core.machine import available_memory_gib, usable_cores
from biollm.core.resources import digest_resource, resolve_base
from biollm.stages import Run
from biollm.training.config import ObjectiveName, TrainingConfig

if TYPE_CHECKING:
    from biollm.training.estimate import Shape

_GIB = 2**30
# Interpreter, torch, transformers and DeepSpeed loaded, before any model.
_LIBRARIES_GIB = 1.2
_COSTS = "memory, disk, time"
_TOKENS_OF_A_TEXT = 128  # a guess; a DNA token is about four bases


@dataclass(frozen=True)
class Finding:
    """One line of the examination. `ok` is None for what is only worth knowing."""

    what: str
    ok: bool | None
    says: str


def examine(run: Run) -> bool:
    """Print what was found. Returns whether nothing is missing."""
    findings = [*_packages(), *_machine(), *_inputs(run), *_costs(run)]
    table = Table(title=f"biollm doctor {run.path}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "what", "found"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        sign = {True: "[green]ok[/]", False: "[red]MISSING[/]", None: "[dim]info[/]"}[finding.ok]
        table.add_row(sign, finding.what, finding.says)
    Console(highlight=False).print(table)
    return all(finding.ok is not False for finding in findings)


def _packages() -> Iterator[Finding]:
    yield Finding("Python", sys.version_info >= (3, 11), f"{sys.version.split()[0]} (3.11 or later)")
    for text in importlib.metadata.requires("biollm") or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(requirement.name, False, f"not installed; pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield Finding(requirement.name, False, f"{version}, but {requirement.specifier} is needed; pip install '{requirement}'")


def _machine() -> Iterator[Finding]:
    import torch

    from biollm.training.deepspeed import use_bf16

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Finding("accelerator", None, ", ".join(devices) or "none; everything runs on the CPU")
    yield Finding("CPU cores", None, f"{usable_cores()} usable, bfloat16 in hardware: {'yes' if use_bf16('auto') else 'no'}")


def _inputs(run: Run) -> Iterator[Finding]:
    for stage in run.stages:
        section = run.section(stage)
        for resource in section.resources() if section else []:
            yield _check(f"{stage.name} reads {resource}", lambda resource=resource: digest_resource(resource, run.path.parent)[:12])
        for training in [section, *getattr(section, "methods", [])]:
            if isinstance(training, TrainingConfig):
                yield from _place(f"{stage.name} trains {getattr(training, 'name', '')}".rstrip(), training, run)
        for program in section.programs() if section else []:
            found = shutil.which(program)
            yield Finding(f"{stage.name} runs {program}", found is not None, found or "not on the PATH; install it")
    if run.recipe.base.model:
        yield _check(f"base model {run.recipe.base.model}", lambda: _describe_base(run))


def _check(what: str, look: Any) -> Finding:
    try:
        return Finding(what, True, str(look()))
    except BiollmError as error:
        return Finding(what, False, str(error))


def _place(what: str, training: TrainingConfig, run: Run) -> Iterator[Finding]:
    """What this machine cannot do of a training, or the hosts that a file names for it."""
    from biollm.training.launch import read_hostfile
    from biollm.training.run import with_hostfile

    def look() -> str:
        hostfile = with_hostfile(training, run.path.parent).hostfile
        return ", ".join(host.name for host in read_hostfile(Path(hostfile), training)) if hostfile else "as asked"

    finding = _check(f"{what} on " + (f"the hosts of {training.hostfile}" if training.hostfile else "this machine"), look)
    if training.hostfile or not finding.ok:
        yield finding


def _describe_base(run: Run) -> str:
    from biollm.modeling.vocabulary import load_tokenizer

    folder = resolve_base(run.recipe.base.model, run.path.parent)
    if (file := _gguf(folder)) is not None:
        return f"GGUF, {file.stat().st_size / 1e6:.0f} MB; converted once, into the cache, when a stage first needs it"
    return f"tokenizer of {load_tokenizer(folder).get_vocab_size():,} tokens, {_parameters(folder) / 1e6:.1f} M parameters"


def _costs(run: Run) -> Iterator[Finding]:
    """Estimates of memory, disk and time. Folders of results hold float32 weights."""
    if not run.recipe.base.model:
        return
    from biollm.training.deepspeed import use_bf16
    from biollm.training.estimate import checkpoint_bytes, memory_bytes, operations

    try:
        folder = resolve_base(run.recipe.base.model, run.path.parent)
        file = _gguf(folder)
    except BiollmError:
        return  # already among the findings
    if file is not None and importlib.util.find_spec("gguf") is None:
        yield Finding(_COSTS, None, "unknown until the package gguf is there to read the base model: pip install gguf")
        return
    try:
        shape, usual = _shape_of(folder, file)
    except BiollmError as error:
        yield Finding(_COSTS, False, f"unknown: {error}")
        return
    disk, needed, tokens = 0.0, 0.0, 0.0
    sizes: list[tuple[float, TrainingConfig]] = []
    for training in _trainings(run, usual):
        config = training.config
        read_at_once = config.micro_batch_size * training.tokens_per_record
        sizes.append((memory_bytes(shape, config, read_at_once, training.labelled, use_bf16(config.precision)), config))
        disk = max(disk, checkpoint_bytes(shape))
        read = float(training.steps * config.batch_size * training.tokens_per_record)
        tokens += read
        needed += operations(shape, read, training.labelled)
    yield from _memory(shape, sizes, _smallest_gpu_gib())
    copies = sum(stage.name in {"expand", "pretrain", "finetune"} for stage in run.stages)
    disk = (disk + 4.0 * copies * shape.parameters) / _GIB
    free = shutil.disk_usage(_existing(run.results)).free / _GIB
    yield Finding("disk", disk <= free, f"about {disk:.1f} GiB beside the corpus and its tokens, {free:.1f} GiB free for {run.results}")
    if tokens:
        minutes = max(needed / _measured_flops() / 60, 1)
        yield Finding("training time", None, f"roughly {minutes:.0f} min here for {tokens:,.0f} tokens, from a one-second speed test")


def _memory(shape: Shape, sizes: list[tuple[float, TrainingConfig]], gpu_gib: float | None) -> Iterator[Finding]:
    """The machine's memory and a GPU's against what trainings need. sizes: bytes of one process of each, and its settings. What is
    offloaded is not parted from what stays on the GPU: all of it is counted as the machine's."""
    from biollm.training.estimate import memory_knobs

    def is_on_gpu(config: TrainingConfig) -> bool:
        return gpu_gib is not None and config.offload == "none"

    on_gpu = [(size, config) for size, config in sizes if is_on_gpu(config)]
    # Weights pass through the memory of the machine on their way to a GPU.
    here = [(4.0 * shape.parameters if is_on_gpu(config) else size, config) for size, config in sizes]
    totals = [((size + _LIBRARIES_GIB * _GIB) * config.processes, config) for size, config in here]

    def remedy(of: list[tuple[float, TrainingConfig]]) -> str:
        return f"; if it does not fit: {memory_knobs(max(of, key=lambda one: one[0])[1])}" if of else ""

    gib, available = _LIBRARIES_GIB + max([8.0 * shape.parameters, *(size for size, _ in totals)]) / _GIB, available_memory_gib()
    yield Finding("memory", gib <= available, f"about {gib:.1f} GiB, {available:.1f} GiB available{remedy(totals)}")
    if gpu_gib is not None and on_gpu:
        gib = max(size for size, _ in on_gpu) / _GIB
        yield Finding(
            "GPU memory", gib <= gpu_gib, f"about {gib:.1f} GiB for each process, {gpu_gib:.1f} GiB on the smallest GPU{remedy(on_gpu)}"
        )


def _smallest_gpu_gib() -> float | None:
    import torch

    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return min(sizes) / _GIB if sizes else None


def _gguf(base: Path) -> Path | None:
    """The GGUF file that a base is, or None."""
    from biollm.modeling.gguf_base import is_gguf

    return base if base.is_file() else is_gguf(base)


def _shape_of(folder: Path, file: Path | None) -> tuple[Shape, ObjectiveName]:
    """What decides the cost of a base model, and what `objective: auto` means for it. file: the base itself if it is GGUF."""
    from biollm.modeling.loading import load_config
    from biollm.training.estimate import Shape
    from biollm.training.objectives import architecture_of, resolve

    if file is not None:
        return Shape.of_gguf(file), resolve("auto", "decoder")  # biollm reads no other kind of model from GGUF
    config = load_config(folder)
    return Shape.of(config, _parameters(folder)), resolve("auto", architecture_of(config))


@dataclass(frozen=True)
class _Training:
    """One training of a recipe, with its phases and repetitions. labelled: the share of tokens that the output head is computed for;
    steps: those of all of them together."""

    config: Any
    tokens_per_record: int
    labelled: float
    steps: int


def _trainings(run: Run, usual: str) -> Iterator[_Training]:
    """usual: the objective that `auto` means for the base."""
    pretrain, finetune, ingest = (getattr(run.recipe, name) for name in ("pretrain", "finetune", "ingest"))
    if pretrain is not None:
        objective = usual if pretrain.objective == "auto" else pretrain.objective
        labelled = 1.0 if objective in ("causal", "prefix") else pretrain.mask_rate
        steps = (pretrain.steps + pretrain.new_rows_steps) * (1 + len(pretrain.compare_operators))
        yield _Training(pretrain, pretrain.most_document_tokens, labelled, steps)
    per_record = ingest.window_bases // 4 if ingest is not None and ingest.modality in DOUBLE_STRANDED else _TOKENS_OF_A_TEXT
    for method in finetune.methods if finetune is not None else []:
        yield _Training(method, per_record, 1.0 if finetune.task == "instruction" else 0.0, method.steps)


def _measured_flops() -> float:
    """Floating-point operations per second of a matrix product of the size that models do."""
    import torch

    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    products, started = 0, time.perf_counter()
    while time.perf_counter() - started < 1.0:
        a @ b
        products += 1
    return products * 2 * 1024**3 / (time.perf_counter() - started)


def _parameters(folder: Path) -> int:
    """Parameters of a model folder, from the headers of its weight files alone."""
    from safetensors import safe_open

    total = 0
    for shard in folder.glob("*.safetensors"):
        with safe_open(str(shard), framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                size = 1
                for axis in tensors.get_slice(name).get_shape():
                    size *= axis
                total += size
    return total


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())
