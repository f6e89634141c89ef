"""Which rows are fitted on and which are scored: the corpus's own splits, or folds that keep groups whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut, StratifiedGroupKFold

from biollm.classify.config import CLASS_TASKS, SplitOptions
from biollm.classify.metrics import IntArray
from biollm.classify.targets import Targets
from biollm.core.errors import ConfigError, DataError, listed

Pair = tuple[IntArray, IntArray]


@dataclass(frozen=True)
class Fold:
    """Rows by number. `inner`: (fitted, tuned on) pairs of row numbers, within which every choice is made.

    refit: whether the head is fitted again on all of `train` with the settings chosen; else the fit of the one inner pair is the head.
    """

    name: str
    train: IntArray
    test: IntArray
    inner: list[Pair]
    refit: bool


def given_fold(splits: list[str]) -> Fold:
    """The corpus's own splits: fitted on train, chosen on validation, scored on test."""
    names = np.array(splits, dtype=np.str_)
    train, validation, test = (np.flatnonzero(names == name) for name in ("train", "validation", "test"))
    return Fold("given", train, test, [(train, validation)], refit=False)


def outer_folds(options: SplitOptions, targets: Targets, ids: list[str], groups: list[str], seed: int) -> list[Fold]:
    """Folds over all rows, each group whole in one of them; every row is scored once.

    group_kfold: groups shuffled into folds of about equal size. stratified_group_kfold and nested: with like shares of the classes
    (nested of quantities and labels: as group_kfold). leave_one_group_out: a fold for each group. Settings are chosen on groups held out
    of the fold's train rows: on one inner fold, with `nested` on each of them in turn.
    Raises DataError if there are fewer groups (or rows) than folds or if folds tear a list (ranking), ConfigError for stratified folds of
    a task without classes.
    """
    codes = np.unique(np.array(groups, dtype=np.str_), return_inverse=True)[1].astype(np.int64)
    count = int(codes.max()) + 1
    stratified = targets.task in CLASS_TASKS
    if options.scheme == "stratified_group_kfold" and not stratified:
        raise ConfigError(
            f"classify.split.scheme is stratified_group_kfold, but task {targets.task} has no classes to keep in like "
            "shares; use group_kfold"
        )
    needed = 2 if options.scheme == "leave_one_group_out" else options.folds
    if count < needed:
        shown = [f"{name} ({groups.count(name)})" for name in dict.fromkeys(groups)]
        raise DataError(
            f"{len(ids)} labelled records ({listed(ids, 5)}) are in {count} groups by '{options.by}': {listed(shown, 5)}; "
            f"expected at least {needed}, because a group stays in one fold; lower classify.split.folds, bring more data, or name another "
            "column in classify.split.by"
        )
    if options.scheme == "leave_one_group_out":
        pairs = list(LeaveOneGroupOut().split(codes, groups=codes))
        of_group = {int(code): name for code, name in zip(codes, groups, strict=True)}
        names = [of_group[int(codes[test[0]])] for _, test in pairs]
    else:
        pairs = _split(targets, codes, options.folds, seed, stratified and options.scheme != "group_kfold")
        names = [f"fold {i + 1}" for i in range(len(pairs))]
    _check_lists_whole(targets, [test for _, test in pairs], names, ids, "fold")
    folds = []
    for number, (name, (train, test)) in enumerate(zip(names, pairs, strict=True)):
        inner = inner_folds(targets.take(train), codes[train], options.inner_folds, seed + 1 + number)
        inner = inner if options.scheme == "nested" else inner[:1]
        folds.append(Fold(name, train, test, [(train[a], train[b]) for a, b in inner], refit=True))
    return folds


def inner_folds(targets: Targets, groups: IntArray, count: int, seed: int) -> list[Pair]:
    """Folds by group within train rows, with like shares of the classes; as many as the groups allow.

    Raises DataError below two, and if folds tear a list (ranking).
    """
    distinct = len(np.unique(groups))
    if distinct < 2:
        raise DataError(
            f"{len(targets)} train rows are all of one group; expected two or more, because settings are chosen on groups held out"
        )
    pairs = _split(targets, groups, min(count, distinct), seed, targets.task in CLASS_TASKS)
    names = [f"inner fold {i + 1}" for i in range(len(pairs))]
    _check_lists_whole(targets, [tuned for _, tuned in pairs], names, [f"row {i}" for i in range(len(targets))], "inner fold")
    return pairs


def _check_lists_whole(targets: Targets, parts: Sequence[IntArray], names: list[str], ids: list[str], unit: str) -> None:
    """Raises DataError if the records of a list (ranking) are in several parts: heads of several folds, each on a level of its own, would
    score them, and their scores cannot be sorted together."""
    if targets.query is None:
        return
    part_of = {row: name for name, rows in zip(names, parts, strict=True) for row in rows.tolist()}
    first: dict[int, int] = {}  # the first record of each list
    torn: dict[int, str] = {}
    for row in sorted(part_of):
        query = int(targets.query[row])
        other = first.setdefault(query, row)
        if part_of[other] != part_of[row]:
            torn.setdefault(query, f"that of {ids[other]} ({part_of[other]}) and {ids[row]} ({part_of[row]})")
    if torn:
        raise DataError(
            f"{len(torn)} lists lie in more than one {unit}: {listed(list(torn.values()), 3)}; expected each list whole in one, because "
            "records can be ranked only against those that the same head scores; set classify.split.by to the column of classify.query, "
            "or to one whose groups hold whole lists"
        )


def _split(targets: Targets, groups: IntArray, count: int, seed: int, stratified: bool) -> list[Pair]:
    state = seed % 2**32
    if not stratified:
        return list(GroupKFold(count, shuffle=True, random_state=state).split(groups, groups=groups))
    labels = targets.values.astype(np.int64)
    # scikit-learn refuses more folds than the largest class has rows, and warns about the smallest: a class missing in a fold is handled.
    if count > np.bincount(labels).max():
        return list(GroupKFold(count, shuffle=True, random_state=state).split(groups, groups=groups))
    return list(StratifiedGroupKFold(count, shuffle=True, random_state=state).split(groups, labels, groups=groups))
