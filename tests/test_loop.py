"""The loop: exact resume after real kills, signals, two processes, corrupt checkpoints, and what a run leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from zofo import begin, config, loop, scorer
from zofo.errors import BadInput, NotFinite, ZofoError
from zofo.job import prepare
from zofo.layers import resolve
from zofo.methods import bilevel
from zofo.methods.table import METHODS
from zofo.report.terminal import Quiet
from zofo.run import checkpoint as files
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_json, write_json
from zofo.run.metrics import read_metrics
from zofo.run.signals import Interrupted, Stop

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {
    "data.task": "reviews", "data.train_rows": 20, "data.validation_rows": 6, "data.test_rows": 8, "data.batch": 2,
    "data.max_length": 48, "run.steps": 4, "run.eval_every": 2, "run.save_every": 2, "run.threads": 1, "method.T": 1,
}  # fmt: skip
QUICK = {"bilevel", "first-order", "mezo", "meta", "reptile"}
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in sorted(METHODS)]


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ZOFO_CACHE": str(home / "cache")}


def killed(folder: str, home: Path, *cases: str) -> dict[str, int]:
    """Kill and resume runs of some cases; fails when one was not killed or differs. Returns at how many points each was."""
    command = [sys.executable, str(ROOT / "tests/killing.py"), folder, str(home / "runs"), *cases]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for case in cases:
        assert found[case]["kills"] == found[case]["points"], case
        assert found[case]["differ"] == [], case
    return {case: found[case]["points"] for case in cases}


def test_a_run_killed_and_resumed_has_the_bits_of_one_never_stopped(folder: str, tmp_path: Path) -> None:
    """At a few points: theta replayed from the journal. All methods at every point, many tasks' adapters too: slow."""
    assert killed(folder, tmp_path, "bilevel/few") == {"bilevel/few": 4}


@pytest.mark.slow
def test_killed_at_every_step_and_resumed_it_has_the_bits_of_one_never_stopped(folder: str, tmp_path: Path) -> None:
    assert killed(folder, tmp_path, "mezo") == {"mezo": 12}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "bilevel",
        "first-order",
        "bilevel-outer",
        "bilevel-prefix",
        "bilevel-half",
        "bilevel-bf16",
        "mezo-lora",
        "sketch",
        "bilevel-sketch",
        "first-order-full",
        "two-stage",
        "addax",
        "meta",
        "meta-sketch",
        "meta-shared",
        "reptile",
    ],
)
def test_the_same_at_every_step_and_for_other_rules_adapters_and_starts(folder: str, tmp_path: Path, case: str) -> None:
    assert killed(folder, tmp_path, case) == {case: 18}


def started(folder: str, home: Path, name: str = "run", show: Quiet | None = None, **flags: Any) -> RunFolder:
    options = SMALL | {"model.name": folder, "run.dir": str(home / "runs"), "run.name": name} | flags
    begin.start(*resolve({k: v for k, v in options.items() if v is not None}), show or Quiet())
    return RunFolder(home / "runs" / name)


@pytest.fixture(scope="module")
def whole(folder: str, tmp_path_factory: pytest.TempPathFactory, ends: Any) -> RunFolder:
    """A run that ended, which nobody may change."""
    import torch

    place, threads = tmp_path_factory.mktemp("whole"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOFO_CACHE", str(place / "cache"))
        patch.setattr(ends, "whole", True)
        made = started(folder, place, **{"model.dtype": "fp32", "method.stack": "off"})
    torch.set_num_threads(threads)
    return made


@pytest.fixture
def run(whole: RunFolder, home: Path) -> RunFolder:
    """A copy of it, to resume or to break."""
    return RunFolder(shutil.copytree(whole.path, home / "runs" / "run"))


def test_a_run_leaves_what_the_design_says(whole: RunFolder) -> None:
    for path in (
        whole.config,
        whole.environment,
        whole.splits,
        whole.metrics,
        whole.journal,
        whole.curves,
        whole.eval,
        whole.card,
    ):
        assert path.stat().st_size > 0, path
    assert files.listing(whole.checkpoints) == [2, 4]
    results = json.loads(whole.eval.read_text())["results"]
    assert set(results) == {"zero-shot", "p", "s"}
    assert all(0 <= row["accuracy"] <= 1 and row["n"] == 8 for row in results.values())
    rows = read_metrics(whole.metrics)
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for row in steps:
        assert row["gap"] == row["B"] - row["C"]
        assert row["c"] == pytest.approx(row["c_A"] + row["lam"] * (row["c_B"] - row["c_C"]), rel=1e-9)
    checks = [row for row in rows if row["kind"] == "validation"]
    assert [row["step"] for row in checks] == [2, 4]
    assert all(row["moved"] > 0 and set(row) >= {"p", "s", "used", "best"} for row in checks)


def test_a_run_tells_the_memory_that_it_took_and_was_estimated_to_take(whole: RunFolder) -> None:
    found = json.loads(whole.eval.read_text())["memory"]
    rows = read_metrics(whole.metrics)
    assert found["peak_mb"] == max(row["memory"]["rss_mb"] for row in rows if row["kind"] == "step")
    assert found["validation_peak_mb"] == max(row["memory"]["rss_mb"] for row in rows if row["kind"] == "validation")
    assert 0 < found["standing_mb"] <= found["peak_mb"] + 1 and 0 < found["estimated_above_mb"] < found["estimated_mb"]
    assert "memory of the process" in whole.card.read_text() and "memory estimated" in whole.card.read_text()


def test_best_is_the_lowest_validation_loss_of_p_and_s_and_is_what_is_tested(folder: str, home: Path) -> None:
    run = started(folder, home, **{"run.steps": 6, "method.lr_s": 3e-2, "method.lr_p": 3e-2})
    checks = [row for row in read_metrics(run.metrics) if row["kind"] == "validation"]
    best = min(checks, key=lambda row: min(row["p"]["loss"], row["s"]["loss"]))
    told = json.loads(run.eval.read_text())
    assert (told["step"], told["used"]) == (best["step"], min("ps", key=lambda slot: best[slot]["loss"]))
    assert files.read(run.checkpoints / files.BEST).step == best["step"]


@pytest.mark.parametrize(("objective", "by"), [("classification", "choice_loss"), ("accuracy", "accuracy")])
def test_best_is_chosen_by_what_is_trained_for(folder: str, home: Path, objective: str, by: str, told: Any) -> None:
    flags = {"run.steps": 6, "method.lr_s": 3e-2, "method.lr_p": 3e-2, "data.validation_rows": 30}
    run = started(folder, home, "run", told, **flags, **{"method.objective": objective})
    rows = read_metrics(run.metrics)
    checks = [row for row in rows if row["kind"] == "validation"]
    assert {row["by"] for row in checks} == {by}
    sign = -1 if by == "accuracy" else 1
    standing = {(sign * row[slot][by], row["step"], slot) for row in checks for slot in "ps"}
    (_, step, used) = min(standing)  # of equals the earliest, and p
    found = json.loads(run.eval.read_text())
    assert (found["step"], found["used"]) == (step, used)
    if objective == "accuracy":
        zero = sum(row.get("c") == 0 for row in rows)
        assert any(f"c was exactly 0 in {zero} of 6 steps" in note for note in told.notes) == (zero > 3)


def test_a_run_that_measures_losses_alone_tells_the_loss_before_training(folder: str, home: Path, told: Any) -> None:
    rows = [{"prompt": f"Say {k} again:", "completion": f" {k}"} for k in range(30)]
    (home / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = started(folder, home, "run", told, **{"data.task": None, "data.train": str(home / "mine.jsonl")})
    result = json.loads(run.eval.read_text())["results"]["zero-shot"]
    assert set(result) == {"n", "loss", "loss_se"}
    (note,) = [note for note in told.notes if note.startswith("zero-shot")]
    assert f"{result['loss']:.4g}" in note


def test_advice_is_said_once_and_stands_in_the_metrics_and_the_card(
    folder: str, home: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = loop.advice.Advice("flat loss_p", "the loss of p is flat")
    monkeypatch.setattr(loop.advice, "due", lambda k, last: k > 1)
    monkeypatch.setattr(loop.advice, "of_steps", lambda rows, config: [flat] if len(rows) > 1 else [])
    run = started(folder, home, "run", told)
    given = [row for row in read_metrics(run.metrics) if row["kind"] == "advice"]
    assert given == [{"kind": "advice", "step": 2, **vars(flat)}] and told.notes.count(flat.text) == 1
    assert "- step 2: the loss of p is flat" in run.card.read_text()
    shutil.rmtree(run.checkpoints / "step-000004")
    run.eval.unlink()
    before = run.metrics.read_text()
    begin.go_on(run, told)
    assert told.notes.count(flat.text) == 1, "it was said before step 2 was saved"
    assert [row["kind"] for row in read_metrics(run.metrics)] == [
        json.loads(row)["kind"] for row in before.splitlines()
    ]


def test_resuming_a_finished_run_changes_nothing(run: RunFolder, told: Any) -> None:
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p != run.lock}
    begin.go_on(run, told)
    assert any("finished" in note for note in told.notes)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p != run.lock} == before


def test_a_run_whose_eval_json_was_written_by_eval_alone_is_concluded(run: RunFolder, told: Any) -> None:
    """Killed while it tests, then scored by `zofo eval`: it still owes its card."""
    held = read_json(run.eval)
    write_json(run.eval, {key: value for key, value in held.items() if key != "memory"})
    run.card.unlink()
    begin.go_on(run, told)
    assert not any("finished" in note for note in told.notes) and run.card.exists()
    assert read_json(run.eval)["results"] == held["results"] and "memory" in read_json(run.eval)


def test_moved_weights_are_not_scored_as_those_before_training(run: RunFolder, told: Any) -> None:
    run.eval.unlink()
    begin.go_on(run, told)
    assert any("the score before training is left out" in note for note in told.notes)
    assert "zero-shot" not in read_json(run.eval)["results"] and "p" in read_json(run.eval)["results"]


def test_a_folder_that_holds_a_run_is_refused_with_both_ways_out(folder: str, home: Path, run: RunFolder) -> None:
    with pytest.raises(BadInput, match=r"holds a run.*zofo resume run.*another --run"):
        started(folder, home)
    assert files.listing(run.checkpoints) == [2, 4]


def test_a_corrupt_newest_checkpoint_is_told_and_the_one_before_gives_the_same_end(
    whole: RunFolder, run: RunFolder, told: Any
) -> None:
    target = run.checkpoints / "step-000004" / "adapter-p.safetensors"
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(bytes(data))
    run.eval.write_text(
        json.dumps({"results": {"zero-shot": json.loads(run.eval.read_text())["results"]["zero-shot"]}})
    )
    begin.go_on(run, told)
    assert any("step-000004 is not used" in note for note in told.notes)
    assert any("after step 2" in note for note in told.notes)
    for name in ("adapter-p", "adapter-s", "optimizer"):
        one, two = (r.checkpoints / "step-000004" / f"{name}.safetensors" for r in (whole, run))
        assert one.read_bytes() == two.read_bytes()


def test_all_checkpoints_corrupt_stops_and_never_begins_again(run: RunFolder) -> None:
    for path in run.checkpoints.glob("step-*/state.json"):
        path.write_text("{}")
    journal = run.journal.read_bytes()
    with pytest.raises(ZofoError, match="no checkpoint of this run is whole"):
        begin.go_on(run, Quiet())
    assert run.journal.read_bytes() == journal


def test_another_base_model_is_refused(folder: str, home: Path) -> None:
    from safetensors.torch import load_file, save_file

    mine = home / "mine"
    shutil.copytree(folder, mine)
    run = started(str(mine), home)
    tensors = load_file(mine / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, mine / "changed.safetensors", metadata={"format": "pt"})
    os.replace(mine / "changed.safetensors", mine / "model.safetensors")
    with pytest.raises(ZofoError, match="the run was made on"):
        begin.go_on(run, Quiet())


def test_an_adapter_run_whose_configuration_asks_for_no_adapter_is_refused(run: RunFolder) -> None:
    """As those made before `tune` had an effect for first-order training."""
    run.config.write_text(run.config.read_text().replace("name: bilevel", "name: mezo"))
    with pytest.raises(BadInput, match=r"the run trained an adapter.*asks for none.*write `tune: adapter`"):
        begin.go_on(run, Quiet())


def test_a_changed_environment_is_told(run: RunFolder, told: Any) -> None:
    held = json.loads(run.environment.read_text())
    run.environment.write_text(json.dumps(held | {"torch": "1.0"}))
    begin.go_on(run, told)
    assert any("torch was 1.0" in note for note in told.notes)


@pytest.mark.parametrize("method", EACH)
def test_losses_that_are_not_finite_stop_the_run_with_a_clear_error(
    folder: str, home: Path, method: str, mixed: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, home / "broken")
    tensors = load_file(home / "broken" / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, home / "broken" / "model.safetensors", metadata={"format": "pt"})
    levels = "T" in METHODS[method].options(resolve({})[0])
    flags: dict[str, Any] = {"method.name": method, "run.steps": 9, "method.T": 1 if levels else None}
    if METHODS[method].several:
        flags |= {"data.task": None, "data.mixture": str(mixed)}
    with pytest.raises(NotFinite, match=r"5 times in a row.*lower the learning rates"):
        started(str(home / "broken"), home, **flags)
    rows = read_metrics(home / "runs" / "run" / "metrics.jsonl")  # the NaN is in the log, nothing is repaired
    steps = [row for row in rows if row["kind"] == "step"]
    assert all("nan" in (row.get("A"), row.get("loss_p")) for row in steps)
    found = files.listing(home / "runs" / "run" / "checkpoints")
    assert found[-1:] == [row["step"] for row in steps][-1:], "the steps before the one that gave up are not lost"


def test_seconds_stop_a_run_that_then_is_tested(folder: str, home: Path) -> None:
    run = started(folder, home, **{"run.seconds": 1e-6, "run.steps": 50})
    assert [row["step"] for row in read_metrics(run.metrics) if row["kind"] == "step"] == [1]
    assert "p" in json.loads(run.eval.read_text())["results"]


# ---- real processes ------------------------------------------------------------------------------------------


def process(folder: str, home: Path, name: str, **flags: Any) -> subprocess.Popen[str]:
    options = SMALL | {"model.name": folder, "run.dir": str(home / "runs"), "run.name": name} | flags
    options |= {"model.dtype": "fp32", "method.stack": "off"}  # nothing is measured first
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "zofo.cli.main", "train", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment(home), **pipes)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended with the test, whatever becomes of it."""
    found: list[subprocess.Popen[str]] = []
    yield found
    for child in found:
        child.kill()
        child.communicate()


def wait_for_steps(run: RunFolder, n: int, limit: float = 60.0) -> None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if run.metrics.exists() and run.metrics.read_text().count('"kind": "step"') >= n:
            return
        time.sleep(0.02)
    raise AssertionError("the run did not get going")


def test_sigterm_ends_within_ten_seconds_with_143_and_nothing_is_lost(folder: str, home: Path, children: Any) -> None:
    child = process(folder, home, "stopped", **{"run.steps": 5000, "run.eval_every": 0, "run.save_every": 4000})
    children.append(child)
    run = RunFolder(home / "runs" / "stopped")
    wait_for_steps(run, 3)
    with pytest.raises(BadInput, match="is working on it"):  # a second process is refused while the first works
        begin.go_on(run, Quiet())
    with pytest.raises(BadInput, match="holds a run"):
        started(folder, home, "stopped")
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert child.returncode == 143, err
    steps = [row["step"] for row in read_metrics(run.metrics) if row["kind"] == "step"]
    assert files.listing(run.checkpoints)[-1] == steps[-1]  # the step in progress ended and was saved


def test_a_run_stopped_by_sigterm_and_resumed_equals_one_never_stopped(
    folder: str, home: Path, whole: RunFolder
) -> None:
    class Signal(Quiet):
        def step(self, row: Mapping[str, Any], of: int) -> None:
            if row["step"] == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        started(folder, home, "cut", Signal())
    run = RunFolder(home / "runs" / "cut")
    assert files.listing(run.checkpoints)[-1] == 3
    begin.go_on(run, Quiet())
    assert whole.journal.read_bytes() == run.journal.read_bytes()
    first, second = (json.loads(r.eval.read_text()) for r in (whole, run))
    assert first.pop("memory").keys() == second.pop("memory").keys() and first == second


MIXED: dict[str, Any] = {
    "data.batch": 4, "data.max_length": 48, "run.steps": 4, "run.eval_every": 4, "run.save_every": 2, "run.threads": 1, "run.keep": 1,
    "model.dtype": "fp32",
}  # fmt: skip


def on_mixture(folder: str, home: Path, mixed: Path, name: str, show: Any = None, **flags: Any) -> RunFolder:
    """Train on the toy mixture."""
    options = MIXED | {
        "model.name": folder,
        "data.mixture": str(mixed),
        "run.dir": str(home / "runs"),
        "run.name": name,
    }
    begin.start(*resolve(options | {key.replace("__", "."): value for key, value in flags.items()}), show)
    return RunFolder(home / "runs" / name)


@pytest.mark.parametrize("method", EACH)
def test_every_method_trains_on_a_mixture_and_is_tested_on_its_unseen_tasks(
    folder: str, home: Path, mixed: Path, bare: None, method: str
) -> None:
    options = {"run__steps": 2, "run__eval_every": 2} | (
        {"method__T": 1} if "T" in METHODS[method].options(resolve({})[0]) else {}
    )
    run = on_mixture(folder, home, mixed, "run", method__name=method, **options)
    found = json.loads(run.eval.read_text())
    assert found["task"] == "toy"
    for result in found["results"].values():
        assert list(result["tasks"]) == ["own/c", "own/d"] and 0 <= result["score"] <= 1 and result["n"] == 16
    (check,) = (row for row in read_metrics(run.metrics) if row["kind"] == "validation")
    assert list(check[check["used"]]["tasks"]) == ["own/a", "own/b", "own/four", "own/free"]
    card = run.card.read_text()
    assert "4 training and 2 unseen tasks" in card and "| own/d | macro-F1 |" in card and "| `own/c` | unseen |" in card


@pytest.mark.parametrize("end", ["too long", "fails"])
def test_a_step_given_up_at_the_edge_of_a_pass_or_undone_leaves_the_steps_before_it_saved(
    folder: str, home: Path, mixed: Path, bare: None, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """In the midst of an outer iteration: two tasks of four have stepped, theta has not moved."""
    options = {
        "method__name": "meta",
        "method__T": 2,
        "method__lr_theta": 1e-4,
        "run__save_every": 100,
        "run__eval_every": 0,
    }
    whole = on_mixture(folder, home, mixed, "whole", **options)
    drawn, calls = bilevel.drawn, list[int]()

    def slow(problem: Any, k: int, *rest: Any) -> Any:
        calls.append(k)
        if calls.count(3) == 3:  # the fourth iteration's third task
            if end == "fails":
                raise MemoryError("no memory for it")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1.2)  # longer than half of the grace
        return drawn(problem, k, *rest)

    monkeypatch.setattr(bilevel, "drawn", slow)
    monkeypatch.setattr(loop, "Stop", lambda: Stop(grace=2.0))
    with pytest.raises((Interrupted, MemoryError)) as raised:
        on_mixture(folder, home, mixed, "cut", **options)
    cut = RunFolder(home / "runs" / "cut")
    assert calls.count(3) == 3 and files.listing(cut.checkpoints) == [3]
    said = raised.value.__notes__
    assert said[-1] == f"step 3 is saved: zofo resume {cut.path}" and "the step that failed changed nothing" in said
    assert any(re.fullmatch("in task own/(a|b|four|free)", note) for note in said) == (end == "fails")
    monkeypatch.setattr(bilevel, "drawn", drawn)
    begin.go_on(cut, Quiet())
    assert whole.journal.read_bytes() == cut.journal.read_bytes()
    first, second = (json.loads(r.eval.read_text()) for r in (whole, cut))
    assert first.pop("memory").keys() == second.pop("memory").keys() and first == second


def test_a_run_on_a_mixture_resumed_equals_one_never_stopped(folder: str, home: Path, mixed: Path, bare: None) -> None:
    class Signal(Quiet):
        def step(self, row: Mapping[str, Any], of: int) -> None:
            if row["step"] == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    whole = on_mixture(folder, home, mixed, "whole", method__T=2, method__lr_theta=1e-4)
    with pytest.raises(Interrupted):
        on_mixture(folder, home, mixed, "cut", Signal(), method__T=2, method__lr_theta=1e-4)
    cut = RunFolder(home / "runs" / "cut")
    begin.go_on(cut, Quiet())
    assert whole.journal.read_bytes() == cut.journal.read_bytes()
    first, second = (json.loads(r.eval.read_text()) for r in (whole, cut))
    first.pop("memory"), second.pop("memory")
    assert first == second
    assert json.loads(whole.splits.read_text()) == json.loads(cut.splits.read_text())


def test_rows_of_a_mixture_that_changed_stop_a_resume_and_name_the_task(
    folder: str, home: Path, mixed: Path, tmp_path: Path, bare: None
) -> None:
    place = tmp_path / "mixed"
    shutil.copytree(mixed.parent, place)
    run = on_mixture(folder, home, place / "toy.yaml", "run", run__steps=1)
    held = (place / "d" / "test.jsonl").read_text(encoding="utf-8")
    (place / "d" / "test.jsonl").write_text(held.replace("row 13", "row x"), encoding="utf-8")
    with pytest.raises(BadInput, match="task own/d: the rows of test are not those of the run"):
        begin.go_on(run, Quiet())


def test_meta_training_scores_training_tasks_by_their_own_adapters_and_unseen_ones_by_theta(
    folder: str, home: Path, mixed: Path, bare: None
) -> None:
    """Rates that move the adapters far: what was trained is better with them; the run is opened without."""
    from zofo.saved import open_run

    flags = {"method__name": "meta", "method__T": 4, "method__lr_p": 3e-2, "method__lr_s": 3e-2, "method__tasks": 4}
    run = on_mixture(folder, home, mixed, "run", method__lr_theta=0.0, run__steps=3, run__eval_every=1, **flags)
    checks = [row for row in read_metrics(run.metrics) if row["kind"] == "validation"]
    assert checks[-1]["p"]["loss"] < checks[0]["p"]["loss"] and {"p", "s"} <= set(checks[-1])
    results = json.loads(run.eval.read_text())
    assert results["used"] == "theta" and set(results["results"]) == {"zero-shot", "theta"}
    before, after = (results["results"][name] for name in ("zero-shot", "theta"))
    assert before == after, "theta stands, and no training task's adapter was at work"
    held = files.read(run.checkpoints / files.BEST)
    assert {name for name in held.names if name.startswith("task-")} == {f"task-000{i}" for i in range(4)}
    assert not any(name.startswith("adapter-") for name in held.names)
    saved = open_run(run)
    assert saved.slots is None and saved.used == "theta"
    steps = [row for row in read_metrics(run.metrics) if row["kind"] == "step"]
    assert all(row["tasks"] == 4 for row in steps) and steps[0]["forwards"] == 4 * (2 * 4 + 6)
    own = {slot: validated(run, slot) for slot in ("p", "s")}
    best = next(row for row in checks if row["step"] == held.step)
    assert {slot: best[slot]["loss"] for slot in own} == pytest.approx(own, rel=1e-5)
    with pytest.raises(BadInput, match=r"--slot own/e: that checkpoint has adapters of 4 training tasks.*did you mean"):
        open_run(run, slot="own/e")


def validated(run: RunFolder, slot: str) -> float:
    """The mean loss over the training tasks' validation rows, each with its own adapter, opened as a user would."""
    from zofo.saved import open_run
    from zofo.tasks.mixture import reread

    settings = config.load(run.config)
    ready = prepare(settings, task=reread(run.task, "run"))
    losses = []
    for member in ready.of("train"):
        saved = open_run(run, slot=f"{member.task.name}/{slot}")
        assert saved.task == member.task.name and saved.used == slot
        losses.append(scorer.of(member, settings.model.dtype)(saved.model, "validation")["loss"])
    return sum(losses) / len(losses)


def test_a_mixture_without_unseen_tasks_is_trained_on_and_not_tested(
    folder: str, home: Path, mixed: Path, told: Any, bare: None
) -> None:
    place = mixed.parent / "seen.yaml"
    place.write_text("[a, four]", encoding="utf-8")
    run = on_mixture(folder, home, place, "run", told, run__steps=1, method__name="mezo")
    assert "the mixture has no unseen tasks: nothing is tested" in told.notes
    assert json.loads(run.eval.read_text())["results"] == {}
    begin.go_on(run, told)
    assert told.notes[-1].startswith("this run is finished")
