"""The command line: one command per row of STAGES, and run, doctor, audit. Thin: it parses, calls, prints."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from biollm.core.errors import BiollmError, ConfigError
from biollm.core.progress import say
from biollm.stages import BY_NAME, STAGES, Run, Stage

app = typer.Typer(
    name="biollm",
    help="Adapt a pretrained language model to a biological domain, and prove that it helped.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", readable=False, help="the recipe file, for example pipelines/quickstart.yaml")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a recipe key; may be given several times")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="results folder; default: results/<recipe name>")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False) -> None:
    if version:
        from biollm import __version__

        typer.echo(f"biollm {__version__}")
        raise typer.Exit


@app.command()
def run(
    recipe: Recipe,
    set: Set = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="stop after this stage")] = None,
    cores: Annotated[int | None, typer.Option("--cores", min=1, help="CPU cores to use; default: all")] = None,
    out: Out = None,
) -> None:
    """Run all stages of a recipe with Snakemake; what is up to date is not run again."""
    from biollm.workflow import run_workflow

    loaded = Run.load(recipe, set, out)
    if not run_workflow(loaded, set or [], cores, _stage_named(until, loaded) if until else None):
        raise typer.Exit(1)
    _print_results(loaded)


@app.command()
def doctor(recipe: Recipe, set: Set = None, out: Out = None) -> None:
    """Check the machine, the packages and the recipe's inputs, and estimate memory, disk and time."""
    from biollm.doctor import examine

    if not examine(Run.load(recipe, set, out)):
        raise typer.Exit(1)


@app.command()
def audit(
    tables: Annotated[
        list[Path], typer.Argument(metavar="TABLE...", readable=False, help="one table with splits, or a file for each split")
    ],
    modality: Annotated[str, typer.Option("--modality", help="dna, rna, protein, smiles or text")] = "dna",
    sequence: Annotated[str, typer.Option("--sequence", metavar="COLUMN", help="the sequences")] = "sequence",
    split: Annotated[str | None, typer.Option("--split", metavar="COLUMN", help="the splits; default: split")] = None,
    id: Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="what names the rows; default: id")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="COLUMN", help="default: label, label_*; several times")] = None,
    group: Annotated[list[str] | None, typer.Option("--group", metavar="COLUMN", help="must not be in two splits; several times")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="write audit.json and audit_examples.parquet here")] = None,
) -> None:
    """Look for leaks between splits, and for labels that the id, length or composition tells. Exit code 1 if it leaks, 2 for bad input."""
    from biollm.corpus.audit_table import audit_files

    columns = {"sequence": sequence, "split": split, "id": id, "labels": label or None, "groups": group or None}
    try:
        text, leaks = audit_files(tables, {"modality": modality, **columns}, out, shutil.get_terminal_size((120, 40)).columns)
    except BiollmError as error:
        _print_error(error)
        raise typer.Exit(2) from None
    print(text)
    if leaks:
        raise typer.Exit(1)


@app.command("merge-adapter")
def merge_adapter(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="the folder of a LoRA, DoRA or IA3 adapter that finetune wrote")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the model folder to write; must not exist")],
    base: Annotated[Path | None, typer.Option("--base", metavar="DIR", help="the adapter's base, if it was moved")] = None,
) -> None:
    """Fold an adapter into its base: a stock model folder, checked to give the same logits."""
    from biollm.finetune.merging import MERGE_TOLERANCE, merge_adapter

    difference = merge_adapter(adapter, out, base)
    say(f"merged -> {out}: logits differ by {difference:.1e} of the largest (allowed: {MERGE_TOLERANCE:.0e})")


def _stage_command(stage: Stage) -> Callable[..., None]:
    def command(recipe: Recipe, set: Set = None, out: Out = None) -> None:
        loaded = Run.load(recipe, set, out)
        say(f"{stage.name}: {stage.reads} -> {stage.writes}")
        artifact, made = loaded.run_stage(stage)
        what = (
            f"done in {artifact.manifest.wall_seconds:.0f} s, {artifact.manifest.peak_memory_mib:.0f} MiB"
            if made
            else "up to date, nothing to do"
        )
        say(f"{stage.name}: {what} -> {artifact.folder} ({artifact.digest[:12]})")

    command.__doc__ = f"Stage: {stage.reads} -> {stage.writes}."
    return _with_flags(command, stage) if stage.flags else command


def _with_flags(command: Callable[..., None], stage: Stage) -> Callable[..., None]:
    """The command with an option for each switch of the stage's section: --in-place-shards is --set expand.in_place_shards=true."""

    def switched(recipe: Path, set: list[str] | None = None, out: Path | None = None, **flags: bool) -> None:
        command(recipe, [*(set or []), *(f"{stage.name}.{flag}=true" for flag, on in flags.items() if on)], out)

    own = inspect.signature(command, eval_str=True).parameters.values()
    switches = [
        inspect.Parameter(
            flag,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(f"--{flag.replace('_', '-')}", help=f"as --set {stage.name}.{flag}=true")],
        )
        for flag in stage.flags
    ]
    switched.__signature__ = inspect.Signature([*own, *switches])  # type: ignore[attr-defined]  # what typer reads
    switched.__annotations__ = {p.name: p.annotation for p in (*own, *switches)}
    switched.__doc__ = command.__doc__
    return switched


for _stage in STAGES:
    app.command(_stage.name)(_stage_command(_stage))


def main() -> None:
    """Entry point. What a user can cause ends in one line and exit code 1; anything else is our bug and keeps its traceback."""
    try:
        app()
    except BiollmError as error:
        _print_error(error)
        sys.exit(1)
    except BrokenPipeError:  # `biollm … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _print_error(error: BiollmError) -> None:
    for line in str(error).splitlines():
        print(f"{type(error).__name__}: {line}", file=sys.stderr)


def _stage_named(name: str, loaded: Run) -> Stage:
    if name not in BY_NAME or BY_NAME[name] not in loaded.stages:
        raise ConfigError(f"--until {name}: no such stage in {loaded.path}; it has {', '.join(stage.name for stage in loaded.stages)}")
    return BY_NAME[name]


def _print_results(loaded: Run) -> None:
    done = {stage.name: artifact for stage, artifact in loaded.state() if artifact is not None}
    if "classify" in done:
        from biollm.classify.table import render_table

        print(render_table(done["classify"].facts, width=shutil.get_terminal_size((120, 40)).columns))
    if "report" in done:
        print(f"report: {done['report'].folder / 'report.html'}")
