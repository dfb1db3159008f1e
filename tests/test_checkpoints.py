"""Checkpoints give theta back to the bit, from the base, from a full copy, and past a missing one."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zofo import begin, checkpoints, config, saved
from zofo.job import assemble, prepare
from zofo.layers import resolve
from zofo.report.terminal import Quiet
from zofo.run import checkpoint as files
from zofo.run.errors import Corrupt
from zofo.run.folder import RunFolder
from zofo.run.journal import Journal
from zofo.run.metrics import Metrics
from zofo.theta0 import fingerprint

SMALL: dict[str, Any] = {
    "data.task": "reviews", "data.train_rows": 20, "data.validation_rows": 4, "data.test_rows": 4, "data.batch": 2,
    "data.max_length": 48, "run.steps": 7, "run.eval_every": 0, "run.save_every": 1, "run.threads": 1,
    "method.name": "mezo", "method.lr_theta": 1e-3, "method.decay": 0.01,
}  # fmt: skip


def trained(folder: str, home: Path, **flags: Any) -> RunFolder:
    options = SMALL | {"model.name": folder, "run.dir": str(home), "run.name": "run"} | flags
    begin.start(*resolve(options), Quiet())
    return RunFolder(home / "run")


def restored(run: RunFolder) -> tuple[str, int, list[str]]:
    """theta's fingerprint as a fresh job restores it from the newest whole checkpoint."""
    said: list[str] = []
    settings = config.load(run.config)
    job = assemble(settings, prepare(settings))
    found = checkpoints.newest(run, said.append)
    assert found is not None
    checkpoints.restore(job, run, found)
    state, _ = checkpoints.restore(job, run, found)  # a second time: wherever theta stands, it ends at the same bits
    return fingerprint(job.leaves), state.k, said


@pytest.fixture(autouse=True)
def cache(bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))


def test_replay_from_the_base_and_from_a_full_copy_give_the_same_bits(folder: str, tmp_path: Path) -> None:
    replayed = trained(folder, tmp_path / "a", **{"run.snapshot_every": 100})
    copied = trained(folder, tmp_path / "b", **{"run.snapshot_every": 3})
    whole = trained(folder, tmp_path / "c", **{"run.snapshot_every": 1})
    assert not list(replayed.checkpoints.glob("step-*/theta.safetensors"))
    assert [p.parent.name for p in copied.checkpoints.glob("step-*/theta.safetensors")] == ["step-000006"]
    assert list(whole.checkpoints.glob("step-000007/theta.safetensors"))
    prints = {restored(run)[0] for run in (replayed, copied, whole)}
    assert len(prints) == 1
    fresh = assemble(config.load(whole.config), prepare(config.load(whole.config)))
    assert fingerprint(fresh.leaves) not in prints


def test_the_full_copies_that_kept_checkpoints_need_are_kept(folder: str, tmp_path: Path) -> None:
    """With two kept, steps 6 and 7 stand; 6 holds theta. If 6 and 7 are lost nothing is silently step 0."""
    run = trained(folder, tmp_path, **{"run.snapshot_every": 3, "run.steps": 7, "run.keep": 3})
    assert files.listing(run.checkpoints) == [3, 5, 6, 7]  # 5 builds on the copy of step 3
    bits, step, _ = restored(run)
    assert step == 7
    shutil.rmtree(run.checkpoints / "step-000006")
    again, step, said = restored(run)
    assert step == 5 and any("step-000007" in text for text in said)
    assert again != bits


def test_adams_theta_is_in_every_checkpoint(folder: str, tmp_path: Path) -> None:
    run = trained(folder, tmp_path, **{"method.rule": "adam", "run.steps": 2})
    assert all((run.checkpoints / f"step-00000{k}" / "theta.safetensors").exists() for k in (1, 2))


def test_a_full_copy_saved_again_at_its_step_keeps_theta(folder: str, tmp_path: Path) -> None:
    """A signal saves a step before its validation, and the resumed run saves it again."""
    run = trained(folder, tmp_path, **{"run.steps": 4, "run.snapshot_every": 4})
    settings = config.load(run.config)
    job = assemble(settings, prepare(settings))
    found = checkpoints.newest(run, pytest.fail)
    assert found is not None and found.step == 4 and "theta" in found.names
    state, progress = checkpoints.restore(job, run, found)
    before = fingerprint(job.leaves)
    with closing(Journal(run.journal)) as journal, closing(Metrics(run.metrics)) as metrics:
        again = checkpoints.save(job, run, state, replace(progress, validated=4), journal, metrics)
    assert again.snapshots == progress.snapshots == (4,)
    assert restored(run)[0] == before


def test_a_checkpoint_whose_full_copy_has_no_theta_is_not_taken(folder: str, tmp_path: Path) -> None:
    run = trained(folder, tmp_path, **{"run.steps": 4, "run.snapshot_every": 4})
    found = checkpoints.newest(run, pytest.fail)
    assert found is not None
    groups = {name: found.load(name) for name in found.names if name != "theta"}
    files.publish(run.checkpoints, 4, groups, found.state)
    said: list[str] = []
    older = checkpoints.newest(run, said.append)
    assert older is not None and older.step == 3 and any("no theta" in text for text in said)


def test_a_full_copy_without_one_of_the_weights_is_corrupt(folder: str, tmp_path: Path) -> None:
    """As one that was forged with its manifest, or is another model's."""
    run = trained(folder, tmp_path)
    held = saved.open_run(run, "best", say=lambda _: None).held
    theta = {name: tensor for name, tensor in checkpoints.theta_tensors(held.leaves).items() if "norm" not in name}  # type: ignore[union-attr]
    files.publish(tmp_path / "other", 1, {"theta": theta}, {})
    with pytest.raises(Corrupt, match="not this model's theta"):
        checkpoints.copy_theta(held.leaves, files.read(tmp_path / "other" / files.step_name(1)))


@pytest.mark.parametrize("torn", [False, True])
def test_use_takes_all_of_one_best_checkpoint_where_a_better_one_is_put_in_its_place_meanwhile(
    torn: bool, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(folder, tmp_path / "a")
    other = trained(folder, tmp_path / "b", **{"method.lr_theta": 0.1, "run.seed": 1})
    read, took = checkpoints.weights, []

    def overtaken(held: Any, run: RunFolder, found: files.Checkpoint) -> None:
        """Half way the trainer puts another in the place of the one that is being read, whose files are gone or others by then."""
        read(held, run, found)
        took.append(fingerprint(held.leaves))
        if len(took) == 1:
            shutil.rmtree(run.checkpoints / files.BEST)
            shutil.copytree(other.checkpoints / files.BEST, run.checkpoints / files.BEST)
            if torn:
                raise Corrupt("theta", "it does not match its SHA-256", "use another")

    monkeypatch.setattr(checkpoints, "weights", overtaken)
    saved.open_run(run)
    monkeypatch.undo()
    assert len(took) == 2 and took[0] != took[1]
    assert took[1] == fingerprint(saved.open_run(other).held.leaves)
