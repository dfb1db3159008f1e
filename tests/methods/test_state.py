"""The state that methods share: directions by step and probe, bad steps counted, checkpoints of it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

from zofo.config import MethodConfig
from zofo.core.rules import RuleState
from zofo.core.weights import leaves as tree
from zofo.errors import NotFinite
from zofo.methods.learner import Learner
from zofo.methods.state import Problem, State, from_checkpoint, tally, to_checkpoint

Tiny = Callable[..., nn.Module]


def problem(tiny: Tiny, **options: object) -> Problem:
    model = tiny("llama")
    return Problem(model, lambda m, b: b, MethodConfig(**options), 7, 3, tree.find(model))  # type: ignore[arg-type]


def test_every_step_probe_seed_and_stream_has_a_direction_of_its_own(tiny: Tiny) -> None:
    made = problem(tiny, q=3)
    keys = {z.key for k in range(4) for stream in ("noise", "other") for z in made.directions(k, stream=stream)}
    assert len(keys) == 3 * 4 * 2
    assert [z.key for z in made.directions(2)] == [z.key for z in problem(tiny, q=3).directions(2)]


def test_bad_steps_are_counted_and_a_good_one_ends_the_row(tiny: Tiny) -> None:
    made, state = problem(tiny, max_bad=3), State()
    for finite in (False, False, True, False, False):
        state = tally(made, state, finite, "p", "the loss")
    assert (state.bad, state.in_a_row) == (4, {"p": 2})
    state = tally(made, state, True, "s", "the loss")  # another's good step does not end p's row
    with pytest.raises(NotFinite, match=r"step 1: the loss was not finite 3 times in a row \(seed 7\)"):
        tally(made, state, False, "p", "the loss")


def test_a_state_comes_back_from_json_and_tensors() -> None:
    def learner() -> Learner:
        return Learner([nn.Parameter(torch.ones(2))], "adam", 1e-2, "constant", 0, 10, 1.0)

    one = learner()
    one.step([torch.tensor([1.0, -2.0])])
    moments = {"m.w": torch.tensor([0.5])}
    state = State(k=4, bad=2, in_a_row={"p": 1}, rule=RuleState(t=4, v=0.25, moments=moments), learners={"p": one})
    numbers, tensors = to_checkpoint(state)
    fresh = from_checkpoint(State(learners={"p": learner()}), json.loads(json.dumps(numbers)), tensors)
    assert (fresh.k, fresh.bad, fresh.in_a_row, fresh.rule.t, fresh.rule.v) == (4, 2, {"p": 1}, 4, 0.25)
    assert torch.equal(fresh.rule.moments["m.w"], moments["m.w"])
    again, held = to_checkpoint(fresh)
    assert again == numbers and held.keys() == tensors.keys()
    assert all(torch.equal(held[name], tensors[name]) for name in held)
