"""What `auto` comes to be: measured once, told, written into the run's configuration, and kept when it is resumed."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from zofo import begin, config, settled
from zofo.config import Config, build
from zofo.core.probe.scratch import Scratch
from zofo.core.weights.leaves import snapshot
from zofo.job import Job, assemble, prepare
from zofo.layers import resolve
from zofo.report.terminal import Quiet
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_json
from zofo.run.signals import Interrupted
from zofo.saved import open_run
from zofo.scoring import batch as made_of
from zofo.settled import fastest, products  # before the tests' own machine takes its place
from zofo.tasks import definition

pytestmark = pytest.mark.usefixtures("home")
SMALL: dict[str, Any] = {
    "data.task": "reviews", "data.train_rows": 20, "data.validation_rows": 4, "data.test_rows": 4, "data.batch": 2,
    "data.max_length": 48, "run.steps": 4, "run.eval_every": 2, "run.save_every": 2, "run.threads": 1,
}  # fmt: skip
KEYS = ("model.dtype", "method.probe_dtype", "method.eps", "method.stack")


def choices(settings: Config) -> tuple[Any, ...]:
    """The values of `KEYS`."""
    flat = config.flatten(settings.model_dump(), "")
    return tuple(flat[key] for key in KEYS)


def machine(monkeypatch: pytest.MonkeyPatch, **times: float) -> None:
    """A machine on which a product takes so long in each type."""
    monkeypatch.setattr(settled, "products", lambda device: times)


def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring is an error."""
    for name in ("products", "look"):
        monkeypatch.setattr(settled, name, None)


class TestPlain:
    """Choices without measuring, for what `auto` was left."""

    @pytest.mark.parametrize(
        ("flags", "want"),
        [
            ({}, ("fp32", "fp32", 1e-3, "off")),
            ({"model.dtype": "bf16"}, ("bf16", "bf16", 1e-3, "off")),
            ({"model.weights": "bf16"}, ("bf16", "bf16", 1e-3, "off")),
            ({"model.weights": "fp16"}, ("fp16", "fp16", 1e-3, "off")),
            ({"model.dtype": "bf16", "method.probe_dtype": "fp32"}, ("bf16", "fp32", 1e-3, "off")),
            ({"method.eps": 0.5, "method.stack": "on"}, ("fp32", "fp32", 0.5, "on")),
        ],
    )
    def test_fp32_or_the_weights_own_type_points_one_by_one(
        self, flags: dict[str, Any], want: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unmeasured(monkeypatch)
        found = settled.plain(build(flags))
        assert choices(found) == want
        assert settled.plain(found) == found

    def test_nothing_else_is_changed(self) -> None:
        given = build({"model.name": "m", "method.lam": 3.0, "adapter.r": 2})
        before, after = (config.flatten(c.model_dump(), "") for c in (given, settled.plain(given)))
        assert {key for key in before if before[key] != after[key]} == set(KEYS)


class TestTypes:
    """The computing dtype, the probes' own, and the probe size."""

    def test_the_fastest_type_is_taken_and_the_times_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(monkeypatch, fp32=3e-3, bf16=1e-3)
        found, notes = settled.types(build({}))
        assert choices(found) == ("bf16", "bf16", 3e-3, "auto")
        assert notes == ["computing in bf16 (a product took: fp32 3.00 ms, bf16 1.00 ms); --dtype fixes it"]
        machine(monkeypatch, fp32=1e-3, bf16=2e-3)
        assert choices(settled.types(build({}))[0]) == ("fp32", "fp32", 1e-3, "auto")
        machine(monkeypatch, fp32=3e-3, bf16=2e-3, fp16=1e-3)
        assert settled.types(build({}))[0].model.dtype == "fp16"

    @pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
    @pytest.mark.parametrize("key", ["model.dtype", "model.weights"])
    def test_a_type_that_is_given_or_that_of_half_weights_is_not_measured(
        self, dtype: str, key: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if (key, dtype) != ("model.weights", "fp32"):
            unmeasured(monkeypatch)
        monkeypatch.setattr(settled, "holds", lambda *_: True)
        found, notes = settled.types(build({key: dtype}))
        assert choices(found)[:2] == (dtype, dtype) and len(notes) == ((key, dtype) == ("model.weights", "fp32"))

    @pytest.mark.parametrize(
        ("dtype", "flags", "held"),
        [
            ("fp32", {"method.lam": 1e6}, True),
            ("bf16", {}, True),
            ("bf16", {"method.lam": 100.0}, False),
            ("bf16", {"method.lam": 5.0, "method.lam_every": 3}, False),
            ("bf16", {"method.lam_start": 100.0, "method.lam_schedule": "linear"}, False),
            ("bf16", {"method.lam": 100.0, "method.name": "mezo"}, True),
            ("bf16", {"method.lam": 100.0, "method.s": "off"}, True),
            ("bf16", {"method.lam": 100.0, "method.coupling": "follow"}, True),
            ("fp16", {}, False),
            ("fp16", {"method.name": "mezo"}, False),
        ],
    )
    def test_estimates_hold_in_bf16_up_to_the_lambda_that_was_measured(
        self, dtype: str, flags: dict[str, Any], held: bool
    ) -> None:
        """Where theta sees one loss, there is no lambda; in fp16 nothing was measured."""
        assert settled.holds(build(flags), dtype) == held

    @pytest.mark.parametrize(
        ("task", "flags", "want"),
        [
            ("sst2", {}, ("fp32", 1e-3)),
            ("sst2", {"method.objective": "lm"}, ("bf16", 3e-3)),
            ("sst2", {"method.name": "mezo"}, ("bf16", 1e-3)),
            ("sst2", {"method.lam": 0.0}, ("bf16", 1e-3)),
            ("reviews", {}, ("bf16", 3e-3)),
            ("reviews", {"method.objective": "classification"}, ("fp32", 1e-3)),
        ],
    )
    def test_a_classification_loss_has_a_smaller_probe_and_holds_alone(
        self, task: str, flags: dict[str, Any], want: tuple[str, float]
    ) -> None:
        """As measured after training (benchmarks/estimate); the task says which loss `auto` is."""
        found, _ = settled.types(build({"model.dtype": "bf16", "data.task": task} | flags), definition.find(task))
        assert (found.method.probe_dtype, found.method.eps) == want

    def test_probes_are_computed_in_fp32_where_estimates_do_not_hold(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(settled, "holds", lambda settings, dtype, objective: dtype == "fp32")
        found, notes = settled.types(build({"model.dtype": "bf16"}))
        assert choices(found) == ("bf16", "fp32", 1e-3, "auto")
        assert notes == ["theta's probes are computed in fp32: lambda 10 magnifies the error that bf16 makes"]
        assert settled.types(build({"model.dtype": "fp32"}))[1] == []
        (note,) = settled.types(build({"model.dtype": "fp16", "method.name": "mezo"}))[1]
        assert note == "theta's probes are computed in fp32: what errors fp16 makes was not measured"

    def test_half_weights_are_probed_in_their_own_type_whatever_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(settled, "holds", lambda *_: False)
        found, notes = settled.types(build({"model.weights": "bf16"}))
        assert choices(found) == ("bf16", "bf16", 3e-3, "auto") and notes == []

    def test_a_method_without_probes_is_not_told_of_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(settled, "holds", lambda *_: False)
        assert settled.types(build({"method.name": "first-order", "model.dtype": "bf16"}))[1] == []

    @pytest.mark.parametrize(
        ("flags", "eps"),
        [
            ({"model.dtype": "fp32"}, 1e-3),
            ({"model.dtype": "bf16"}, 3e-3),
            ({"model.weights": "fp16"}, 1e-3),
            ({"model.dtype": "bf16", "method.lam": 100.0}, 1e-3),
            ({"model.dtype": "bf16", "method.probe_dtype": "fp32"}, 1e-3),
            ({"model.dtype": "fp32", "method.probe_dtype": "bf16"}, 3e-3),
            ({"model.dtype": "bf16", "method.eps": 0.02}, 0.02),
        ],
    )
    def test_the_probe_size_goes_by_the_type_that_probes_are_computed_in(
        self, flags: dict[str, Any], eps: float
    ) -> None:
        assert settled.types(build(flags))[0].method.eps == eps

    def test_what_is_settled_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(monkeypatch, fp32=3e-3, bf16=1e-3)
        found, _ = settled.types(build({}))
        unmeasured(monkeypatch)
        assert settled.types(found) == (found, [])


def test_products_are_measured_in_the_types_that_the_machine_has() -> None:
    found = products(torch.device("cpu"))
    assert list(found) == ["fp32", "bf16"] and all(0 < seconds < 60 for seconds in found.values())


def test_the_fastest_of_some_times_leaves_out_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 10.0, 14.0, 20.0, 23.0, 30.0, 35.0])  # 1, then 4, 3 and 5 seconds
    monkeypatch.setattr(settled.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    assert fastest(lambda: calls.append(1), 3) == 3.0 and len(calls) == 4


def made(folder: str, **flags: Any) -> Job:
    """A job with its types settled."""
    flat = SMALL | {"model.name": folder} | {key.replace("__", "."): value for key, value in flags.items()}
    settings, given = resolve(flat)
    return assemble(settled.types(settings)[0], prepare(settings, given))


def stacks(job: Job) -> bool:
    """Whether the job's probe stacks points."""
    return isinstance(job.problem.probe, Scratch) and job.problem.probe.stack


class TestStacked:
    """Whether two points go in one pass."""

    @pytest.mark.parametrize(("gain", "chosen"), [(0.0, "off"), (math.inf, "on")])
    def test_auto_takes_the_faster_way_and_tells_both_times(
        self, folder: str, gain: float, chosen: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(settled, "GAIN", gain)
        job, (note,) = settled.stacked(made(folder))
        assert job.config.method.stack == job.problem.config.stack == chosen and stacks(job) == (chosen == "on")
        way = {"on": "two points a pass", "off": "one point a pass"}[chosen]
        assert note.startswith(f"estimates go {way} (one point a pass ") and "two points a pass 0." in note
        assert note.endswith("--method.stack fixes it")

    def test_off_is_off_unmeasured(self, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        unmeasured(monkeypatch)
        job = made(folder, model__dtype="fp32", method__stack="off")
        assert settled.stacked(job) == (job, []) and not stacks(job)

    def test_on_is_on(self, folder: str) -> None:
        job, notes = settled.stacked(made(folder, method__stack="on"))
        assert job.config.method.stack == "on" and stacks(job) and notes == []

    @pytest.mark.parametrize("asked", ["auto", "on"])
    def test_a_model_that_cannot_be_stacked_goes_one_by_one_and_that_is_told(
        self, folder: str, asked: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(settled, "GAIN", math.inf)
        job = made(folder, method__stack=asked)
        job.model.get_base_model().model.norm.register_forward_pre_hook(lambda *_: None)  # type: ignore[operator]
        job, notes = settled.stacked(job)
        assert notes == ["points are evaluated one by one: LlamaRMSNorm has hooks of its own"]
        assert job.config.method.stack == job.problem.config.stack == "off" and not stacks(job)

    @pytest.mark.parametrize(
        "flags",
        [
            {"method__name": "first-order"},
            {"method__name": "mezo", "method__tune": "adapter"},
            {"method__probe": "inplace"},
            {"method__objective": "accuracy"},
        ],
        ids=str,
    )
    def test_what_has_nothing_to_stack_is_off_unmeasured(
        self, folder: str, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = made(folder, **flags)
        unmeasured(monkeypatch)
        job, notes = settled.stacked(job)
        assert job.config.method.stack == "off" and notes == [] and not stacks(job)

    @pytest.mark.parametrize(("asked", "chosen"), [("auto", "off"), ("on", "on")])
    def test_rows_that_go_on_from_contexts_are_not_stacked_and_not_measured(
        self, folder: str, asked: str, chosen: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On is on for the batches whose choices are whole rows."""
        monkeypatch.setattr(made_of, "PASS", 0)
        job = made(folder, method__stack=asked, method__objective="classification")
        unmeasured(monkeypatch)
        job, notes = settled.stacked(job)
        assert notes == [
            "choices of several tokens go on from their contexts: estimates on such rows go one point a pass"
        ]
        assert job.config.method.stack == chosen and stacks(job) == (chosen == "on")
        _, report = job.method.step(job.problem, job.begin(), job.batches)
        assert math.isfinite(report.numbers["loss_p"])

    @pytest.mark.parametrize("flags", [{}, {"method__name": "mezo"}, {"adapter__kind": "prompt"}], ids=str)
    def test_looking_moves_nothing(self, folder: str, flags: dict[str, Any]) -> None:
        job = made(folder, **flags)
        before = snapshot(job.leaves)
        adapters = {} if job.slots is None else {slot: job.slots.tensors(slot) for slot in job.slots.params}
        chosen, _ = settled.stacked(job)
        assert all(torch.equal(leaf.data, before[leaf.name]) for leaf in job.leaves)
        for slot, held in adapters.items():
            assert job.slots is not None
            assert all(torch.equal(param, held[name]) for name, param in job.slots.params[slot].items())
        assert not any("forward" in vars(m) or m._forward_pre_hooks for m in job.model.modules())
        _, report = chosen.method.step(chosen.problem, chosen.begin(), chosen.batches)
        fresh = made(folder, **flags)
        _, wanted = fresh.method.step(fresh.problem, fresh.begin(), fresh.batches)
        assert report == wanted, "and the first step is what it would have been"


class Cut(Quiet):
    """Stops the run, as a signal does, in a step."""

    def step(self, row: Mapping[str, Any], of: int) -> None:
        if row["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def started(folder: str, home: Path, name: str, show: Quiet, **flags: Any) -> RunFolder:
    """Start a run whose types and stacking are left to the machine."""
    flat = SMALL | {"model.name": folder, "run.dir": str(home / "runs"), "run.name": name, "method.T": 1} | flags
    begin.start(*resolve(flat), show)
    return RunFolder(home / "runs" / name)


def test_a_run_writes_down_what_was_chosen_and_a_resumed_one_keeps_it(
    folder: str, home: Path, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    """bf16 through a shadow, two points a pass: stopped in step 3 and resumed on a machine where fp32 is the fastest,
    the run has the bits of one never stopped."""
    machine(monkeypatch, fp32=3e-3, bf16=1e-3)
    monkeypatch.setattr(settled, "GAIN", math.inf)
    lr = {"method.lr_theta": 1e-3}
    whole = started(folder, home, "whole", told, **lr)
    held = config.load(whole.config)
    assert choices(held) == ("bf16", "bf16", 3e-3, "on")
    assert [note.split(" (")[0] for note in told.notes[:-1] if "fixes it" in note] == [
        "computing in bf16",
        "estimates go two points a pass",
    ]
    assert read_json(whole.eval)["dtype"] == "bf16"
    with pytest.raises(Interrupted):
        started(folder, home, "cut", Cut(), **lr)
    run = RunFolder(home / "runs" / "cut")
    written = run.config.read_bytes()
    machine(monkeypatch, fp32=1e-3, bf16=3e-3)
    monkeypatch.setattr(settled, "GAIN", 0.0)
    unmeasured(monkeypatch)
    begin.go_on(run, Quiet())
    assert run.config.read_bytes() == written
    assert run.journal.read_bytes() == whole.journal.read_bytes()
    results, wanted = (read_json(r.eval) for r in (run, whole))
    assert results.pop("memory").keys() == wanted.pop("memory").keys() and results == wanted
    for name in ("adapter-p", "adapter-s", "optimizer"):
        one, two = (r.checkpoints / "step-000004" / f"{name}.safetensors" for r in (whole, run))
        assert one.read_bytes() == two.read_bytes()
    assert choices(open_run(run, say=lambda text: None).config) == choices(held)


@pytest.mark.parametrize("method", ["mezo", "first-order"])
def test_every_method_writes_down_what_was_chosen(
    folder: str, home: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, fp32=3e-3, bf16=1e-3)
    monkeypatch.setattr(settled, "GAIN", math.inf)
    flat = SMALL | {"model.name": folder, "run.dir": str(home / "runs"), "run.name": "run", "run.steps": 1}
    begin.start(*resolve(flat | {"method.name": method}), Quiet())
    found = choices(config.load(RunFolder(home / "runs" / "run").config))
    assert found == ("bf16", "bf16", 3e-3, "on" if method == "mezo" else "off")


def test_a_run_made_before_there_were_choices_goes_on_as_it_was(folder: str, home: Path) -> None:
    """Its configuration does not name them: one point a pass, over fp32 weights."""
    whole = started(folder, home, "whole", Quiet(), **{"method.eps": 1e-3})
    run = RunFolder(Path(shutil.copytree(whole.path, home / "runs" / "old")))
    told = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    for section, keys in (("model", ("weights", "shadow")), ("method", ("rank", "probe_dtype", "stack"))):
        told[section] = {key: value for key, value in told[section].items() if key not in keys}
    run.config.write_text(yaml.safe_dump(told), encoding="utf-8")
    zero = read_json(run.eval)["results"]["zero-shot"]
    run.eval.write_text(json.dumps({"results": {"zero-shot": zero}}), encoding="utf-8")
    last = run.checkpoints / "step-000004"
    (last / "state.json").write_text("{}", encoding="utf-8")  # not whole: it goes on from step 2
    begin.go_on(run, Quiet())
    assert run.journal.read_bytes() == whole.journal.read_bytes()
    for path in (whole.checkpoints / "step-000004").glob("*.safetensors"):
        assert path.read_bytes() == (last / path.name).read_bytes()
