"""`--auto-lr` over the table of methods: finite positive choices, nothing moved, what was given kept, the same run as by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from killing import picture

from zofo import begin, config, layers
from zofo.errors import BadInput
from zofo.job import Job, assemble, prepare
from zofo.layers import resolve
from zofo.methods.table import METHODS
from zofo.run.folder import RunFolder
from zofo.settled import plain
from zofo.tune import along, pick, rates, stepwise, trial, zeroth

SKETCH = {"method.rule": "normalised", "method.noise": "rademacher", "method.rank": 4, "method.lr_theta": 0.1}
CASES: dict[str, dict[str, Any]] = {
    "bilevel": {},
    "bilevel, outer": {"method.coupling": "outer"},
    "bilevel, follow": {"method.coupling": "follow"},
    "bilevel, lambda 0": {"method.lam": 0.0},
    "bilevel, zeroth order below": {"method.lower": "zeroth-order"},
    "bilevel, sketch": SKETCH | {"method.upper": "sketch", "method.T": 2},
    "bilevel, prefix": {"adapter.kind": "prefix"},
    "alternating": {"method.s": "off"},
    "mezo": {"method.name": "mezo"},
    "mezo, forward, scalar-adaptive": {
        "method.name": "mezo", "method.rule": "scalar-adaptive", "method.estimator": "forward", "method.q": 2
    },
    "mezo, in place": {"method.name": "mezo", "method.probe": "inplace"},
    "mezo, lora": {"method.name": "mezo", "method.tune": "adapter"},
    "mezo, accuracy": {"method.name": "mezo", "method.objective": "accuracy"},
    "first-order": {"method.name": "first-order"},
    "first-order, full": {"method.name": "first-order", "method.tune": "full", "method.lr_theta": 1e-4},
    "two-stage": {"method.name": "two-stage"},
    "addax": {"method.name": "addax", "method.lr_theta": 1e-4},
    "sketch": SKETCH | {"method.name": "sketch"},
}  # fmt: skip
SLOW = {
    "bilevel, follow", "bilevel, lambda 0", "bilevel, zeroth order below", "bilevel, prefix", "alternating", "mezo, accuracy", "mezo, in place",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short trials, few directions: what is tested does not hang on their number."""
    monkeypatch.setattr(trial, "STEPS", 4)
    monkeypatch.setattr(trial, "FEW", 2)
    monkeypatch.setattr(trial, "BELOW", 2)
    monkeypatch.setattr(pick, "MOST", 2)
    monkeypatch.setattr(along, "DIRECTIONS", 2)


def bits(job: Job) -> dict[str, torch.Tensor]:
    """Every weight and adapter, by its bits."""
    named = job.model.state_dict(keep_vars=True)
    return {name: t.detach().clone().view(torch.int32) for name, t in named.items() if t.dtype == torch.float32}


def made_job(small: dict[str, Any], folder: str, flags: dict[str, Any]) -> Job:
    settings, given = resolve(small | {"model.name": folder} | flags)
    settings = plain(settings)
    return assemble(settings, prepare(settings, given))


def test_every_method_has_a_case() -> None:
    held = {config.build(flags).method.name for flags in CASES.values()}
    assert held == {name for name, row in METHODS.items() if not row.several}


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.several])
def test_methods_of_several_tasks_are_refused_before_anything(name: str) -> None:
    with pytest.raises(BadInput, match=f"--auto-lr: method {name} trains each task"):
        rates.refuse(config.build({"method.name": name}))


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in CASES])
def test_it_chooses_and_moves_nothing(small: dict[str, Any], folder: str, told: Any, case: str) -> None:
    job = made_job(small, folder, CASES[case])
    before, rng = bits(job), torch.get_rng_state()
    active = job.slots.model.active_adapter if job.slots is not None else None
    found = rates.choose(job, {"data.task"}, told)
    after = bits(job)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(rng, torch.get_rng_state())
    assert job.slots is None or job.slots.model.active_adapter == active
    open_ = rates.free(job, ())
    assert open_, "something was to be chosen"
    for name in rates.OPTIONS:
        value, was = getattr(found.config.method, name), getattr(job.config.method, name)
        assert 0 < value < 10 if name in open_ else value == was
    rest = {name: value for name, value in found.config.method.model_dump().items() if name not in rates.OPTIONS}
    assert rest == {key: value for key, value in job.config.method.model_dump().items() if key not in rates.OPTIONS}
    assert found.problem.config == found.config.method
    assert any("forward and" in note and "no budget counts" in note for note in told.notes)


def test_nothing_moved_after_an_exception_either(
    small: dict[str, Any], folder: str, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = made_job(small, folder, SKETCH | {"method.name": "sketch"})
    before, real = bits(job), trial.looked
    calls: list[str] = []

    def dying(*args: Any) -> Any:
        calls.append("look")
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(trial, "looked", dying)
    with pytest.raises(KeyboardInterrupt):
        rates.choose(job, (), told)
    after = bits(job)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_was_given_or_is_off_is_kept_and_not_probed(small: dict[str, Any], folder: str, told: Any) -> None:
    flags = {"method.lr_s": 3e-3, "method.eps": 2e-3, "method.lr_theta": 0.0}
    job = made_job(small, folder, flags)
    assert rates.free(job, {"method.lr_s", "method.eps"}) == ["lr_p"]
    found = rates.choose(job, {"method.lr_s", "method.eps"}, told).config.method
    assert (found.lr_s, found.eps, found.lr_theta) == (3e-3, 2e-3, 0.0)
    told.notes.clear()
    assert rates.choose(job, {"method.lr_s", "method.lr_p", "method.eps"}, told) is job
    assert "nothing to choose" in told.notes[0]


def test_p_that_follows_s_is_not_waited_for(
    small: dict[str, Any], folder: str, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """p takes no step of its own, so that a trial of it would never end."""
    job, real, tried = made_job(small, folder, {"method.coupling": "follow"}), trial.run, list[str]()

    def seen(at: Any, held: Any, slots: Any) -> Any:
        tried.extend(slots)
        assert "p" not in slots
        return real(at, held, slots)

    monkeypatch.setattr(trial, "run", seen)
    rates.choose(job, {"method.lr_s"}, told)
    assert tried == ["s"]


def test_adam_above_is_refused_in_a_sentence(small: dict[str, Any], folder: str, told: Any) -> None:
    job = made_job(small, folder, {"method.name": "mezo", "method.rule": "adam"})
    assert rates.choose(job, {"method.eps"}, told).config.method.lr_theta == job.config.method.lr_theta
    assert any("rule adam" in note and "kept" in note for note in told.notes)


def test_test_rows_are_not_read(small: dict[str, Any], folder: str, told: Any) -> None:
    job = made_job(small, folder, {"method.name": "first-order"})
    del job.prepared.encoded["test"]
    rates.choose(job, (), told)


def test_what_a_run_walks_by_zeroth_order_is_its_own_steps() -> None:
    """The second stage's, on the schedule that the second stage has; a look at the penalty counts with its own c."""
    whole = config.build({"method.name": "mezo", "run.steps": 8, "method.schedule_theta": "cosine"})
    assert along.squares(whole) == pytest.approx([((1 + math.cos(math.pi * k / 8)) / 2) ** 2 for k in range(8)])
    staged = {"method.name": "two-stage", "run.steps": 10, "method.stage_one": 2, "method.schedule_theta": "cosine"}
    assert along.squares(config.build(staged)) == along.squares(whole)
    assert along.squares(config.build(staged | {"method.stage_one": 0, "run.steps": 16})) == along.squares(whole)


@pytest.mark.parametrize("name", ["bilevel-prefix", "mezo"])
def test_the_walk_of_the_run_is_as_long_as_it_says(
    made: Any, folder: str, told: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """sum over steps of (rate c)^2, with c as it was measured on looks and between them, is (REACH eps)^2 where that bounds the rate."""
    apart = {} if name == "mezo" else {"method.T": 1, "method.lam": 20, "method.init": "independent"}
    job = made(
        folder,
        **layers.preset(name) | apart | {"run.steps": 20, "method.schedule_theta": "constant", "method.eps": 1e-2},
    )
    at = trial.bench(job)
    monkeypatch.setattr(zeroth, "HALF", 1e6)  # curvature bounds nothing
    first, second = ([along.Walk(at, i, 2 * i + j) for i in range(3)] for j in (0, 1))
    lr = along.rate(at, first, second, told)
    eps, n = job.config.method.eps, job.config.method.lam_every
    looks = sum(walk.line([eps]).slope(eps) ** 2 for walk in first + second) / 6
    others = sum(walk.alone().slope(eps) ** 2 for walk in first + second) / 6
    assert lr * math.sqrt(20 / n * looks + (20 - 20 / n) * others) == pytest.approx(zeroth.REACH * eps, rel=0.06)
    assert n == 10 and looks > 2 * others if name != "mezo" else n == 1 and looks == others


@pytest.mark.parametrize("method", ["bilevel", pytest.param("first-order", marks=pytest.mark.slow)])
def test_a_run_with_it_is_the_run_given_what_it_chose(
    bare: None, small: dict[str, Any], folder: str, tmp_path: Path, method: str, told: Any
) -> None:
    flags = small | {"model.name": folder, "run.dir": str(tmp_path), "run.threads": 1, "run.steps": 3, "method.T": 2}
    flags |= {"method.name": method, "run.eval_every": 2, "run.save_every": 2}
    flags = {key: value for key, value in flags.items() if key != "method.T" or method == "bilevel"}
    threads = torch.get_num_threads()
    begin.start(*resolve(flags | {"run.name": "auto"}), told, auto_lr=True)
    auto = RunFolder(tmp_path / "auto")
    chosen = config.load(auto.config)
    names = [f"method.{name}" for name in rates.OPTIONS if f"method.{name}" in rates.table.effective(chosen)]
    flat = config.flatten(chosen.model_dump(), "")
    assert any(note.startswith("--auto-lr:") for note in told.notes)
    begin.start(*resolve(flags | {"run.name": "hand"} | {name: flat[name] for name in names}), told)
    hand = RunFolder(tmp_path / "hand")
    one, two = yaml.safe_load(auto.config.read_text()), yaml.safe_load(hand.config.read_text())
    assert one.pop("run") | {"name": ""} == two.pop("run") | {"name": ""} and one == two
    assert picture(auto) == picture(hand)
    told.notes.clear()
    begin.go_on(auto, told)
    assert not any("--auto-lr" in note for note in told.notes)
    torch.set_num_threads(threads)
    assert json.loads(auto.eval.read_text())["step"] >= 1


def test_theta_beside_an_adapter_has_to_do_better_than_p_alone(small: dict[str, Any], folder: str, told: Any) -> None:
    """What p's own steps lower is no merit of theta's rate: the loss to beat is that of the same trial with theta still."""
    job = made_job(small, folder, CASES["bilevel, sketch"] | {"method.lr_p": 0.05, "method.lr_s": 0.05})
    start = bits(job)
    at = trial.bench(job)
    before, alone = trial.looked(at, "p"), stepwise.without(at, "theta")
    passes = at.spent.backwards
    trial.run(at, {"lr_theta": 1e-3}, ["theta"])
    assert at.spent.backwards == 2 * passes, "the same steps and passes as with theta moving"
    assert sum(alone) < sum(before) - 1e-3, "p alone lowers the loss"
    with trial.restored(job):
        trial.stepped(at, trial.rehearsal(job, {"lr_theta": stepwise.STILL}, True), job.begin())
        moved, values = bits(job), [name for name in start if ".lora_" not in name]
        gone = [(start[name].view(torch.float32) - moved[name].view(torch.float32)).abs().max() for name in values]
        assert max(gone) < 1e-24, "but for zeros, no bit of theta"
