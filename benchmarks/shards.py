"""Peak memory of growing a vocabulary: on the safetensors shards, against loading the model with transformers and resizing it.

Three models of the Llama layout. The 8-billion one is made of sparse files (128,256 x 4,096 bfloat16, untied: 16 GB of which next to
nothing lies on disk), and only surgery on shards is run on it. The others have real bytes; there transformers runs too.
Every run is a process of its own; its peak is the kernel's high-water mark (VmHWM), in which pages of mapped files count. The share
of importing torch and transformers is given apart. The promise: at most 2.5 x the new tables + 300 MB.
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


def write_model(folder: Path, layout: tuple[int, int, int, int, int, int], real: bool) -> int:
    """A Llama folder with an untied head in SHARDS files; holes, or random bytes that are small numbers. Returns its parameters."""
    import torch
    import transformers

    width, layers, inner, heads, kv_heads, tokens = layout
    config = transformers.LlamaConfig(
        vocab_size=tokens, hidden_size=width, num_hidden_layers=layers, intermediate_size=inner, num_attention_heads=heads,
        num_key_value_heads=kv_heads, tie_word_embeddings=False, dtype="bfloat16", architectures=["LlamaForCausalLM"],
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


def main() -> None:
    imports, _ = measure(IMPORTS)
    print(f"shards: +{NEW_TOKENS:,} tokens, padded to 64; peak memory in MB (importing torch and transformers alone: {imports:.0f})")
    print(f"  {'model':<14}{'GB':>7}{'new tables':>12}{'limit':>8}{'ours':>8}{'seconds':>9}{'transformers':>14}{'seconds':>9}{'ratio':>7}")
    rows = []
    for name, (layout, real) in LAYOUTS.items():
        with tempfile.TemporaryDirectory(prefix="biollm-shards-") as temporary:
            base = Path(temporary) / "base"
            base.mkdir()
            parameters = write_model(base, layout, real)
            ours_out, theirs_out = Path(temporary) / "ours", Path(temporary) / "theirs"
            ours_out.mkdir()
            ours, ours_seconds = measure(OURS, base, ours_out, NEW_TOKENS)
            check(base, ours_out)
            tables = 2 * 2 * read_checkpoint(ours_out).rows * layout[0] / 1e6
            theirs, their_seconds = measure(TRANSFORMERS, base, theirs_out, NEW_TOKENS) if real else (None, None)
        limit = 2.5 * tables + 300
        row = {
            "model": name, "parameters": parameters, "new_tables_mb": tables, "limit_mb": limit, "ours_mb": ours,
            "ours_seconds": ours_seconds, "transformers_mb": theirs, "transformers_seconds": their_seconds,
            "ratio": theirs / ours if theirs else None,
        }  # fmt: skip
        rows.append(row)
        peer = f"{theirs:>14.0f}{their_seconds:>9.1f}{theirs / ours:>6.1f}x" if theirs else f"{'(not run)':>14}"
        print(f"  {name:<14}{2 * parameters / 1e9:>7.1f}{tables:>12.0f}{limit:>8.0f}{ours:>8.0f}{ours_seconds:>9.1f}{peer}", flush=True)
        assert ours <= limit, f"{name}: {ours:.0f} MB is more than the promised {limit:.0f} MB"
    result = {
        "name": "shards", "unit": "peak memory of a process in MB (VmHWM; pages of mapped files count)", "new_tokens": NEW_TOKENS,
        "imports_mb": imports, "models": rows, "versions": package_versions(), "command": "make bench NAME=shards",
        "hardware": {"processor": _processor(), "cores": usable_cores()},
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "shards.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
