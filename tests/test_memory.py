"""Sizes that are known without running are what they come to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from zofo.adapters.slots import attach
from zofo.config import build
from zofo.memory import UNKNOWN, adapter_numbers, count, piece, sizes

SHAPE: dict[str, Any] = {"vocab_size": 50, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4}


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=2, intermediate_size=24, tie_word_embeddings=True))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_layer=2, n_embd=16, n_head=4, n_positions=32))


def told(flags: dict[str, Any], model: nn.Module | None = None, adapter: int | None = None) -> dict[str, int]:
    return dict(sizes(build(flags), model or llama(), adapter))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Adapter name")
@pytest.mark.parametrize("model", [llama, gpt2])
@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
def test_numbers_of_an_adapter_are_those_that_peft_makes(model: Any, kind: str) -> None:
    config, base = build({"adapter.kind": kind}), model()
    with torch.device("meta"):
        skeleton = model()
    reckoned = adapter_numbers(config, skeleton)
    assert reckoned == sum(p.numel() for p in attach(base, config.adapter, ("p",), 0).list("p"))


def test_weights_are_counted_once_where_they_are_tied() -> None:
    model = llama()
    assert model.lm_head.weight is model.model.embed_tokens.weight  # type: ignore[union-attr]
    assert told({}, model)["weights (fp32)"] == 4 * count(model)


def test_bilevel_holds_two_adapters_and_their_moments() -> None:
    found = told({}, adapter=100)
    assert found["adapters (2)"] == 800
    assert found["optimizer of the adapters (adam)"] == 2 * 2 * 400
    assert found["gradients of an adapter, and their clipped copy"] == 800
    assert found["activations"] == UNKNOWN
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
        ({"data.batch": 3}, "logits and log-probabilities at answer positions", 2 * 3 * 50 * 4),
    ],
)
def test_what_a_configuration_adds(flags: dict[str, Any], name: str, size: int | None) -> None:
    assert told(flags, adapter=100).get(name) == size


def test_the_rule_adam_costs_two_copies_of_the_weights() -> None:
    found = told({"method.rule": "adam"})
    assert found["moments of what zeroth order moves (rule adam)"] == 2 * found["weights (fp32)"]


def test_scratch_is_the_largest_piece() -> None:
    """An embedding's rows in use, a whole small layer, a tile of a large one."""
    assert piece(nn.Embedding(100, 8), rows=30, tile=10**6) == 240
    assert piece(nn.Linear(10, 20), rows=1, tile=1000) == 220
    assert piece(nn.Linear(10, 2000), rows=1, tile=1000) == 1000 + 2000
    assert piece(nn.LayerNorm(8), rows=1, tile=10) == 16
    assert told({"data.batch": 1, "data.max_length": 8})["scratch for probing"] == 4 * 50 * 16  # the head


def test_a_model_on_the_meta_device_will_do() -> None:
    with torch.device("meta"):
        skeleton = llama()
    assert told({}, skeleton) == told({}, llama())
