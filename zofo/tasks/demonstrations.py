"""Demonstrations: solved rows that stand before a row's prompt. A matter of data: every method can train with them.

In-context learning (Brown et al. 2020, arXiv 2005.14165) is a model evaluated behind them, nothing trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.random import Generator

from zofo.core.streams import generator
from zofo.errors import BadInput
from zofo.tasks.definition import Task
from zofo.tasks.render import Row, Style, demonstration


def texts(task: Task, rows: Sequence[Row], tokenizer: Any, style: Style, named: Sequence[str]) -> list[str]:
    """Each row as a demonstration."""
    return [demonstration(task, row, tokenizer, style, name) for row, name in zip(rows, named, strict=True)]


def refuse_too_many(shots: int, pool: int, part: str) -> None:
    """Raise BadInput where a part of the training rows has too few to take demonstrations from (a row is not its own)."""
    if shots >= pool:
        found = f"{part} has {pool} training rows to take them from"
        raise BadInput(f"--data.shots {shots}", found, f"ask for at most {pool - 1}, or give more rows")


def for_all(pool: Sequence[str], shots: int, seed: int) -> list[str]:
    """`shots` of the pool, drawn once: the same for every validation and test row."""
    drawn = generator(seed, "demonstrations").permutation(len(pool))[:shots]
    return [pool[k] for k in drawn.tolist()]


def for_each(pool: Sequence[str], shots: int, seed: int, stream: str) -> list[list[str]]:
    """For each row of the pool, `shots` others of it, drawn for that row alone."""
    return [others(pool, k, shots, generator(seed, f"demonstrations-{stream}", k)) for k in range(len(pool))]


def others(pool: Sequence[str], own: int, shots: int, draw: Generator) -> list[str]:
    """`shots` of the pool without the one numbered `own`, each once, all alike likely."""
    drawn = draw.choice(len(pool) - 1, shots, replace=False)
    return [pool[k + (k >= own)] for k in drawn.tolist()]
