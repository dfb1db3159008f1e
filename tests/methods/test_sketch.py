"""The sketch as a method: what a step does and costs, its rules and its R over steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from zofo.config import MethodConfig, build
from zofo.core import streams
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput, NotFinite
from zofo.methods import sketch, table, theta
from zofo.methods.check import check
from zofo.methods.state import Problem, from_checkpoint, to_checkpoint

Tiny = Callable[..., nn.Module]


class Source:
    """Always the same micro-batches."""

    def __init__(self, *micro: torch.Tensor) -> None:
        self.micro = list(micro)

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[torch.Tensor]:
        assert (part, stream) == ("all", "train")
        return self.micro

    def mixed(self, stream: str, step: int, micro: int, share: float) -> list[torch.Tensor]:
        raise AssertionError("there is no mixed batch")


def loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return -out[:, -2].log_softmax(-1).gather(1, ids[:, -1:]).squeeze(1)


def problem(model: nn.Module, steps: int = 5, of: Any = loss, **options: Any) -> Problem:
    options = {"rule": "normalised", "noise": "rademacher", "rank": 4, "lr_theta": 0.1} | options
    leaves = tree.find(model.requires_grad_(False))
    return Problem(model, of, MethodConfig(name="sketch", **options), 0, steps, leaves)


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def test_a_step_is_of_the_length_asked_for_and_goes_down(tiny: Tiny, rows: torch.Tensor) -> None:
    model = tiny("llama").double().requires_grad_(False)
    before, first = flat(model), float(loss(model, rows).mean())
    given = problem(model, lr_theta=0.05)
    state, report = sketch.step(given, sketch.init(given), Source(rows))
    assert float((flat(model) - before).norm()) == pytest.approx(0.05, rel=1e-6)
    assert report.numbers["A"] == pytest.approx(first) and float(loss(model, rows).mean()) < first
    assert (report.forwards, report.backwards, state.k) == (1, 1, 1)
    assert report.moved is not None and not report.moved.replay


def test_micro_batches_add_their_sketches(tiny: Tiny, rows: torch.Tensor) -> None:
    """The mean is over rows, however they are cut."""
    found = []
    for micro in ((rows,), (rows[:1], rows[1:])):
        model = tiny("gpt2").double()
        given = problem(model, rule="sgd")
        sketch.step(given, sketch.init(given), Source(*micro))
        found.append(flat(model))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("rule", "kept"), [("normalised", 1), ("sgd", 1), ("momentum", 20), ("adam", 100)])
def test_r_stays_for_nu_steps(tiny: Tiny, rule: str, kept: int) -> None:
    model = tiny("llama")
    for nu, want in ((0, kept), (3, 3)):
        given = problem(model, rule=rule, nu=nu)
        keys = [theta.projection(given, k).key for k in range(2 * want)]
        assert len(set(keys[:want])) == len(set(keys[want:])) == 1 and keys[0] != keys[-1]
        assert keys[0] == streams.key(0, "sketch", 0)


@pytest.mark.parametrize(
    "options",
    [{"rule": r} for r in table.RULES["sketch"]]
    + [{"rule": "momentum", "transfer": True}, {"rule": "adam", "clip_theta": 0.5}],
    ids=str,
)
def test_a_state_written_and_read_back_goes_on_with_the_same_bits(tiny: Tiny, rows: torch.Tensor, options: Any) -> None:
    ends = []
    for stop in (None, 2, 3):
        model = tiny("llama")
        given = problem(model, nu=3, steps=6, schedule_theta="cosine", **options)
        state = sketch.init(given)
        for k in range(6):
            if k == stop:
                state = from_checkpoint(sketch.init(given), *to_checkpoint(state))
            state, _ = sketch.step(given, state, Source(rows))
        ends.append(flat(model))
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


def test_a_loss_that_is_not_finite_moves_nothing_and_stops_in_the_end(tiny: Tiny, rows: torch.Tensor) -> None:
    model = tiny("llama")
    given = problem(model, of=lambda m, ids: loss(m, ids) * float("nan"), max_bad=2)
    before, state = flat(model), sketch.init(given)
    state, report = sketch.step(given, state, Source(rows))
    assert report.moved is None and torch.equal(flat(model), before)
    with pytest.raises(NotFinite, match="2 times in a row"):
        sketch.step(given, state, Source(rows))


def test_an_exception_in_a_pass_leaves_every_weight(tiny: Tiny, rows: torch.Tensor) -> None:
    model = tiny("llama")

    def failing(m: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        loss(m, ids)
        raise KeyboardInterrupt

    given = problem(model, of=failing)
    before = flat(model)
    with pytest.raises(KeyboardInterrupt):
        sketch.step(given, sketch.init(given), Source(rows))
    assert torch.equal(flat(model), before)
    assert all("forward" not in vars(m) for m in model.modules())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"method.rule": "scalar-adaptive"}, "a sketch upper level has none such"),
        ({"method.noise": "sphere"}, "independent entries"),
        ({"method.q": 2}, "no effect"),
        ({"method.eps": 1e-3}, "no effect"),
        ({"method.transfer": True}, "no effect"),
        ({"method.objective": "accuracy"}, "a metric has none"),
        ({"method.name": "mezo", "method.rule": "momentum"}, "a zeroth-order upper level has none such"),
        ({"method.name": "mezo", "method.side": "smaller"}, "no effect"),
        ({"method.name": "bilevel", "method.upper": "sketch", "method.lower": "zeroth-order"}, "backward passes"),
        ({"method.name": "bilevel", "method.upper": "sketch", "method.probe": "inplace"}, "no effect"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(flags: dict[str, Any], says: str) -> None:
    given = {"method.name": "sketch", "method.rule": "sgd", "method.noise": "rademacher"} | flags
    with pytest.raises(BadInput, match=says):
        check(build(given), set(flags) - {"method.name", "method.upper"})
