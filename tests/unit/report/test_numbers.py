from __future__ import annotations

import pytest

from biollm.report.numbers import count, decimal, duration, percent, ranged, signed


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (59.2, "59.2 s"), (75.2, "1 min 15 s"), (3600, "1 h 0 min"), (7325, "2 h 2 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_for_people() -> None:
    assert count(1234567) == "1,234,567"
    assert decimal(-0.5) == "−0.500"
    assert signed(0.0314) == "+0.031"
    assert signed(-0.0314) == "−0.031"
    assert [percent(share) for share in (0.123, 0.00003, 0.0)] == ["12.3 %", "< 0.1 %", "0.0 %"]
    assert ranged(0.9, 0.85, 0.95) == "0.900 (0.850 to 0.950)"
