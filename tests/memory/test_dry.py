"""Dry passes hold, byte for byte, what real ones hold: all architectures, adapters, dtypes, ways to probe and to move."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from zofo import models
from zofo.adapters.slots import attach
from zofo.bench.how import batch
from zofo.bench.peak import allocated
from zofo.config import Config, build
from zofo.core import noise
from zofo.core.noise import Direction
from zofo.core.probe import Point, affine
from zofo.core.probe.scratch import Scratch
from zofo.core.rules import RULES
from zofo.core.seedgrad import SeedGrad
from zofo.core.weights import leaves as tree
from zofo.core.weights import move
from zofo.memory import dry
from zofo.memory.work import Work, of_shape
from zofo.methods import losses
from zofo.methods.state import Problem, State
from zofo.methods.table import METHODS
from zofo.problem import joined
from zofo.scoring.batch import Batch
from zofo.settled import plain

CLOSE = 0.005  # of the bytes: what an operator takes within itself, small constants
SLOW = pytest.mark.slow


def skeleton(model: nn.Module) -> nn.Module:
    with torch.device("meta"):
        return hf.AutoModelForCausalLM.from_config(model.config)


def work_on(config: Config, made: Batch) -> Work:
    shape = of_shape(config, 8)
    return Work(shape.objective, made, shape.above)


def real(config: Config, model: nn.Module, work: Work) -> Problem:
    """The problem that `zofo.job.assemble` makes, of a model that is there."""
    models.halved(model.requires_grad_(False), config.model.weights)
    if config.model.activation_checkpointing:
        models.recompute(model)
    leaves, names = tree.find(model), METHODS[config.method.name].load().slots(config.method)
    slots = attach(model, config.adapter, names, 0) if names else None
    return joined(config, slots.model if slots else model, leaves, slots, work.objective, work.above)


def both(tiny: Any, arch: str, flags: dict[str, Any], **shape: Any) -> tuple[dry.Hollow, Problem, Work]:
    config, model = plain(build(flags)), tiny(arch, **shape)
    work = work_on(config, batch(model, 3, 9))
    return dry.hollow(config, skeleton(model), work), real(config, model, work), work


def agree(parts: dry.Parts, run: Callable[[], Any], close: float = CLOSE) -> None:
    run()
    assert sum(parts.values()) == pytest.approx(allocated(run), rel=close)


def estimates(problem: Problem, work: Work) -> Callable[[], Any]:
    """The same passes on real weights, from an empty pool."""
    objective = METHODS[problem.config.name].load().objective(problem, State(), work)

    def run() -> Any:
        assert problem.probe is not None
        if isinstance(problem.probe, Scratch):
            problem.probe.pool.free.clear()
        z = Direction(dry.law_of(problem), 1)
        return problem.probe(objective, [Point(z, problem.eps), Point(z, -problem.eps)])

    return run


@pytest.mark.parametrize(
    ("dtype", "probe"),
    [
        ("fp32", "scratch"),
        ("bf16", "inplace"),
        pytest.param("fp32", "inplace", marks=SLOW),
        pytest.param("bf16", "scratch", marks=SLOW),
    ],
)
def test_an_estimate(tiny, arch: str, dtype: str, probe: str) -> None:
    made, problem, work = both(tiny, arch, {"method.name": "mezo", "model.dtype": dtype, "method.probe": probe})
    parts = dry.probing(made)
    agree(parts, estimates(problem, work))
    assert (dry.SCRATCH in parts) == (probe == "scratch") and dry.SLOPES not in parts


WAYS = {
    "stacked": {"method.stack": "on"},
    "low-rank": {"method.noise": "low-rank"},
    "sphere": {"method.noise": "sphere"},
    "half weights": {"model.weights": "bf16"},
    "probes in bf16": {"method.probe_dtype": "bf16"},
    "an adapter": {"method.name": "mezo", "method.tune": "adapter"},
    "bilevel": {"method.name": "bilevel"},
    "bilevel, stacked": {"method.name": "bilevel", "method.stack": "on", "model.dtype": "bf16"},
    "bilevel, prefix, stacked": {"method.name": "bilevel", "method.stack": "on", "adapter.kind": "prefix"},
}


@pytest.mark.filterwarnings("ignore:Adapter name")
@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=SLOW if way in ("bilevel", "bilevel, prefix, stacked") else ()) for way in sorted(WAYS)],
)
def test_ways_to_estimate(tiny, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(affine, "TILE", 1024)
    made, problem, work = both(
        tiny, "llama-tied", {"method.name": "mezo"} | WAYS[way], hidden_size=64, intermediate_size=200
    )
    agree(dry.probing(made), estimates(problem, work))


@pytest.mark.filterwarnings("ignore:Adapter name")
@pytest.mark.parametrize(
    ("kind", "checkpointing"),
    [
        ("lora", False),
        ("prefix", False),
        ("prompt", True),
        pytest.param("lora", True, marks=SLOW),
        pytest.param("prompt", False, marks=SLOW),
    ],
)
def test_a_backward_pass_of_an_adapter(tiny, arch: str, kind: str, checkpointing: bool) -> None:
    flags: dict[str, Any] = {"adapter.kind": kind, "model.activation_checkpointing": checkpointing}
    if arch == "mixtral" and kind == "lora":
        flags["adapter.targets"] = ["q_proj", "v_proj"]  # peft knows no others by itself
    made, problem, work = both(tiny, arch, {"method.name": "first-order"} | flags)
    parts = dry.learning(made)
    agree(parts, lambda: losses.gradient(problem, [work.largest], "p", 0))
    assert parts[dry.LAYERS] > 0  # the gradients may not be there yet when the peak is


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_backward_pass_of_all_weights_experts_too(tiny, dtype: str) -> None:
    made, problem, work = both(
        tiny, "mixtral", {"method.name": "first-order", "method.tune": "full", "model.dtype": dtype}
    )
    agree(dry.descending(made), lambda: losses.gradient(problem, [work.largest], None, 0, whole=True))


@pytest.mark.parametrize("shadow", [False, True])
def test_a_shadow_spares_the_casts(tiny, shadow: bool) -> None:
    flags = {"method.name": "first-order", "model.dtype": "bf16", "model.shadow": shadow}
    made, problem, work = both(tiny, "llama-tied", flags)

    def gradient() -> Any:
        with problem.standing_still():
            return losses.gradient(problem, [work.largest], "p", 0)

    if made.problem.shadow is not None:
        made.problem.shadow.refresh()
        assert problem.shadow is not None
        problem.shadow.refresh()
        assert dry.taken(made.problem.shadow.twins) == dry.taken(problem.shadow.twins) > 0
    parts = dry.learning(made)
    agree(parts, gradient)
    head = 2 * made.problem.model.get_output_embeddings().weight.numel()  # type: ignore[operator, union-attr]
    assert (parts.get(dry.COPIES, 0) > head) == (not shadow)


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_an_update(tiny, rule: str, weights: str) -> None:
    flags = {"method.name": "mezo", "method.rule": rule, "model.weights": weights, "method.decay": 0.1}
    made, problem, _ = both(tiny, "llama-tied", flags)
    assert made.problem.leaves is not None and problem.leaves is not None
    fake, state = RULES[rule].init(made.problem.leaves), RULES[rule].init(problem.leaves)
    assert dry.taken(fake.moments.values()) == dry.taken(state.moments.values())

    def run() -> None:
        _, update = RULES[rule].step(state, SeedGrad("gaussian", ((1, 0.0),)), problem.leaves)  # type: ignore[arg-type]
        move.apply(problem.leaves, update, 1e-6, 0.1)  # type: ignore[arg-type]

    run()
    wanted, found = allocated(run), sum(dry.moving(made, fake).values())
    if weights == "fp32":  # rounding stochastically is left out with the noise: 1M elements of work
        assert found == pytest.approx(wanted, rel=CLOSE)


def test_no_weights_are_there_and_two_slots(tiny) -> None:
    model = tiny("llama-tied")
    config = plain(build({}))
    made = dry.hollow(config, skeleton(model), work_on(config, batch(model, 1, 4)))
    assert made.problem.slots is not None and list(made.problem.slots.params) == ["p", "s"]
    assert [p.requires_grad for p in made.adapters] == [True] * 8 + [False] * 8  # p is in use
    base = made.problem.model.get_base_model()  # type: ignore[operator, union-attr]
    assert base.lm_head.weight is base.model.embed_tokens.weight
    assert all(isinstance(p, FakeTensor) and p.device.type == "cpu" for p in base.model.parameters())
    assert dry.taken(made.base) == 4 * sum(p.numel() for p in model.parameters())
    assert made.problem.leaves is not None
    assert [leaf.name for leaf in made.problem.leaves] == [leaf.name for leaf in tree.find(model)]


def test_noise_is_silent_in_this_thread_alone_and_comes_back() -> None:
    weight, z, before = torch.zeros(64), Direction("rademacher", 1), noise.perturb

    def drawn() -> torch.Tensor:
        return noise.perturb(torch.zeros(64), weight, z, 0.5, 3)

    with pytest.raises(KeyError), ThreadPoolExecutor(1) as other, dry.silence():
        assert drawn().abs().sum() == 0 and other.submit(drawn).result().abs().sum() == 32
        raise KeyError
    assert noise.perturb is before and drawn().abs().sum() == 32


def test_a_metric_ends_the_pass_when_it_reads_numbers(tiny) -> None:
    config = plain(build({"method.name": "mezo", "method.objective": "accuracy"}))
    model = tiny("llama-tied")
    shape = work_on(config, batch(model, 3, 9))

    def metric(held: nn.Module, made: Batch) -> torch.Tensor:
        return torch.tensor(shape.objective.loss(held, made).argsort().tolist())

    with torch.no_grad():
        plainly = dry.probing(dry.hollow(config, skeleton(model), shape))
    found = dry.probing(dry.hollow(config, skeleton(model), Work(shape.objective, shape.largest, metric)))
    assert 0.7 * sum(plainly.values()) < sum(found.values()) <= sum(plainly.values())
