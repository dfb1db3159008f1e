"""The problem that a run makes of its parts: what is probed and how, in which types, and the shadow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from zofo.adapters.slots import attach
from zofo.config import AdapterConfig, build
from zofo.core.weights import leaves as tree
from zofo.core.weights.leaves import snapshot
from zofo.methods.losses import mean_loss
from zofo.problem import shadow, shares
from zofo.scoring import batch as made_of

Tiny = Callable[..., nn.Module]


@pytest.mark.parametrize(
    ("flags", "dtype", "still"),
    [
        ({"model__dtype": "bf16"}, torch.bfloat16, False),
        ({"model__dtype": "fp16"}, torch.float16, False),
        ({"model__dtype": "bf16", "method__lower": "zeroth-order"}, torch.bfloat16, False),
        ({"model__dtype": "bf16", "method__name": "first-order"}, torch.bfloat16, True),
        ({"model__dtype": "bf16", "model__shadow": False}, None, False),
        ({"model__dtype": "fp32"}, None, False),
        ({"model__weights": "bf16"}, None, False),
        ({"model__dtype": "bf16", "method__name": "mezo"}, None, False),
        ({"model__dtype": "bf16", "method__name": "first-order", "method__tune": "full"}, None, False),
        ({"model__dtype": "bf16", "method__name": "two-stage"}, torch.bfloat16, False),
        ({"model__dtype": "bf16", "method__name": "addax"}, None, False),
    ],
    ids=str,
)
def test_a_shadow_is_kept_where_adapters_learn_in_a_half_type_over_fp32_weights(
    folder: str, flags: dict[str, Any], dtype: torch.dtype | None, still: bool, made: Any
) -> None:
    held = made(folder, **flags).problem.shadow
    assert (None if held is None else held.dtype) == dtype
    if held is not None:
        assert held.still == still and not held.twins and held.leaves


@pytest.mark.parametrize("flags", [{}, {"method__coupling": "outer"}, {"method__name": "first-order"}], ids=str)
def test_a_step_through_the_shadow_has_the_bits_of_one_without(folder: str, flags: dict[str, Any], made: Any) -> None:
    """Theta moves between the steps, and the shadow with it."""
    ends = []
    for kept in (True, False):
        job = made(folder, model__dtype="bf16", model__shadow=kept, adapter__r=2, **flags)
        assert job.slots is not None and (job.problem.shadow is not None) == kept
        state, told = job.begin(), []
        for _ in range(2):
            state, report = job.method.step(job.problem, state, job.batches)
            told.append(report)
        tensors = {slot: job.slots.tensors(slot) for slot in job.slots.params}
        ends.append((told, tensors, snapshot(job.leaves)))
    (told, adapters, theta), (told_too, adapters_too, theta_too) = ends
    assert told == told_too
    assert all(torch.equal(w, adapters_too[slot][name]) for slot in adapters for name, w in adapters[slot].items())
    assert all(torch.equal(w, theta_too[name]) for name, w in theta.items())


@pytest.mark.parametrize(
    ("flags", "stacks", "scale"),
    [
        ({}, True, 1.0),
        ({"model__dtype": "fp16"}, True, 1024.0),
        ({"method__name": "mezo"}, True, 1.0),
        ({"method__name": "mezo", "method__tune": "adapter"}, False, 1.0),
        ({"method__name": "first-order"}, False, 1.0),
        ({"method__name": "first-order", "method__tune": "full"}, False, 1.0),
        ({"method__name": "two-stage"}, False, 1.0),
        ({"method__name": "addax"}, True, 1.0),
        ({"method__probe": "inplace"}, False, 1.0),
        ({"method__objective": "accuracy"}, False, 1.0),
        ({"method__objective": "classification"}, True, 1.0),
        ({"model__dtype": "bf16", "method__probe_dtype": "fp32"}, True, 1.0),
    ],
    ids=str,
)
def test_what_can_be_stacked_and_what_is_scaled(
    folder: str, flags: dict[str, Any], stacks: bool, scale: float, made: Any
) -> None:
    problem = made(folder, **flags).problem
    assert (problem.stacks, problem.scale) == (stacks, scale)


@pytest.mark.parametrize(
    ("flags", "share"),
    [
        ({}, True),
        ({"method__name": "mezo"}, True),
        ({"method__name": "mezo", "run__memory_cap": "1TB"}, True),
        ({"adapter__kind": "prefix"}, False),
        ({"adapter__kind": "prompt"}, False),
        ({"model__activation_checkpointing": True}, False),
    ],
    ids=str,
)
def test_choices_share_their_context_where_the_model_can(
    folder: str, flags: dict[str, Any], share: bool, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_of, "PASS", 0)
    job = made(folder, method__objective="classification", **flags)
    (batch,) = job.batches.batch("f", "upper-f", 0, 1)
    assert (batch.tails is not None) == share
    _, report = job.method.step(job.problem, job.begin(), job.batches)
    values = [value for value in report.numbers.values() if isinstance(value, float)]
    assert values and all(map(math.isfinite, values))


def test_a_model_with_a_sliding_window_trains_on_whole_rows(tiny: Tiny) -> None:
    assert shares(build({}), tiny("llama")) and not shares(build({}), tiny("mistral"))


def test_probes_may_be_computed_in_another_type_than_gradients(folder: str, made: Any) -> None:
    """The loss below is bf16's, the one that theta sees fp32's."""
    flags = {"method__probe_dtype": "fp32", "adapter__r": 2}
    job, plain = made(folder, model__dtype="bf16", **flags), made(folder, adapter__r=2)
    batch = job.batches.batch("f", "upper-f", 0, 1)
    with torch.no_grad():
        below, above = (mean_loss(job.problem, batch, "p", upper) for upper in (False, True))
        assert above == mean_loss(plain.problem, batch, "p") != below
    assert job.problem.upper is not None and plain.problem.upper is None
    other = made(folder, model__dtype="bf16", method__probe_dtype="bf16", adapter__r=2).problem
    with torch.no_grad():
        assert other.upper is None and mean_loss(other, batch, "p") == below


@pytest.mark.parametrize("targets", [("q_proj",), ("q_proj", "lm_head")])
def test_the_output_head_is_computed_in_fp32_so_it_has_no_twin(tiny: Tiny, targets: tuple[str, ...]) -> None:
    """Neither where LoRA adapts it."""
    model = tiny("llama").requires_grad_(False)
    leaves = tree.find(model)
    slots = attach(model, AdapterConfig(r=2, targets=targets), ("p", "s"), 0)
    held = shadow(build({"model.dtype": "bf16"}), slots.model, leaves)
    assert held is not None
    names = {leaf.name for leaf in held.leaves}
    assert len(names) == 2 * 7 and "lm_head.weight" not in names
