"""The scoring path gives what a plain computation over all logits gives, values and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from zofo.core.streams import seeded
from zofo.scoring.batch import Encoded, choice_batch, lm_batch
from zofo.scoring.objective import answer_logprobs, objective_note, output_head, read_prefix, row_losses
from zofo.scoring.past import can_share

# peft 0.21.2 reads a name that transformers 5.23 has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

VOCAB = 128
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
OPT: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "dropout": 0.0, "init_std": 0.3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**OPT)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**COMMON)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**COMMON)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**COMMON, sliding_window=8)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**COMMON)),
}
TARGETS = {"gpt2": ["c_attn"]}
ADAPTERS = {
    "plain": None,
    "lora": lambda kind: LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=TARGETS.get(kind, ["q_proj", "v_proj"]),
        init_lora_weights=False, fan_in_fan_out=kind == "gpt2",
    ),
    "prefix": lambda kind: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prompt": lambda kind: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}  # fmt: skip
EXAMPLES = (
    Encoded((5, 6, 7, 8), ((20,), (21,)), 1),
    Encoded((9, 10), ((30, 31, 32), (30, 31, 33), (34, 35)), 2),
    Encoded((11, 12, 13, 14, 15, 16, 17), ((40, 41), (42,)), 0, cut=True),
)
BORDER = Encoded((3, 4), ((50, 51, 52), (53,), (50, 51)), 0, skip=(2, 0, 1))
PREFIX = (60, 61, 62, 63, 64)
SHARING = [kind for kind in MODELS if kind != "mistral"]


def build(kind: str, adapter: str = "plain", dtype: torch.dtype = torch.float32) -> nn.Module:
    with seeded(7, f"model {kind} {adapter}"):
        model: Any = MODELS[kind]()
        make = ADAPTERS[adapter]
        if make is not None:
            model = get_peft_model(model, make(kind))
            for name, parameter in model.named_parameters():
                if "prompt_encoder" in name:
                    nn.init.normal_(parameter, std=0.5)
    return model.to(dtype).eval()


def plain_score(model: nn.Module, context: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    """Mean log-probability of an answer: one unpadded row, all logits, no hook."""
    ids = torch.tensor([context + answer])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(answer) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None]).mean()


def close(kind: str, tight: float = 1e-10) -> dict[str, float]:
    """Tolerances in fp64: Gemma's norm computes in fp32 whatever the weights are."""
    return {"rtol": 1e-5, "atol": 1e-5} if kind == "gemma" else {"rtol": tight, "atol": tight}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", MODELS)
def test_scores_of_all_choices_equal_a_plain_computation(kind: str, adapter: str) -> None:
    model = build(kind, adapter, torch.float64)
    with torch.no_grad():
        found = answer_logprobs(model, choice_batch(EXAMPLES, [2, 0, 1], pad=0))
        wanted = [plain_score(model, EXAMPLES[k].context, a) for k in (2, 0, 1) for a in EXAMPLES[k].answers]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.stack(wanted), **close(kind))


def test_tokens_that_belong_to_the_prompt_are_not_scored() -> None:
    """A choice's score is the mean over its other tokens, each given all that stands before it."""
    model = build("llama", dtype=torch.float64)
    moved = [BORDER.context + answer[:skip] for answer, skip in zip(BORDER.answers, BORDER.skip, strict=True)]
    rest = [answer[skip:] for answer, skip in zip(BORDER.answers, BORDER.skip, strict=True)]
    with torch.no_grad():
        wanted = torch.stack([plain_score(model, *pair) for pair in zip(moved, rest, strict=True)])
        for branched in (False, True):
            found = answer_logprobs(model, choice_batch([EXAMPLES[1], BORDER], [1, 0], 0, branched))[:3]
            torch.testing.assert_close(found, wanted, **close("llama"))
        torch.testing.assert_close(row_losses(model, lm_batch([BORDER], [0], 0)), -wanted[:1], **close("llama"))


@pytest.mark.parametrize("adapter", ["plain", "lora"])
@pytest.mark.parametrize("kind", SHARING)
def test_branched_batches_score_as_plain_ones(kind: str, adapter: str) -> None:
    model, rows = build(kind, adapter, torch.float64), (*EXAMPLES, BORDER)
    assert can_share(model)
    with torch.no_grad():
        wanted = answer_logprobs(model, choice_batch(rows, [2, 0, 3, 1], pad=0))
        found = answer_logprobs(model, choice_batch(rows, [2, 0, 3, 1], pad=9, branched=True))
    torch.testing.assert_close(found, wanted, **close(kind))


@pytest.mark.parametrize("branched", [False, True])
@pytest.mark.parametrize("adapter", ["plain", "lora"])
@pytest.mark.parametrize("kind", SHARING)
def test_rows_that_go_on_from_a_kept_prefix_score_as_whole_ones(kind: str, adapter: str, branched: bool) -> None:
    model, rows = build(kind, adapter, torch.float64), (*EXAMPLES, BORDER)
    whole = [replace(row, context=PREFIX + row.context) for row in rows]
    with torch.no_grad():
        wanted = answer_logprobs(model, choice_batch(whole, [3, 2, 0, 1], pad=0))
        past = read_prefix(model, PREFIX)
        found = answer_logprobs(model, choice_batch(rows, [3, 2, 0, 1], 9, branched), past=past)
        alone = answer_logprobs(model, choice_batch(rows, [3, 2, 0, 1], 9, branched))
    torch.testing.assert_close(found, wanted, **close(kind))
    assert (found - alone).abs().max() > 1e-2, "the prefix counts"


@pytest.mark.parametrize("kind", ["gpt2", "opt"])  # fp64 throughout
def test_branched_batches_have_the_gradients_of_plain_ones(kind: str) -> None:
    model = build(kind, dtype=torch.float64)
    batches = [choice_batch(EXAMPLES, [0, 1, 2], 0, branched) for branched in (False, True)]
    plain, branched = (
        torch.autograd.grad(answer_logprobs(model, batch).sum(), list(model.parameters())) for batch in batches
    )
    torch.testing.assert_close(branched, plain, rtol=1e-8, atol=1e-11)


def test_a_model_with_a_sliding_window_is_not_shared() -> None:
    assert not can_share(build("mistral"))


def test_going_on_works_in_bf16_too() -> None:
    model, rows = build("llama"), choice_batch(EXAMPLES, [0, 1, 2], 0, branched=True)
    whole = choice_batch([replace(row, context=PREFIX + row.context) for row in EXAMPLES], [0, 1, 2], 0)
    with torch.no_grad():
        found = answer_logprobs(model, rows, "bf16", read_prefix(model, PREFIX, "bf16"))
        torch.testing.assert_close(found, answer_logprobs(model, whole), rtol=0.1, atol=0.1)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_equal_those_of_a_plain_computation(kind: str, adapter: str) -> None:
    model = build(kind, adapter, torch.float64)
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(row_losses(model, lm_batch(EXAMPLES, [0, 1, 2], pad=0)).mean(), parameters)
    wanted = -torch.stack([plain_score(model, e.context, e.answers[e.label]) for e in EXAMPLES]).mean()
    assert any(bool(g.abs().max() > 1e-4) for g in found)
    rtol, atol = (1e-4, 1e-6) if kind == "gemma" else (1e-8, 1e-11)
    torch.testing.assert_close(found, torch.autograd.grad(wanted, parameters), rtol=rtol, atol=atol)


@pytest.mark.parametrize("kind", MODELS)
def test_fp32_is_right_to_rounding(kind: str) -> None:
    exact, model = build(kind, dtype=torch.float64), build(kind)
    batch = choice_batch(EXAMPLES, [0, 1, 2], pad=0)
    with torch.no_grad():
        found = answer_logprobs(model, batch)
        torch.testing.assert_close(found.double(), answer_logprobs(exact, batch), rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32


def test_bf16_computing_leaves_weights_alone_and_scores_in_fp32() -> None:
    model, batch = build("llama"), lm_batch(EXAMPLES, [0, 1, 2], pad=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        found, wanted = row_losses(model, batch, "bf16"), row_losses(model, batch)
    assert found.dtype == torch.float32 and not torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.1)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_half_precision_weights_are_scored_in_fp32() -> None:
    with torch.no_grad():
        found = row_losses(build("llama", dtype=torch.bfloat16), lm_batch(EXAMPLES, [0, 1], pad=0))
    assert found.dtype == torch.float32


def test_branched_batches_bring_only_wanted_positions_to_the_head() -> None:
    model, seen = build("llama"), []
    head = output_head(model)
    assert head is not None
    handle = head.register_forward_hook(lambda _, args, out: seen.append(out.shape))
    with torch.no_grad():
        answer_logprobs(model, choice_batch(EXAMPLES, [1], 0, branched=True))
    handle.remove()
    assert seen == [(1, VOCAB), (3, VOCAB)]  # the context's end; after 30, after 30 31, after 34
    assert not head._forward_pre_hooks


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", MODELS)
def test_only_wanted_positions_reach_the_head_and_the_hook_goes(kind: str, adapter: str) -> None:
    model, seen = build(kind, adapter), []
    head = output_head(model)
    assert head is not None
    handle = head.register_forward_hook(lambda _, args, out: seen.append(out.shape))
    with torch.no_grad():
        row_losses(model, lm_batch(EXAMPLES, [0, 1, 2], pad=0))
    handle.remove()
    assert seen == [(1 + 2 + 2, VOCAB)]
    assert not head._forward_pre_hooks


def test_the_hook_goes_when_the_forward_pass_fails() -> None:
    model = build("llama")
    head = output_head(model)
    assert head is not None

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    handle = head.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        row_losses(model, lm_batch(EXAMPLES, [0], pad=0))
    handle.remove()
    assert not head._forward_pre_hooks


def test_padding_and_company_do_not_change_a_score() -> None:
    model = build("opt", dtype=torch.float64)
    with torch.no_grad():
        alone = torch.cat([row_losses(model, lm_batch(EXAMPLES, [k], pad=0)) for k in range(3)])
        together = row_losses(model, lm_batch(EXAMPLES, [0, 1, 2], pad=9))
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


class Headless(nn.Module):
    """A model that names no head: the weight is used by a function."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Any) -> Any:
        return self.inner(**inputs)


def test_a_model_that_names_no_head_scores_the_same_and_says_so() -> None:
    model, batch = build("llama"), choice_batch(EXAMPLES, [0, 1, 2], pad=0)
    with torch.no_grad():
        torch.testing.assert_close(answer_logprobs(Headless(model), batch), answer_logprobs(model, batch))
    assert objective_note(model) is None
    assert "no output head" in (objective_note(Headless(model)) or "")
