"""The rows of the score table: which features under which head, and what each is for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from biollm.classify.config import HeadName, Task
from biollm.classify.heads import HEAD_TITLES, plain_head
from biollm.classify.measures import primary
from biollm.classify.metrics import FloatArray, interval

BASE, EXPAND, PRETRAIN = "base", "expand", "pretrain"
KMERS, MAJORITY, FINETUNE = "kmers", "majority", "finetune"
POSITIONAL, RANDOM, TRACKS, COVARIATES = "positional", "random", "tracks", "covariates"
FUSED = "fused_"
# What adapted models are made by; the names of their embedding sets begin so.
MODEL_STAGES = ("expand", "pretrain", "finetune")
# Embedding sets in the order in which a model is adapted: the last one that exists is "the adapted model".
_ADAPTATION = (BASE, EXPAND, PRETRAIN)
# A control, not a model that anyone would use: it cannot be the best adapted row.
SHUFFLED = "pretrain_shuffled_tracks"


@dataclass(frozen=True)
class RowPlan:
    """One row: `features` side by side under `head`. A row without a head (majority, fine-tuned model) brings its own scores."""

    name: str
    title: str
    features: tuple[str, ...]  # embedding sets and other blocks, or the fine-tuning method
    head: HeadName | Literal["none"]
    is_baseline: bool


@dataclass(frozen=True)
class ScoredRow:
    """A row with its measures on the scored rows. validation: the first measure of the task on rows that choices may see.

    resampled: each measure on every bootstrap resample; folds: the measures of each fold; more: further facts.
    """

    plan: RowPlan
    task: Task
    choice: str
    validation: float
    measures: dict[str, float]
    resampled: dict[str, FloatArray]
    folds: list[dict[str, Any]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The measure that choices and verdicts go by."""
        return self.measures[primary(self.task).name]

    def facts(self) -> dict[str, Any]:
        intervals = {name: interval(values) for name, values in self.resampled.items()}
        first = primary(self.task).name
        found: dict[str, Any] = {
            "name": self.plan.name,
            "title": self.plan.title,
            "features": list(self.plan.features),
            "head": self.plan.head,
            "is_baseline": self.plan.is_baseline,
            "choice": self.choice,
            f"validation_{first}": self.validation,
            "folds": self.folds,
            **self.more,
        }  # fmt: skip
        for name, (low, high) in intervals.items():
            found |= {name: self.measures[name], f"{name}_low": low, f"{name}_high": high}
        return dict(no_nan(found))


def no_nan(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, dict):
        return {name: no_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [no_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def adapted_set(sets: Collection[str]) -> str | None:
    """The embedding set of the adapted model: the last of base, expand, pretrain that exists, or else the first fused one. None if only
    the base does."""
    present = [name for name in _ADAPTATION if name in sets]
    if present and present[-1] != BASE:
        return present[-1]
    return next(iter(sorted(name for name in sets if name.startswith(FUSED))), None)


def _in_order(sets: Collection[str]) -> list[str]:
    """Embedding sets in the order of adaptation, other sets (ablations) after them by name."""
    return [name for name in _ADAPTATION if name in sets] + sorted(set(sets) - set(_ADAPTATION))


@dataclass(frozen=True)
class AtHand:
    """What rows can be made of. sets: the embedding sets and their names for people; blocks: the other features that the corpus allows,
    by name, with their names for people; methods: fine-tuning methods."""

    task: Task
    sets: dict[str, str]
    blocks: dict[str, str]
    methods: list[str]


def plan_rows(at_hand: AtHand, heads: list[HeadName], with_kmers: bool) -> list[RowPlan]:
    """All rows in the order of the score table.

    Baselines are the majority class (or mean), k-mers, letters by position, tracks, covariates, random vectors and the untouched base
    model. They get a logistic head (ridge for quantities) whatever the recipe says, and every other head that the embeddings get: a
    baseline has a right to the same tools. Random vectors get the plain head only: they measure chance, not a rival.
    """
    sets, blocks = at_hand.sets, at_hand.blocks
    plain = plain_head(at_hand.task)
    all_heads: list[HeadName] = [plain, *(head for head in heads if head != plain)]
    rows = [RowPlan(MAJORITY, "mean of train" if at_hand.task in ("regression", "ranking") else "majority class", (), "none", True)]

    def add(features: tuple[str, ...], heads: list[HeadName], *, is_baseline: bool) -> None:
        title = " + ".join(sets.get(name) or blocks[name] for name in features)
        rows.extend(RowPlan("_".join((*features, head)), f"{title} + {HEAD_TITLES[head]}", features, head, is_baseline) for head in heads)

    for name in (KMERS, POSITIONAL, TRACKS, COVARIATES):
        if name in blocks:
            add((name,), all_heads, is_baseline=True)
    for name in (TRACKS, COVARIATES):
        if name in blocks:
            add((KMERS, name), all_heads, is_baseline=True)
    if RANDOM in blocks:
        add((RANDOM,), [plain], is_baseline=True)
    for name in _in_order(sets):
        add((name,), heads, is_baseline=name == BASE)
    best = adapted_set(sets)
    for name in (KMERS, TRACKS, COVARIATES):
        if best is not None and name in blocks and (name != KMERS or with_kmers):
            add((best, name), heads, is_baseline=False)
    if COVARIATES in blocks and BASE in sets:
        add((BASE, COVARIATES), heads, is_baseline=True)
    rows += [RowPlan(f"{FINETUNE}_{m}", f"fine-tuned, {m.replace('_', ' ')}", (m,), "none", False) for m in at_hand.methods]
    return rows
