"""Plausible metrics of a run of each method."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

Rows = list[dict[str, Any]]


def score(accuracy: float, loss: float) -> dict[str, Any]:
    errors = {"loss_se": 0.02, "choice_loss_se": 0.03, "accuracy_se": 0.015}
    return {"n": 500, "loss": loss, "choice_loss": loss / 2, "accuracy": accuracy, **errors}


def losses(method: str, k: int) -> dict[str, float]:
    d = math.exp(-k / 12)
    if method == "bilevel":
        a, b, c = 0.25 + 0.5 * d, 0.24 + 0.5 * d, 0.22 + 0.45 * d
        return {"A": a, "B": b, "C": c, "gap": b - c, "c": 3.0, "loss_p": b, "loss_s": c, "lam": 10.0}
    return {"A": 0.8 - 0.002 * k, "c": 3.0} if method == "mezo" else {"loss_p": 0.2 + 0.6 * d}


def validation(method: str, k: int) -> dict[str, Any]:
    good = score(0.87 - 0.3 * math.exp(-k / 12), 0.3 + 0.5 * math.exp(-k / 12))
    if method == "bilevel":
        return {"p": {**good, "loss": good["loss"] + 0.01}, "s": good, "used": "s", "moved": 1e-5 * k}
    return {"theta": good, "used": "theta", "moved": 1e-5 * k} if method == "mezo" else {"p": good, "used": "p"}


def made(method: str = "bilevel", steps: int = 30, every: int = 10) -> Rows:
    rows: Rows = []
    for k in range(1, steps + 1):
        cost = {
            "forwards": 26 * k,
            "backwards": 20 * k,
            "bad": 0,
            "time": {"train": 3.0 * k},
            "memory": {"rss_mb": 1450.0},
        }
        rows.append({"kind": "step", "step": k, **losses(method, k), **cost})
        if k % every == 0:
            rows.append({"kind": "validation", "step": k, **validation(method, k), "best": k <= 2 * every, "time": {}})
    return rows


@pytest.fixture
def metrics() -> Callable[..., Rows]:
    """`made`."""
    return made


@pytest.fixture
def summary() -> dict[str, Any]:
    """What a run ends with."""
    results = {"zero-shot": score(0.55, 0.9), "p": score(0.871, 0.31), "s": score(0.868, 0.32)}
    where = {"task": "sst2", "split": "test", "checkpoint": "best", "step": 20, "truncated": 0}
    return {**where, "used": "p", "results": results, "run": "runs/x", "steps": 30, "seconds": 90.0}
