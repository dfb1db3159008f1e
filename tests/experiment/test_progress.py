"""What is left, and when it ends."""

from __future__ import annotations

import io

import pytest

from zofo.experiment import cells
from zofo.experiment.progress import Board, Pace, Place, ends, last_step, reached, took, where


def test_time_left_goes_by_costs_then_by_what_runs_took(make) -> None:
    grid = make(costs={"lora": {"seconds": 3}}, budget={"steps": 10})
    lora, _, bilevel, *_ = cells.finals(grid, cells.rehearsed(grid))
    pace = Pace()
    assert pace.left([lora, bilevel], 1) == (30.0, 1)
    pace.learn(bilevel, 50.0, None)
    assert pace.left([lora], 1, {lora.digest: Place(lora.steps)}) == (0.0, 1), (
        "trained; how long its test takes is not known"
    )
    assert pace.left([lora, bilevel, bilevel], 2) == ((30 + 50 + 50) / 2, 0)
    assert pace.left([bilevel], 1, {bilevel.digest: Place(bilevel.steps // 2)}) == (25.0, 0)
    pace.learn(lora, 60.0, None)
    assert pace.seconds(lora) == 60.0


def test_a_run_that_goes_on_is_timed_by_its_own_pace_and_others_by_it_too(make) -> None:
    """On a machine three times slower than the one where costs were measured, it is told after a few steps."""
    grid = make(costs={"lora": {"seconds": 3}, "bilevel": {"seconds": 6}}, budget={"steps": 10})
    lora, _, bilevel, *_ = cells.finals(grid, cells.rehearsed(grid))
    pace = Pace()
    assert pace.left([lora, bilevel], 1, {lora.digest: Place()}) == (90.0, 0)
    assert pace.left([lora, bilevel], 1, {lora.digest: Place(2, 0, 18.0)}) == (9.0 * 8 + 6 * 3 * 10, 0)
    assert pace.left([lora, bilevel], 1) == (90.0, 0), "nothing goes on: nothing is known of this machine"
    pace.learn(bilevel, 50.0, None)
    assert pace.left([lora, bilevel], 1, {lora.digest: Place(2, 0, 18.0)}) == (9.0 * 8 + 50, 0)


def test_what_comes_after_the_last_step_takes_its_time(make) -> None:
    """Testing: by the row's own; it is left when the last step is done."""
    grid = make(budget={"steps": 10})
    lora, _, bilevel, *_ = cells.finals(grid, cells.rehearsed(grid))
    pace = Pace()
    pace.learn(lora, 20.0, 5.0)
    assert pace.seconds(lora) == 25.0 and pace.seconds(lora, Place(10)) == 5.0
    pace.learn(lora, 20.0, None)
    pace.learn(lora, 20.0, 7.0)
    assert pace.seconds(lora, Place(10)) == 6.0, "an interrupted run tells nothing of it"
    assert pace.seconds(bilevel) is None
    assert pace.seconds(bilevel, Place(10)) == 6.0, "another row's, where its own is not known"
    zero_shot = next(cell for cell in cells.finals(grid, cells.rehearsed(grid)) if cell.evaluate)
    assert pace.seconds(zero_shot) is None, "an evaluation is no test of adapters"


def test_words() -> None:
    assert ends(0, 0) == "nothing left" and ends(0, 2) == "time left unknown (2 runs)"
    assert ends(120, 1, lambda: 0.0) == "2 min 0 s left and 1 run of unknown length", "so when it ends is not known"


def test_a_run_in_progress(lab, make) -> None:
    lab.store.make()
    cell = cells.finals(make(), cells.rehearsed(make()))[0]
    run = lab.store.run(cell)
    assert last_step(lab.store, cell) == (0, 0.0) and where(cell, reached(lab.store, cell)).endswith(": begins")
    run.path.mkdir(parents=True)
    run.metrics.write_text(
        '{"kind": "step", "step": 7, "time": {"train": 3.5}}\n{"kind": "validation", "step": 7}\n{"kind": "st',
        encoding="utf-8",
    )
    assert last_step(lab.store, cell) == (7, 3.5)
    assert reached(lab.store, cell) == Place(7, 0, 3.5) and reached(lab.store, cell).pace == 0.5
    assert where(cell, Place(7)) == "lora, reviews, seed 0, method.lr_p=0.001: step 7 of 2"


def test_plain_lines_come_once_a_minute() -> None:
    now, out = [0.0], io.StringIO()
    with Board(out, lambda: now[0]) as board:
        assert not board.due
        now[0] = 61.0
        assert board.due
        board.move(1, 3, "one of three")
        assert not board.due
    assert out.getvalue() == "one of three\n"


@pytest.mark.parametrize("cost", [None, 2.0])
def test_an_evaluations_time_is_learned_whole(make, cost) -> None:
    grid = make()
    cell = cells.finals(grid, cells.rehearsed(grid))[-1]
    pace = Pace()
    assert pace.seconds(cell) is None
    pace.learn(cell, 0.0, 40.0)
    assert cell.evaluate and pace.seconds(cell) == 40.0


def test_a_run_that_was_interrupted_took_as_long_as_it_trained() -> None:
    """Its last process has seen the end alone."""
    assert took({"wall": 300.0, "seconds": 1273.0}) == (1273.0, None)
    assert took({"wall": 50.0, "seconds": 40.0}) == (40.0, 10.0) and took({"wall": 9.0}) == (0.0, 9.0)
