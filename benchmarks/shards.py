"""Peak memory of growing a vocabulary: on the safetensors shards, against loading the model with transformers and resizing it.

Three models of the Llama layout. The 8-billion one is made of sparse files (128,256 x 4,096 bfloat16, untied: 16 GB of which next to
nothing lies on disk), and only surgery on shards is run on it. The others have real bytes; there transformers runs too.
Every run is a process of its own; its peak is the kernel's high-water mark (VmHWM), in which pages of mapped files count. The share
of importing torch and transformers is given apart. The promise: at most 2.5 x the new tables + 300 MB.

The last row is the command itself, `biollm expand --in-place-shards`, with tokenizers and the default initialiser: tables of the size of
Llama 3.2 1B (128,256 x 2,048 bfloat16, tied) with two layers, and a byte-level BPE of as many tokens, to which dna-bpe-4096 is merged. Its
peak is what the artifact's manifest says. `--command` measures this row alone, and writes nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import RESULTS, _processor

from biollm.core.artifacts import package_versions
from biollm.core.machine import usable_cores
from biollm.modeling.shards import read_checkpoint, read_table

NEW_TOKENS = 4096
SHARDS = 4
# hidden size, layers, feed-forward size, heads, key-value heads, tokens; and whether its bytes are written out
LAYOUTS: dict[str, tuple[tuple[int, int, int, int, int, int], bool]] = {
    "8 B (sparse)": ((4096, 32, 14336, 32, 8, 128_256), False),
    "1 B": ((2048, 10, 5632, 16, 4, 128_256), True),
    "0.2 B": ((1024, 6, 2816, 8, 2, 49_152), True),
}
COMMAND = "1 B (command)"
COMMAND_LAYOUT = (2048, 2, 8192, 32, 8, 128_256)
DNA = Path(__file__).parent.parent / "tokenizers" / "dna-bpe-4096"
_PEAK = 'print(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM")))'
IMPORTS = f"import torch, transformers, transformers.models.llama.modeling_llama\nimport biollm.modeling.shards\n{_PEAK}"
OURS = f"""
import sys, numpy as np
from pathlib import Path
from biollm.modeling.shards import expand_shards, read_checkpoint
base, out, new = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
tables = read_checkpoint(base)
rows = np.random.default_rng(0).standard_normal((new, tables.table("input").shape[1]), dtype=np.float32) * np.float32(0.02)
expand_shards(base, out, rows, tables.rows + new, pad_to_multiple=64)
{_PEAK}"""
TRANSFORMERS = f"""
import sys, torch, transformers
transformers.utils.logging.set_verbosity_error()
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
model.resize_token_embeddings(model.config.vocab_size + int(sys.argv[3]), pad_to_multiple_of=64, mean_resizing=False)
model.save_pretrained(sys.argv[2], max_shard_size="5GB")
{_PEAK}"""


def write_model(folder: Path, layout: tuple[int, int, int, int, int, int], real: bool, tied: bool = False) -> int:
    """A Llama folder in SHARDS files; holes, or random bytes that are small numbers. Returns its parameters."""
    import torch
    import transformers

    width, layers, inner, heads, kv_heads, tokens = layout
    config = transformers.LlamaConfig(
        vocab_size=tokens, hidden_size=width, num_hidden_layers=layers, intermediate_size=inner, num_attention_heads=heads,
        num_key_value_heads=kv_heads, tie_word_embeddings=tied, dtype="bfloat16", architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in transformers.LlamaForCausalLM(config).named_parameters()}
    sizes = {name: 2 * int(np.prod(shape)) for name, shape in shapes.items()}
    per_file = sum(sizes.values()) // SHARDS + 1
    files: list[list[str]] = [[] for _ in range(SHARDS)]
    at = 0
    for name in shapes:
        files[min(at // per_file, SHARDS - 1)].append(name)
        at += sizes[name]
    weight_map = {}
    noise = (np.random.default_rng(0).standard_normal(1 << 22).astype(np.float32) * 0.02).view(np.uint32) >> 16
    block = noise.astype(np.uint16).tobytes()
    for number, names in enumerate(files, 1):
        file = f"model-{number:05d}-of-{SHARDS:05d}.safetensors"
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names:
            entries[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [end, end + sizes[name]]}
            end += sizes[name]
            weight_map[name] = file
        header = json.dumps(entries).encode()
        header += b" " * (-len(header) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(header).to_bytes(8, "little") + header)
            for begin in range(0, end if real else 0, len(block)):
                out.write(block[: min(len(block), end - begin)])
            out.truncate(8 + len(header) + end)
    index = {"metadata": {"total_size": sum(sizes.values()), "total_parameters": sum(sizes.values()) // 2}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(sizes.values()) // 2


def write_tokenizer(folder: Path, tokens: int) -> None:
    """A byte-level BPE whose tokens, but for the bytes, are words of random syllables."""
    from biollm.modeling.byte_level import LETTER_OF
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    rng = np.random.default_rng(0)
    syllables = [a + b + c for a in "bcdfglmnprstv" for b in "aeiou" for c in ("", "n", "r", "s")]
    words = dict.fromkeys(LETTER_OF.values())
    while len(words) < tokens:
        words["Ġ" * int(rng.integers(2)) + "".join(rng.choice(syllables, int(rng.integers(2, 5))))] = None
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


def measure_command(folder: Path) -> dict[str, Any]:
    """The row of the command: peak memory of `biollm expand --in-place-shards` after `biollm merge`, each a process of its own."""
    (folder / "base").mkdir()
    parameters = write_model(folder / "base", COMMAND_LAYOUT, real=True, tied=True)
    write_tokenizer(folder / "base", COMMAND_LAYOUT[-1])
    (folder / "plain.txt").write_text("some plain text\n")
    (folder / "dna").symlink_to(DNA)  # a recipe holds no absolute path
    recipe = {
        "name": "shards", "seed": 0, "base": {"model": "base"}, "expand": {"init": "mix"},
        "merge": {"domains": [{"strategy": "isolate", "tokenizer": "dna"}], "plain_text": ["plain.txt"], "random_strings": 10},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    for command in (["merge"], ["expand", "--in-place-shards"]):
        arguments = [sys.executable, "-m", "biollm", command[0], "recipe.yaml", *command[1:], "--out", "results"]
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    manifest = json.loads((folder / "results" / "expand" / "manifest.json").read_text())
    tables = 2 * manifest["facts"]["rows"] * COMMAND_LAYOUT[0] / 1e6
    return {
        "model": COMMAND, "parameters": parameters, "new_tables_mb": tables, "limit_mb": 2.5 * tables + 300,
        "ours_mb": manifest["peak_memory_mib"] * 2**20 / 1e6, "ours_seconds": manifest["wall_seconds"],
        "transformers_mb": None, "transformers_seconds": None, "ratio": None,
    }  # fmt: skip


def measure(code: str, *arguments: object) -> tuple[float, float]:
    """(peak in MB, seconds) of a process of its own."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024 / 1e6, time.perf_counter() - started


def check(base: Path, out: Path, seed: int = 0) -> None:
    """Some old rows are the base's; the new ones are those given, in bfloat16; every file fits its header."""
    before, after = read_checkpoint(base), read_checkpoint(out)
    some = np.random.default_rng(1).integers(0, before.rows, 50)
    for which in ("input", "output"):
        assert np.array_equal(read_table(base, which, some), read_table(out, which, some))  # type: ignore[arg-type]
    width = before.table("input").shape[1]
    given = np.random.default_rng(seed).standard_normal((NEW_TOKENS, width), dtype=np.float32) * np.float32(0.02)
    stored = read_table(out, "input", np.arange(before.rows, before.rows + NEW_TOKENS))
    assert np.abs(stored - given).max() <= np.abs(given).max() / 256
    assert after.rows == -(-(before.rows + NEW_TOKENS) // 64) * 64


def measure_layout(name: str, folder: Path) -> dict[str, Any]:
    """The row of a layout: surgery on shards with rows at hand, and transformers if the layout has real bytes."""
    layout, real = LAYOUTS[name]
    base, ours_out, theirs_out = folder / "base", folder / "ours", folder / "theirs"
    base.mkdir()
    parameters = write_model(base, layout, real)
    ours_out.mkdir()
    ours, ours_seconds = measure(OURS, base, ours_out, NEW_TOKENS)
    check(base, ours_out)
    tables = 2 * 2 * read_checkpoint(ours_out).rows * layout[0] / 1e6
    theirs, their_seconds = measure(TRANSFORMERS, base, theirs_out, NEW_TOKENS) if real else (None, None)
    return {
        "model": name, "parameters": parameters, "new_tables_mb": tables, "limit_mb": 2.5 * tables + 300, "ours_mb": ours,
        "ours_seconds": ours_seconds, "transformers_mb": theirs, "transformers_seconds": their_seconds,
        "ratio": theirs / ours if theirs else None,
    }  # fmt: skip


def main() -> None:
    alone = "--command" in sys.argv
    imports, _ = measure(IMPORTS)
    print(f"shards: +{NEW_TOKENS:,} tokens, padded to 64; peak memory in MB (importing torch and transformers alone: {imports:.0f})")
    print(f"  {'model':<14}{'GB':>7}{'new tables':>12}{'limit':>8}{'ours':>8}{'seconds':>9}{'transformers':>14}{'seconds':>9}{'ratio':>7}")
    rows = []
    for name in [COMMAND] if alone else [*LAYOUTS, COMMAND]:
        with tempfile.TemporaryDirectory(prefix="biollm-shards-") as temporary:
            row = measure_command(Path(temporary)) if name == COMMAND else measure_layout(name, Path(temporary))
        rows.append(row)
        peer = f"{row['transformers_mb']:>14.0f}{row['transformers_seconds']:>9.1f}{row['ratio']:>6.1f}x" if row["ratio"] else f"{'-':>14}"
        figures = f"{row['new_tables_mb']:>12.0f}{row['limit_mb']:>8.0f}{row['ours_mb']:>8.0f}{row['ours_seconds']:>9.1f}"
        print(f"  {name:<14}{2 * row['parameters'] / 1e9:>7.1f}{figures}{peer}", flush=True)
        assert row["ours_mb"] <= row["limit_mb"], f"{name}: {row['ours_mb']:.0f} MB is more than the promised {row['limit_mb']:.0f} MB"
    if alone:
        return
    result = {
        "name": "shards", "unit": "peak memory of a process in MB (VmHWM; pages of mapped files count)", "new_tokens": NEW_TOKENS,
        "imports_mb": imports, "models": rows, "versions": package_versions(), "command": "make bench NAME=shards",
        "hardware": {"processor": _processor(), "cores": usable_cores()},
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "shards.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
