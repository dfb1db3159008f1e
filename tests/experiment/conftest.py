"""A tiny experiment: two rows, an evaluation and a sweep on the packaged reviews, run in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from zofo.experiment import reading, runner, worker
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

GOOD: dict[str, Any] = {
    "model": "m", "tasks": ["sst2"], "budget": {"steps": 3}, "rows": [{"name": "a", "preset": "mezo"}],
}  # fmt: skip

Make = Callable[..., Grid]


@pytest.fixture
def make(folder: str, tmp_path: Path) -> Make:
    """A grid from TINY with keys laid over it."""

    def made(**keys: Any) -> Grid:
        file = tmp_path / "tiny.yaml"
        file.write_text(yaml.safe_dump({"model": folder, **TINY, **keys}, sort_keys=False), encoding="utf-8")
        return reading.read(str(file))[0]

    return made


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """The path of a file with keys laid over GOOD; None leaves one out."""

    def made(**keys: Any) -> str:
        file = tmp_path / "x.yaml"
        tree = {key: value for key, value in {**GOOD, **keys}.items() if value is not None}
        file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        return str(file)

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


def invented(cell: Any, rights: list[int], p: float = 0.5, standing: float = 0.4, **keys: Any) -> dict[str, Any]:
    """A record as a run leaves it, with answers that are said."""
    share = sum(rights) / len(rights)
    slots = {
        "p": {"n": len(rights), "accuracy": p, "by_row": rights},
        "s": {"n": len(rights), "accuracy": share, "by_row": rights},
    }
    points = [
        {"step": k, "seconds": 2.0 * k, "passes": 66 * k, "used": "s", "score": 0.05 * k, "loss": 0.5} for k in (1, 2)
    ]
    scores = {"s": {"n": 6, "accuracy": 0.5, "loss": standing}}
    return {
        "name": cell.name, "digest": cell.digest, "evaluate": False, "status": "done", "wall": 5.0, "steps": 2, "seconds": 4.0,
        "forwards": 46, "backwards": 43, "memory": {"peak_mb": 900.0, "standing_mb": 500.0}, "curve": points, "gap": [[1, 0.2], [2, 0.1]],
        "validation": {"step": 2, "used": "s", "by": "loss", "standing": standing, "moved": 0.01, "scores": scores},
        "test": {"used": "s", "metric": "accuracy", "rows_sha256": "ab", "slots": slots}, **keys,
    }  # fmt: skip


@pytest.fixture
def made_up() -> Callable[..., dict[str, Any]]:
    """`invented`."""
    return invented


@pytest.fixture
def full(make: Make, tmp_path: Path) -> tuple[Grid, Store, list[Any]]:
    """An experiment of two tasks whose records are made up: one row with a seed out of memory, one without the prompt."""
    from zofo.experiment import cells
    from zofo.run.jsonfile import write_json

    rows = [
        {"name": "base", "preset": "fo-lora"},
        {"name": "better", "preset": "bilevel-lora"},
        {"name": "bare", "preset": "fo-lora", "options": {"data.hard_prompt": False}},
        {"name": "later", "preset": "mezo"},
    ]
    costs = {"better": {"seconds": 3}}
    made = make(
        tasks=["sst2", "rte"], rows=rows, against="base", seeds=[0, 1, 2], costs=costs, reach=[0.1, 0.9], draws=200
    )
    store = Store(tmp_path / "full")
    store.make()
    table = cells.finals(made, {})
    for cell in table:
        right = {"base": 10, "better": 15, "bare": 5}.get(cell.row)
        if right is None:
            continue
        record = invented(cell, [1] * (right + cell.seed) + [0] * (20 - right - cell.seed))
        if (cell.row, cell.task, cell.seed) == ("better", "rte", 2):
            record = {"name": cell.name, "status": "out of memory", "reason": "1 PB were asked for"}
        write_json(store.cells / f"{cell.name}.json", record)
    return made, store, table
