"""From the start of a resumed run to its first batch, a million documents and 100,000 steps in: ours against the Trainer's way."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import skip_first_batches
from harness import compare
from torch.utils.data import DataLoader

from biollm.training.packing import PackedOrder

DOCUMENTS, BATCH, STEP = 1_000_000, 8, 100_000
lengths = np.random.default_rng(0).integers(20, 513, DOCUMENTS)


def ours() -> object:
    """Packing anew, and the documents of one row: a position is looked up, not counted up to."""
    return PackedOrder(lengths, 1024, 0).row(STEP * BATCH)


def trainer() -> object:
    """A seeded sampler whose batches before the step are drawn and thrown away."""
    loader = DataLoader(range(DOCUMENTS), batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    return next(iter(skip_first_batches(loader, STEP)))


compare(
    "resume",
    ours,
    {"accelerate skip_first_batches": trainer},
    "seconds to the first batch at step 100,000 of a million documents",
    rounds=3,
)
