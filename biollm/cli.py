"""The command line: one command per row of STAGES, and run, doctor, audit. Thin: it parses, calls, prints."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, cast

import typer

from biollm.core.alphabets import ALPHABETS, Modality
from biollm.core.errors import BiollmError, ConfigError
from biollm.core.machine import collect_rarely
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
    cores: Annotated[int | None, typer.Option("--cores", min=1, help="CPU cores to use; default: OMP_NUM_THREADS, or all")] = None,
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
    modality: Annotated[str, typer.Option("--modality", help="dna, methylated_dna, rna, protein, smiles or text")] = "dna",
    sequence: Annotated[str, typer.Option("--sequence", metavar="COLUMN", help="the sequences")] = "sequence",
    split: Annotated[str | None, typer.Option("--split", metavar="COLUMN", help="the splits; default: split")] = None,
    splits: Annotated[str | None, typer.Option("--splits", metavar="A,B,...", help="names of the splits, training first")] = None,
    id: Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="what names the rows; default: id")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="COLUMN", help="default: label, label_*; several times")] = None,
    group: Annotated[list[str] | None, typer.Option("--group", metavar="COLUMN", help="must not be in two splits; several times")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="write audit.json and audit_examples.parquet here")] = None,
) -> None:
    """Look for leaks between splits, and for labels that the id, length or composition tells. Exit code 1 if it leaks, 2 for bad input."""
    from biollm.corpus.audit_table import audit_files

    names = [name.strip() for name in splits.split(",")] if splits else []
    columns = {"sequence": sequence, "split": split, "splits": names, "id": id, "labels": label or None, "groups": group or None}
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


@app.command()
def impute(
    recipe: Recipe,
    set: Set = None,
    out: Out = None,
    split: Annotated[str, typer.Option("--split", help="whose records: train, validation or test")] = "test",
    folds: Annotated[int, typer.Option("--folds", min=2, help="passes; each hides one share of the values")] = 5,
    min_coverage: Annotated[int, typer.Option("--min-coverage", min=0, help="score values with at least so many observations")] = 4,
) -> None:
    """Fill in missing values of the tracks by the adapted model; score its predictions of hidden ones against baselines."""
    from biollm.impute import FILE, Settings, render
    from biollm.impute import impute as fill_in

    loaded = Run.load(recipe, set, out)
    _, scores = fill_in(loaded, Settings(split, folds, min_coverage))
    print(render(scores))
    print(f"predictions: {loaded.results / 'impute' / FILE}")


EmbeddedModality = Annotated[str | None, typer.Option("--modality", help="what sequences are, for models that read several kinds")]


@app.command("embed-file")
def embed_file(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a model folder, package:NAME/path, or a hub name")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", readable=False, help="FASTA (.gz too), Parquet, or a folder of Parquet parts")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="the folder of shards to write, or to go on with")],
    pooling: Annotated[list[str] | None, typer.Option("--pooling", help="mean, weighted, cls, last, max, centre; several times")] = None,
    layer: Annotated[list[int] | None, typer.Option("--layer", help="-1: the last; 0: token embeddings; several times")] = None,
    layer_pooling: Annotated[str, typer.Option("--layer-pooling", help="several layers: mean or concat")] = "mean",
    window: Annotated[int | None, typer.Option("--window", help="tokens of a window; default: what the model reads")] = None,
    stride: Annotated[int | None, typer.Option("--stride", help="tokens between windows; default: 3/4 of a window")] = None,
    strands: Annotated[str, typer.Option("--strands", help="forward, or both for DNA and RNA")] = "forward",
    input: Annotated[str, typer.Option("--input", help="auto (FASTA: sequences), sequence or text")] = "auto",
    modality: EmbeddedModality = None,
    tracks: Annotated[str, typer.Option("--tracks", help="auto, or off to withhold them")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16, int8 or auto")] = "fp32",
    column: Annotated[str, typer.Option("--column", help="of a table: where the strings are")] = "sequence",
    id_column: Annotated[str | None, typer.Option("--id-column", help="of a table: their names; default: id, if there is one")] = None,
    rows_per_part: Annotated[int, typer.Option("--rows-per-part", min=1, help="records of a shard: bounds memory")] = 8192,
) -> None:
    """Embed a file of any size by any model folder, shard by shard; the same command again goes on where it was cut."""
    from biollm.embed.files import FileJob
    from biollm.embed.files import embed_file as embed
    from biollm.embed.settings import Settings

    chosen = {"pooling": pooling or ["mean"], "layer": layer or [-1], "layer_pooling": layer_pooling, "window": window, "stride": stride}
    settings = Settings.of(**chosen, strands=strands, input=input, modality=modality, tracks=tracks, precision=precision)
    made = embed(FileJob(model, source, out, settings, column, id_column, rows_per_part))
    say(f"embed-file: {made.records} records, {made.dimension} numbers each, {made.parts} parts -> {out}")


@app.command()
def attention(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a model folder, package:NAME/path, or a hub name")],
    sequence: Annotated[str, typer.Argument(metavar="SEQUENCE", help="a sequence or a text")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="attention.json and attention.html go here")],
    layer: Annotated[int | None, typer.Option("--layer", help="one layer, from 0 or from behind; default: all")] = None,
    head: Annotated[int | None, typer.Option("--head", help="one head; default: all")] = None,
    input: Annotated[str, typer.Option("--input", help="auto, sequence or text")] = "auto",
    modality: EmbeddedModality = None,
    tracks: Annotated[str, typer.Option("--tracks", help="off withholds the tracks of a fused model")] = "auto",
) -> None:
    """Which token of a sequence looks at which: a heat map and its numbers."""
    from biollm.embed.embedder import Embedder

    embedder = Embedder(model, input=input, modality=modality, tracks=tracks)  # type: ignore[arg-type]  # it checks them
    found = embedder.attention(sequence, layer, head)
    for path in found.save(out):
        print(path)


HeadArgument = Annotated[Path, typer.Argument(metavar="HEAD", readable=False, help="results/<recipe>, or …/classify/heads/<row> in it")]
NewRecords = Annotated[Path, typer.Argument(metavar="INPUT", readable=False, help="FASTA (.gz too), Parquet or CSV")]
HeadModel = Annotated[str | None, typer.Option("--model", metavar="DIR", help="the model that the head reads; default: the one beside it")]
HeadModality = Annotated[str | None, typer.Option("--modality", help="of the sequences; default: what the results or the model say")]
SequenceColumn = Annotated[str, typer.Option("--column", help="of a table: where the sequences are")]
IdColumn = Annotated[str | None, typer.Option("--id-column", help="of a table: their names; default: id, if there is one")]


@app.command()
def predict(
    head: HeadArgument,
    source: NewRecords,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="the predictions: .parquet or .csv")],
    model: HeadModel = None,
    modality: HeadModality = None,
    column: SequenceColumn = "sequence",
    id_column: IdColumn = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="records held at once: bounds memory")] = 2048,
) -> None:
    """Score new records by a saved head; of a results folder by its best adapted one."""
    from biollm.predict import PredictJob, predict_file
    from biollm.predictor import Predictor

    predictor = Predictor.open(head, model, _modality(modality))
    number = predict_file(predictor, PredictJob(source, out, column, id_column, batch_size))
    say(f"predict: {number} records -> {out}")


@app.command()
def mutagenesis(
    head: HeadArgument,
    source: NewRecords,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="mutagenesis.parquet and mutagenesis.html go here")],
    id: Annotated[list[str] | None, typer.Option("--id", metavar="NAME", help="which records; several times; default: all, if few")] = None,
    start: Annotated[int, typer.Option("--start", min=0, help="first position, from 0")] = 0,
    end: Annotated[int | None, typer.Option("--end", help="behind the last position; default: the end of the sequence")] = None,
    step: Annotated[int, typer.Option("--step", min=1, help="every so many-th position")] = 1,
    target: Annotated[str | None, typer.Option("--target", help="the class; default: the second of two, or the predicted")] = None,
    model: HeadModel = None,
    modality: HeadModality = None,
    column: SequenceColumn = "sequence",
    id_column: IdColumn = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="sequences scored at once: bounds memory")] = 512,
) -> None:
    """What every single substitution in a sequence does to a head's score: a heat map and its numbers."""
    from biollm.mutagenesis import PAGE, ScanJob, scan_file
    from biollm.predict import PredictJob
    from biollm.predictor import Predictor

    predictor = Predictor.open(head, model, _modality(modality))
    found = scan_file(predictor, ScanJob(PredictJob(source, out, column, id_column), id or (), start, end, step, target, batch_size))
    say(f"mutagenesis: {len(found)} records, {sum(each.table().height for each in found)} letters put in")
    print(out / PAGE)


@app.command()
def benchmark(
    suite: Annotated[Path, typer.Argument(metavar="SUITE", readable=False, help="for example pipelines/suites/peptides.yaml")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="more models")] = None,
    models: Annotated[list[str] | None, typer.Option("--models", metavar="MODEL", help="a folder, package:NAME/path, or hub name")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="default: results/benchmark/<suite>")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="how many; each splits anew and seeds the heads")] = 3,
    limit: Annotated[int | None, typer.Option("--limit", min=10, help="records of each table at most, drawn at random")] = None,
    head: Annotated[str | None, typer.Option("--head", help="on the embeddings; default: logistic, ridge for quantities")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="refuse tables whose splits leak; exit code 1 if there is one")] = False,
) -> None:
    """Score model folders over a suite of labelled tables, beside baselines and published figures: `--models A B …`."""
    from biollm.benchmark.output import MARKDOWN, render
    from biollm.benchmark.run import Options, run_suite

    place = out or Path("results") / "benchmark" / suite.stem
    facts = run_suite(suite, [*(models or []), *(more or [])], place, Options.of(seeds, limit, head, strict))
    print(render(facts, shutil.get_terminal_size((120, 40)).columns))
    print(f"benchmark: {place / MARKDOWN}")
    if any(table["status"] == "refused" for table in facts["tables"]):
        raise typer.Exit(1)


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


def _recipe_alone(command: Callable[..., None]) -> Callable[..., None]:
    """`embed` that knows what `biollm embed MODEL FILE` was meant to be."""

    def checked(
        recipe: Recipe, more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None, set: Set = None, out: Out = None
    ) -> None:
        if more:
            raise ConfigError(
                f"embed: found {more[0]} behind {recipe}, expected a recipe alone; to embed a file by a model folder: "
                f"biollm embed-file {recipe} {more[0]} --out DIR"
            )
        command(recipe, set, out)

    checked.__doc__ = command.__doc__
    return checked


for _stage in STAGES:
    _command = _stage_command(_stage)
    app.command(_stage.name)(_recipe_alone(_command) if _stage.name == "embed" else _command)


def main() -> None:
    """Entry point. What a user can cause ends in one line and exit code 1; anything else is our bug and keeps its traceback."""
    collect_rarely()
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


def _modality(name: str | None) -> Modality | None:
    if name is not None and name not in ALPHABETS:
        raise ConfigError(f"--modality {name}: expected one of {', '.join(ALPHABETS)}")
    return cast(Modality | None, name)


def _print_results(loaded: Run) -> None:
    done = {stage.name: artifact for stage, artifact in loaded.state() if artifact is not None}
    if "classify" in done:
        from biollm.classify.table import render_table

        print(render_table(done["classify"].facts, width=shutil.get_terminal_size((120, 40)).columns))
    if "report" in done:
        print(f"report: {done['report'].folder / 'report.html'}")
