"""On a device that mixes with the CPU as little as CUDA does, and has no fp64 (as MPS): what a user does there, with the CPU's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foreign
import pytest
import torch
from conftest import SMALL
from killing import CASES
from torch.nn.attention import SDPBackend, sdpa_kernel

import zofo
from zofo import begin, models, settled
from zofo.bench import peak, step
from zofo.cli.main import main
from zofo.cli.problems import guarded
from zofo.config import AdapterConfig
from zofo.core import devices, noise
from zofo.core.kernels import reference
from zofo.core.noise import LAWS, direction
from zofo.core.streams import seeded
from zofo.layers import resolve
from zofo.methods.table import METHODS
from zofo.report.terminal import Quiet
from zofo.run.folder import RunFolder
from zofo.scoring.generation import generate

Made = Callable[..., Any]
MORE: dict[str, dict[str, Any]] = {
    "mezo-prompt": {"method.name": "mezo", "method.tune": "adapter", "adapter.kind": "prompt", "method.lr_theta": 1e-3},
    "mezo-accuracy": {"method.name": "mezo", "method.objective": "accuracy", "method.estimator": "forward"},
    "bilevel-follow": {"method.coupling": "follow", "method.T": 1, "method.objective": "classification"},
    "bilevel-zeroth": {"method.lower": "zeroth-order", "method.T": 1, "method.noise": "sphere"},
    "fo-prefix": {"method.name": "first-order", "adapter.kind": "prefix", "model.dtype": "bf16"},
}
EVERY = CASES | MORE
EVERY["two-stage"] = EVERY["two-stage"] | {"method.stage_one": 1}
EVERY["bilevel-half"] = EVERY["bilevel-half"] | {"model.dtype": "bf16"}
QUICK = ("mezo", "mezo-prompt", "mezo-lora", "bilevel-outer", "sketch", "first-order", "two-stage", "addax", "meta-sketch", "reptile")  # fmt: skip
EXACT = (
    "mezo",
    "mezo-prompt",
    "mezo-lora",
    "mezo-accuracy",
    "bilevel-zeroth",
)  # no backward pass, and the same products
CLOSE = {"bf16": 2e-3}  # of an adapter's step by Adam where its gradient is nearly nothing; fp32: 2e-6
RUN: dict[str, Any] = {
    "method.T": 1, "method.lr_theta": 1e-4, "adapter.dropout": 0.2, "model.dtype": "fp32", "run.steps": 2, "run.save_every": 1,
    "run.eval_every": 0, "run.test": False, "method.stack": "off",
}  # fmt: skip
WAITED = {"core/probe/hooks.py": 2, "methods/losses.py": 2, "scoring/objective.py": 4}


@pytest.fixture(autouse=True)
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The device is there, and has no fp64; attention on the CPU is computed as there."""
    foreign.register()
    monkeypatch.setattr(foreign, "narrow", True)
    monkeypatch.setattr(devices, "NARROW", {"mps", foreign.NAME})
    with foreign.in_use(), sdpa_kernel(SDPBackend.MATH):
        yield


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's noise is drawn on the CPU, in a tenth of the time: the same bits, as a test of its own shows."""
    drawn = reference.scaled

    def scaled(law: str, key: int, tid: int, index: torch.Tensor, *rest: Any) -> torch.Tensor:
        here = foreign.behind(index) if foreign.ours(index) else index
        return drawn(law, key, tid, here, *rest).to(index.device)

    monkeypatch.setattr(reference, "scaled", scaled)


def on(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(models, "device", lambda config: torch.device(name))


def stepped(job: Any, n: int) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """What n steps report, and where they end: theta, and every adapter."""
    state, told = job.begin(), []
    for _ in range(n):
        state, report = job.method.step(job.problem, state, job.batches)
        told.append(dict(report.numbers))
    held = {leaf.name: leaf.data.cpu() for leaf in job.leaves}
    for slot in job.slots.params if job.slots is not None else ():
        held |= {f"{slot}/{name}": param.detach().cpu() for name, param in job.slots.params[slot].items()}
    return told, held


def test_every_method_is_among_the_quick_cases() -> None:
    assert {EVERY[case].get("method.name", "bilevel") for case in QUICK} == set(METHODS)


@pytest.mark.parametrize("case", [pytest.param(k, marks=[] if k in QUICK else pytest.mark.slow) for k in EVERY])
@pytest.mark.usefixtures("quickly")
def test_every_method_does_there_what_it_does_on_a_cpu(
    case: str, folder: str, mixed: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"model.dtype": "fp32", "run.steps": 5} | EVERY[case]
    if "data.mixture" in flags:
        flags |= {"data.mixture": str(mixed), "data.task": ""}
    found = []
    for name in ("cpu", foreign.NAME):
        on(monkeypatch, name)
        job = made(folder, **{key.replace(".", "__"): value for key, value in flags.items()})
        assert {p.device.type for p in job.model.parameters()} == {name}
        found.append(stepped(job, 2 if case == "two-stage" else 1))
    (told, held), (said, ended) = found
    assert held.keys() == ended.keys()
    if case in EXACT:
        assert told == said
    near = 0 if case in EXACT else CLOSE.get(str(flags["model.dtype"]), 2e-6)
    for name, there in ended.items():
        digit = 2**-7 if there.dtype == torch.bfloat16 else 0  # c's last bits round half weights up or down
        far = (held[name].float() - there.float()).abs() - digit * there.float().abs()
        assert float(far.max()) <= near, name


def test_the_device_mixes_with_nothing_and_computes_what_the_cpu_does() -> None:
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    there = a.to(foreign.NAME)
    assert torch.equal((there + b.to(foreign.NAME)).cpu(), a + b)
    assert torch.equal((there * torch.tensor(2.0)).cpu(), a * 2)  # a number, as CUDA takes it
    view = there[1:].t()
    view.mul_(3)
    assert torch.equal(there.cpu()[1:], a[1:] * 3)
    with pytest.raises(RuntimeError, match="two devices, foreign:0 and cpu"):
        there + b
    with pytest.raises(RuntimeError, match="two devices"):
        b.add_(there.sum())
    with pytest.raises(TypeError, match="to numpy"):
        there.numpy()
    with pytest.raises(TypeError, match="float64"):
        there.double()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_the_noise_there_has_the_cpu_kernels_bits_and_no_number_is_waited_for(law: str, kind: torch.dtype) -> None:
    w, z, rows = torch.randn(37, 24).to(kind), direction(law, 2**63 + 5, ((9, 37 * 24),)), torch.tensor([30, 2, 36])
    there, minus = w.to(foreign.NAME), (w.clone(), w.to(foreign.NAME))
    foreign.waits.clear()
    moved = noise.perturb(torch.empty_like(there), there, z, 0.01, 9, minus=minus[1])
    some = noise.perturb_rows(there[:3].clone(), there, rows.to(foreign.NAME), z, 0.01, 9)
    rounded = noise.perturb(torch.empty_like(there), there, z, 0.01, 9, rounding=7)
    assert not foreign.waits
    here = noise.perturb(torch.empty_like(w), w, z, 0.01, 9, minus=minus[0])
    assert torch.equal(moved.cpu(), here)
    assert torch.equal(minus[1].cpu(), minus[0])
    assert torch.equal(some.cpu(), here[rows])
    assert torch.equal(rounded.cpu(), noise.perturb(torch.empty_like(w), w, z, 0.01, 9, rounding=7))


def test_a_step_waits_for_losses_and_little_else(folder: str, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass's losses, twice; the rest is transformers' question whether a mask masks, and the rows of an embedding in use."""
    on(monkeypatch, foreign.NAME)
    job = made(folder, method__name="mezo", model__dtype="fp32")
    state, _ = job.method.step(job.problem, job.begin(), job.batches)  # the first looks at more
    foreign.waits.clear()
    job.method.step(job.problem, state, job.batches)
    assert {where.split(":")[0]: n for where, n in foreign.waits.items()} == WAITED


def test_the_devices_own_generator_is_seeded_and_put_back() -> None:
    before = foreign.drawn.get_state()
    with seeded(3, "dropout", 1):
        one = torch.rand(4, device=foreign.NAME)
    with seeded(3, "dropout", 1):
        assert torch.equal(one.cpu(), torch.rand(4, device=foreign.NAME).cpu())
    assert torch.equal(foreign.drawn.get_state(), before)


def trained(folder: str, home: Path, name: str, show: Quiet | None = None) -> RunFolder:
    options = SMALL | RUN | {"model.name": folder, "run.dir": str(home / "runs"), "run.name": name}
    begin.start(*resolve(options), show or Quiet())
    return RunFolder(home / "runs" / name)


class Halt(Quiet):
    """Stops a run after its first step."""

    def step(self, row: Any, of: int) -> None:
        raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.usefixtures("quickly")
def test_a_run_there_is_resumed_with_its_bits_and_serves(
    folder: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, foreign.NAME)
    monkeypatch.chdir(home)
    whole = trained(folder, home, "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(folder, home, "cut", Halt())
    begin.go_on(RunFolder(home / "runs/cut"))
    assert (home / "runs/cut/journal").read_bytes() == whole.journal.read_bytes()
    model, tokenizer = zofo.load("whole")
    assert {p.device.type for p in model.parameters()} == {foreign.NAME}
    assert isinstance(generate(model, tokenizer, "A film", 2, 0.7), str)
    rows = [{"sentence": "a good film"}]
    there = zofo.predict("whole", rows)[0]
    assert main(["export", "whole", "--out", str(home / "out")]) == 0
    on(monkeypatch, "cpu")
    here = zofo.predict("whole", rows)[0]
    assert there["predicted"] == here["predicted"]
    assert there["probability"] == pytest.approx(here["probability"], abs=1e-5)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.usefixtures("quickly")
def test_ones_own_loop_there_ends_where_it_does_on_a_cpu(
    rule: str, tiny: Callable[..., Any], rows: torch.Tensor
) -> None:
    ends = []
    for name in ("cpu", foreign.NAME):
        model, ids = tiny("llama-tied").to(name), rows.to(name)
        opt = zofo.ZO(model, lr=1e-3, rule=rule, noise="low-rank-8", decay=0.1)
        losses = [float(opt.step(lambda m=model, x=ids: m(input_ids=x, labels=x).loss)) for _ in range(2)]
        ends.append((losses, [p.detach().cpu() for p in model.parameters()]))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))


@pytest.mark.usefixtures("quickly")
def test_the_bilevel_solver_there(tiny: Callable[..., Any], rows: torch.Tensor) -> None:
    ends = []
    for name in ("cpu", foreign.NAME):
        model, ids = tiny("llama").to(name), rows.to(name)
        solver = zofo.Bilevel(
            model, AdapterConfig(targets=("q_proj",)), lambda m, x: m(input_ids=x, labels=x).loss, T=1, lam=2.0
        )
        solver.step(lower=[(ids, ids)], upper=(ids, ids))
        with torch.no_grad():
            ends.append(float(model(input_ids=ids, labels=ids).loss))
    assert ends[0] == pytest.approx(ends[1], abs=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("quickly")
def test_steps_are_measured_there(folder: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    on(monkeypatch, foreign.NAME)
    monkeypatch.setattr(peak, "allocated", lambda run: 1)  # torch's dispatch modes do not know such a device
    kinds = ("forward", "forward-full", "forward-bf16", "zofo-stacked", "peft")
    found = step.main(folder, ("rademacher",), rows=1, tokens=4, rounds=1, methods=kinds)
    assert all(result["min_s"] > 0 for result in found["results"].values())


def test_memory_that_is_used_up_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of")

    assert guarded(work) == 1
    assert capsys.readouterr().err == (
        "zofo: memory: CUDA out of memory; take a smaller --batch or --data.max_length, --model.weights bf16, "
        "or look where it goes: zofo memory\n"
    )


@pytest.mark.parametrize(("native", "half"), [(True, "bf16"), (False, "fp16")])
def test_auto_takes_bf16_where_a_gpu_computes_it(native: bool, half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert settled.half(torch.device("cuda")) == half
