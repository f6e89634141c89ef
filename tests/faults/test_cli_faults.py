"""What goes wrong for a user ends in one line on stderr that names the kind of error, exit code 1, and nothing changed.

Every case runs the command line in a process of its own, as a user does.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from biollm.core.artifacts import open_artifact
from biollm.stages import STAGES

TinyRecipe = Callable[..., Path]
Biollm = Callable[..., "subprocess.CompletedProcess[str]"]

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


_ANNOUNCEMENTS = {f"{stage.name}: {stage.reads} -> {stage.writes}" for stage in STAGES}
_PROGRESS = ("expand: ", "merge: ")  # what stages say of how far they are


def as_an_ordinary_user() -> None:
    """Make permission bits count for root too: without these capabilities, root is refused what the bits refuse.

    For use before exec. For anyone but root the kernel refuses the call, and the bits count anyway.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def small_files_only() -> None:
    """Files may hold 2 KiB: the kernel refuses the write beyond it, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))


def the_line(finished: subprocess.CompletedProcess[str], kind: str) -> str:
    """The one line of a refusal. What a stage says of itself may stand before it."""
    assert "Traceback" not in finished.stderr, finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line not in _ANNOUNCEMENTS and not line.startswith(_PROGRESS)]
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith(f"{kind}: ")
    assert finished.returncode == 1
    assert not finished.stdout
    return lines[0]


@pytest.fixture
def recipe(tmp_path: Path, tiny_recipe: TinyRecipe) -> Path:
    return tiny_recipe(tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def finished(tiny_results: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A recipe and a results folder in which ingest to expand are done: a private copy."""
    folder = Path(shutil.copytree(tiny_results.parent, tmp_path / "copy"))
    return folder / "recipe.yaml", folder / "results"


def test_a_stage_that_is_done_says_so_and_is_not_run_again(biollm: Biollm, finished: tuple[Path, Path]) -> None:
    recipe, out = finished
    again = biollm("merge", recipe, "--out", out)
    assert (again.returncode, again.stdout) == (0, "")
    assert "merge: up to date, nothing to do -> " in again.stderr.splitlines()[-1]


def test_unknown_recipe_key(biollm: Biollm, recipe: Path, out: Path) -> None:
    line = the_line(biollm("ingest", recipe, "--out", out, "--set", "ingest.window_base=64"), "ConfigError")
    assert "unknown key 'ingest.window_base'; did you mean 'window_bases'?" in line
    assert not out.exists()


def test_several_faults_of_a_recipe_stand_on_a_line_each(biollm: Biollm, recipe: Path) -> None:
    finished = biollm("ingest", recipe, "--set", "seed=x", "--set", "threads=0")
    assert [line.split(":")[0] for line in finished.stderr.splitlines()] == ["ConfigError", "ConfigError"]
    assert finished.returncode == 1


def test_missing_recipe(biollm: Biollm, tmp_path: Path) -> None:
    assert "none.yaml: no such recipe file" in the_line(biollm("ingest", tmp_path / "none.yaml"), "ConfigError")


def test_recipe_that_may_not_be_read(biollm: Biollm, recipe: Path) -> None:
    recipe.chmod(0o000)
    assert str(recipe) in the_line(biollm("ingest", recipe, preexec_fn=as_an_ordinary_user), "ConfigError")


def test_missing_sequence_file(biollm: Biollm, recipe: Path, out: Path) -> None:
    (recipe.parent / "one.fa").unlink()
    assert "one.fa: no such file (that folder holds " in the_line(biollm("ingest", recipe, "--out", out), "ResourceError")
    assert not out.exists()


def test_sequence_file_that_may_not_be_read(biollm: Biollm, recipe: Path, out: Path) -> None:
    (recipe.parent / "one.fa").chmod(0o000)
    line = the_line(biollm("ingest", recipe, "--out", out, preexec_fn=as_an_ordinary_user), "ResourceError")
    assert "one.fa" in line
    assert "cannot write" not in line


def test_missing_package(biollm: Biollm, tmp_path: Path, tiny_recipe: TinyRecipe, out: Path) -> None:
    recipe = tiny_recipe(
        tmp_path, ingest={"sources": [{"name": "a", "sequences": "package:no-such-genomes/x.fa", "annotation": "one.gff"}]}
    )
    line = the_line(biollm("ingest", recipe, "--out", out), "ResourceError")
    assert "the Python package 'no-such-genomes' is not installed; install it with: pip install no-such-genomes" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (">p\nMKVLATTLLQEFPWLGRSI\n", "line 2: record 'p' holds 'L' at position 4"),
        (">chrI\nACGT\n>chrI\nACGT\n", "record id 'chrI' stands twice"),
        (">chrIX\n" + "ACGT" * 500 + "\n", "annotates chrI, chrII, but the sequences are chrIX; no name in common"),
        (">chrI\n" + "ACGT" * 20 + "\n", "ends at 701, but sequence 'chrI' has 80 bases; the annotation belongs to another assembly"),
        ("", "holds no FASTA record"),
    ],
    ids=["protein as DNA", "duplicate ids", "GFF of other sequences", "GFF of another assembly", "empty file"],
)
def test_wrong_sequences(biollm: Biollm, recipe: Path, out: Path, content: str, message: str) -> None:
    (recipe.parent / "one.fa").write_text(content)
    assert message in the_line(biollm("ingest", recipe, "--out", out), "DataError")
    assert [p.name for p in out.iterdir() if "work" not in p.name] == [".ingest.lock"], "nothing is left that looks like a result"


@pytest.mark.parametrize("damage", ["corrupt", "truncated"])
def test_damaged_gzip(biollm: Biollm, tmp_path: Path, tiny_recipe: TinyRecipe, out: Path, damage: str) -> None:
    import gzip

    recipe = tiny_recipe(tmp_path, ingest={"sources": [{"name": "a", "sequences": "one.fa.gz", "annotation": "one.gff"}]})
    whole = gzip.compress((tmp_path / "one.fa").read_bytes())
    middle = len(whole) // 2
    (tmp_path / "one.fa.gz").write_bytes(
        whole[:middle] if damage == "truncated" else whole[:30] + bytes(b ^ 0xFF for b in whole[30:60]) + whole[60:]
    )
    assert "one.fa.gz: the compressed file is damaged or cut off: " in the_line(biollm("ingest", recipe, "--out", out), "DataError")


def test_vocabulary_that_the_corpus_cannot_fill(biollm: Biollm, finished: tuple[Path, Path]) -> None:
    recipe, out = finished
    before = open_artifact(out / "tokenizer").manifest
    line = the_line(biollm("tokenizer", recipe, "--out", out, "--set", "tokenizer.vocab_size=100000"), "DataError")
    assert "tokenizer.vocab_size is 100000, but the train split (" in line
    assert "lower vocab_size or give more data" in line
    assert open_artifact(out / "tokenizer").manifest == before


@pytest.mark.parametrize("name", ["records.parquet", "manifest.json"])
def test_damaged_artifact_is_never_used(biollm: Biollm, finished: tuple[Path, Path], name: str) -> None:
    recipe, out = finished
    content = bytearray((out / "ingest" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (out / "ingest" / name).write_bytes(content)
    line = the_line(biollm("tokenizer", recipe, "--out", out), "ArtifactError")
    assert f"ingest/{name}: " in line
    assert "remove the folder" in line


def test_stage_before_the_stage_that_it_reads(biollm: Biollm, recipe: Path, out: Path) -> None:
    line = the_line(biollm("tokenizer", recipe, "--out", out), "ArtifactError")
    assert (
        f"{out}/ingest: missing or not up to date with {recipe}; make it first: biollm ingest {recipe}, or all of them: biollm run" in line
    )


def test_stage_after_its_upstream_became_stale(biollm: Biollm, finished: tuple[Path, Path]) -> None:
    recipe, out = finished
    with (recipe.parent / "one.fa").open("a") as file:
        file.write(">chrIII\nACGT\n")
    for hash_seed in "0123":  # the first stale stage is named, in every process: making it is the first thing to do
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": hash_seed}
        assert "ingest: missing or not up to date" in the_line(biollm("merge", recipe, "--out", out, env=environment), "ArtifactError")


def test_base_without_a_fast_tokenizer(biollm: Biollm, finished: tuple[Path, Path]) -> None:
    recipe, out = finished
    (recipe.parent / "base" / "tokenizer.json").unlink()
    expected = "base: holds no tokenizer.json; biollm needs the fast tokenizer"
    assert expected in the_line(biollm("merge", recipe, "--out", out), "ConfigError")
    # without a kind of its own, the domain tokenizer is of the base's
    assert expected in the_line(biollm("tokenizer", recipe, "--out", out, "--set", "tokenizer.kind=null"), "ConfigError")


def test_base_of_an_unsupported_kind(biollm: Biollm, finished: tuple[Path, Path]) -> None:
    from tokenizers import Tokenizer, models

    recipe, out = finished
    Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(recipe.parent / "base" / "tokenizer.json"))
    line = the_line(biollm("merge", recipe, "--out", out), "ConfigError")
    assert "the base tokenizer's model is WordLevel; biollm merges into BPE, WordPiece, Unigram" in line
    assert "WordLevel" in the_line(biollm("tokenizer", recipe, "--out", out, "--set", "tokenizer.kind=null"), "ConfigError")


def test_domain_tokenizer_of_another_kind_than_the_base(biollm: Biollm, finished: tuple[Path, Path]) -> None:
    recipe, out = finished
    named = ["--out", out, "--set", "tokenizer.kind=bpe"]
    assert biollm("tokenizer", recipe, *named).returncode == 0
    before = open_artifact(out / "merge").manifest
    line = the_line(biollm("merge", recipe, *named), "ConfigError")
    assert "a domain tokenizer of kind 'bpe' cannot live in a WordPiece base; train one of kind wordpiece or kmer or char" in line
    assert open_artifact(out / "merge").manifest == before


def test_base_with_damaged_weights(biollm: Biollm, finished: tuple[Path, Path]) -> None:
    recipe, out = finished
    weights = recipe.parent / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-500])
    # the merge depends on the base too, so it is made again first
    assert biollm("merge", recipe, "--out", out).returncode == 0
    assert "base" in the_line(biollm("expand", recipe, "--out", out), "ConfigError")


def test_plain_text_that_is_not_utf8(biollm: Biollm, finished: tuple[Path, Path]) -> None:
    recipe, out = finished
    (recipe.parent / "plain.txt").write_bytes(b"caf\xe9\n")
    assert "plain.txt" in the_line(biollm("merge", recipe, "--out", out), "DataError")


def test_file_size_limit_leaves_the_previous_artifact(biollm: Biollm, finished: tuple[Path, Path]) -> None:
    recipe, out = finished
    for stage, change in (("ingest", "ingest.window_bases=60"), ("tokenizer", "tokenizer.vocab_size=60"), ("expand", "expand.init=normal")):
        before = open_artifact(out / stage).manifest
        line = the_line(biollm(stage, recipe, "--out", out, "--set", change, preexec_fn=small_files_only), "ResourceError")
        assert (
            f"{out / stage}: cannot write: the file would exceed the file-size limit (ulimit -f); nothing finished before was changed"
            in line
        )
        assert open_artifact(out / stage).manifest == before
        assert not (out / f".{stage}.partial").exists()


def test_a_full_disk_leaves_the_previous_artifact(biollm: Biollm, finished: tuple[Path, Path], tmp_path: Path) -> None:
    """On a small file system of its own. Where the machine lets nobody mount one, a file-size limit refuses the writes instead."""
    recipe, out = finished
    call = f"{shlex.quote(sys.executable)} -m biollm ingest {shlex.quote(str(recipe))} --out /mnt/results"
    script = (
        "set -e; mount -t tmpfs -o size=400k tmpfs /mnt; cp -r {out} /mnt/results; rm -r /mnt/results/expand /mnt/results/merge; "
        "cat /dev/zero > /mnt/filler 2>/dev/null || true; set +e; "
        f"{call} --set seed=9; echo exit $?; rm /mnt/filler; {call}; echo exit $?; {call} --set seed=9; echo exit $?"
    ).replace("{out}", shlex.quote(str(out)))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    isolated = subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False).returncode == 0
    if not isolated:
        before = open_artifact(out / "ingest").manifest
        line = the_line(biollm("ingest", recipe, "--out", out, "--set", "seed=9", preexec_fn=small_files_only), "ResourceError")
        assert "cannot write" in line
        assert open_artifact(out / "ingest").manifest == before
        return
    ran = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, env=environment, timeout=60, check=False)
    refused, kept, made = (line for line in ran.stderr.splitlines() if line not in _ANNOUNCEMENTS)
    assert refused.startswith("ResourceError: /mnt/results/ingest: cannot write: the disk is full; nothing finished before was changed"), (
        ran.stderr
    )
    assert kept.startswith("ingest: up to date"), "the previous artifact is whole"
    assert made.startswith("ingest: done"), "with space again, the same command succeeds"
    assert ran.stdout.split() == ["exit", "1", "exit", "0", "exit", "0"]


@pytest.mark.parametrize("begun", [False, True], ids=["new results", "old results"])
def test_a_read_only_folder(biollm: Biollm, finished: tuple[Path, Path], tmp_path: Path, begun: bool) -> None:
    recipe, old = finished
    out = old if begun else tmp_path / "locked" / "results"
    locked = out if begun else out.parent
    locked.mkdir(exist_ok=True)
    locked.chmod(0o555)
    try:
        touch = subprocess.run(["touch", str(locked / "x")], preexec_fn=as_an_ordinary_user, capture_output=True, check=False)
        assert touch.returncode != 0, "the folder must be read-only for this process, root or not"
        finished_ = biollm("ingest", recipe, "--out", out, "--set", "seed=9", preexec_fn=as_an_ordinary_user)
        line = the_line(finished_, "ResourceError")
        assert "ingest: cannot write: permission was denied" in line
        assert "--out" in line
    finally:
        locked.chmod(0o755)
    if begun:
        assert open_artifact(out / "ingest").manifest.seed == 3


def test_results_folder_that_is_a_file(biollm: Biollm, recipe: Path, tmp_path: Path) -> None:
    place = tmp_path / "occupied"
    place.write_text("mine")
    assert "occupied" in the_line(biollm("ingest", recipe, "--out", place), "ResourceError")
    assert place.read_text() == "mine"


def test_a_model_and_a_file_for_embed_are_told_of_embed_file(biollm: Biollm, recipe: Path, out: Path) -> None:
    line = the_line(biollm("embed", "some/model", "some.fasta", "--out", str(out)), "ConfigError")
    assert "found some.fasta behind some/model, expected a recipe alone" in line
    assert "biollm embed-file some/model some.fasta --out DIR" in line


def test_two_processes_at_once_on_one_stage(biollm: Biollm, recipe: Path, out: Path) -> None:
    (recipe.parent / "one.fa").write_text(
        "".join(f">c{i}\n" + "ACGTTGCA" * 20_000 + "\n" for i in range(10)).replace(">c0\n", ">chrI\n").replace(">c1\n", ">chrII\n")
    )
    command = [sys.executable, "-m", "biollm", "ingest", str(recipe), "--out", str(out), "--set", "ingest.stride_bases=16"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        patience = time.monotonic() + 30
        while not (out / ".ingest.partial").is_dir() and time.monotonic() < patience:
            time.sleep(0.002)
        first.send_signal(signal.SIGSTOP)  # it holds the stage for as long as we look
        assert (out / ".ingest.partial").is_dir(), "the first process is at work"
        line = the_line(biollm("ingest", recipe, "--out", out), "ArtifactError")
        assert f"{out}: another process is running the stage 'ingest' there; wait for it, or choose another --out" in line
        assert (out / ".ingest.partial").is_dir(), "the second left the work of the first alone"
    finally:
        first.kill()
        first.wait()
    again = biollm("ingest", recipe, "--out", out, "--set", "ingest.window_bases=600", "--set", "ingest.split.block_bases=1000")
    assert "another process" not in again.stderr, "the lock of a killed process is free"


def test_a_killed_stage_leaves_no_artifact_and_runs_again(biollm: Biollm, recipe: Path, out: Path) -> None:
    command = [sys.executable, "-m", "biollm", "ingest", str(recipe), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / ".ingest.partial").is_dir() and first.poll() is None:
        time.sleep(0.001)
    first.kill()
    first.wait()
    assert not (out / "ingest").exists() or open_artifact(out / "ingest")
    again = biollm("ingest", recipe, "--out", out)
    assert again.returncode == 0, again.stderr
    assert open_artifact(out / "ingest").manifest.stage == "ingest"
    assert sorted(p.name for p in out.iterdir()) == [".ingest.lock", "ingest"]


def test_unknown_stage_for_until(biollm: Biollm, recipe: Path) -> None:
    line = the_line(biollm("run", recipe, "--until", "classify"), "ConfigError")
    assert "--until classify: no such stage in" in line
    assert "it has ingest, tokenizer, merge, expand, pretrain, embed" in line


def test_output_that_nobody_reads_any_more_is_no_fault(recipe: Path) -> None:
    command = f"set -o pipefail; {shlex.quote(sys.executable)} -m biollm --help | head -c 0"
    finished = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert finished.stderr == ""
