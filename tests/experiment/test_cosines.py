"""A grid that asks for cosines has them of its bilevel runs, by each upper level's own kind, and in its table."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest

from zofo.experiment import cosines, table, text, worker

ROWS = [
    {"name": "lora", "preset": "fo-lora"},
    {"name": "zo", "preset": "bilevel-lora", "options": {"method.T": 1, "method.lr_theta": 1e-4}},
    {
        "name": "low rank", "preset": "bilevel-lora",
        "options": {"method.T": 1, "method.lr_theta": 1e-4, "method.noise": "low-rank", "method.rank": 4},
    },
    {"name": "sketch", "preset": "bilevel-sketch-lora", "options": {"method.coupling": "both", "method.T": 1, "method.lam": 0}},
]  # fmt: skip


def test_cosines_are_measured_where_theta_moves_by_an_estimate_of_G(lab, make) -> None:
    grid = make(rows=ROWS, seeds=[0], against="", cosines=2)
    cells, _ = lab.run(grid)
    records = {cell.row: lab.store.record(cell) for cell in cells}
    assert "cosines" not in records["lora"]
    zo, sketch = records["zo"]["cosines"], records["sketch"]["cosines"]
    assert set(zo) == {"A", "G"} and set(sketch) == {"A"}, "with lambda 0, G is A"
    assert zo["G"]["kind"] == "central-gaussian" and sketch["A"]["kind"] == "sketch-rademacher-input"
    assert records["low rank"]["cosines"]["G"]["kind"] == "central-low-rank-4"
    assert all(math.isfinite(held["mean"]) for held in (zo["G"], sketch["A"]))
    assert sketch["A"]["mean"] > 0.1 > abs(zo["G"]["mean"])

    made = table.tabulate(grid, lab.store, cells)
    by = {entry["row"]: entry for entry in made["rows"]}
    assert by["lora"]["cosine"] is None and by["sketch"]["cosine"] == sketch["A"]["mean"]
    assert "| theta moved by then | cosine |" in text.document(made, "it")


def test_a_penalty_that_is_seldom_looked_at_is_in_the_cosine_wherever_a_run_ends(lab, make) -> None:
    """Three steps with lam_every 2: iteration 3 would be of A alone, iteration 4 is of G."""
    options = {"method.T": 1, "method.lr_theta": 1e-4, "method.coupling": "outer", "method.lam_every": 2}
    rows = [{"name": "seldom", "preset": "bilevel-lora", "options": options}]
    grid = make(rows=rows, seeds=[0], against="", cosines=2, budget={"steps": 3})
    (cell,), _ = lab.run(grid)
    held = lab.store.record(cell)["cosines"]
    assert set(held) == {"A", "G"} and all(math.isfinite(one["mean"]) for one in held.values())
    entry = table.tabulate(grid, lab.store, [cell])["rows"][0]
    assert entry["cosine"] == held["G"]["mean"] and entry["notes"] == []


def test_a_run_whose_cosines_fail_is_scored_all_the_same(lab, make, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise KeyError("nosuch")

    monkeypatch.setattr(cosines, "of", failing)
    grid = make(rows=ROWS[1:2], seeds=[0], against="", cosines=2)
    (cell,), _ = lab.run(grid)
    held = lab.store.record(cell)
    assert held is not None and held["status"] == "done" and "test" in held and "cosines" not in held
    assert held["notes"] == ["no cosine: KeyError: 'nosuch'"]
    entry = table.tabulate(grid, lab.store, [cell])["rows"][0]
    assert "no cosine: KeyError: 'nosuch'" in text.note(entry)


def test_a_process_killed_while_it_measures_cosines_loses_nothing_else(
    lab, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system kills what takes too much memory: the run was trained and tested, and its record says so."""

    class Killed(BaseException):
        pass

    def killed(run: object, keys: int) -> None:
        raise Killed

    class Dead:
        def poll(self) -> int:
            return -signal.SIGKILL

        def stop(self, kill: bool = False) -> None:
            """Nothing is left to stop."""

    def dies(order: Path, log: Path) -> Dead:
        with pytest.raises(Killed):
            worker.perform(order)
        return Dead()

    monkeypatch.setattr(cosines, "of", killed)
    grid = make(rows=ROWS[1:2], seeds=[0], against="", cosines=2)
    made, _ = lab.run(grid, launch=dies)
    held = lab.store.record(made[0])
    assert held["status"] == "done" and "test" in held and held["wall"] > 0 and lab.store.finished(made[0])
    assert held["notes"] == ["no cosine: killed by SIGKILL, as the system does where memory is out"]
