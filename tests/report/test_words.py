"""Numbers as people read them."""

from __future__ import annotations

import pytest

from zofo.report import words


def test_numbers() -> None:
    assert words.number("nan") != words.number("nan") and words.number("-inf") == float("-inf")
    assert words.number(None) is None and words.number(True) is None and words.number("x") is None
    assert words.figure(0.123456) == "0.1235" and words.figure(None) == "-" and words.figure("nan") == "nan"


def test_scores_carry_their_error() -> None:
    assert words.score({"accuracy": 0.8526, "se": 0.0113}) == "85.3 % +- 1.1"
    assert words.score({"accuracy": 0.5}) == "50.0 %"
    assert words.score(None) == words.score({}) == "-"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3.21, "3.2 s"),
        (59.9, "59.9 s"),
        (60, "1 min 0 s"),
        (250.4, "4 min 10 s"),
        (7500, "2 h 5 min"),
        ("inf", "-"),
        (None, "-"),
    ],
)
def test_durations(seconds: object, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (538e6, "538 MB"), (1.45e9, "1.45 GB"), (2e12, "2 TB")]
)
def test_sizes(count: float, text: str) -> None:
    assert words.size(count) == text
