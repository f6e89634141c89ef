"""One head on one table: settings chosen on inner rows, then fitted, calibrated, and given a confidence below which it is silent.

Nothing here sees a scored row. `fit_head` is what the stage, the estimators and the saved heads share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from biollm.classify.calibration import Abstention, Calibrator, choose_abstention, fit_calibrator
from biollm.classify.config import CLASS_TASKS, Calibration, HeadName, Task, TuneOptions
from biollm.classify.folds import Pair
from biollm.classify.heads import HEADS
from biollm.classify.measures import primary_score
from biollm.classify.metrics import BoolArray, FloatArray, IntArray
from biollm.classify.models import Examples, Model, Settings
from biollm.classify.targets import Targets
from biollm.core.errors import DataError
from biollm.core.machine import one_blas_thread

# What rows are that cannot be scored, by task.
_ALIKE: dict[Task, str] = {
    "multilabel": "all have the same labels",
    "regression": "hold one value only",
    "ranking": "hold no list with a relevant record",
}


class NothingToChooseBy(DataError):
    """No setting is better than another. why: what the rows are that settings are chosen on."""

    def __init__(self, kind: HeadName, why: str) -> None:
        super().__init__(
            f"the rows on which settings of the head '{kind}' are chosen {why}, so that no setting is better than another; bring more "
            "data, more groups, or fewer folds"
        )
        self.why = why


@dataclass(frozen=True)
class Method:
    """How a head is made: all that does not depend on the rows."""

    kind: HeadName
    tune: TuneOptions | None = None
    calibration: Calibration = "none"
    abstain: float | None = None
    pca: int | None = None
    seed: int = 0
    settings: Settings | None = None  # fixed by hand: nothing is chosen


@dataclass(frozen=True)
class FittedHead:
    """A head that can be asked. seen: (C,) which classes the rows had that it was fitted on; the others get probability 0."""

    kind: HeadName
    task: Task
    classes: tuple[str, ...]
    model: Model
    settings: Settings
    choice: str
    inner_score: float
    columns: int
    seen: BoolArray
    calibrator: Calibrator | None = None
    abstention: Abstention | None = None
    inner_output: FloatArray = field(default_factory=lambda: np.zeros(0))  # of the inner scored rows, in the order of `inner_rows`
    inner_rows: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def output(self, features: FloatArray) -> FloatArray:
        """(n,) probability of the second of two classes, quantity or rank score; (n, C) probabilities of classes or labels."""
        raw = self.model.output(features)
        return self._closed(raw if self.calibrator is None else self.calibrator.apply(raw))

    def _closed(self, output: FloatArray) -> FloatArray:
        """Probability 0 for classes that the fitted rows lacked, of which the others sum to 1; 0 or 1 for labels that none or all of them
        had."""
        if self.model.constant is not None:
            fixed = self.model.constant if output.ndim == 2 else self.model.constant[0]
            return np.where(np.isnan(fixed), output, fixed)
        if self.task != "multiclass" or self.seen.all():
            return output
        kept = output * self.seen
        total = kept.sum(axis=1, keepdims=True)
        alike = np.where(self.seen, 1 / self.seen.sum(), 0.0) * np.ones_like(kept)
        return np.asarray(np.divide(kept, total, out=alike, where=total > 0))


@one_blas_thread()
def fit_head(method: Method, examples: Examples, inner: Sequence[Pair], refit: bool, rows: IntArray) -> FittedHead:
    """The head of one table.

    inner: (fitted, tuned on) pairs of row numbers of `examples`; settings are those with the best mean score there (AUROC, R2 or NDCG).
    refit: fit again on `rows` with the settings chosen (boosting: with the mean number of rounds); else the first inner fit is the head.
    Raises NothingToChooseBy if no inner pair can be scored because its tuning rows are of one class; not where `method` fixes the settings.
    """
    search = _Search(method, examples, inner)
    settings = search.best()
    inner_score = search.scores[_key(settings)]
    tried = search.fitted[_key(settings)]
    scored = np.concatenate([tuned for _, tuned in inner])
    raw = np.concatenate(search.outputs[_key(settings)])
    kind, classes = HEADS[method.kind], len(examples.targets.classes)
    if refit:
        final = dict(settings)
        if method.kind == "xgboost":
            final["rounds"] = max(1, round(float(np.mean([model.rounds for model in tried]))))  # type: ignore[attr-defined]
        model = kind.fit(examples.take(rows), None, final, classes, method.pca, method.seed)
        settings = final
    else:
        model = tried[0]
    head = FittedHead(
        kind=method.kind,
        task=examples.targets.task,
        classes=examples.targets.classes,
        model=model,
        settings=settings,
        choice=kind.describe(settings, model) + _without_pca(method.pca, examples.features.shape[1]),
        inner_score=inner_score,
        columns=examples.features.shape[1],
        seen=_seen(examples.targets.take(rows)),
    )
    return _calibrated(head, method, examples.targets.take(scored), raw, scored)


def _calibrated(head: FittedHead, method: Method, truth: Targets, raw: FloatArray, scored: IntArray) -> FittedHead:
    """The head with calibrator and abstention, both from rows that the scored model was not fitted on."""
    calibrator = None
    if head.task not in ("regression", "ranking"):
        wanted = method.calibration
        if wanted == "none" and not head.model.gives_probabilities:
            wanted = "sigmoid"
        if wanted != "none":
            constant = head.model.constant
            varies = None if constant is None else np.isnan(constant)
            calibrator = fit_calibrator(wanted, truth, raw, head.model.gives_probabilities, varies)
    fields: dict[str, Any] = {**head.__dict__, "calibrator": calibrator}
    inner_output = FittedHead(**fields)._closed(raw if calibrator is None else calibrator.apply(raw))
    abstention = None
    if method.abstain is not None and head.task in CLASS_TASKS:
        abstention = choose_abstention(method.abstain, truth, inner_output)
    return FittedHead(**{**fields, "abstention": abstention, "inner_output": inner_output, "inner_rows": scored})


def _without_pca(pca: int | None, columns: int) -> str:
    """Of a choice: that PCA was left out where it would have nothing to reduce."""
    return "" if pca is None or columns > pca else f", no PCA: {columns} columns only"


def _seen(targets: Targets) -> BoolArray:
    if targets.task not in CLASS_TASKS:
        return np.ones(len(targets.classes), dtype=bool)
    return np.asarray(np.bincount(targets.values.astype(np.int64), minlength=len(targets.classes)) > 0)


class _Search:
    """Tries settings on the inner pairs and remembers what it fitted."""

    def __init__(self, method: Method, examples: Examples, inner: Sequence[Pair]) -> None:
        self.method, self.examples = method, examples
        self.parts = [(examples.take(fitted), examples.take(tuned)) for fitted, tuned in inner]
        self.fitted: dict[str, list[Model]] = {}
        self.outputs: dict[str, list[FloatArray]] = {}  # of the fitted models on the rows that each was tuned on
        self.scores: dict[str, float] = {}

    def best(self) -> Settings:
        """Of equally good settings the first."""
        kind = HEADS[self.method.kind]
        if self.method.settings is not None:
            self.try_out(self.method.settings)
            return self.method.settings
        if self.method.tune is not None:
            return self._tuned(self.method.tune)
        scores = [self.try_out(settings) for settings in kind.choices]
        if np.isnan(scores).all():
            self._refuse()
        return kind.choices[int(np.nanargmax(scores))]

    def try_out(self, settings: Settings) -> float:
        """The mean score of these settings over the inner pairs that can be scored."""
        key = _key(settings)
        if key not in self.scores:
            kind, classes = HEADS[self.method.kind], len(self.examples.targets.classes)
            models = [kind.fit(train, tuned, settings, classes, self.method.pca, self.method.seed) for train, tuned in self.parts]
            outputs = [model.output(tuned.features) for model, (_, tuned) in zip(models, self.parts, strict=True)]
            scores = np.array([primary_score(tuned.targets, output) for output, (_, tuned) in zip(outputs, self.parts, strict=True)])
            known = scores[~np.isnan(scores)]
            self.scores[key] = float(known.mean()) if len(known) else float("nan")
            self.fitted[key], self.outputs[key] = models, outputs
        return self.scores[key]

    def _tuned(self, options: TuneOptions) -> Settings:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        kind = HEADS[self.method.kind]
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=self.method.seed % 2**32))
        drawn: dict[int, Settings] = {}

        def objective(trial: Any) -> float:
            drawn[trial.number] = kind.space(trial)
            score = self.try_out(drawn[trial.number])
            best = max((value for value in self.scores.values() if not np.isnan(value)), default=float("nan"))
            for key in [key for key, value in self.scores.items() if value < best]:
                for kept in (self.fitted, self.outputs):  # of the best only: a forest of each trial would fill the memory
                    kept.pop(key, None)
            return score

        study.optimize(objective, n_trials=options.trials, timeout=options.timeout_seconds)
        if not any(trial.value is not None for trial in study.trials):
            self._refuse()
        return drawn[study.best_trial.number]

    def _refuse(self) -> NoReturn:
        raise NothingToChooseBy(self.method.kind, _ALIKE.get(self.examples.targets.task, "are all of one class"))


def _key(settings: Settings) -> str:
    return repr(sorted(settings.items()))
