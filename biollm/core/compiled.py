"""Loops over arrays, compiled by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R], **options: Any) -> Callable[P, R]:
    """Compiled at the first call, which takes seconds, and kept beside its file (or under NUMBA_CACHE_DIR) for later runs.

    Where no such folder can be written, each process compiles for itself. Other threads of Python run beside a compiled loop.
    options: of numba.njit.
    """
    options = {"nogil": True} | options
    try:
        return cast(Callable[P, R], numba.njit(function, cache=True, **options))
    except RuntimeError:  # numba: "no locator available", it found no folder to write to
        return cast(Callable[P, R], numba.njit(function, **options))
