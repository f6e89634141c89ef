"""The items of a training run in their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from biollm.core.seeding import derive_seed
from biollm.modeling.encoding import IntArray
from biollm.training.config import USUAL_ROW_TOKENS
from biollm.training.examples import Example
from biollm.training.objectives import Objective, Question
from biollm.training.packing import MixedOrder, PackedOrder, best_row_tokens
from biollm.training.stored import StoredExamples


class RowPlan:
    """Rows of packed documents, each with the questions that its epoch draws; rows of general text among them by a ratio."""

    def __init__(
        self,
        objective: Objective,
        domain: Sequence[Example],
        positions: int,
        seed: int,
        row_tokens: int | None,
        general: Sequence[Example] = (),
        replay: float = 0.0,
    ) -> None:
        """domain, general: documents; replay: share of rows that are general text; row_tokens: of each row, at least as many as any
        document has; None: about 1,024, so that the domain's documents fill the rows (see packing.best_row_tokens)."""
        self._objective, self._sources, self._positions, self._seed = objective, (domain, general), positions, seed
        self._lengths, others = token_counts(domain), token_counts(general)
        self._least = int(others.max(initial=1)) if replay else 1
        self.row_tokens = self.best_row_tokens(USUAL_ROW_TOKENS) if row_tokens is None else row_tokens
        packed = PackedOrder(self._lengths, self.row_tokens, derive_seed(seed, "domain"))
        mixed_in = PackedOrder(others, self.row_tokens, derive_seed(seed, "general")) if replay else None
        self._order = MixedOrder(packed, mixed_in, replay, seed)
        self.fill, self.rows_per_epoch = packed.fill, self._order.rows_per_epoch

    def best_row_tokens(self, near: int) -> int:
        """The length of rows near this one that the domain's documents fill."""
        return best_row_tokens(self._lengths, near, self._least)

    def __len__(self) -> int:
        return self._positions

    def __getitem__(self, position: int) -> list[Question]:
        is_general, epoch, documents = self._order.row(position)
        seed = derive_seed(self._seed, "questions", int(is_general), epoch)
        source = self._sources[is_general]
        return [self._objective.ask(source[i], derive_seed(seed, i)) for i in map(int, documents)]

    def names(self, position: int) -> list[str]:
        """The names of the documents of a row."""
        is_general, _, documents = self._order.row(position)
        return [self._sources[is_general][i].name for i in documents]


def token_counts(examples: Sequence[Example]) -> IntArray:
    """(n,) tokens of each document."""
    if isinstance(examples, StoredExamples):
        return examples.token_counts
    return np.asarray([len(example.ids) for example in examples], dtype=np.int64)
