"""Generation through every kind of adapter continues as the scoring path's own forward pass would."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from zofo.core.streams import seeded
from zofo.errors import BadInput
from zofo.scoring.batch import Encoded
from zofo.scoring.generation import answers, generate
from zofo.scoring.objective import read_prefix

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
    """A tokenizer whose tokens are characters; decoding spells the ids out, but for those that stand for `texts`."""

    pad_token_id, eos_token_id = None, 2

    def __init__(self, size: int = 128, **texts: str) -> None:
        self.size, self.texts = size, {int(name[1:]): text for name, text in texts.items()}

    def __len__(self) -> int:
        return self.size

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids: torch.Tensor, skip_special_tokens: bool) -> str:
        return " ".join(str(k) for k in ids.tolist() if k != 2 or not skip_special_tokens)

    def batch_decode(self, rows: Sequence[Any], skip_special_tokens: bool = False) -> list[str]:
        kept = [[k for k in torch.as_tensor(row).tolist() if k != 2 or not skip_special_tokens] for row in rows]
        return ["".join(self.texts.get(k, f"{k} ") for k in row) for row in kept]


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
            if parameter.dim() > 1:  # large enough that every context is continued in its own way
                nn.init.normal_(parameter, std=0.8)
        make = ADAPTERS[adapter]
        if make is not None:
            model = get_peft_model(model, make(kind))
            for name, parameter in model.named_parameters():
                if "prompt_encoder" in name:
                    nn.init.normal_(parameter, std=0.5)
    return model.double().train()


def greedy(model: nn.Module, text: str, count: int) -> str:
    """The same by whole forward passes, no cache."""
    return " ".join(str(k) for k in greedy_ids(model, [ord(letter) for letter in text], count) if k != 2)


def greedy_ids(model: nn.Module, ids: Sequence[int], count: int) -> list[int]:
    """The new tokens, the end of text among them."""
    ids, size = list(ids), len(ids)
    model.eval()
    for _ in range(count):
        row = torch.tensor([ids])
        with torch.no_grad():
            logits = model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == 2:
            break
    model.train()
    return ids[size:]


CONTEXTS = ((70, 71, 72, 73, 74, 75), (80,), (90, 91, 92), (40, 41, 42, 43))
EXAMPLES = [Encoded(context, ((5,),), 0) for context in CONTEXTS]
PREFIX = (50, 51, 52, 53, 54)


def spelled(ids: Sequence[int]) -> str:
    return " ".join(str(k) for k in ids if k != 2)


def said(model: Any, examples: Sequence[Encoded], count: int = 8, tokenizer: Any = None, **options: Any) -> list[str]:
    """Answers, with the model in eval mode as the caller of `answers` has it."""
    model.eval()
    return answers(model, tokenizer or Spelling(), examples, count, **options)


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


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", MODELS)
def test_answers_one_by_one_are_those_of_whole_passes(
    kind: str, adapter: str, remarks: pytest.LogCaptureFixture
) -> None:
    model = build(kind, adapter)
    wanted = [spelled(greedy_ids(model, context, 8)) for context in CONTEXTS]
    assert len(set(wanted)) >= 3
    assert [said(model, [example])[0] for example in EXAMPLES] == wanted
    assert not remarks.records


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_answers_of_a_padded_batch_are_those_of_each_row_alone(kind: str, adapter: str) -> None:
    model = build(kind, adapter)
    assert said(model, EXAMPLES) == [said(model, [example])[0] for example in EXAMPLES]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_answers_of_a_padded_batch_are_those_of_each_row_alone_where_positions_come_of_the_mask(adapter: str) -> None:
    model = build("opt", adapter)
    assert said(model, EXAMPLES) == [said(model, [example])[0] for example in EXAMPLES]


@pytest.mark.parametrize("adapter", ["plain", "lora"])
@pytest.mark.parametrize("kind", MODELS)
def test_answers_after_a_kept_prefix_are_those_after_the_whole_text(kind: str, adapter: str) -> None:
    model = build(kind, adapter).eval()
    past = read_prefix(model, PREFIX)
    wanted = [spelled(greedy_ids(model, PREFIX + context, 8)) for context in CONTEXTS]
    assert wanted != [spelled(greedy_ids(model, context, 8)) for context in CONTEXTS]
    assert said(model, EXAMPLES, past=past) == wanted
    assert said(model, EXAMPLES, past=past) == wanted, "the prefix is as it was"


@pytest.mark.parametrize("text", ["\n", "x\nrest", "\n\n"])
def test_an_answer_ends_at_a_newline_and_the_rest_of_the_line_is_dropped(text: str) -> None:
    model = build("llama", "plain")
    told = [greedy_ids(model, context, 8) for context in CONTEXTS]
    stop = told[0][3]
    assert all(k not in (2, stop) for k in told[0][:3])
    names: dict[str, Any] = {f"_{stop}": text}
    found = said(model, EXAMPLES, tokenizer=Spelling(**names))
    assert found[0] == (spelled(told[0][:3]) + " " + text.split("\n")[0]).strip()
    assert found[1:] == [spelled(ids[: ids.index(stop)] if stop in ids else ids) for ids in told[1:]]


def test_a_row_that_ended_waits_for_the_others_and_costs_no_more_words() -> None:
    """No pass is made once every row has had its newline."""
    model, calls = build("llama", "plain"), list[int]()
    told = [greedy_ids(model, context, 8) for context in CONTEXTS[:2]]
    names: dict[str, Any] = {f"_{told[k][k + 1]}": "\n" for k in range(2)}
    longest = max(next(n for n, k in enumerate(ids) if f"_{k}" in names) for ids in told)
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    said(model, EXAMPLES[:2], tokenizer=Spelling(**names))
    handle.remove()
    assert len(calls) == longest + 1


def test_newlines_are_text_where_answers_may_have_several_lines() -> None:
    model = build("llama", "plain")
    ids = greedy_ids(model, CONTEXTS[0], 8)
    names: dict[str, Any] = {f"_{ids[3]}": "\n"}
    (found,) = said(model, EXAMPLES[:1], tokenizer=Spelling(**names), line=False)
    assert found == "".join("\n" if k == ids[3] else f"{k} " for k in ids).strip()


def test_an_answer_ends_at_the_end_of_text() -> None:
    model = build("llama", "plain")
    ids = greedy_ids(model, CONTEXTS[0], 8)
    model.generation_config.eos_token_id = ids[2]
    (found, *_) = said(model, EXAMPLES)
    assert found == spelled(ids[: ids.index(ids[2]) + 1])


@pytest.mark.parametrize("named", [None, 2, [2]])
def test_an_answer_ends_at_the_token_that_the_tokenizer_ends_texts_with(named: Any) -> None:
    """What training closes answers with, whatever the model's own file names."""
    model = build("llama", "plain")
    ids = greedy_ids(model, CONTEXTS[0], 8)
    model.generation_config.eos_token_id = named
    tokenizer = Spelling()
    tokenizer.eos_token_id = ids[2]
    (found,) = said(model, EXAMPLES[:1], tokenizer=tokenizer)
    assert found == spelled(ids[: ids.index(ids[2]) + 1])


def test_answers_change_no_mode_and_no_setting() -> None:
    model = build("gpt2", "lora")
    before = model.base_model.model.generation_config
    said(model, EXAMPLES)
    assert model.base_model.model.generation_config is before and "generation_config" not in vars(model)
    assert all(parameter.requires_grad == ("lora" in name) for name, parameter in model.named_parameters())


@pytest.mark.parametrize(("prefix", "count", "fits"), [((), 26, True), ((), 27, False), (PREFIX, 22, False)])
def test_rows_too_long_for_the_model_are_refused(prefix: tuple[int, ...], count: int, fits: bool) -> None:
    model = build("gpt2", "plain").eval()
    past = read_prefix(model, prefix) if prefix else None
    if fits:
        assert len(said(model, EXAMPLES, count, past=past)) == 4
        return
    with pytest.raises(BadInput, match="33 tokens"):
        said(model, EXAMPLES, count, past=past)


def test_virtual_tokens_count_towards_the_length_of_answers() -> None:
    with pytest.raises(BadInput, match="33 tokens"):
        said(build("llama", "prompt"), EXAMPLES, 23)


def test_a_recurrent_model_sees_no_padding() -> None:
    """An RWKV reads it whatever the mask says, and mixes rows: each goes alone."""
    with seeded(0, "test", 0):
        model = RwkvForCausalLM(
            RwkvConfig(vocab_size=128, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2, eos_token_id=2)
        ).eval()
        model.requires_grad_(False)
        for param in model.parameters():
            param.add_(torch.randn_like(param) * 0.3)
    rows = [Encoded(tuple(range(5, 5 + n)), ((1,),), 0) for n in (3, 9, 3, 6)]
    alone = [answers(model, Spelling(), [row], 6, line=False)[0] for row in rows]
    assert answers(model, Spelling(), rows, 6, line=False) == alone and len(set(alone)) > 1


def test_a_prompt_on_a_recurrent_model_writes_nothing() -> None:
    model = RwkvForCausalLM(RwkvConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2)).eval()
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, num_attention_heads=1)
    with pytest.raises(BadInput, match=r"recurrent model with virtual tokens .*; use LoRA"):
        generate(get_peft_model(model, prompt), Spelling(), "abc", 2)
