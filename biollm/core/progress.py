"""What a person sees while a stage works."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

# A bar appears only for work that takes longer than this.
BAR_DELAY_SECONDS = 2.0
# transformers and peft import the first two where they are installed; they speak of kernels that the machine has no use for.
_LOUD_WHEN_IMPORTED = ("torchao", "bitsandbytes", "torch.utils._pytree")


def progress(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate over `items`; if it takes longer than two seconds, a progress bar on stderr says how far it is."""
    quiet_refresh = 0.1 if sys.stderr.isatty() else 5.0  # a log file gets a line every five seconds, not ten a second
    yield from tqdm(items, desc=what, total=total, unit=unit, delay=BAR_DELAY_SECONDS, mininterval=quiet_refresh, leave=False)


def say(text: str) -> None:
    """One line to the user, on stderr so that stdout carries results only."""
    tqdm.write(text, file=sys.stderr)


def quiet_libraries() -> None:
    """Silence chatter of libraries that a user cannot act on; their errors still raise."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|transformers|deepspeed|peft|accelerate|skops)\b.*")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|transformers|deepspeed|peft|accelerate)\b.*")
    for name in ("transformers", "deepspeed", "DeepSpeed", "accelerate", "peft", "torch.distributed", *_LOUD_WHEN_IMPORTED):
        logging.getLogger(name).setLevel(logging.ERROR)
