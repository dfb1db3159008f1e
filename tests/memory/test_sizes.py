"""Estimates are what things come to: sizes of what stands, and whole steps of every method against what they allocate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from zofo.adapters.slots import attach
from zofo.bench.kinds import Method, Same, batch
from zofo.bench.peak import allocated
from zofo.config import Config, build
from zofo.core.probe.inplace import Inplace
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.job import own_leaves
from zofo.memory import dry
from zofo.memory.sizes import PASSES, UNKNOWN, WHEN, Size, adapter_numbers, count, estimate, piece, total, whole
from zofo.memory.work import Work, of_shape
from zofo.methods.state import Problem
from zofo.methods.table import METHODS, moves_theta

SHAPE: dict[str, Any] = {"vocab_size": 50, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4}
KIB = {"data.batch": 2, "data.max_length": 8}


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=2, intermediate_size=24, tie_word_embeddings=True))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_layer=2, n_embd=16, n_head=4, n_positions=32))


def skeleton(make: Any = llama) -> nn.Module:
    with torch.device("meta"):
        return make()


def sizes(flags: dict[str, Any], adapter: int | None = None) -> list[Size]:
    config = build(KIB | flags)
    return estimate(config, skeleton(), of_shape(config, config.data.max_length), adapter)


def told(flags: dict[str, Any], adapter: int | None = None) -> dict[str, int]:
    return {size.name: size.bytes for size in sizes(flags, adapter) if size.when not in PASSES}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Adapter name")
@pytest.mark.parametrize("model", [llama, gpt2])
@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
def test_numbers_of_an_adapter_are_those_that_peft_makes(model: Any, kind: str) -> None:
    config, base = build({"adapter.kind": kind}), model()
    reckoned = adapter_numbers(config, skeleton(model))
    assert reckoned == sum(p.numel() for p in attach(base, config.adapter, ("p",), 0).list("p"))


def test_weights_are_counted_once_where_they_are_tied() -> None:
    model = llama()
    assert model.lm_head.weight is model.model.embed_tokens.weight  # type: ignore[union-attr]
    assert told({})["weights (fp32)"] == 4 * count(model)


def test_bilevel_holds_two_adapters_and_their_moments() -> None:
    found = told({}, adapter=100)
    assert found["adapters (2)"] == 800
    assert found["optimizer of the adapters (adam)"] == 2 * 2 * 400
    assert found["copies that a failed step goes back to"] == 800 + 1600
    assert "moments of what zeroth order moves (rule adam)" not in found


@pytest.mark.parametrize(
    ("flags", "name", "size"),
    [
        ({"method.s": "off"}, "adapters (1)", 400),
        ({"method.lam": 0}, "adapters (1)", 400),
        ({"method.optimizer": "sgd"}, "optimizer of the adapters (sgd)", None),
        ({"method.name": "mezo"}, "adapters (0)", None),
        ({"method.name": "mezo", "method.tune": "adapter"}, "adapters (1)", 400),
        ({"method.name": "mezo", "method.tune": "adapter"}, "scratch for probing", None),
        ({"method.name": "mezo", "method.probe": "inplace"}, "scratch for probing", None),
        ({"method.name": "first-order"}, "optimizer of the adapters (adam)", 800),
        ({"method.name": "first-order"}, "scratch for probing", None),
        ({"data.batch": 1, "data.max_length": 8}, "scratch for probing", 4 * 50 * 16),  # the head
    ],
)
def test_what_a_configuration_adds(flags: dict[str, Any], name: str, size: int | None) -> None:
    assert told(flags, adapter=100).get(name) == size


def test_the_rule_adam_costs_two_copies_of_the_weights_and_an_update_of_the_largest() -> None:
    found = sizes({"method.rule": "adam"})
    by_name = {size.name: size.bytes for size in found}
    assert by_name["moments of what zeroth order moves (rule adam)"] == 2 * by_name["weights (fp32)"]
    assert [size.bytes for size in found if size.when == "moving"] == [4 * 4 * 50 * 16]


def test_scratch_is_the_largest_piece() -> None:
    """An embedding's rows in use, a whole small layer, a tile of a large one."""
    assert piece(nn.Embedding(100, 8), rows=30, tile=10**6) == 240
    assert piece(nn.Linear(10, 20), rows=1, tile=1000) == 220
    assert piece(nn.Linear(10, 2000), rows=1, tile=1000) == 1000 + 2000
    assert piece(nn.LayerNorm(8), rows=1, tile=10) == 16


def test_the_total_is_what_stays_and_the_largest_pass() -> None:
    found = [Size("a", 100, "before"), Size("b", 10, "steps"), Size("c", 3, "learning"), Size("d", 4, "learning")]
    found += [Size("e", 5, "probing"), Size("f", 20, "scoring"), Size("g", UNKNOWN, "moving")]
    assert (total(found), total(found, steps_only=True)) == (130, 117)
    assert (total(found, above=True), total(found, steps_only=True, above=True)) == (30, 17)
    assert not whole(found) and whole(found[:-1]) and set(WHEN) >= {size.when for size in found}


def test_a_model_that_cannot_be_run_without_weights_is_not_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("reads a number")

    monkeypatch.setattr(dry, "backward", broken)
    found = sizes({})
    assert not whole(found) and {size.when for size in found if size.bytes == UNKNOWN} == {"learning", "probing"}
    assert total(found) == sum(size.bytes for size in found if size.bytes != UNKNOWN)


def test_kept_keys_and_values_count_where_answers_are_written() -> None:
    config = build(KIB | {"method.name": "mezo"})
    plain = of_shape(config, 8)
    work = Work(plain.loss, plain.batch, written={"probing": 100, "scoring": 7})
    kept = [size for size in estimate(config, skeleton(), work) if "keys and values" in size.name]
    a_token = 2 * 2 * 2 * 4 * 4  # keys and values, layers, heads of keys, their width, bytes
    assert [(size.when, size.bytes) for size in kept] == [("probing", 100 * a_token), ("scoring", 7 * a_token)]


def problem(config: Config, model: nn.Module) -> Problem:
    """What `zofo.job.assemble` makes, of a model that is there."""
    leaves, names = tree.find(model.requires_grad_(False)), METHODS[config.method.name].load().slots(config.method)
    slots = attach(model, config.adapter, names, 0) if names else None
    held = slots.model if slots else model
    own = leaves if moves_theta(config) or slots is None else own_leaves(slots)
    probe = Scratch(held, leaves) if moves_theta(config) and config.method.probe == "scratch" else Inplace(own)
    loss = of_shape(config, 8).loss
    return Problem(held, loss, config.method, 0, 10, own, probe, slots)


STEPS = {
    "first-order": {"method.name": "first-order"},
    "mezo": {"method.name": "mezo"},
    "mezo, in place": {"method.name": "mezo", "method.probe": "inplace"},
    "mezo, adapter": {"method.name": "mezo", "method.tune": "adapter"},
    "bilevel": {"method.name": "bilevel", "method.T": 1},
    "bilevel, outer": {"method.name": "bilevel", "method.T": 1, "method.coupling": "outer"},
    "bilevel, zeroth order below": {"method.name": "bilevel", "method.T": 1, "method.lower": "zeroth-order"},
}


@pytest.mark.filterwarnings("ignore:Adapter name")
@pytest.mark.parametrize("kind", ["lora", "prefix"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_whole_step_allocates_what_was_estimated(tiny, name: str, dtype: str, kind: str) -> None:
    config = build(STEPS[name] | {"adapter.kind": kind, "model.dtype": dtype})
    model = tiny("llama-tied", hidden_size=64, num_hidden_layers=3)
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(model.config)
    made = batch(model, 4, 24)
    sizes = estimate(config, bare, Work(of_shape(config, 8).loss, made))
    given = problem(config, model)

    def steps() -> Method:
        method = Method(METHODS[config.method.name].load(), given, Same(made))
        method.step(), method.step()
        return method

    steps()
    if isinstance(given.probe, Scratch):
        given.probe.pool.free.clear()
    assert total(sizes, above=True) == pytest.approx(allocated(steps), rel=0.05)
