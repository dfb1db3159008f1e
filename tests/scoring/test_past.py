"""Keys and values are kept only where a model can go on from them, and going on leaves them as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import BloomConfig, BloomForCausalLM, MambaConfig, MambaForCausalLM

from zofo.scoring.batch import Encoded, choice_batch
from zofo.scoring.objective import answer_logprobs, read_prefix
from zofo.scoring.past import Past, base_of, can_share, spread, together

Tiny = Callable[..., nn.Module]
ROWS = (Encoded((9, 10), ((30, 31, 32), (34, 35)), 0), Encoded((11, 12, 13), ((40, 41), (42,)), 0))


def held(past: Past) -> list[Tensor]:
    """Copies of a prefix's keys and values."""
    return [value.clone() for layer in past.cache.layers for value in (layer.keys, layer.values)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def past(tiny: Tiny) -> Past:
    return read_prefix(tiny("llama"), (5, 6, 7))


def test_full_attention_models_can_share(arch: str, tiny: Tiny) -> None:
    assert can_share(tiny(arch)) is (arch != "mistral")  # its configuration has a sliding window of its own


def test_a_sliding_window_cannot_be_gone_on_from(tiny: Tiny) -> None:
    assert not can_share(tiny("mistral", sliding_window=8))
    assert can_share(tiny("mistral", sliding_window=None))
    window: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    assert not can_share(tiny("qwen2", **window))


TINY: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
NOT_BY_POSITION: dict[str, Callable[[], Any]] = {
    "windows that its cache does not know": lambda: hf.GPTNeoConfig(
        **TINY, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=4
    ),
    "positions counted by tokens": lambda: hf.RobertaConfig(
        **TINY, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, is_decoder=True
    ),
    "no keys and values taken": lambda: hf.OpenAIGPTConfig(vocab_size=40, n_embd=16, n_layer=1, n_head=2),
}


@pytest.mark.parametrize("kind", NOT_BY_POSITION)
def test_what_does_not_see_tokens_by_their_position_alone_cannot_be_gone_on_from(kind: str) -> None:
    assert not can_share(hf.AutoModelForCausalLM.from_config(NOT_BY_POSITION[kind]()))


def test_lora_shares_and_virtual_tokens_do_not(tiny: Tiny) -> None:
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    assert can_share(get_peft_model(tiny("llama"), lora))
    for virtual in (PrefixTuningConfig, PromptTuningConfig):
        assert not can_share(get_peft_model(tiny("llama"), virtual(task_type="CAUSAL_LM", num_virtual_tokens=3)))


def test_a_model_without_position_ids_cannot_share() -> None:
    bloom = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2))
    assert not can_share(bloom)


def test_a_model_with_a_state_instead_of_keys_cannot_share() -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4))
    assert not can_share(mamba)


def test_a_module_that_is_no_transformers_model_cannot_share() -> None:
    assert not can_share(nn.Linear(2, 2))


def test_the_base_of_a_peft_model_is_the_model_inside(tiny: Tiny) -> None:
    model = tiny("llama")
    assert base_of(model) is model
    assert base_of(get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))) is model


def test_a_spread_prefix_is_the_same_for_every_row(past: Past) -> None:
    cache = spread(past, 3)
    for layer, whole in zip(cache.layers, past.cache.layers, strict=True):
        assert layer.keys.shape == (3, *whole.keys.shape[1:]) and layer.keys.data_ptr() == whole.keys.data_ptr()
        assert all(torch.equal(row, whole.values[0]) for row in layer.values)


def test_what_is_added_to_a_spread_prefix_or_picked_from_it_leaves_the_prefix_alone(past: Past) -> None:
    before, cache = held(past), spread(past, 2)
    for number, layer in enumerate(cache.layers):
        more = torch.ones(2, layer.keys.shape[1], 4, layer.keys.shape[3])
        cache.update(more, more, number)
    cache.batch_select_indices(torch.tensor([1, 1, 0]))
    assert cache.get_seq_length() == 7 and past.cache.get_seq_length() == 3
    assert same(before, held(past))


@pytest.mark.parametrize("branched", [False, True])
def test_scoring_leaves_the_kept_prefix_as_it_was(tiny: Tiny, branched: bool) -> None:
    model = tiny("llama")
    past = read_prefix(model, (5, 6, 7, 8))
    before, batch = held(past), choice_batch(ROWS, [0, 1], 0, branched)
    with torch.no_grad():
        first = answer_logprobs(model, batch, past=past)
        assert torch.equal(answer_logprobs(model, batch, past=past), first)
    assert same(before, held(past)) and past.cache.get_seq_length() == 4


def test_a_prefix_keeps_no_graph(tiny: Tiny) -> None:
    past = read_prefix(tiny("gpt2"), (5, 6, 7))
    assert past.ids == (5, 6, 7) and not any(value.requires_grad for value in held(past))


def test_positions_count_tokens_and_leave_padding_out() -> None:
    before, own = torch.tensor([[1, 1, 1], [1, 0, 0]]), torch.tensor([[1, 1], [1, 0]])
    found = together(before, own, None)
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 0, 0, 1, 0]]
    assert found["position_ids"][0].tolist() == [3, 4] and int(found["position_ids"][1, 0]) == 1
