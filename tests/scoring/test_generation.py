"""Generation through every kind of adapter continues as the scoring path's own forward pass would."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from zofo.core.streams import seeded
from zofo.errors import BadInput
from zofo.scoring.generation import generate

# peft 0.21.2 reads a name that transformers 5.23 has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=1, eos_token_id=2)
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=128, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=32,
        )
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32,
        )
    ),
}  # fmt: skip
ADAPTERS = {
    "plain": None,
    "lora": lambda kind: LoraConfig(
        task_type="CAUSAL_LM", r=2, init_lora_weights=False, target_modules=r".*(c_attn|q_proj|v_proj)",
        fan_in_fan_out=kind == "gpt2",
    ),
    "prefix": lambda kind: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prompt": lambda kind: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}  # fmt: skip


class Spelling:
    """A tokenizer whose tokens are characters; decoding spells the ids out."""

    pad_token_id, eos_token_id = None, 2

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids: torch.Tensor, skip_special_tokens: bool) -> str:
        return " ".join(str(k) for k in ids.tolist() if k != 2 or not skip_special_tokens)


@pytest.fixture
def remarks(caplog: pytest.LogCaptureFixture) -> Any:
    """What transformers logs."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def build(kind: str, adapter: str) -> Any:
    with seeded(3, f"generation {kind} {adapter}"):
        model: Any = MODELS[kind]()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        make = ADAPTERS[adapter]
        if make is not None:
            model = get_peft_model(model, make(kind))
            for name, parameter in model.named_parameters():
                if "prompt_encoder" in name:
                    nn.init.normal_(parameter, std=0.5)
    return model.double().train()


def greedy(model: nn.Module, text: str, count: int) -> str:
    """The same by whole forward passes, no cache."""
    ids = [ord(letter) for letter in text]
    model.eval()
    for _ in range(count):
        row = torch.tensor([ids])
        with torch.no_grad():
            logits = model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == 2:
            break
    model.train()
    return " ".join(str(k) for k in ids[len(text) :] if k != 2)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", MODELS)
def test_greedy_text_is_that_of_whole_passes(kind: str, adapter: str, remarks: pytest.LogCaptureFixture) -> None:
    model = build(kind, adapter)
    assert generate(model, Spelling(), "abc", 8) == greedy(model, "abc", 8)
    assert model.training and not remarks.records


def test_settings_in_the_models_own_file_decide_nothing_and_come_back(remarks: pytest.LogCaptureFixture) -> None:
    model = build("llama", "plain")
    wanted = generate(model, Spelling(), "abc", 8)
    own = model.generation_config
    own.update(do_sample=True, temperature=0.2, top_p=0.5, max_length=5, num_beams=2, repetition_penalty=5.0)
    assert generate(model, Spelling(), "abc", 8) == wanted
    assert model.generation_config is own and own.max_length == 5
    assert not remarks.records


def test_sampling_is_decided_by_the_seed_alone() -> None:
    model, before = build("llama", "plain"), torch.get_rng_state()
    drawn = [generate(model, Spelling(), "abc", 8, temperature=3.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("text", "count"), [("", 4), ("abc", 30)])
def test_texts_that_cannot_be_continued_are_refused(text: str, count: int) -> None:
    with pytest.raises(BadInput):
        generate(build("gpt2", "plain"), Spelling(), text, count)


def test_virtual_tokens_count_towards_the_models_length() -> None:
    with pytest.raises(BadInput, match="33 tokens"):
        generate(build("llama", "prompt"), Spelling(), "abc", 26)
