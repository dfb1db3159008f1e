"""Numbers as people read them."""

from __future__ import annotations

import pytest

from zofo.report import words
from zofo.tasks.definition import metrics


def test_numbers() -> None:
    assert words.number("nan") != words.number("nan") and words.number("-inf") == float("-inf")
    assert words.number(None) is None and words.number(True) is None and words.number("x") is None
    assert words.figure(0.123456) == "0.1235" and words.figure(None) == "-" and words.figure("nan") == "nan"


def test_scores_carry_their_error() -> None:
    assert words.score({"accuracy": 0.8526, "accuracy_se": 0.0113}) == "85.3 % +- 1.1"
    assert words.score({"accuracy": 0.5, "loss_se": 0.1}) == "50.0 %"
    assert words.score(None) == words.score({}) == words.score({"n": 3, "loss": 0.5, "loss_se": 0.1}) == "-"


BOTH = {"n": 9, "loss": 0.5, "loss_se": 0.1, "f1": 0.625, "f1_se": 0.02, "em": 0.5, "em_se": 0.03}


def test_a_result_is_told_by_its_first_metric_unless_another_is_asked_for() -> None:
    assert words.score(BOTH) == "62.5 % +- 2.0" and words.score(BOTH, "em") == "50.0 % +- 3.0"
    assert words.score(BOTH, "accuracy") == words.score(BOTH | {"f1": None}) == "-"
    assert words.score(BOTH | {"f1": "nan"}) == "nan % +- 2.0"


def test_metrics_of_a_result_are_those_that_evaluation_knows_in_their_order() -> None:
    assert words.measured(BOTH) == ["f1", "em"] and words.primary(BOTH) == "f1"
    assert words.measured({"n": 3, "loss": 0.5, "choice_loss": 0.2}) == words.measured(None) == []
    assert words.primary({"loss": 0.5}) is words.primary(None) is None
    assert set(words.NAMES) == {*metrics(), "score"}  # the mean over tasks of a mixture


def test_metrics_have_the_names_that_people_write() -> None:
    assert [words.named(name) for name in metrics()] == ["accuracy", "macro-F1", "F1a", "F1", "EM"]
    assert words.named(None) == "loss"


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
