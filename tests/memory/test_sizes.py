"""Estimates are what things come to: sizes of what stands, and whole steps of every method against what they allocate."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from zofo import models
from zofo.adapters.bank import Bank
from zofo.adapters.slots import attach
from zofo.bench.how import batch
from zofo.bench.ours import Method, Same
from zofo.bench.peak import allocated
from zofo.config import Config, build
from zofo.core.probe.beside import Beside
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.memory import dry
from zofo.memory.live import Live
from zofo.memory.sizes import PASSES, UNKNOWN, WHEN, Size, estimate, total, tried, whole
from zofo.memory.work import Work, of_shape
from zofo.methods import table
from zofo.methods.state import Member, Problem
from zofo.methods.table import METHODS
from zofo.problem import joined
from zofo.settled import plain

pytestmark = pytest.mark.filterwarnings("ignore:Adapter name")
SHAPE: dict[str, Any] = {"vocab_size": 50, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4}
SMALL = {"data.batch": 2, "data.max_length": 8}
COUNT = 50 * 16 + 2 * (16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 24 + 2 * 16) + 16  # weights: head, layers, norm
ADAPTER = 2 * 8 * (16 + 16 + 16 + 8)  # LoRA r 8 on q and v


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=2, intermediate_size=24, tie_word_embeddings=True))


def skeleton(make: Any = llama) -> nn.Module:
    with torch.device("meta"):
        return make()


def sizes(flags: dict[str, Any]) -> list[Size]:
    return once(tuple(sorted(flags.items())))


@functools.cache
def once(flags: tuple[tuple[str, Any], ...]) -> list[Size]:
    config = plain(build(SMALL | dict(flags)))
    return estimate(config, skeleton(), of_shape(config, config.data.max_length))


def told(flags: dict[str, Any]) -> dict[str, int]:
    return {size.name: size.bytes for size in sizes(flags) if size.when not in PASSES}


def test_a_mixture_of_experts_is_estimated_whole(tiny: Any) -> None:
    config, model = plain(build(SMALL | {"method.name": "mezo"})), tiny("mixtral")
    found = estimate(config, skeleton(lambda: type(model)(model.config)), of_shape(config, 8))
    assert whole(found) and any(size.when == "probing" for size in found)


def test_what_cannot_be_estimated_is_said_without_torchs_traceback() -> None:
    def run() -> Any:
        with FakeTensorMode():
            return torch._grouped_mm(torch.ones(4, 8), torch.ones(2, 8, 8), torch.ones(2, dtype=torch.int32))

    log, told = logging.getLogger("torch._subclasses.fake_tensor"), list[logging.LogRecord]()

    def keep(record: logging.LogRecord) -> bool:
        return bool(told.append(record))  # type: ignore[func-returns-value]

    log.addFilter(keep)
    try:
        assert tried("probing", run) == [Size("activations and logits", UNKNOWN, "probing")] and not told
        with pytest.raises(RuntimeError):
            run()
        assert len(told) == 1, "afterwards torch speaks as before"
    finally:
        log.removeFilter(keep)


def test_weights_are_counted_once_where_they_are_tied() -> None:
    model = llama()
    assert model.lm_head.weight is model.model.embed_tokens.weight  # type: ignore[union-attr]
    assert told({})["weights (fp32)"] == 4 * COUNT == 4 * sum(p.numel() for p in model.parameters())


def test_bilevel_holds_two_adapters_and_their_moments() -> None:
    found = told({})
    assert found["adapters (2)"] == 2 * 4 * ADAPTER
    assert found["optimizer of the adapters (adam)"] == 2 * 2 * 4 * ADAPTER
    assert found["copies that a failed step goes back to"] == 3 * 2 * 4 * ADAPTER
    assert "moments of what zeroth order moves (rule adam)" not in found


HEAD = 4 * (50 * 16)
MATRICES = COUNT - 5 * 16


@pytest.mark.parametrize(
    ("flags", "name", "size"),
    [
        ({"method.s": "off"}, "adapters (1)", 4 * ADAPTER),
        ({"method.lam": 0}, "adapters (1)", 4 * ADAPTER),
        ({"method.optimizer": "sgd"}, "optimizer of the adapters (sgd)", None),
        ({"method.name": "first-order"}, "copies that a failed step goes back to", None),
        ({"method.name": "mezo"}, "adapters (0)", None),
        ({"method.name": "mezo", "method.tune": "adapter"}, "adapters (1)", 4 * ADAPTER),
        ({"method.name": "mezo", "method.tune": "adapter"}, "scratch for probing", None),
        ({"method.name": "mezo", "method.probe": "inplace"}, "scratch for probing", None),
        ({"method.name": "mezo"}, "scratch for probing", HEAD),
        ({"method.name": "mezo", "method.stack": "on"}, "scratch for probing", 2 * HEAD),
        ({"method.name": "first-order"}, "optimizer of the adapters (adam)", 2 * 4 * ADAPTER),
        ({"method.name": "first-order"}, "scratch for probing", None),
        ({"method.name": "mezo", "model.weights": "bf16"}, "weights (bf16)", 4 * 5 * 16 + 2 * MATRICES),
        ({"model.dtype": "bf16"}, "half-precision shadow of the weights", 2 * (MATRICES - 50 * 16)),
        ({"model.dtype": "bf16", "model.shadow": False}, "half-precision shadow of the weights", None),
    ],
)
def test_what_a_configuration_adds(flags: dict[str, Any], name: str, size: int | None) -> None:
    assert told(flags).get(name) == size


def test_the_rule_adam_costs_two_copies_of_the_weights_and_an_update_of_the_largest() -> None:
    found = sizes({"method.rule": "adam"})
    by_name = {size.name: size.bytes for size in found}
    assert by_name["moments of what zeroth order moves (rule adam)"] == 2 * by_name["weights (fp32)"]
    assert [size.bytes for size in found if size.when == "moving"] == [4 * HEAD]


def test_first_order_over_all_weights_takes_twelve_bytes_a_weight_beside_them() -> None:
    """docs/methods.md: a gradient and two moments; SGD's the gradient alone, and Addax's."""
    full = {"method.name": "first-order", "method.tune": "full"}
    adam, sgd, addax = (sizes(flags) for flags in (full, full | {"method.optimizer": "sgd"}, {"method.name": "addax"}))
    assert {s.name: s.bytes for s in adam}["optimizer of all weights (adam)"] == 8 * COUNT
    for found in (adam, sgd, addax):
        slopes = [s.bytes for s in found if s.when == "moving" and s.name == dry.SLOPES]
        assert slopes[0] >= 4 * COUNT and {s.when for s in found} >= {"descending", "moving"}
        assert slopes[0] <= 4 * COUNT + 4 * HEAD  # and what the largest leaf's update takes
    assert not any("optimizer" in s.name or "moments" in s.name for s in (*sgd, *addax))
    assert any(s.when == "probing" for s in addax) and not any(s.when == "probing" for s in adam)


def test_short_rows_alone_need_a_backward_pass_in_addax() -> None:
    def activations(limit: int) -> int:
        return sum(
            s.bytes
            for s in sizes({"method.name": "addax", "method.short_tokens": limit, "data.max_length": 32})
            if s.when == "descending" and s.name == dry.LAYERS
        )

    assert activations(9) < activations(0) / 2


def test_the_total_is_what_stays_and_the_largest_pass() -> None:
    found = [Size("a", 100, "before"), Size("b", 10, "steps"), Size("c", 3, "learning"), Size("d", 4, "learning")]
    found += [Size("e", 5, "probing"), Size("f", 20, "scoring"), Size("g", UNKNOWN, "moving")]
    assert (total(found), total(found, steps_only=True)) == (130, 117)
    assert (total(found, above=True), total(found, steps_only=True, above=True)) == (30, 17)
    assert not whole(found) and whole(found[:-1]) and set(WHEN) >= {size.when for size in found}


def test_a_model_that_cannot_be_run_without_weights_is_not_estimated(tiny) -> None:
    """A loop over the experts takes as many rows for each as were sent to it, which hangs on numbers."""
    config = plain(build(SMALL | {"method.name": "mezo"}))
    bare = skeleton(lambda: AutoModelForCausalLM.from_config(tiny("mixtral").config, experts_implementation="eager"))
    found = estimate(config, bare, of_shape(config, 8))
    assert not whole(found) and {size.when for size in found if size.bytes == UNKNOWN} == {"probing"}
    assert total(found) == sum(size.bytes for size in found if size.bytes != UNKNOWN) > 0


def test_kept_keys_and_values_count_where_answers_are_written() -> None:
    config = plain(build(SMALL | {"method.name": "mezo"}))
    shape = of_shape(config, 8)
    work = Work(shape.objective, shape.largest, written={"probing": 100, "scoring": 7})
    kept = [size for size in estimate(config, skeleton(), work) if "keys and values" in size.name]
    a_token = 2 * 2 * 2 * 4 * 4  # keys and values, layers, heads of keys, their width, bytes
    assert [(size.when, size.bytes) for size in kept] == [("probing", 100 * a_token), ("scoring", 7 * a_token)]


def problem(config: Config, model: nn.Module, work: Work) -> Problem:
    """What `zofo.job.assemble` makes, of a model that is there."""
    models.halved(model.requires_grad_(False), config.model.weights)
    leaves, names = tree.find(model), METHODS[config.method.name].load().slots(config.method)
    slots = attach(model, config.adapter, names, 0) if names else None
    made = joined(config, slots.model if slots else model, leaves, slots, work.objective, work.above)
    if not table.several(config):
        return made
    members = tuple(Member(f"t{i}", work, made.loss, made.upper, 4) for i in range(2))
    assert slots is not None
    start = {slot: slots.tensors(slot) for slot in slots.params}
    bank = Bank(Path(tempfile.gettempdir()), [m.name for m in members], start) if table.apart(config) else None
    return replace(made, members=members, bank=bank)


SKETCH = {"method.rule": "normalised", "method.noise": "rademacher"}
STEPS: dict[str, dict[str, Any]] = {
    "first-order": {"method.name": "first-order"},
    "first-order, bf16": {"method.name": "first-order", "model.dtype": "bf16"},
    "first-order, prefix": {"method.name": "first-order", "adapter.kind": "prefix"},
    "mezo": {"method.name": "mezo"},
    "mezo, adam": {"method.name": "mezo", "method.rule": "adam"},
    "mezo, bf16": {"method.name": "mezo", "model.dtype": "bf16"},
    "mezo, bf16 weights": {"method.name": "mezo", "model.weights": "bf16", "model.dtype": "bf16"},
    "mezo, in place": {"method.name": "mezo", "method.probe": "inplace"},
    "mezo, stacked": {"method.name": "mezo", "method.stack": "on"},
    "mezo, adapter": {"method.name": "mezo", "method.tune": "adapter"},
    "bilevel": {"method.T": 2},
    "bilevel, bf16": {"method.T": 1, "model.dtype": "bf16", "method.probe_dtype": "bf16"},
    "bilevel, outer": {"method.T": 1, "method.coupling": "outer"},
    "bilevel, stacked": {"method.T": 1, "method.stack": "on"},
    "sketch": SKETCH | {"method.name": "sketch"},
    "sketch, adam": SKETCH | {"method.name": "sketch", "method.rule": "adam"},
    "sketch, bf16": SKETCH | {"method.name": "sketch", "model.dtype": "bf16"},
    "bilevel, sketch": SKETCH | {"method.T": 1, "method.upper": "sketch", "method.coupling": "outer"},
    "first-order, full": {"method.name": "first-order", "method.tune": "full"},
    "first-order, full, bf16": {"method.name": "first-order", "method.tune": "full", "model.dtype": "bf16"},
    "first-order, full, sgd": {"method.name": "first-order", "method.tune": "full", "method.optimizer": "sgd"},
    "two-stage": {"method.name": "two-stage"},
    "two-stage, prompt": {"method.name": "two-stage", "adapter.kind": "prompt"},
    "addax": {"method.name": "addax"},
    "addax, bf16": {"method.name": "addax", "model.dtype": "bf16"},
    "bilevel, zeroth order below": {"method.T": 1, "method.lower": "zeroth-order"},
    "meta": {"method.name": "meta", "method.T": 1},
    "meta, shared": {"method.name": "meta", "method.T": 1, "method.adapters": "shared"},
    "meta, sketch": SKETCH | {"method.name": "meta", "method.T": 1, "method.upper": "sketch"},
    "reptile": {"method.name": "reptile", "method.T": 2},
}
SLOW = [
    "bilevel, stacked",
    "bilevel, zeroth order below",
    "bilevel, sketch",
    "meta",
    "meta, sketch",
    "first-order, bf16",
    "first-order, prefix",
    "mezo",
    "mezo, adapter",
    "mezo, bf16",
    "bilevel, bf16",
    "bilevel, outer",
    "first-order, full, bf16",
    "two-stage, prompt",
    "addax, bf16",
    "meta, shared",
    "reptile",
]


def begun(tiny: Any, config: Config) -> tuple[list[Size], Callable[[], Method]]:
    """What is estimated of a configuration on a small model, and what begins its method there; what a process makes once is there."""
    model = tiny("llama-tied", hidden_size=64, num_hidden_layers=3)
    bare = skeleton(lambda: AutoModelForCausalLM.from_config(model.config))
    made = batch(model, 4, 24)
    work = Work(of_shape(config, 8).objective, made, of_shape(config, 8).above)
    sizes, given = estimate(config, bare, work), problem(config, model, work)

    def begin() -> Method:
        return Method(METHODS[config.method.name].load(), given, Same(made))

    method = begin()
    method.step(), method.step()
    probe = given.probe.scratch if isinstance(given.probe, Beside) else given.probe
    if isinstance(probe, Scratch):
        probe.pool.free.clear()
    if given.shadow is not None:
        given.shadow.twins.clear()
    return sizes, begin


def moments(sizes: list[Size]) -> int:
    """The moments of theta's rule, which stand before training; `init` makes them."""
    return next((s.bytes for s in sizes if s.name.startswith("moments of what")), 0)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in sorted(STEPS)]
)
def test_a_whole_step_allocates_what_was_estimated(tiny, name: str) -> None:
    sizes, begin = begun(tiny, plain(build(STEPS[name])))

    def steps() -> Method:
        method = begin()
        method.step(), method.step()
        return method

    assert total(sizes, above=True) + moments(sizes) == pytest.approx(allocated(steps), rel=0.05)


SECOND: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, adam": {"method.rule": "adam"},
    "lora, bf16": {"model.dtype": "bf16"},
    "prompt": {"adapter.kind": "prompt"},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("lora, bf16", "prompt"))) for name in SECOND]
)
def test_the_second_of_two_stages_allocates_what_was_estimated(tiny, name: str) -> None:
    """A step of zeroth order over theta and p, beside what the first stage left; that one's backward pass, which takes more, does not count."""
    sizes, begin = begun(tiny, plain(build(SECOND[name] | {"method.name": "two-stage", "method.stage_one": 1})))
    with Live() as live:
        method = begin()
        method.step()
        live.peak = live.now.total()
        method.step()
    late = [size for size in sizes if size.when != "learning"]
    assert total(late, above=True) + moments(sizes) == pytest.approx(live.peak, rel=0.05)
