"""The items of a training run in their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from biollm.core.seeding import derive_seed
from biollm.training.examples import Example
from biollm.training.objectives import Objective, Question
from biollm.training.packing import NEARLY_FULL, MixedOrder, PackedOrder, fuller_row_tokens


class RowPlan:
    """Rows of packed documents, each with the questions that its epoch draws; rows of general text among them by a ratio."""

    def __init__(
        self,
        objective: Objective,
        domain: Sequence[Example],
        positions: int,
        seed: int,
        row_tokens: int,
        general: Sequence[Example] = (),
        replay: float = 0.0,
    ) -> None:
        """domain, general: documents of at most row_tokens tokens; replay: share of rows that are general text."""
        self._objective, self._sources, self._positions, self._seed = objective, (domain, general), positions, seed
        packed = _packed(domain, row_tokens, derive_seed(seed, "domain"))
        mixed_in = _packed(general, row_tokens, derive_seed(seed, "general")) if replay else None
        self._order = MixedOrder(packed, mixed_in, replay, seed)
        self.fill, self.rows_per_epoch = packed.fill, self._order.rows_per_epoch
        self._row_tokens = row_tokens

    def __len__(self) -> int:
        return self._positions

    def __getitem__(self, position: int) -> list[Question]:
        is_general, epoch, documents = self._order.row(position)
        seed = derive_seed(self._seed, "questions", int(is_general), epoch)
        source = self._sources[is_general]
        return [self._objective.ask(source[i], derive_seed(seed, i)) for i in map(int, documents)]

    def fuller_row_tokens(self) -> int | None:
        """Where rows of the domain are not nearly full: what row_tokens would fill them, if any does."""
        if self.fill >= NEARLY_FULL:
            return None
        return fuller_row_tokens(np.asarray([len(example.ids) for example in self._sources[0]], dtype=np.int64), self._row_tokens)

    def names(self, position: int) -> list[str]:
        """The names of the documents of a row."""
        is_general, _, documents = self._order.row(position)
        return [self._sources[is_general][i].name for i in documents]


def _packed(examples: Sequence[Example], row_tokens: int, seed: int) -> PackedOrder:
    return PackedOrder(np.asarray([len(example.ids) for example in examples], dtype=np.int64), row_tokens, seed)
