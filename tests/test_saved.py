"""A run opened for use holds the theta and the adapter of the checkpoint asked for."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from zofo import begin
from zofo.errors import BadInput
from zofo.exporting import exported
from zofo.layers import resolve
from zofo.report.terminal import Quiet
from zofo.run.folder import RunFolder
from zofo.saved import open_run
from zofo.tasks.definition import DEFINITIONS
from zofo.theta0 import fingerprint

SMALL: dict[str, Any] = {
    "data.task": "reviews", "data.train_rows": 20, "data.validation_rows": 6, "data.test_rows": 8, "data.batch": 2,
    "data.max_length": 48, "run.steps": 2, "run.eval_every": 1, "run.save_every": 1, "run.threads": 1,
    "method.lr_theta": 1e-4,
}  # fmt: skip


def trained(folder: str, home: Path, **flags: Any) -> RunFolder:
    options = {"model.name": folder, "run.dir": str(home / "runs"), "run.name": "run"}
    begin.start(*resolve(SMALL | options | {k.replace("__", "."): v for k, v in flags.items()}), Quiet())
    return RunFolder(home / "runs" / "run")


@pytest.fixture(autouse=True)
def cache(bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))


def test_best_and_last_open_with_their_own_theta(folder: str, tmp_path: Path) -> None:
    run = trained(folder, tmp_path, method__name="mezo")
    best, last = open_run(run, "best", say=print), open_run(run, "last", say=print)
    assert last.step == 2 and best.step in (1, 2)
    assert (fingerprint(best.held.leaves) == fingerprint(last.held.leaves)) == (best.step == last.step)
    assert best.used == "theta"
    with pytest.raises(BadInput, match="--slot p: this run has no adapter; leave it out"):
        open_run(run, slot="p")


def test_a_finished_run_whose_checkpoints_are_gone_is_not_the_base(folder: str, tmp_path: Path) -> None:
    """What an experiment's --lean leaves is neither used nor begun again; without the best alone, the last is to be asked for."""
    run = trained(folder, tmp_path, method__name="mezo")
    shutil.rmtree(run.checkpoints / "best")
    with pytest.raises(BadInput, match=r"run run: its best checkpoint, of step \d, is gone; give --which last"):
        open_run(run)
    assert open_run(run, "last").step == 2
    held = run.eval.read_bytes()
    for path in list(run.checkpoints.iterdir()):
        shutil.rmtree(path)
    for use in (open_run, partial(open_run, which="last"), begin.go_on, lambda run: exported(run, tmp_path / "out")):
        with pytest.raises(
            BadInput, match=r"run run: it ended, .* its checkpoints are gone \(an experiment's `--lean`"
        ):
            use(run)
    assert run.eval.read_bytes() == held and not (tmp_path / "out").exists()


def test_the_adapter_chosen_on_validation_is_in_use_unless_another_is_asked_for(folder: str, tmp_path: Path) -> None:
    run = trained(folder, tmp_path, method__T=1)
    saved = open_run(run)
    assert saved.slots is not None and saved.slots.model.active_adapter == saved.used in ("p", "s")
    other = "s" if saved.used == "p" else "p"
    asked = open_run(run, slot=other)
    assert asked.slots is not None and asked.slots.model.active_adapter == asked.used == other
    with pytest.raises(BadInput, match="--slot q: this run has no such adapter; choose of p, s"):
        open_run(run, slot="q")


def test_a_run_opens_and_exports_without_its_task(folder: str, tmp_path: Path) -> None:
    task = tmp_path / "mine.yaml"
    text = (DEFINITIONS / "reviews.yaml").read_text(encoding="utf-8").replace("name: reviews", "name: mine")
    task.write_text(text, encoding="utf-8")
    run = trained(folder, tmp_path, data__task=str(task), method__T=1)
    task.unlink()
    for which in ("best", "last"):
        assert open_run(run, which).step in (1, 2)
    assert (exported(run, tmp_path / "out") / "model.safetensors").is_file()
