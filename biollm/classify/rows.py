"""The rows of the score table: which features under which head, and what each is for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from biollm.classify.config import HeadName
from biollm.classify.heads import HEAD_TITLES
from biollm.classify.metrics import Measures, interval

BASE, EXPAND, PRETRAIN = "base", "expand", "pretrain"
KMERS, MAJORITY, FINETUNE = "kmers", "majority", "finetune"
# Embedding sets in the order in which a model is adapted: the last one that exists is "the adapted model".
_ADAPTATION = (BASE, EXPAND, PRETRAIN)


@dataclass(frozen=True)
class RowPlan:
    """One row: `features` side by side under `head`. A row without a head (majority, fine-tuned model) brings its own scores."""

    name: str
    title: str
    features: tuple[str, ...]  # embedding sets and k-mers, or the fine-tuning method
    head: HeadName | Literal["none"]
    is_baseline: bool


@dataclass(frozen=True)
class ScoredRow:
    """A row with its test scores and their measures; `resampled` holds the measures of each bootstrap resample."""

    plan: RowPlan
    choice: str
    validation_auroc: float
    auroc: float
    auprc: float
    resampled: Measures

    def facts(self) -> dict[str, Any]:
        auroc_low, auroc_high = interval(self.resampled.auroc)
        auprc_low, auprc_high = interval(self.resampled.auprc)
        return {
            "name": self.plan.name,
            "title": self.plan.title,
            "features": list(self.plan.features),
            "head": self.plan.head,
            "is_baseline": self.plan.is_baseline,
            "choice": self.choice,
            "validation_auroc": self.validation_auroc,
            "auroc": self.auroc,
            "auroc_low": auroc_low,
            "auroc_high": auroc_high,
            "auprc": self.auprc,
            "auprc_low": auprc_low,
            "auprc_high": auprc_high,
        }


def adapted_set(sets: Collection[str]) -> str | None:
    """The embedding set of the adapted model: the last of base, expand, pretrain that exists. None if only the base does."""
    present = [name for name in _ADAPTATION if name in sets]
    return present[-1] if present and present[-1] != BASE else None


def _in_order(sets: Collection[str]) -> list[str]:
    """Embedding sets in the order of adaptation, other sets (ablations) after them by name."""
    return [name for name in _ADAPTATION if name in sets] + sorted(set(sets) - set(_ADAPTATION))


def plan_rows(set_titles: dict[str, str], heads: list[HeadName], k: int, with_kmers: bool, methods: list[str]) -> list[RowPlan]:
    """All rows in the order of the score table. set_titles: the embedding sets and their names for people.

    Baselines are the majority class, k-mers and the untouched base model. k-mers get a logistic head whatever the recipe says,
    and every other head that the embeddings get: a baseline has a right to the same tools.
    """
    rows = [RowPlan(MAJORITY, "majority class", (), "none", True)]
    kmer_heads: list[HeadName] = ["logistic", *(head for head in heads if head != "logistic")]
    rows += [_with_head((KMERS,), f"{k}-mers", head, is_baseline=True) for head in kmer_heads]
    for name in _in_order(set_titles):
        rows += [_with_head((name,), set_titles[name], head, is_baseline=name == BASE) for head in heads]
    best = adapted_set(set_titles)
    if with_kmers and best is not None:
        rows += [_with_head((best, KMERS), f"{set_titles[best]} + {k}-mers", head, is_baseline=False) for head in heads]
    rows += [RowPlan(f"{FINETUNE}_{m}", f"fine-tuned, {m.replace('_', ' ')}", (m,), "none", False) for m in methods]
    return rows


def _with_head(features: tuple[str, ...], title: str, head: HeadName, *, is_baseline: bool) -> RowPlan:
    return RowPlan("_".join((*features, head)), f"{title} + {HEAD_TITLES[head]}", features, head, is_baseline)
