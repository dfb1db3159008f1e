"""A trial is judged by losses a row, and one that a method gives up says so instead of failing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from zofo.errors import NotFinite
from zofo.job import Job
from zofo.tune import trial


@pytest.mark.parametrize(("n", "wanted"), [(7, [0, 2, 4]), (6, [0, 2, 4]), (5, [0, 1, 3]), (3, [0, 1, 2]), (2, [0, 1])])
def test_the_rows_it_is_judged_on_are_spread_over_all(
    monkeypatch: pytest.MonkeyPatch, n: int, wanted: list[int]
) -> None:
    monkeypatch.setattr(trial, "ROWS", 3)
    prepared = SimpleNamespace(encoded={"validation": list(range(n))}, members=())
    job: Any = SimpleNamespace(prepared=prepared, batches=SimpleNamespace(cut=lambda rows, which: rows))
    assert trial.bench(job).rows == wanted


def test_a_trial_takes_its_steps_and_one_that_diverges_is_told(
    made: Callable[..., Job], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "STEPS", 4)
    job = made(folder, method__name="first-order", method__warmup=100)
    at = trial.bench(job)
    good = trial.run(at, {"lr_p": 1e-2}, ["p"])
    assert good.losses["p"] is not None and len(good.losses["p"]) == 4
    assert at.spent.backwards == 4 and at.spent.forwards == 4 + 2 * 2, "four steps, two looks at two batches"
    assert job.slots is not None
    start = job.slots.tensors("p")
    assert any(not torch.equal(start[name], end) for name, end in good.adapters["p"].items())
    assert trial.rehearsal(job, {"lr_p": 1e-2}, False).config.method.warmup == 1

    def giving_up(*_: Any) -> None:
        raise NotFinite("step 1", "the loss was not finite", "lower the rate")

    broken = replace(job, method=SimpleNamespace(init=job.method.init, step=giving_up))
    assert trial.run(trial.bench(broken), {"lr_p": 1.0}, ["p"]).losses == {"p": None}
