"""A base from a run: its theta at a checkpoint, plain; and the adapter that it lends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from zofo import begin, named, saved
from zofo.adapting import base as bases
from zofo.adapting.plan import Plan
from zofo.config import load
from zofo.errors import BadInput
from zofo.layers import resolve
from zofo.methods import table
from zofo.report.terminal import Quiet
from zofo.run.folder import RunFolder
from zofo.theta0 import fingerprint

SMALL: dict[str, Any] = {
    "data.task": "reviews", "data.train_rows": 12, "data.validation_rows": 4, "data.test_rows": 4, "data.batch": 2,
    "data.max_length": 48, "run.steps": 2, "run.eval_every": 1, "run.save_every": 1, "run.threads": 1, "run.seed": 5,
    "method.lr_theta": 1e-4, "method.T": 1, "adapter.r": 3,
}  # fmt: skip


@pytest.fixture
def trained(folder: str, tmp_path: Path, bare: None, cache: Path) -> RunFolder:
    """A bilevel run of two steps."""
    options = {"model.name": folder, "run.dir": str(tmp_path / "runs"), "run.name": "run"}
    begin.start(*resolve(SMALL | options), Quiet())
    return RunFolder(tmp_path / "runs" / "run")


def opened(run: RunFolder, flags: dict[str, Any] | None = None, **options: Any) -> bases.Base:
    return bases.opened(named.find(str(run.path), "none"), flags or {}, Plan(), **options)


def test_a_runs_base_is_its_theta_without_adapters(trained: RunFolder) -> None:
    base, own = opened(trained, which="last"), saved.open_run(trained, "last")
    assert base.sha256 == fingerprint(own.held.leaves) != own.held.digest
    assert not any("lora" in name for name in base.model.state_dict()) and base.start is None
    assert base.config.adapter.r == 3 and base.config.data.max_length == 48 and base.config.data.task == ""
    assert (base.run, base.step, base.name) == ("run", 2, "run run, step 2")
    assert bases.trained_on(trained) == {"reviews": 5}


def test_it_lends_the_adapter_that_it_uses_where_it_is_asked(trained: RunFolder) -> None:
    own = saved.open_run(trained, "last")
    base = opened(trained, which="last", start="run")
    assert own.slots is not None and base.start is not None
    ids = torch.arange(5)[None]
    with torch.no_grad(), base.lent() as model:
        assert torch.equal(model(input_ids=ids).logits, own.model(input_ids=ids).logits)
    with base.adapted(9) as slots:
        assert all(torch.equal(p, base.start[name]) for name, p in slots.params["p"].items())


def test_an_adapter_of_another_shape_cannot_be_lent(trained: RunFolder) -> None:
    with pytest.raises(BadInput, match=r"--adapter\.r: the start is the run's own adapter, which has 3"):
        opened(trained, {"adapter.r": 4}, start="run")
    assert opened(trained, {"adapter.r": 4}).config.adapter.r == 4


def test_who_lends(trained: RunFolder) -> None:
    own = load(trained.config)
    assert table.lends(own) and not bases.lends(own), "one task: a fresh start unless asked"
    shared = own.model_copy(update={"data": own.data.model_copy(update={"mixture": "class-to-class"})})
    assert bases.lends(shared)
    bare = own.model_copy(update={"method": own.method.model_copy(update={"name": "mezo"})})
    with pytest.raises(BadInput, match="--start run: run run: it has no adapter; take --start fresh"):
        bases.refuse_start(trained, bare, bare, True)
