"""A tiny experiment: two rows, an evaluation and a sweep on the packaged reviews, run in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from zofo.experiment import grid, runner, worker
from zofo.experiment.grid import Grid
from zofo.experiment.progress import Board
from zofo.experiment.store import Store

SMALL: dict[str, Any] = {
    "data.train_rows": 16, "data.validation_rows": 6, "data.test_rows": 8, "data.batch": 2, "data.max_length": 48,
    "run.threads": 1, "model.dtype": "fp32", "method.stack": "off",
}  # fmt: skip
TINY: dict[str, Any] = {
    "about": "a tiny one",
    "tasks": ["reviews"],
    "seeds": [0, 1],
    "budget": {"steps": 2},
    "validations": 2,
    "against": "lora",
    "options": SMALL,
    "reach": [0.1],
    "rows": [
        {"name": "lora", "preset": "fo-lora", "sweep": {"method.lr_p": [1e-3, 1e-2]}},
        {"name": "bilevel", "preset": "bilevel-lora", "options": {"method.T": 1, "method.lr_theta": 1e-4}},
        {"name": "zero-shot", "evaluate": True},
    ],
}

Make = Callable[..., Grid]


@pytest.fixture
def make(folder: str, tmp_path: Path) -> Make:
    """A grid from TINY with keys laid over it."""

    def made(**keys: Any) -> Grid:
        file = tmp_path / "tiny.yaml"
        file.write_text(yaml.safe_dump({"model": folder, **TINY, **keys}, sort_keys=False), encoding="utf-8")
        return grid.read(str(file))[0]

    return made


class Here:
    """A run in this process: it has ended when it has begun."""

    def __init__(self, order: Path, log: Path) -> None:
        self.status = worker.perform(order)

    def poll(self) -> int | None:
        return self.status

    def stop(self, kill: bool = False) -> None:
        """Nothing is left to stop."""


class Said(Board):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.bar = None
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


class Lab:
    """An experiment's folder, and every order given in it."""

    def __init__(self, place: Path) -> None:
        self.store, self.orders = Store(place), list[str]()

    def launch(self, order: Path, log: Path) -> Here:
        self.orders.append(order.stem)
        return Here(order, log)

    def run(self, grid: Grid, **options: Any) -> tuple[list[Any], list[str]]:
        """Run a grid; returns the table's cells and what was said."""
        said = Said()
        cells = runner.run(runner.Work(grid, self.store, said, launch=options.pop("launch", self.launch), **options))
        return cells, said.lines


@pytest.fixture
def lab(bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    yield Lab(tmp_path / "lab")
    torch.set_num_threads(threads)
