"""The classification loss is the published one, and computing a few words alone changes nothing but its cost."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn

from zofo.core.noise import Direction
from zofo.core.probe import Point, affine
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.core.weights import move
from zofo.core.weights.head import output_head
from zofo.scoring.batch import Batch, Encoded, choice_batch
from zofo.scoring.objective import answer_logprobs, choice_losses, cross_entropy, few_words, one_word

# peft 0.21.2 reads a name that transformers 5.23 has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Tiny = Callable[..., nn.Module]
WORDS = (
    Encoded((5, 6, 7, 8), ((20,), (21,)), 1),
    Encoded((9, 10), ((30,), (21,), (33,), (34,)), 2, right=(2, 0)),
    Encoded((3, 4, 11), ((40, 20), (40, 21), (40, 22)), 0, skip=(1, 1, 1)),
)
TEXTS = (
    *WORDS[:2],
    Encoded((11, 12, 13, 14), ((40, 41), (42,)), 0),
    Encoded((15, 16), ((50, 51, 52), (50, 53), (54,), (55, 56)), 1, right=(1, 3), skip=(1, 1, 0, 0)),
)
TIED = ["gpt2", "opt", "llama-tied", "qwen2"]
KEY, EPS = 7, 0.01


def score(model: nn.Module, context: tuple[int, ...], answer: tuple[int, ...], skip: int) -> Tensor:
    """Mean log-probability of an answer: one unpadded row, all logits, no hook."""
    ids = torch.tensor([context + answer])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(answer) - 1 : -1]
    every = torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None])[:, 0]
    return every[skip:].mean()


def plain_losses(model: nn.Module, examples: tuple[Encoded, ...]) -> Tensor:
    """-log of the right choices' share of a softmax over scores, example by example."""
    found = []
    for e in examples:
        skips = e.skip or (0,) * len(e.answers)
        scores = [score(model, e.context, answer, skip) for answer, skip in zip(e.answers, skips, strict=True)]
        shares = torch.softmax(torch.stack(scores), 0)
        found.append(-torch.log(shares[list(e.rights)].sum()))
    return torch.stack(found)


def batch_of(examples: tuple[Encoded, ...], branched: bool = False) -> Batch:
    return choice_batch(examples, range(len(examples)), pad=0, branched=branched)


def gradient(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: g if g is not None else torch.zeros_like(p) for (name, p), g in zip(named.items(), found, strict=True)
    }


def full(model: nn.Module, batch: Batch) -> Tensor:
    """The same loss by way of the whole vocabulary."""
    return cross_entropy(answer_logprobs(model, batch), batch)


def tolerance(kind: str, dtype: torch.dtype) -> dict[str, float]:
    """fp64, but for norms that compute in fp32 whatever the weights are."""
    exact = kind in ("gpt2", "opt") and dtype == torch.float64
    return {"rtol": 1e-9, "atol": 1e-11} if exact else {"rtol": 1e-4, "atol": 1e-5}


@contextmanager
def widths(model: nn.Module) -> Iterator[list[int]]:
    """How many logits a position the head computes, at each of its calls."""
    seen: list[int] = []
    head = output_head(model)
    assert head is not None
    handle = head.register_forward_hook(lambda _, args, out: seen.append(out.shape[-1]))
    try:
        yield seen
    finally:
        handle.remove()


@pytest.fixture(params=[1 << 20, 256], ids=["whole", "tiled"])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch probing with the head in one piece, and in tiles."""
    monkeypatch.setattr(affine, "TILE", request.param)


@pytest.mark.parametrize("examples", [WORDS, TEXTS], ids=["words", "texts"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "mistral", "gemma"])
def test_losses_and_gradients_equal_a_plain_computation(tiny: Tiny, kind: str, examples: tuple[Encoded, ...]) -> None:
    """Several right answers, several lengths, and tokens of the prompt in front of an answer."""
    model = tiny(kind).double()
    found, wanted = choice_losses(model, batch_of(examples)), plain_losses(model, examples)
    close = tolerance(kind, torch.float64)
    torch.testing.assert_close(found, wanted, **close)
    weights = torch.arange(1, len(examples) + 1)
    grads = [gradient(model, (loss * weights).sum()) for loss in (found, wanted)]
    torch.testing.assert_close(*grads, **close)
    assert max(float(g.abs().max()) for g in grads[0].values()) > 1e-2


@pytest.mark.parametrize("branched", [False, True])
def test_branched_batches_have_the_same_losses(tiny: Tiny, branched: bool) -> None:
    model = tiny("gpt2").double()
    with torch.no_grad():
        found, wanted = choice_losses(model, batch_of(TEXTS, branched)), plain_losses(model, TEXTS)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_an_example_whose_answers_are_all_right_costs_nothing(tiny: Tiny) -> None:
    every = Encoded((5, 6), ((20,), (21, 22), (23,)), 0, right=(0, 1, 2))
    with torch.no_grad():
        assert float(choice_losses(tiny("llama"), batch_of((every,)))) == pytest.approx(0, abs=1e-6)


def test_cross_entropy_is_finite_and_has_finite_gradients_far_out() -> None:
    batch = batch_of((Encoded((5,), ((20,), (21,), (22,)), 1), WORDS[0]))
    scores = torch.tensor([1e4, -1e4, 0.0, 3.0, 3.0], requires_grad=True)
    loss = cross_entropy(scores, batch)
    assert loss.tolist() == pytest.approx([2e4, torch.log(torch.tensor(2.0)).item()])
    (grad,) = torch.autograd.grad(loss.sum(), scores)
    assert grad.tolist() == pytest.approx([1, -1, 0, 0.5, -0.5])


def test_only_words_after_one_and_the_same_context_are_a_matter_of_few_words() -> None:
    assert one_word(batch_of(WORDS)) and one_word(batch_of(WORDS, branched=True))
    assert not one_word(batch_of(TEXTS)) and not one_word(batch_of(TEXTS[2:3]))
    apart = Encoded((3, 4), ((40, 20), (41, 21)), 0, skip=(1, 1))
    assert not one_word(batch_of((apart,)))


@pytest.mark.parametrize("branched", [False, True])
@pytest.mark.parametrize("kind", TIED)
def test_few_words_have_the_loss_and_gradient_of_all_words(tiny: Tiny, kind: str, branched: bool) -> None:
    model, batch = tiny(kind).double(), batch_of(WORDS, branched)
    assert few_words(model) is not None
    found, wanted = choice_losses(model, batch), full(model, batch)
    close = tolerance(kind, torch.float64)
    torch.testing.assert_close(found, wanted, **close)
    torch.testing.assert_close(gradient(model, found.sum()), gradient(model, wanted.sum()), **close)


ADAPTERS: dict[str, Callable[[], Any]] = {
    "lora": lambda: LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights=False),
    "head": lambda: LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False
    ),
    "prefix": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prompt": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_have_the_loss_and_gradient_of_all_words(tiny: Tiny, adapter: str) -> None:
    model: Any = get_peft_model(tiny("llama-tied"), ADAPTERS[adapter]())
    batch = batch_of(WORDS)
    with widths(model) as seen:
        found = choice_losses(model, batch)
    assert seen == [96 if adapter == "head" else 6]
    wanted = full(model, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    close = {"rtol": 1e-3, "atol": 1e-5}
    torch.testing.assert_close(gradient(model, found.sum()), gradient(model, wanted.sum()), **close)


@pytest.mark.parametrize("kind", TIED)
def test_a_tied_head_computes_the_choices_words_alone(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    with widths(model) as seen, torch.no_grad():
        choice_losses(model, batch_of(WORDS))
    assert seen == [6]  # 20, 21, 22, 30, 33, 34


@pytest.mark.parametrize(
    ("kind", "examples"), [("llama", WORDS), ("phi", WORDS), ("gemma", WORDS), ("llama-tied", TEXTS)]
)
def test_untied_heads_scaling_embeddings_and_longer_answers_go_through_the_whole_vocabulary(
    tiny: Tiny, kind: str, examples: tuple[Encoded, ...]
) -> None:
    model, batch = tiny(kind), batch_of(examples)
    with widths(model) as seen, torch.no_grad():
        found = choice_losses(model, batch)
        assert torch.equal(found, full(model, batch))
    assert seen == [96, 96]


def test_a_head_with_a_bias_goes_through_the_whole_vocabulary(tiny: Tiny) -> None:
    model = tiny("llama-tied")
    head = output_head(model)
    assert few_words(model) is not None and isinstance(head, nn.Linear)
    head.bias = nn.Parameter(torch.linspace(-3, 3, 96))
    with torch.no_grad():
        torch.testing.assert_close(choice_losses(model, batch_of(WORDS)), plain_losses(model, WORDS))


def test_few_words_in_bf16_are_near_those_in_fp32(tiny: Tiny) -> None:
    model, batch = tiny("llama-tied"), batch_of(WORDS)
    with torch.no_grad():
        found, wanted = choice_losses(model, batch, "bf16"), choice_losses(model, batch)
    assert found.dtype == torch.float32 and not torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("own", [False, True])
def test_the_heads_forward_comes_back_when_the_pass_fails(tiny: Tiny, own: bool) -> None:
    model = tiny("llama-tied")
    head: Any = output_head(model)
    before = head.forward
    if own:
        head.forward = before

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    handle = head.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        choice_losses(model, batch_of(WORDS))
    handle.remove()
    assert vars(head).get("forward") is (before if own else None)
    assert not head._forward_pre_hooks


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("kind", TIED)
def test_a_probe_of_few_words_is_the_loss_of_weights_that_were_really_moved(tiny: Tiny, kind: str) -> None:
    """Loss at theta + a z by scratch = loss of a copy whose weights are theta + a z, computed from all logits."""
    model, batch = tiny(kind).double(), batch_of(WORDS)
    leaves = tree.find(model)
    points = [Point(leaves.direction("gaussian", KEY), EPS), Point(leaves.direction("gaussian", KEY), -EPS), Point()]
    with widths(model) as seen:
        found = Scratch(model, leaves)(lambda: choice_losses(model, batch), points)
    assert seen == [6] * 3
    for loss, a in zip(found, (EPS, -EPS, 0.0), strict=True):
        twin = copy.deepcopy(model)
        move.replay(tree.find(twin), "gaussian", [(KEY, a)] if a else [])
        torch.testing.assert_close(loss, plain_losses(twin, WORDS).detach(), **tolerance(kind, torch.float64))
    assert float((found[0] - found[1]).abs().min()) > 1e-4


@pytest.mark.usefixtures("tile")
def test_a_probe_of_few_words_leaves_the_model_as_it_was(tiny: Tiny) -> None:
    model, batch = tiny("llama-tied"), batch_of(WORDS)
    before = {name: p.clone() for name, p in model.named_parameters()}
    Scratch(model, tree.find(model))(lambda: choice_losses(model, batch), [Point(Direction("gaussian", KEY), EPS)])
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any("forward" in vars(m) or m._forward_pre_hooks or m._forward_hooks for m in model.modules())
