"""Metrics of predictions, each with its standard error: accuracy, F1 of several kinds, exact match, mean loss.

A metric that is a mean over rows has the standard error sd / sqrt(n) (for an accuracy a, sqrt(a (1 - a) / n)).
One that is not (macro-F1, F1a) has the jackknife's: the metric without each row in turn. Rows are taken as independent.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Answered:
    """What was answered to a row: the text, its number among the choices (-1: free), and which were right or accepted."""

    text: str
    accepted: tuple[str, ...]
    choice: int = -1
    right: tuple[int, ...] = ()


Value = tuple[float, float]
"""A metric and its standard error."""


def normalised(text: str) -> str:
    """A text as SQuAD compares it: lower case, no punctuation, no articles, single spaces (Rajpurkar et al. 2016)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(text: str, accepted: Sequence[str]) -> float:
    """1 if the normalised text equals an accepted one, else 0."""
    return float(any(normalised(text) == normalised(gold) for gold in accepted))


def overlap(text: str, gold: str) -> float:
    """F1 of the normalised words of two texts; where one of them has none, whether neither has."""
    said, meant = normalised(text).split(), normalised(gold).split()
    if not said or not meant:
        return float(said == meant)
    same = sum((Counter(said) & Counter(meant)).values())
    return 2 * same / (len(said) + len(meant))


def token_f1(text: str, accepted: Sequence[str]) -> float:
    """The highest F1 of words against any accepted answer."""
    return max(overlap(text, gold) for gold in accepted)


def mean(values: Sequence[float]) -> Value:
    """Mean and standard error, sd / sqrt(n) with the sd of n (so that of an accuracy is sqrt(a (1 - a) / n))."""
    n = len(values)
    value = math.fsum(values) / n
    return value, math.sqrt(math.fsum((v - value) ** 2 for v in values)) / n


def jackknife(pairs: Sequence[tuple[str, str]], metric: Callable[[Counter[tuple[str, str]]], float]) -> Value:
    """A metric of the counts of (gold, said) and its jackknife standard error. Cost: one evaluation a distinct pair."""
    counts, n = Counter(pairs), len(pairs)
    if n == 1:
        return metric(counts), math.nan
    away = left_out(counts, metric)
    spread = math.fsum(counts[pair] * far**2 for pair, far in away.items())
    return metric(counts), math.sqrt((n - 1) / n * spread)


def left_out(
    counts: Counter[tuple[str, str]], metric: Callable[[Counter[tuple[str, str]]], float]
) -> dict[tuple[str, str], float]:
    """By pair, how far the metric without one such row is from the mean of the metrics without a row."""
    without = {pair: metric(counts - Counter([pair])) for pair in counts}
    middle = math.fsum(counts[pair] * without[pair] for pair in counts) / counts.total()
    return {pair: value - middle for pair, value in without.items()}


def shares(pairs: Sequence[tuple[str, str]], metric: Callable[[Counter[tuple[str, str]]], float]) -> list[float]:
    """A value a row of a metric of the counts of (gold, said): their mean is the metric, their sd / sqrt(n) (of n - 1) its jackknife standard error.

    That of row i is metric + (n - 1) (mean of the metrics without a row - metric without row i). Cost: as `jackknife`.
    """
    counts, n = Counter(pairs), len(pairs)
    value = metric(counts)
    if n == 1:
        return [value]
    away = left_out(counts, metric)
    return [value - (n - 1) * away[pair] for pair in pairs]


def class_f1(counts: Counter[tuple[str, str]], label: str) -> float:
    """2 TP / (2 TP + FP + FN) of one class; 0 where the class never occurs."""
    hit = counts[label, label]
    missed = sum(count for (gold, said), count in counts.items() if (gold == label) != (said == label))
    return 2 * hit / (2 * hit + missed) if hit + missed else 0.0


def macro(counts: Counter[tuple[str, str]]) -> float:
    """Mean F1 of the classes that occur, among the right answers or the predictions."""
    labels = sorted({label for pair in counts if counts[pair] for label in pair})
    return math.fsum(class_f1(counts, label) for label in labels) / len(labels)


def right(row: Answered) -> float:
    """Whether a row's choice is right."""
    return float(row.choice in row.right)


def accuracy(rows: Sequence[Answered]) -> Value:
    """Share of rows whose choice is right."""
    return mean(by_row("accuracy", rows))


def macro_f1(rows: Sequence[Answered]) -> Value:
    """Mean over classes of F1 (scikit-learn's `f1_score(average="macro")`); of several right answers the one given, else the first."""
    return jackknife(labelled(rows), macro)


def labelled(rows: Sequence[Answered]) -> list[tuple[str, str]]:
    """(gold, said) of each row; of several right answers gold is the one given, else the first."""
    return [(row.text if row.choice in row.right else row.accepted[0], row.text) for row in rows]


def f1a(rows: Sequence[Answered]) -> Value:
    """F1 of saying choice 1 (MultiRC's F1 over all answers)."""
    return jackknife(numbered(rows), first_f1)


def numbered(rows: Sequence[Answered]) -> list[tuple[str, str]]:
    """(right, chosen) of each row, by number."""
    return [(str(row.right[0]), str(row.choice)) for row in rows]


def first_f1(counts: Counter[tuple[str, str]]) -> float:
    """F1 of choice 1."""
    return class_f1(counts, "1")


def f1(rows: Sequence[Answered]) -> Value:
    """Mean over rows of SQuAD's F1 of words, the best over accepted answers."""
    return mean(by_row("f1", rows))


def em(rows: Sequence[Answered]) -> Value:
    """Share of rows that equal an accepted answer after SQuAD's normalisation."""
    return mean(by_row("em", rows))


BY_ROW: dict[str, Callable[[Answered], float]] = {
    "accuracy": right,
    "f1": lambda row: token_f1(row.text, row.accepted),
    "em": lambda row: exact_match(row.text, row.accepted),
}
"""Metrics that are means over rows, by what they are of a row."""

SHARES: dict[str, Callable[[Sequence[Answered]], list[float]]] = {
    "macro_f1": lambda rows: shares(labelled(rows), macro),
    "f1a": lambda rows: shares(numbered(rows), first_f1),
}
"""Metrics that are not, by what each row has of them."""


def by_row(metric: str, rows: Sequence[Answered]) -> list[float]:
    """A metric's value of each row (`BY_ROW`), or each row's share of it (`SHARES`); their mean is the metric. Raises: KeyError."""
    return SHARES[metric](rows) if metric in SHARES else [BY_ROW[metric](row) for row in rows]


METRICS: dict[str, Callable[[Sequence[Answered]], Value]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "f1a": f1a,
    "f1": f1,
    "em": em,
}


def summarise(
    losses: Mapping[str, Sequence[float]], rows: Sequence[Answered], metrics: Sequence[str]
) -> dict[str, float | int]:
    """Metrics of n >= 1 rows: each by its name, its standard error as NAME_se, and `n`.

    Args: losses, lists of one value a row, by name; rows, what was answered (empty: only the losses are
    summed up); metrics, names of METRICS. Raises: ValueError when there are no rows or their numbers differ.
    """
    sizes = {len(values) for values in losses.values()} | ({len(rows)} if rows else set())
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(f"losses and rows of {sorted(sizes)} rows")
    values = {name: mean(values) for name, values in losses.items()}
    values |= {name: METRICS[name](rows) for name in metrics if rows}
    found: dict[str, float | int] = {"n": sizes.pop()}
    for name, (value, error) in values.items():
        found |= {name: value, f"{name}_se": error}
    return found


def over_tasks(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Results of several tasks as one: `score`, the mean over tasks of each one's first metric; mean losses; `n`, all rows; `tasks`.

    The standard error of a mean over m tasks is sqrt(sum of se_i^2) / m: that of the tasks' rows, the tasks taken as given.
    A task without a metric (free answers that were not written) is left out of `score`, and `scored` says how many are in it.
    Raises: ValueError without tasks.
    """
    if not results:
        raise ValueError("no tasks")
    firsts = {name: next((m for m in result if m in METRICS), None) for name, result in results.items()}
    pairs = {
        "score": [(float(results[n][m]), float(results[n][f"{m}_se"])) for n, m in firsts.items() if m is not None]
    }
    for loss in ("loss", "choice_loss"):
        if all(loss in result for result in results.values()):
            pairs[loss] = [(float(r[loss]), float(r[f"{loss}_se"])) for r in results.values()]
    found: dict[str, Any] = {"n": sum(int(result["n"]) for result in results.values())}
    for name, values in pairs.items():
        if values:
            found[name] = math.fsum(value for value, _ in values) / len(values)
            found[f"{name}_se"] = math.sqrt(math.fsum(error**2 for _, error in values)) / len(values)
    if 0 < len(pairs["score"]) < len(results):
        found["scored"] = len(pairs["score"])
    return found | {"tasks": {name: dict(result) for name, result in results.items()}}
