"""From the start of a resumed run to its first batch, a million tokenised documents and 100,000 steps in: ours and the Trainer's way."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import skip_first_batches
from datasets import Dataset
from harness import compare
from torch.utils.data import DataLoader

from biollm.training.examples import Example
from biollm.training.packing import PackedOrder
from biollm.training.stored import StoredExamples, store

DOCUMENTS, BATCH, STEP, PART = 1_000_000, 8, 100_000, 10_000
rng = np.random.default_rng(0)
lengths, pool = rng.integers(20, 513, DOCUMENTS), np.arange(30_000)
folder = tempfile.TemporaryDirectory()
file, arrow = Path(folder.name) / "domain.arrow", Path(folder.name) / "dataset"


def documents() -> Iterator[list[Example]]:
    for start in range(0, DOCUMENTS, PART):
        part = [rng.integers(0, len(pool), length) for length in lengths[start : start + PART]]
        yield [Example(ids, np.full_like(ids, 4), np.zeros(len(ids), dtype=bool), pool, name=f"d{start + i}") for i, ids in enumerate(part)]


def ours() -> object:
    """Opening the file, packing anew, and the documents of the step's rows: a position is looked up, not counted up to."""
    stored = StoredExamples(file, pool, None, None)
    order = PackedOrder(stored.token_counts, 1024, 0)
    return [stored[int(i)].ids for row in range(STEP * BATCH, (STEP + 1) * BATCH) for i in order.row(row)[1]]


def trainer() -> object:
    """The same documents as a tokenised dataset on the disk, and a seeded sampler whose batches before the step are drawn and left out."""
    dataset = Dataset.load_from_disk(str(arrow))
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(0), collate_fn=list)  # type: ignore[arg-type]
    return next(iter(skip_first_batches(loader, STEP)))


store(file, documents(), fused=False)
stored = StoredExamples(file, pool, None, None)
Dataset.from_generator(lambda: ({"input_ids": example.ids.astype(np.int32)} for example in stored)).save_to_disk(str(arrow))
compare(
    "resume",
    ours,
    {"datasets + accelerate skip_first_batches": trainer},
    "seconds to the documents of step 100,000 of a million, batches of 8; ours are rows of 1,024 tokens, the peer's one document each",
    rounds=3,
)
