"""Kill an experiment with SIGKILL in its runs, call it again, and compare with one that was never killed.

Run by `test_runner.py` in a process of its own: `python kills.py MODEL FOLDER POINT...`. It forks a child for every call; the
runs go in the child's own process, so that a kill ends run and experiment at once. Writes FOLDER/differ.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from zofo import loop
from zofo.experiment import reading, record, runner, table, worker
from zofo.experiment.grid import Grid
from zofo.experiment.progress import Board
from zofo.experiment.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))
from killing import ended, forked, warm, without_time

TREE: dict[str, Any] = {
    "tasks": ["reviews"], "seeds": [0], "budget": {"steps": 2}, "validations": 2, "against": "lora",
    "options": {
        "data.train_rows": 16, "data.validation_rows": 6, "data.test_rows": 8, "data.batch": 2, "data.max_length": 48,
        "run.threads": 1, "model.dtype": "fp32", "method.stack": "off",
    },
    "rows": [
        {"name": "lora", "preset": "fo-lora", "sweep": {"method.lr_p": [1e-3, 1e-2]}},
        {"name": "bilevel", "preset": "bilevel-lora", "options": {"method.T": 1, "method.lr_theta": 1e-4}},
        {"name": "zero-shot", "evaluate": True},
    ],
}  # fmt: skip


class Here:
    """A run in this process; `die` says where it is killed."""

    begun = 0

    def __init__(self, order: Path, die: Callable[[str, int], None]) -> None:
        Here.begun += 1
        die("begin", Here.begun)
        step, tested = worker.Reporter.step, record.tested

        def stepped(self: Any, row: Mapping[str, Any], of: int) -> None:
            die("step", Here.begun)
            step(self, row, of)

        def testing(run: Any) -> Any:
            die("test", Here.begun)
            return tested(run)

        worker.Reporter.step, record.tested = stepped, testing  # type: ignore[method-assign]
        self.status = worker.perform(order)
        worker.Reporter.step, record.tested = step, tested  # type: ignore[method-assign]
        die("end", Here.begun)

    def poll(self) -> int:
        return self.status

    def stop(self, kill: bool = False) -> None:
        """It has ended."""


def call(made: Grid, place: Path, point: tuple[str, int] | None) -> None:
    """Run the experiment, or go on with it; killed at a point."""

    def die(where: str, run: int) -> None:
        if (where, run) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    Here.begun = 0
    with Path(os.devnull).open("w") as out:
        sys.stdout = out
        runner.run(runner.Work(made, Store(place), Board(out), launch=lambda order, log: Here(order, die)))


TIMES = ("budgeted_seconds", "step_seconds", "wall")


def bare(tree: Any) -> Any:
    """A JSON tree without its fields of time and memory."""
    if isinstance(tree, dict):
        return {k: bare(v) for k, v in without_time(tree).items() if k not in TIMES}
    return [bare(v) for v in tree] if isinstance(tree, list) else tree


def picture(made: Grid, place: Path) -> dict[str, Any]:
    """What must not depend on having been killed: choices, every run's record, the table."""
    store = Store(place)
    found: dict[str, Any] = {"choices": json.loads(store.choices.read_text())}
    for path in sorted(store.cells.glob("*.json")):
        held = bare(json.loads(path.read_text()))
        found[path.name] = {key: value for key, value in held.items() if key != "options"}
    found["table"] = bare(table.tabulate(made, store, runner.known(made, store)))
    return found


def main(model: str, place: Path, words: list[str]) -> None:
    """Kill at each point (WHERE-RUN), in an experiment of its own for each."""
    torch.set_num_threads(1)
    loop.plots.curves, loop.taken.estimated = (lambda *_: None), (lambda *_: [])  # type: ignore[assignment]
    place.mkdir(parents=True, exist_ok=True)
    file = place / "kill.yaml"
    file.write_text(yaml.safe_dump({"model": model, **TREE}, sort_keys=False))
    made, _ = reading.read(str(file))
    assert forked(lambda: ended(lambda: call(made, place / "whole", None), place / "modules")) == 0
    warm(place / "modules")
    whole, differ, kills = picture(made, place / "whole"), [], 0
    points = [(word.split("-")[0], int(word.split("-")[1])) for word in words]
    for where, run in points:
        at = place / f"{where}-{run}"
        status = forked(lambda at=at, where=where, run=run: call(made, at, (where, run)))
        kills += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        again = forked(lambda at=at: call(made, at, None))
        held = picture(made, at) if again == 0 else {"again": again}
        differ += [f"{where} {run}: {key}" for key in whole.keys() | held.keys() if whole.get(key) != held.get(key)]
    (place / "differ.json").write_text(json.dumps({"kills": kills, "points": len(points), "differ": differ}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
