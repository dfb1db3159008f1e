"""The sweep, the choice, the table's runs: what is run, in what order, what is not run again, and what is never read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from zofo import begin, loop
from zofo.errors import BadInput
from zofo.experiment import cells, record, runner, table
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_json, write_json
from zofo.run.lock import lock
from zofo.run.signals import Interrupted

ROOT = Path(__file__).parents[2]
LORA = {"name": "lora", "preset": "fo-lora", "sweep": {"method.lr_p": [1e-3, 1e-2]}}
PLAIN = {"name": "plain", "preset": "fo-lora"}
BROKEN = {"name": "broken", "preset": "fo-lora", "options": {"adapter.targets": ["nosuch"]}}


def test_a_grid_is_run_once_and_nothing_is_run_again(lab, make) -> None:
    made, _ = lab.run(make())
    assert [cell.row for cell in made] == ["lora"] * 2 + ["bilevel"] * 2 + ["zero-shot"] * 2
    assert len(lab.orders) == 8, "two swept, one of which is tested in the second turn; the others once a seed"
    assert all(lab.store.finished(cell) for cell in made)
    seeds = [next(cell.seed for cell in made if lab.store.name(cell) == name) for name in lab.orders[2:]]
    assert seeds == sorted(seeds), "every row has its first seed before any has its second"
    before = list(lab.orders)
    assert lab.run(make())[0] == made and lab.orders == before
    grid = make()
    chosen = runner.choices(grid, lab.store)
    assert chosen["lora", "reviews"] in [{"method.lr_p": 1e-3}, {"method.lr_p": 1e-2}]
    assert cells.finals(grid, cells.rehearsed(grid) | chosen) == made, (
        "a plan counts what was chosen, not the first of a sweep"
    )


def test_a_lean_experiment_keeps_records_and_no_checkpoints_of_what_is_tested(lab, make) -> None:
    grid = make(rows=[LORA], against="")
    before, _ = lab.run(grid)
    first, orders = [lab.store.record(cell) for cell in before], len(lab.orders)
    assert all(any(lab.store.run(cell).checkpoints.iterdir()) for cell in before)
    made, _ = lab.run(grid, lean=True)
    assert [lab.store.record(cell) for cell in made] == first and len(lab.orders) == orders, "nothing is run again"
    assert not any(any(lab.store.run(cell).checkpoints.iterdir()) for cell in made)
    others = [cell for cell in cells.sweeps(grid) if cell.digest not in {one.digest for one in made}]
    assert others and all(any(lab.store.run(cell).checkpoints.iterdir()) for cell in others), "may yet be chosen"
    more, _ = lab.run(make(rows=[LORA], against="", seeds=[0, 1, 2]), lean=True)
    assert all(lab.store.finished(cell) for cell in more)
    assert not any(any(lab.store.run(cell).checkpoints.iterdir()) for cell in more)


def test_the_best_checkpoint_is_taken_away_last(lab, make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in between, a run still has what others are to meet it at."""
    taken: list[str] = []
    retire = runner.seam.retire
    monkeypatch.setattr(runner.seam, "retire", lambda path: (taken.append(path.name), retire(path)))
    lab.run(make(rows=[PLAIN], against="", seeds=[0]), lean=True)
    assert len(taken) > 1 and taken.index("best") == len(taken) - 1


def test_nothing_reads_the_test_rows_before_everything_is_chosen(lab, make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training scores validation rows alone, and the first test row is scored when choices.json is written; each run once."""
    parts, tested, prepared = set[str](), list[str](), list[tuple[str, ...]]()
    score, test, prepare = loop.score, record.tested, record.job.prepare

    def scored(job: Any, part: str, slot: str | None) -> Any:
        parts.add(part)
        return score(job, part, slot)

    def once(run: RunFolder) -> Any:
        assert lab.store.choices.exists(), "a test row was read before the choice"
        tested.append(run.name)
        return test(run)

    def seen(*args: Any, **options: Any) -> Any:
        prepared.append(options.get("wanted", ()))
        return prepare(*args, **options)

    monkeypatch.setattr(loop, "score", scored)
    monkeypatch.setattr(record, "tested", once)
    monkeypatch.setattr(record.job, "prepare", seen)
    made, _ = lab.run(make())
    assert parts == {"validation"}
    assert sorted(tested) == sorted(lab.store.name(cell) for cell in made if not cell.evaluate)
    swept = [lab.store.record(cell) for cell in cells.sweeps(make())]
    assert sum("test" in held for held in swept if held) == 1, "the one that was chosen"


def test_the_choice_is_validations(lab, make) -> None:
    """Test scores put in by hand, the other way round, change nothing."""
    grid = make(rows=[LORA], against="")
    lab.run(grid)
    chosen = read_json(lab.store.choices)[0]
    losses = {c["values"]["method.lr_p"]: c["standing"] for c in chosen["candidates"]}
    assert chosen["values"]["method.lr_p"] == min(losses, key=lambda rate: losses[rate])


def test_a_run_that_fails_stays_with_its_reason_and_the_others_go_on(lab, make) -> None:
    grid = make(rows=[BROKEN, PLAIN], against="plain", seeds=[0])
    made, said = lab.run(grid)
    found = table.tabulate(grid, lab.store, made)["rows"]
    assert [entry["seeds"] for entry in found] == [0, 1]
    assert "seed 0: failed: " in found[0]["failures"][0] and "nosuch" in found[0]["failures"][0]
    assert any(line.startswith("failed: broken, reviews, seed 0") for line in said)
    before = len(lab.orders)
    said = lab.run(grid)[1]
    assert len(lab.orders) == before and "note: 1 runs failed before and are left so (--retry runs them again)" in said
    lab.run(grid, retry=True)
    assert len(lab.orders) == before + 1


def test_a_sweep_in_which_all_fail_leaves_its_row_and_one_in_which_some_fail_chooses_among_the_rest(lab, make) -> None:
    rows = [
        {"name": "none", "preset": "fo-lora", "sweep": {"adapter.targets": [["nosuch"], ["neither"]]}},
        {"name": "some", "preset": "fo-lora", "sweep": {"adapter.targets": [["nosuch"], ["q_proj"]]}},
        {"name": "alike", "like": "none", "options": {"method.clip": 2}},
    ]
    grid = make(rows=rows, against="", seeds=[0])
    made, _ = lab.run(grid)
    assert [(cell.row, cell.values) for cell in made] == [("some", {"adapter.targets": ["q_proj"]})]
    found = {entry["row"]: entry for entry in table.tabulate(grid, lab.store, made)["rows"]}
    for none in (found["none"], found["alike"]):
        assert none["seeds"] == 0 and none["failures"][0].startswith("nothing could be chosen: failed: ")
    lab.store.choices.unlink()
    found = {entry["row"]: entry for entry in table.tabulate(grid, lab.store, [])["rows"]}
    assert found["alike"]["failures"] == found["none"]["failures"] == ["nothing is chosen yet"]


def test_a_choice_of_another_sweep_is_told(lab, make) -> None:
    """More was tried in the file since: what was chosen may not be the best of it."""
    row = {"name": "a", "preset": "fo-lora", "sweep": {"method.lr_p": [1e-3, 1e-2]}}
    grid = make(rows=[row], against="", seeds=[0])
    made, _ = lab.run(grid)
    assert len(table.tabulate(grid, lab.store, made)["rows"][0]["remarks"]) == 1
    wider = make(rows=[row | {"sweep": {"method.lr_p": [1e-3, 1e-2, 1e-1]}}], against="", seeds=[0])
    (entry,) = table.tabulate(wider, lab.store, runner.known(wider, lab.store))["rows"]
    assert entry["remarks"][1:] == ["chosen by another sweep than the file's"]


def test_running_out_of_memory_is_told_as_that(lab, make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 PB")

    monkeypatch.setattr(begin, "start", full)
    grid = make(rows=[PLAIN], against="", seeds=[0])
    made, _ = lab.run(grid)
    held = lab.store.record(made[0])
    assert held is not None and held["status"] == "out of memory" and "1 PB" in held["reason"]


class Dead:
    """A run that left no record: it ended with a status."""

    def __init__(self, status: int) -> None:
        self.status = status

    def poll(self) -> int | None:
        return self.status

    def stop(self, kill: bool = False) -> None:
        """It has."""


@pytest.mark.parametrize(
    ("status", "told"),
    [(-9, "killed: killed by SIGKILL, as the system does where memory is out"), (-11, "killed: ended by SIGSEGV"),
     (7, "failed: ended with exit status 7")],
)  # fmt: skip
def test_a_process_that_leaves_no_record_is_recorded(lab, make, status: int, told: str) -> None:
    grid = make(rows=[PLAIN], against="", seeds=[0])
    made, _ = lab.run(grid, launch=lambda order, log: Dead(status))
    entry = table.tabulate(grid, lab.store, made)["rows"][0]
    assert entry["failures"][0].startswith(f"seed 0: {told}")


@pytest.mark.parametrize("status", [-15, 143, 130])
def test_a_process_that_is_told_to_stop_stops_the_experiment_and_is_no_failure(lab, make, status: int) -> None:
    grid = make(rows=[PLAIN], against="", seeds=[0])
    with pytest.raises(Interrupted):
        lab.run(grid, launch=lambda order, log: Dead(status))
    assert lab.store.record(cells.finals(grid, {})[0]) is None
    assert lab.store.finished(lab.run(grid)[0][0]), "the next call goes on"


def test_what_has_changed_is_run_again_and_told_and_nothing_else(lab, make) -> None:
    rows = [PLAIN, {"name": "other", "preset": "fo-lora", "options": {"method.clip": 2}}]
    lab.run(make(rows=rows, against="", seeds=[0]))
    before = len(lab.orders)
    rows[1]["options"] = {"method.clip": 3}  # type: ignore[index]
    said = lab.run(make(rows=rows, against="", seeds=[0, 1]))[1]
    assert "note: other on reviews has changed (method.clip was 2.0, is 3.0): it is run again" in said
    assert len(lab.orders) == before + 3, "one changed, one new seed of each"
    rows[1]["options"] = {"method.clip": 2}  # type: ignore[index]
    said = lab.run(make(rows=[{**rows[1], "name": "renamed"}], against="", seeds=[0]))[1]
    assert len(lab.orders) == before + 3, "the runs are known by what they do"
    assert "note: row 'plain' is no longer in the file; its runs stay where they are" in said


def test_a_choice_that_the_file_no_longer_has_makes_no_table(lab, make) -> None:
    lab.store.make()
    chosen = {"row": "lora", "task": "reviews", "values": {"method.lr_p": 1e-2}, "candidates": []}
    write_json(lab.store.choices, [chosen])

    def values(*rows: dict[str, Any]) -> list[dict[str, Any]]:
        grid = make(rows=rows, against="", seeds=[0])
        made = runner.known(grid, lab.store)
        told = table.tabulate(grid, lab.store, made)["rows"][0]["failures"]
        assert (told == ["what was chosen is no longer in the file"]) == (not made)
        return [cell.values for cell in made]

    assert values(LORA) == [{"method.lr_p": 1e-2}]
    assert values({**LORA, "sweep": {"method.lr_p": [1e-3, 1e-4]}}) == []
    assert values({"name": "lora", "preset": "fo-lora"}) == [{}], "it sweeps no more"


def test_an_evaluation_takes_the_threads_that_it_is_given(lab, make, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise BadInput("it", "went no further", "on")

    monkeypatch.setattr(record.job, "prepare", stopped)
    (cell,) = cells.finals(make(rows=[{"name": "a", "evaluate": True}], against="", seeds=[0]), {})
    torch.set_num_threads(2)
    with pytest.raises(BadInput, match="went no further"):
        record.as_it_is(cell.config)
    assert torch.get_num_threads() == 1


def test_a_second_process_is_refused(lab, make) -> None:
    lab.store.make()
    with lock(RunFolder(lab.store.path)), pytest.raises(BadInput, match="is working on it; wait for it or stop it"):
        lab.run(make())


def test_several_runs_at_once_are_no_more_than_asked(lab, make) -> None:
    going: list[Slow] = []

    class Slow(Dead):
        def __init__(self, order: Path) -> None:
            super().__init__(lab.launch(order, order).poll() or 0)
            self.polls = 3
            going.append(self)
            assert sum(run.polls > 0 for run in going) <= 2

        def poll(self) -> int | None:
            self.polls -= 1
            return None if self.polls > 0 else self.status

    made, _ = lab.run(make(rows=[PLAIN], against="", seeds=[0, 1, 2]), jobs=2, launch=lambda order, log: Slow(order))
    assert len(going) == 3 and all(lab.store.finished(cell) for cell in made)


def killed(lab, model: str, *points: str) -> dict[str, Any]:
    """Run experiments in children that kill themselves at these points, and again to their end; what differs then."""
    words = [sys.executable, str(ROOT / "tests/experiment/kills.py"), model, str(lab.store.path), *points]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(read_json(lab.store.path / "differ.json"))


@pytest.mark.slow
def test_an_experiment_killed_and_called_again_ends_as_one_never_killed(lab, folder: str) -> None:
    """kill -9 in the sweep, before the chosen run is tested, and in the table's runs."""
    assert killed(lab, folder, "step-1", "test-3", "step-4") == {"kills": 3, "points": 3, "differ": []}


@pytest.mark.slow
def test_the_same_in_any_of_its_runs(lab, folder: str) -> None:
    points = [f"{where}-{run}" for run in range(1, 6) for where in ("begin", "step", "test", "end")]
    missing = (
        "test-1",
        "test-2",
        "step-3",
        "step-5",
        "test-5",
    )  # swept runs are not tested; the third only is; the last is no training
    points = [point for point in points if point not in missing]
    assert killed(lab, folder, *points) == {"kills": 15, "points": 15, "differ": []}


def test_a_run_ends_with_its_experiment_and_is_gone_on_with(lab, make, folder: str) -> None:
    """The real thing: a process a run; the experiment is killed; its run saves and stops by itself."""
    rows = [
        {"name": "long", "preset": "fo-lora", "steps": 4000, "options": {"run.save_every": 4000, "run.eval_every": 0}}
    ]
    grid = make(rows=rows, against="", seeds=[0])
    cell = cells.finals(grid, {})[0]
    words = [
        "experiment",
        str(lab.store.path.parent / "tiny.yaml"),
        "--dir",
        str(lab.store.path.parent),
        "--name",
        "lab",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen([sys.executable, "-m", "zofo.cli.main", *words], env=env, stdout=subprocess.PIPE)
    run = lab.store.run(cell)
    wait(lambda: run.metrics.exists() and run.metrics.stat().st_size > 0)
    started.kill()
    started.communicate()
    wait(lambda: free(run))
    steps = [int(path.name.split("-")[1]) for path in run.checkpoints.glob("step-*")]
    assert steps and 0 < max(steps) < 4000, "the run saved where it was told to stop"
    assert not lab.store.finished(cell) and not lab.store.failed(cell)
    assert runner.Work(grid, lab.store, None).left(cell)  # type: ignore[arg-type]


def free(run: RunFolder) -> bool:
    """Whether nobody holds a run."""
    try:
        with lock(run):
            return True
    except BadInput:
        return False


def wait(until: Any, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def test_signals_are_passed_to_the_runs(lab, make) -> None:
    """The experiment is told to stop: each run is asked to save, and only then it ends."""
    stopped: list[bool] = []

    class Going(Dead):
        def poll(self) -> int | None:
            if not stopped:
                os.kill(os.getpid(), signal.SIGTERM)
            return 143 if stopped else None

        def stop(self, kill: bool = False) -> None:
            stopped.append(kill)

    with pytest.raises(Interrupted):
        lab.run(make(rows=[PLAIN], against=""), launch=lambda order, log: Going(0))
    assert stopped == [False]


def test_a_failed_test_changes_no_choice(lab, make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The swept run that was chosen fails on test rows: the next call chooses it all the same, and says why it has no score."""
    grid = make(rows=[LORA], against="")
    test, failed = record.tested, list[str]()

    def full(run: RunFolder) -> Any:
        if run.name in lab.orders[:2]:
            failed.append(run.name)
            raise MemoryError("out of memory")
        return test(run)

    monkeypatch.setattr(record, "tested", full)
    lab.run(grid)
    chosen, (name,) = runner.choices(grid, lab.store), failed
    made, said = lab.run(grid)
    assert runner.choices(grid, lab.store) == chosen and "note: 1 runs failed before" in said[-1]
    assert lab.store.name(made[0]) == name and lab.store.failed(made[0]) and lab.store.finished(made[1])
    monkeypatch.setattr(record, "tested", test)
    monkeypatch.setattr(begin, "start", full)
    made, _ = lab.run(grid, retry=True)
    assert runner.choices(grid, lab.store) == chosen and all(lab.store.finished(cell) for cell in made)


def test_a_swept_run_that_is_killed_when_it_is_tested_is_recorded(lab, make) -> None:
    grid = make(rows=[LORA], against="", seeds=[0])
    there = lambda order, log: lab.launch(order, log) if not lab.store.choices.exists() else Dead(-9)  # noqa: E731
    made, said = lab.run(grid, launch=there)
    chosen = runner.choices(grid, lab.store)
    assert said[-1].startswith("killed: lora, reviews, seed 0, method.lr_p=") and "killed by SIGKILL" in said[-1]
    entry = table.tabulate(grid, lab.store, made)["rows"][0]
    assert entry["failures"][0].startswith("seed 0: killed: killed by SIGKILL")
    made, _ = lab.run(grid, retry=True)
    assert runner.choices(grid, lab.store) == chosen and lab.store.finished(made[0])
