"""Metrics are those that were published, and their standard errors those of a brute-force computation."""

from __future__ import annotations

import math
import re
import statistics
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from sklearn.metrics import f1_score

from zofo.core.streams import generator
from zofo.scoring.metrics import (
    METRICS,
    Answered,
    Value,
    accuracy,
    by_row,
    em,
    exact_match,
    f1,
    f1a,
    macro_f1,
    mean,
    normalised,
    over_tasks,
    summarise,
    token_f1,
)

NAMES = ("never", "no", "yes", "maybe")
TEXTS = [
    "", " ", "the", "A, an; THE!", "?!", "The cat", "cat.", "a cat, the cat", "cat cat dog", "dog dog cat", "U.S.A.",
    "theatre", "an\tapple\n", "don't", "Ünïcode – dash", "a-b", "the-end", "1,000", "it is the answer",
]  # fmt: skip


def published_normalise(s: str) -> str:
    """`normalize_answer` of SQuAD's evaluation script (2.0), step by step."""
    s = "".join(letter for letter in s.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", s).split())


def published_f1(gold: str, said: str) -> float:
    """`compute_f1` of the same script."""
    golds, saids = published_normalise(gold).split(), published_normalise(said).split()
    same = sum((Counter(golds) & Counter(saids)).values())
    if len(golds) == 0 or len(saids) == 0:
        return float(golds == saids)
    if same == 0:
        return 0.0
    precision, recall = same / len(saids), same / len(golds)
    return 2 * precision * recall / (precision + recall)


def picked(choice: int, *right: int) -> Answered:
    """A choice among NAMES."""
    return Answered(NAMES[choice], tuple(NAMES[k] for k in right), choice, right)


def drawn(seed: int, said: Sequence[int], gold: Sequence[int], n: int = 40) -> list[Answered]:
    """Random answers: predictions among `said`, one right answer each among `gold`."""
    draw = generator(seed, "metrics test")
    return [picked(said[int(draw.integers(len(said)))], gold[int(draw.integers(len(gold)))]) for _ in range(n)]


def without(rows: Sequence[Answered]) -> list[list[Answered]]:
    """The rows without each row in turn."""
    return [[*rows[:k], *rows[k + 1 :]] for k in range(len(rows))]


def brute(rows: Sequence[Answered], metric: Callable[[Sequence[Answered]], Value]) -> float:
    """The jackknife standard error by its definition."""
    values = np.array([metric(rest)[0] for rest in without(rows)])
    return math.sqrt((len(rows) - 1) / len(rows) * float(((values - values.mean()) ** 2).sum()))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The  Cat,\n sat!", "cat sat"),
        ("a", ""),
        ("An apple a day", "apple day"),
        ("Athena", "athena"),
        ("the-end", "theend"),
        ("U.S.", "us"),
        ("?!", ""),
    ],
)
def test_texts_are_compared_without_case_punctuation_articles_and_spacing(text: str, found: str) -> None:
    assert normalised(text) == found


@pytest.mark.parametrize("said", TEXTS)
def test_words_and_matches_are_those_of_the_published_script(said: str) -> None:
    assert normalised(said) == published_normalise(said)
    for gold in TEXTS:
        assert token_f1(said, [gold]) == pytest.approx(published_f1(gold, said), abs=1e-15)
        assert exact_match(said, [gold]) == float(published_normalise(said) == published_normalise(gold))


def test_the_best_of_several_accepted_answers_counts() -> None:
    golds = ["black cat", "the dog", "a very black dog"]
    for said in TEXTS:
        assert token_f1(said, golds) == max(token_f1(said, [gold]) for gold in golds)
        assert exact_match(said, golds) == max(exact_match(said, [gold]) for gold in golds)
    assert token_f1("black dog", golds) == pytest.approx(0.8)  # 2 * 2 / (2 + 3), against the last
    assert (exact_match("Dog!", golds), exact_match("black dog", golds)) == (1.0, 0.0)


def test_an_answer_of_no_words_is_right_only_where_none_is_wanted() -> None:
    assert [token_f1(said, ["cat"]) for said in ("", "the", "?!")] == [0, 0, 0]
    assert [token_f1("the", [gold]) for gold in ("", "?", "cat")] == [1, 1, 0]


def test_f1_and_em_are_means_over_rows() -> None:
    rows = [Answered("the cat", ("cat", "dog")), Answered("cat sat", ("cat",)), Answered("", ("cat",))]
    assert f1(rows)[0] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert em(rows) == pytest.approx((1 / 3, math.sqrt(1 / 3 * 2 / 3 / 3)))


def test_accuracy_counts_any_right_choice() -> None:
    value, error = accuracy([picked(1, 1), picked(0, 0), picked(1, 0), picked(2, 0, 2)])
    assert value == 0.75 and error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert accuracy([picked(0, 1, 2)])[0] == 0


def test_the_standard_error_of_accuracy_is_the_spread_over_fresh_samples() -> None:
    draws = generator(0, "metrics test").random((1000, 100)) > 0.8
    values = [accuracy([picked(int(d), 0) for d in row])[0] for row in draws]
    assert float(np.std(values)) == pytest.approx(math.sqrt(0.8 * 0.2 / 100), rel=0.1)


def test_the_standard_error_of_a_mean_is_its_deviation_over_root_n() -> None:
    values = generator(0, "metrics test").standard_normal(57).tolist()
    assert mean(values) == pytest.approx((float(np.mean(values)), float(np.std(values)) / math.sqrt(57)), rel=1e-12)
    assert mean([2.5]) == (2.5, 0.0)


def test_a_mean_does_not_drift_with_rounding() -> None:
    assert mean([0.1] * 10)[0] == 0.1
    assert mean([1e16, 1.0, -1e16])[0] == 1 / 3


@pytest.mark.parametrize("said", [(0, 1, 2), (1, 2), (0,), (1, 2, 3)])
@pytest.mark.parametrize("gold", [(0, 1, 2), (0, 1), (2,)])
def test_macro_f1_is_scikit_learns(said: tuple[int, ...], gold: tuple[int, ...]) -> None:
    """Labels that are never said, and answers that are never right, are classes too."""
    for seed in range(5):
        rows = drawn(seed, said, gold)
        golds, saids = [row.accepted[0] for row in rows], [row.text for row in rows]
        wanted = f1_score(golds, saids, average="macro", zero_division=0)
        assert macro_f1(rows)[0] == pytest.approx(wanted, abs=1e-12)


def test_macro_f1_weighs_classes_alike() -> None:
    # class 0: precision 3/4, recall 1 -> 6/7; class 1 is never said -> 0
    assert macro_f1([picked(0, 0)] * 3 + [picked(0, 1)])[0] == pytest.approx(3 / 7)


def test_macro_f1_of_several_right_answers_takes_the_one_given_else_the_first() -> None:
    rows = [picked(2, 0, 2), picked(1, 0, 2), picked(0, 0)]
    wanted = f1_score([2, 0, 0], [2, 1, 0], average="macro", zero_division=0)
    assert macro_f1(rows)[0] == pytest.approx(wanted)


@pytest.mark.parametrize("said", [(0, 1), (0,), (1,)])
@pytest.mark.parametrize("gold", [(0, 1), (0,), (1,)])
def test_f1a_is_scikit_learns_binary_f1(said: tuple[int, ...], gold: tuple[int, ...]) -> None:
    rows = drawn(3, said, gold)
    wanted = f1_score([row.right[0] for row in rows], [row.choice for row in rows], zero_division=0)
    assert f1a(rows)[0] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 30])
@pytest.mark.parametrize("metric", [macro_f1, f1a])
def test_the_jackknife_leaves_out_each_row_in_turn(metric: Callable[[Sequence[Answered]], Value], n: int) -> None:
    for seed in range(5):
        rows = drawn(seed, (0, 1, 1, 2), (0, 1, 1), n)
        assert metric(rows)[1] == pytest.approx(brute(rows, metric), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 30])
@pytest.mark.parametrize(("name", "metric"), [("macro_f1", macro_f1), ("f1a", f1a), ("accuracy", accuracy)])
def test_by_row_has_the_metrics_mean_and_its_standard_error(
    name: str, metric: Callable[[Sequence[Answered]], Value], n: int
) -> None:
    rows = drawn(n, (0, 1, 1, 2), (0, 1, 1), n)
    values, (value, error) = by_row(name, rows), metric(rows)
    assert len(values) == n and sum(values) / n == pytest.approx(value, abs=1e-12)
    if name != "accuracy" and n > 1:
        assert statistics.stdev(values) / math.sqrt(n) == pytest.approx(error, abs=1e-12)


def test_the_jackknife_notices_a_class_that_only_one_row_has() -> None:
    rows = [picked(0, 0)] * 4 + [picked(1, 0), picked(2, 2)]
    assert macro_f1(rows)[1] == pytest.approx(brute(rows, macro_f1), abs=1e-12)


@pytest.mark.parametrize("metric", [macro_f1, f1a])
def test_one_row_has_no_jackknife(metric: Callable[[Sequence[Answered]], Value]) -> None:
    value, error = metric([picked(1, 1)])
    assert value == 1 and math.isnan(error)


def test_a_summary_has_each_metric_with_its_standard_error() -> None:
    rows = drawn(0, (0, 1), (0, 1), n=4)
    found = summarise({"loss": [0.1, 0.2, 0.3, 0.4], "choice_loss": [1.0] * 4}, rows, ["accuracy", "f1a"])
    names = ("loss", "choice_loss", "accuracy", "f1a")
    assert set(found) == {"n", *names, *(f"{name}_se" for name in names)}
    assert (found["n"], found["loss"], found["choice_loss_se"]) == (4, 0.25, 0)
    assert (found["accuracy"], found["accuracy_se"]) == accuracy(rows)
    assert (found["f1a"], found["f1a_se"]) == f1a(rows)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_right_answers_is_one(name: str) -> None:
    found = summarise({"loss": [1.0] * 3}, [picked(1, 1)] * 3, [name])
    assert (found[name], found[f"{name}_se"]) == (1, 0)


def test_without_answers_only_the_losses_are_summed_up() -> None:
    assert summarise({"loss": [1.0, 3.0]}, [], ["f1", "em"]) == {"n": 2, "loss": 2.0, "loss_se": math.sqrt(0.5)}


@pytest.mark.parametrize(
    ("losses", "rows"),
    [
        ({"loss": []}, []),
        ({}, []),
        ({"loss": [1.0]}, [picked(0, 0)] * 2),
        ({"loss": [1.0, 2.0], "choice_loss": [1.0]}, []),
    ],
)
def test_nothing_to_measure_or_unlike_numbers_are_an_error(
    losses: dict[str, list[float]], rows: list[Answered]
) -> None:
    with pytest.raises(ValueError, match="losses and rows"):
        summarise(losses, rows, ["accuracy"])


def test_results_of_tasks_become_their_mean_with_the_standard_error_of_a_mean() -> None:
    one = {
        "n": 10,
        "loss": 1.0,
        "loss_se": 0.3,
        "macro_f1": 0.5,
        "macro_f1_se": 0.03,
        "accuracy": 0.9,
        "accuracy_se": 0.1,
    }
    two = {"n": 30, "loss": 3.0, "loss_se": 0.4, "accuracy": 0.7, "accuracy_se": 0.04}
    found = over_tasks({"a": one, "b": two})
    assert found["n"] == 40 and found["score"] == pytest.approx(0.6) and found["score_se"] == pytest.approx(0.05 / 2)
    assert found["loss"] == 2.0 and found["loss_se"] == pytest.approx(0.25)
    assert found["tasks"] == {"a": one, "b": two} and "scored" not in found and "choice_loss" not in found


def test_a_task_without_a_metric_is_left_out_of_the_score_and_counted() -> None:
    one = {"n": 10, "loss": 1.0, "loss_se": 0.3, "accuracy": 0.5, "accuracy_se": 0.1}
    two = {"n": 30, "loss": 3.0, "loss_se": 0.4}
    found = over_tasks({"a": one, "b": two})
    assert found["score"] == 0.5 and found["scored"] == 1 and found["loss"] == 2.0
    assert "score" not in over_tasks({"b": two})
    with pytest.raises(ValueError, match="no tasks"):
        over_tasks({})
