"""Mean losses and their gradients: over rows, not over micro-batches; exact, or along one z."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from zofo.adapters.slots import attach
from zofo.config import AdapterConfig, MethodConfig
from zofo.core import noise, streams
from zofo.core.noise import Direction
from zofo.core.probe import Point, Stackable
from zofo.core.probe.scratch import Scratch
from zofo.core.probe.stand import CannotStack
from zofo.core.sketch import Projection
from zofo.core.sketch.capture import capturing
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput
from zofo.methods import losses
from zofo.methods.losses import Terms
from zofo.methods.state import Problem
from zofo.models import recompute
from zofo.scoring.batch import Batch, Encoded, choice_batch, lm_batch
from zofo.scoring.objective import choice_losses, row_losses

Tiny = Callable[..., nn.Module]


def loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return -out[:, -2].log_softmax(-1).gather(1, ids[:, -1:]).squeeze(1)


@pytest.fixture
def problem(tiny: Tiny) -> Problem:
    slots = attach(tiny("llama").requires_grad_(False), AdapterConfig(r=2), ("p", "s"), 3)
    with torch.no_grad():
        for param in slots.list("p"):
            param.add_(0.05)
    return Problem(slots.model, loss, MethodConfig(lower_eps=1e-3), 0, 1, slots=slots)


def test_the_mean_is_over_rows_however_they_are_cut(problem: Problem, rows: torch.Tensor) -> None:
    whole = losses.mean_loss(problem, [rows], "p")
    assert whole.dtype == torch.float64
    torch.testing.assert_close(losses.mean_loss(problem, [rows[:1], rows[1:]], "p"), whole, rtol=1e-6, atol=0)
    assert losses.mean_loss(problem, [rows], "s") != whole  # the slot named is the one that is used


def test_the_gradient_is_autograds_and_no_other_slot_or_weight_gets_one(problem: Problem, rows: torch.Tensor) -> None:
    assert problem.slots is not None
    slope = losses.gradient(problem, [rows[:1], rows[1:]], "p")
    problem.slots.use("p")
    wanted = torch.autograd.grad(loss(problem.model, rows).mean(), problem.slots.list("p"))
    for found, exact in zip(slope.grads, wanted, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)
    assert slope.loss == pytest.approx(float(loss(problem.model, rows).mean().detach()), rel=1e-6)
    assert all(param.grad is None for param in problem.model.parameters())


def test_the_estimate_is_c_z_and_leaves_the_adapter_to_the_bit(problem: Problem, rows: torch.Tensor) -> None:
    assert problem.slots is not None
    before = problem.slots.tensors("p")
    exact = losses.gradient(problem, [rows], "p").grads
    slope = losses.estimated_gradient(problem, [rows], "p", 4, 1)
    assert all(torch.equal(param, before[name]) for name, param in problem.slots.params["p"].items())
    key = streams.key(0, "noise-p", 4, 1)
    z = [
        noise.draw(noise.Direction("gaussian", key), noise.tensor_id(name), value.numel()).view_as(value)
        for name, value in before.items()
    ]
    c = sum(float((g.double() * d).sum()) for g, d in zip(exact, z, strict=True))
    for found, d in zip(slope.grads, z, strict=True):
        torch.testing.assert_close(found.double(), c * d, rtol=2e-2, atol=1e-4)


def test_an_exception_in_an_estimate_leaves_the_adapter_to_the_bit(problem: Problem, rows: torch.Tensor) -> None:
    assert problem.slots is not None
    calls: list[Any] = []

    def failing(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        calls.append(ids)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return loss(model, ids)

    before = problem.slots.tensors("p")
    broken = Problem(problem.model, failing, problem.config, 0, 1, slots=problem.slots)
    with pytest.raises(KeyboardInterrupt):
        losses.estimated_gradient(broken, [rows], "p")
    assert all(torch.equal(param, before[name]) for name, param in problem.slots.params["p"].items())


def test_an_estimate_is_without_dropout_whatever_mode_the_model_is_in(tiny: Tiny, rows: torch.Tensor) -> None:
    def slope(train: bool, seed: int) -> losses.Slope:
        model = tiny("gpt2", **DROPOUT["gpt2"]).requires_grad_(False)
        slots = attach(model, AdapterConfig(r=2, dropout=0.5), ("p",), 3)
        slots.model.train(train)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return losses.estimated_gradient(Problem(slots.model, loss, MethodConfig(), 0, 1, slots=slots), [rows], "p")

    still, one, two = slope(False, 1), slope(True, 1), slope(True, 2)
    assert still.loss == one.loss == two.loss
    for grads in zip(still.grads, one.grads, two.grads, strict=True):
        assert torch.equal(grads[0], grads[1]) and torch.equal(grads[0], grads[2])


def test_weighted_is_the_weighted_sum_and_changes_no_part() -> None:
    one, two = losses.Slope(1.0, [torch.tensor([1.0, 2.0])]), losses.Slope(2.0, [torch.tensor([10.0, 0.0])])
    (found,) = losses.weighted([(0.5, one), (0.25, two)])
    assert found.tolist() == [3.0, 1.0]
    assert one.grads[0].tolist() == [1.0, 2.0] and two.grads[0].tolist() == [10.0, 0.0]


DROPOUT: dict[str, dict[str, float]] = {
    "gpt2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "opt": {"dropout": 0.5, "attention_dropout": 0.5},
}


@pytest.mark.parametrize("arch", sorted(DROPOUT))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_bases_dropout_stays_off_and_the_adapters_is_a_function_of_the_step(
    tiny: Tiny, rows: torch.Tensor, checkpointing: bool, arch: str
) -> None:
    def slopes(dropout: float) -> tuple[torch.Tensor, ...]:
        model = tiny(arch, **DROPOUT[arch]).requires_grad_(False)
        if checkpointing:
            recompute(model)
        slots = attach(model, AdapterConfig(r=2, dropout=dropout), ("p",), 3)
        with torch.no_grad():
            for param in slots.list("p"):
                param.add_(0.05)
        made = Problem(slots.model, loss, MethodConfig(), 0, 1, slots=slots)
        found = [
            losses.gradient(made, [rows], "p", *step, dropout=on)
            for step, on in (((1,), True), ((1,), True), ((2,), True), ((1,), False))
        ]
        assert not any(module.training for module in slots.model.modules())
        return tuple(torch.cat([g.flatten() for g in slope.grads]) for slope in found)

    first, again, other, exact = slopes(0.0)
    assert torch.equal(first, again) and torch.equal(first, other) and torch.equal(first, exact)
    first, again, other, without = slopes(0.5)
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.testing.assert_close(without, exact)


def test_p_and_s_draw_dropout_of_their_own(tiny: Tiny, rows: torch.Tensor) -> None:
    slots = attach(tiny("llama").requires_grad_(False), AdapterConfig(r=2, dropout=0.5), ("p", "s"), 3)
    with torch.no_grad():
        for slot in ("p", "s"):
            for param in slots.list(slot):
                param.fill_(0.05)
    made = Problem(slots.model, loss, MethodConfig(), 0, 1, slots=slots)
    p, s = (losses.gradient(made, [rows], slot, 1, 0) for slot in ("p", "s"))
    exact = [losses.gradient(made, [rows], slot, 1, 0, dropout=False) for slot in ("p", "s")]
    assert p.loss != s.loss and exact[0].loss == exact[1].loss


class Chosen(nn.Module):
    """Two adapted layers, of which a batch takes one (experts)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 1, bias=False) for _ in range(2)])

    def forward(self, batch: tuple[int, torch.Tensor]) -> torch.Tensor:
        value: torch.Tensor = self.layers[batch[0]](batch[1]).square()
        return value.squeeze(1)


def test_what_took_no_part_has_a_gradient_of_zero_and_a_loss_of_nothing_is_told() -> None:
    model = Chosen()
    weights = [layer.weight for layer in model.layers]
    value = model((1, torch.ones(3, 2))).sum()
    found = losses.derived(value, weights, [])  # type: ignore[arg-type]
    assert not found[0].any() and torch.equal(
        found[1], torch.autograd.grad(model((1, torch.ones(3, 2))).sum(), weights[1])[0]
    )  # type: ignore[arg-type]
    for nothing in (torch.tensor(1.0), torch.ones(2, requires_grad=True).sum()):
        with pytest.raises(BadInput, match="it hangs on none of the weights that are to learn"):
            losses.derived(nothing, weights, [])  # type: ignore[arg-type]


def test_activation_checkpointing_recomputes_in_both_levels(tiny: Tiny, rows: torch.Tensor) -> None:
    model = tiny("llama").requires_grad_(False)
    recompute(model)
    slots = attach(model, AdapterConfig(r=2), ("p",), 3)
    calls: list[int] = []
    handles = [
        m.register_forward_pre_hook(lambda *_: calls.append(1))
        for n, m in slots.model.named_modules()
        if n.endswith(".mlp")
    ]
    made = Problem(slots.model, loss, MethodConfig(), 0, 1, slots=slots)
    for dropout in (True, False):
        calls.clear()
        losses.gradient(made, [rows], "p", 0, dropout=dropout)
        assert len(calls) == 2 * len(handles)


# ---- terms, one by one and all at once -----------------------------------------------------------------------

ROWS = [
    Encoded((5, 6, 7), ((8, 9),), 0),
    Encoded((11, 12), ((13,),), 0),
    Encoded((20, 21, 22, 23), ((8,),), 0),
    Encoded((30,), ((31, 32, 33),), 0),
]
UNEVEN = {"f": ([0, 1, 2], [3]), "p": ([2], [0, 1])}  # rows of each micro-batch of D_f and D_p


def micro(part: str) -> list[Batch]:
    return [lm_batch(ROWS, index, 0) for index in UNEVEN[part]]


def of_terms(tiny: Tiny, arch: str, kind: str, **options: Any) -> Problem:
    """p and s of a kind, each somewhere else, on a model whose loss is that of zofo's batches."""
    config = AdapterConfig(kind=kind, r=2)  # type: ignore[arg-type]
    slots = attach(tiny(arch).requires_grad_(False), config, ("p", "s"), 3)
    with torch.no_grad():
        for i, param in enumerate([*slots.list("p"), *slots.list("s")], 1):
            param.add_(0.05 * torch.randn(param.shape, generator=torch.Generator().manual_seed(i)))
    return Problem(slots.model.eval(), row_losses, MethodConfig(), 0, 1, slots=slots, stacks=True, **options)


def term(problem: Problem, *parts: tuple[str | None, list[Batch]]) -> Terms:
    made = losses.terms(problem, parts)
    assert isinstance(made, Terms) and isinstance(made, Stackable)
    return made


@contextmanager
def passes(model: nn.Module) -> Iterator[list[int]]:
    """Rows of each forward pass of the base model."""
    seen: list[int] = []
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    handle = embedding.register_forward_hook(lambda _, args, out: seen.append(out.shape[0]))
    try:
        yield seen
    finally:
        handle.remove()


G = (("p", "f"), ("p", "p"), ("s", "p"))  # A, B and C: slot and rows
BY_KIND = {  # rows of each pass at one point: micro-batch by micro-batch; of p and s together, or of one after the other
    "lora": [3 + 1 + 1, 1 + 2 + 2],
    "prefix": [3 + 1, 1 + 2, 1, 2],
    "prompt": [3 + 1, 1 + 2, 1, 2],
}


@pytest.mark.parametrize("kind", sorted(BY_KIND))
@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2"])
def test_stacked_terms_are_the_terms_at_every_point(tiny: Tiny, arch: str, kind: str) -> None:
    """LoRA's p and s go by row, other kinds slot by slot; the mean of a term is over its own rows."""
    problem = of_terms(tiny, arch, kind)
    assert problem.slots is not None
    before = {slot: problem.slots.tensors(slot) for slot in "ps"}
    objective = term(problem, *((slot, micro(part)) for slot, part in G))
    with torch.no_grad():
        want = objective()
        for n in (1, 2, 3):
            with passes(problem.model) as seen:
                found = objective.stacked(n)
            assert found.shape == (n, 3) and found.dtype == torch.float64
            torch.testing.assert_close(found, want.expand(n, 3), rtol=2e-6, atol=0)
            assert seen == [n * rows for rows in BY_KIND[kind]]
    assert len({round(value, 4) for value in want.tolist()}) == 3, "the terms can be told apart"
    for slot, held in before.items():
        assert all(torch.equal(param, held[name]) for name, param in problem.slots.params[slot].items())
    assert not problem.model._forward_pre_hooks


@pytest.mark.parametrize("kind", sorted(BY_KIND))
def test_terms_of_one_slot_are_one_pass_a_micro_batch(tiny: Tiny, kind: str) -> None:
    problem = of_terms(tiny, "llama", kind)
    objective = term(problem, ("s", micro("f")), ("s", micro("p")))
    with torch.no_grad(), passes(problem.model) as seen:
        found, want = objective.stacked(2), objective()
    assert seen[:2] == [2 * (3 + 1), 2 * (1 + 2)]
    torch.testing.assert_close(found, want.expand(2, 2), rtol=2e-6, atol=0)


def test_stacked_terms_without_an_adapter(tiny: Tiny) -> None:
    """MeZO's one term has no slot."""
    problem = Problem(tiny("llama"), row_losses, MethodConfig(), 0, 1, stacks=True)
    objective = term(problem, (None, micro("f")))
    with torch.no_grad():
        torch.testing.assert_close(objective.stacked(2), objective().expand(2, 1), rtol=2e-6, atol=0)


def test_stacked_terms_are_of_what_zeroth_order_minimises(tiny: Tiny) -> None:
    """The loss in the probes' own dtype, say."""
    problem = of_terms(tiny, "llama", "lora", upper=lambda model, batch: 3 * row_losses(model, batch))
    plain = term(of_terms(tiny, "llama", "lora"), ("p", micro("f")), ("s", micro("p")))
    with torch.no_grad():
        found = term(problem, *plain.parts).stacked(2)
        torch.testing.assert_close(found, 3 * plain().expand(2, 2), rtol=2e-6, atol=0)


def test_a_problem_that_does_not_stack_has_terms_that_are_called_alone(tiny: Tiny) -> None:
    problem = replace(of_terms(tiny, "llama", "lora"), stacks=False)
    made = losses.terms(problem, [("p", micro("f"))])
    assert not isinstance(made, Stackable)
    with torch.no_grad():
        assert torch.equal(made(), term(of_terms(tiny, "llama", "lora"), ("p", micro("f")))())


CHOICES = [
    Encoded((5, 6, 7, 8), ((8, 9), (8, 10, 11), (12,)), 1),
    Encoded((11, 12), ((13, 14, 15), (16, 17)), 0),
    Encoded((20, 21, 22), ((8,), (9,)), 1),
]


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_branched_batches_give_the_same_gradient_sketch_and_probed_losses(tiny: Tiny, arch: str) -> None:
    """Each context read once: p's gradient, theta's sketch in the same passes, and losses at theta +- eps z."""
    slots = attach(tiny(arch).double().requires_grad_(False), AdapterConfig(r=2), ("p",), 3)
    with torch.no_grad():
        for param in slots.list("p"):
            param.add_(0.05)
    own = {id(param) for param in slots.list("p")}
    leaves = tree.find(slots.model, keep=lambda key: id(key) not in own)
    problem = Problem(
        slots.model.eval(), choice_losses, MethodConfig(), 0, 1, leaves, Scratch(slots.model, leaves), slots
    )
    points = [Point(Direction("gaussian", 7), a) for a in (1e-3, -1e-3)]
    found = []
    for branched in (False, True):
        batch = choice_batch(CHOICES, range(3), 0, branched)
        assert (batch.tails is not None) == branched
        with capturing(leaves, Projection("rademacher", 1, 8, "input")) as capture:
            slope = losses.gradient(problem, [batch], "p", capture=capture)
        probed = problem.probe(losses.terms(problem, [("p", [batch])]), points)
        found.append((slope, [capture.grad().dense(leaf) for leaf in leaves], probed))
    (plain, theta, values), (shared, theta_too, values_too) = found
    near = 1e-10 if arch == "gpt2" else 1e-6  # Llama's norms compute in fp32 whatever the weights are
    assert shared.loss == pytest.approx(plain.loss, rel=near)
    for one, two in zip((*plain.grads, *theta), (*shared.grads, *theta_too), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=near)
    torch.testing.assert_close(values_too, values, rtol=near, atol=0)
    assert abs(float(values[0, 0] - values[1, 0])) > 1e-6, "the points differ"


def test_terms_of_branched_batches_are_called_alone(tiny: Tiny) -> None:
    """Their rows cannot be repeated for each point: a tail goes on from a row by its number."""
    problem = replace(of_terms(tiny, "llama", "lora"), loss=choice_losses)
    plain, branched = ([choice_batch(CHOICES, range(3), 0, way)] for way in (False, True))
    assert isinstance(losses.terms(problem, [("p", plain)]), Stackable)
    assert not isinstance(losses.terms(problem, [("p", plain), ("s", branched)]), Stackable)


@pytest.mark.parametrize("kind", sorted(BY_KIND))
@pytest.mark.parametrize("at", [1, 2])
def test_an_exception_in_a_stacked_pass_leaves_no_hook_and_no_adapter_changed(tiny: Tiny, kind: str, at: int) -> None:
    calls: list[int] = []

    def failing(model: nn.Module, batch: Batch) -> torch.Tensor:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return row_losses(model, batch)

    problem = of_terms(tiny, "llama", kind, upper=failing)
    assert problem.slots is not None
    before = {slot: problem.slots.tensors(slot) for slot in "ps"}
    objective = term(problem, *((slot, micro(part)) for slot, part in G))
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        objective.stacked(2)
    assert not problem.model._forward_pre_hooks
    for slot, held in before.items():
        assert all(torch.equal(param, held[name]) for name, param in problem.slots.params[slot].items())
    with torch.no_grad():
        torch.testing.assert_close(objective.stacked(2), objective().expand(2, 3), rtol=2e-6, atol=0)


def test_rows_that_an_adapter_does_not_see_cannot_be_stacked() -> None:
    """OPT's layers see the tokens of all rows as rows, and peft refuses the names of their adapters."""
    problem: Any = SimpleNamespace(slots=SimpleNamespace(rows=lambda _: nullcontext()))
    with pytest.raises(CannotStack), losses.rows_of(problem, ["p", "s"], [1, 1]):
        raise ValueError("Length of `adapter_names` should be the same as the number of inputs, but got 2 and 9")
    with pytest.raises(ValueError, match="other"), losses.rows_of(problem, ["p", "s"], [1, 1]):
        raise ValueError("other")
