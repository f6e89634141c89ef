"""How numbers are written for people."""

from __future__ import annotations

MISSING = "–"


def count(value: float) -> str:
    """1234567 -> 1,234,567"""
    return f"{value:,.0f}"


def decimal(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def percent(share: float) -> str:
    """A small share is never shown as none."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def ranged(value: float, low: float, high: float) -> str:
    return f"{decimal(value)} ({decimal(low)} to {decimal(high)})"


def changed(value: float, low: float, high: float) -> str:
    return f"{signed(value)}, 95 % interval {signed(low)} to {signed(high)}"


def duration(seconds: float) -> str:
    """75.2 -> 1 min 15 s"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
