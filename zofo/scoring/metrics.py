"""Metrics of predictions: accuracy with its standard error, macro-F1, mean loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def accuracy(predictions: Sequence[int], labels: Sequence[int]) -> tuple[float, float]:
    """Share of right predictions, and its standard error sqrt(a (1 - a) / n)."""
    n = len(labels)
    value = sum(p == y for p, y in zip(predictions, labels, strict=True)) / n
    return value, math.sqrt(value * (1 - value) / n)


def macro_f1(predictions: Sequence[int], labels: Sequence[int]) -> float:
    """Mean over the classes that occur of F1 = 2 TP / (2 TP + FP + FN)."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def summarise(
    predictions: Sequence[int], labels: Sequence[int], losses: Sequence[float], metric: str = "accuracy"
) -> dict[str, Any]:
    """Metrics of n >= 1 rows: `loss` (mean of the rows' LM losses, nats a token), `accuracy`, `se`, `n`, `f1` if asked.

    Args: predictions and labels, indices of choices; losses, one a row; metric, "accuracy" or "f1".
    Raises: ValueError when there are no rows or the lengths differ.
    """
    if not labels or len(labels) != len(losses):
        raise ValueError(f"{len(labels)} labels and {len(losses)} losses")
    value, error = accuracy(predictions, labels)
    found: dict[str, Any] = {"loss": math.fsum(losses) / len(losses), "accuracy": value, "se": error, "n": len(labels)}
    return found | ({"f1": macro_f1(predictions, labels)} if metric == "f1" else {})
