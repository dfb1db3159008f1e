"""A run under `--memory-cap` has the bits of one without it, from its first score to its export; who cannot is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import zofo
from zofo import begin, cap, saved, sources, streamed
from zofo.config import Config, size_of
from zofo.core.weights.stored import StoredLeaf
from zofo.errors import BadInput
from zofo.exporting import exported
from zofo.layers import resolve
from zofo.methods import table
from zofo.report.terminal import Quiet
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_json
from zofo.run.metrics import read_metrics
from zofo.scoring import batch as made_of
from zofo.scoring.generation import generate

SMALL: dict[str, Any] = {
    "method.name": "mezo", "method.lr_theta": 1e-3, "method.stack": "off", "model.dtype": "fp32", "data.task": "reviews", "data.train_rows": 20,
    "data.validation_rows": 6, "data.test_rows": 8, "data.batch": 2, "data.max_length": 48, "run.steps": 4,
    "run.eval_every": 2, "run.save_every": 2, "run.threads": 1,
}  # fmt: skip
TIGHT = "1B"  # nothing fits


@pytest.fixture
def home(bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(streamed, "KEEP", 64)
    return tmp_path


def settings(folder: str, home: Path, name: str, **flags: Any) -> tuple[Config, frozenset[str]]:
    more = {key.replace("__", "."): value for key, value in flags.items()}
    metric = more.get("method.objective") == "accuracy"  # points of a metric cannot be stacked: the option is refused
    small = {key: value for key, value in SMALL.items() if not (metric and key == "method.stack")}
    return resolve(small | {"model.name": folder, "run.dir": str(home / "runs"), "run.name": name} | more)


def started(folder: str, home: Path, name: str, show: Quiet | None = None, **flags: Any) -> RunFolder:
    begin.start(*settings(folder, home, name, **flags), show or Quiet())
    return RunFolder(home / "runs" / name)


def steady(value: Any) -> Any:
    """What does not depend on the clock and the memory."""
    if isinstance(value, dict):
        return {k: steady(v) for k, v in value.items() if k not in ("time", "memory", "seconds")}
    return value


def same(one: RunFolder, other: RunFolder) -> None:
    """Fail when two runs differ in journal, metrics, scores or any byte of the best theta."""
    assert one.journal.read_bytes() == other.journal.read_bytes()
    assert [steady(row) for row in read_metrics(one.metrics)] == [steady(row) for row in read_metrics(other.metrics)]
    assert steady(read_json(one.eval)) == steady(read_json(other.eval))
    theta = [run.checkpoints / "best" / "theta.safetensors" for run in (one, other)]
    assert theta[0].read_bytes() == theta[1].read_bytes()


VARIANTS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adaptive": {"method.rule": "scalar-adaptive", "method.decay": 0.1, "method.q": 2, "method.noise": "sphere"},
    "forward": {"method.estimator": "forward", "method.noise": "rademacher", "model.dtype": "bf16"},
    "stacked": {"method.stack": "on", "method.noise": "low-rank"},
    "choices": {"method.objective": "classification", "method.stack": "on"},
    "generated": {"method.objective": "accuracy", "run.snapshot_every": 1},
}


SLOW = ("adaptive", "forward", "choices", "stacked")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in VARIANTS])
def test_it_has_the_bits_of_a_run_without_a_cap(
    name: str, folder: str, home: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_of, "PASS", 0)  # contexts are read once for their choices
    plain = started(folder, home, "plain", **VARIANTS[name])
    capped = started(folder, home, "capped", told, **VARIANTS[name], run__memory_cap=TIGHT)
    same(plain, capped)
    assert any("stay on disk" in note for note in told.notes)
    assert any(note.startswith("peak resident memory") and "OVER the cap of 1B" in note for note in told.notes)
    assert not list((home / "cache" / "work").iterdir()), "the working copy has no name"


def test_it_resumes_to_the_same_bits_with_or_without_the_cap(folder: str, home: Path) -> None:
    want = started(folder, home, "want")
    short = started(folder, home, "short", run__steps=2, run__memory_cap=TIGHT)
    for config in (short.config,):
        config.write_text(config.read_text().replace("steps: 2", "steps: 4"))
    begin.go_on(short)
    same(want, short)


def test_it_is_used_and_exported_as_one_without(folder: str, home: Path) -> None:
    texts, told = [], list[str]()
    for name, limit in (("plain", ""), ("capped", TIGHT)):
        run = started(folder, home, name, run__memory_cap=limit)
        for which in ("best", "last"):
            held = saved.open_run(run, which, say=told.append)  # type: ignore[arg-type]
            texts.append(generate(held.model, held.tokenizer, "A film", 8))
        assert isinstance(held.held.leaves.items[0], StoredLeaf) == bool(limit)
        exported(run, home / f"out-{name}")
        loaded = zofo.load(run.path)[0].state_dict()
        assert loaded and all(torch.isfinite(tensor).all() for tensor in loaded.values()), "whole in memory, cap or not"
    assert texts[:2] == texts[2:] and any("stay on disk" in text for text in told)
    held_in = [home / f"out-{name}" for name in ("plain", "capped")]
    files = [{path.name for path in out.iterdir()} for out in held_in]
    assert files[0] == files[1]
    assert json.loads((held_in[0] / "config.json").read_text()) == json.loads((held_in[1] / "config.json").read_text())
    with safe_open(held_in[0] / "model.safetensors", "pt") as a, safe_open(held_in[1] / "model.safetensors", "pt") as b:
        assert set(a.keys()) == set(b.keys())
        assert all(torch.equal(a.get_tensor(key), b.get_tensor(key)) for key in a.keys())  # noqa: SIM118


def test_a_cap_of_training_does_not_keep_a_run_from_being_used(folder: str, home: Path) -> None:
    """What the process holds else by then may be over it, where the method keeps the weights in memory."""
    kept = {key: value for key, value in SMALL.items() if not key.startswith("method.")}
    flags = {"model.name": folder, "method.name": "first-order", "method.lr_p": 1e-3, "run.memory_cap": "100GB"}
    begin.start(*resolve(kept | flags | {"run.dir": str(home / "runs"), "run.name": "run"}))
    run = RunFolder(home / "runs" / "run")
    run.config.write_text(run.config.read_text().replace("100GB", TIGHT))
    held = saved.open_run(run)
    assert held.used == "p" and not held.held.outside


def test_a_model_that_fits_is_loaded_as_ever(folder: str, home: Path, told: Any) -> None:
    started(folder, home, "run", told, run__memory_cap="100GB")
    assert not any("stay on disk" in note for note in told.notes) and not (home / "cache" / "work").exists()
    assert any("within the cap of 100GB" in note for note in told.notes)


@pytest.mark.parametrize(
    "flags",
    [
        {"method.name": "bilevel"},
        {"method.name": "first-order"},
        {"method.name": "first-order", "method.tune": "full"},
        {"method.name": "two-stage"},
        {"method.name": "addax"},
        {"method.tune": "adapter"},
        {"method.rule": "adam"},
        {"method.probe": "inplace"},
        {"model.weights": "bf16", "model.dtype": "bf16"},
    ],
    ids=lambda flags: " ".join(map(str, flags.values())),
)
def test_what_needs_its_weights_in_memory_is_refused(
    flags: dict[str, Any], folder: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SMALL | {"model.name": folder} | flags
    options = {k: v for k, v in options.items() if k != "method.lr_theta" or flags.get("method.name") != "first-order"}
    config, _ = resolve(options | {"run.memory_cap": TIGHT})
    assert not table.streams(config)
    needed = cap.needed(config, sources.find(folder))
    monkeypatch.setattr(cap, "needed", lambda *_: needed)  # estimated once for both caps
    with pytest.raises(BadInput, match=r"--memory-cap 1B: about .* GB are needed, and .*; raise the cap, or take mezo"):
        cap.streams(config, sources.find(folder))
    fits, _ = resolve(options | {"run.memory_cap": "1TB"})
    assert not cap.streams(fits, sources.find(folder))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9),
        ("1.5GiB", 3 << 29),
        ("500 MB", 5 * 10**8),
        ("64k", 64_000),
        ("12", 12),
        ("", 0),
        ("1tb", 10**12),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert size_of(text) == size
    assert resolve({"run.memory_cap": text})[0].run.memory_cap == text


def test_more_than_any_machine_has_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"run\.memory_cap .*more bytes than any machine has"):
        resolve({"run.memory_cap": "9" * 400 + "GB"})


@pytest.mark.parametrize("text", ["two", "-1GB", "GB", "1 PB", "1e9"])
def test_what_is_no_size_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match=r"run\.memory_cap .*not a size such as 2gb"):
        resolve({"run.memory_cap": text})
