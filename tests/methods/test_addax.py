"""Addax: alpha of a zeroth-order gradient, 1 - alpha of a first-order one, of rows apart by length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zofo import job
from zofo.config import MethodConfig, build
from zofo.core import noise
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput
from zofo.methods import addax
from zofo.methods.state import Problem, State
from zofo.scoring.batch import Encoded

Tiny = Callable[..., nn.Module]


class Two:
    """A batch of each kind; what was asked for is kept."""

    def __init__(self, zeroth: Tensor, first: Tensor) -> None:
        self.made = {"zeroth": [zeroth], "first": [first]}
        self.asked: list[tuple[str, str, int]] = []

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[Tensor]:
        self.asked.append((part, stream, micro))
        return self.made[stream]


def loss(model: nn.Module, ids: Tensor) -> Tensor:
    out: Tensor = model(input_ids=ids, use_cache=False).logits
    return -out[:, -2].log_softmax(-1).gather(1, ids[:, -1:]).squeeze(1)


def problem(model: nn.Module, of: Any = loss, **options: Any) -> Problem:
    leaves = tree.find(model.requires_grad_(False))
    return Problem(model, of, MethodConfig(name="addax", **options), 0, 5, leaves, Scratch(model, leaves))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_step_is_theta_minus_lr_of_alpha_c_z_and_the_rest_of_g(tiny: Tiny, rows: Tensor, alpha: float) -> None:
    model = tiny("opt").double()
    given = problem(model, alpha=alpha, lr_theta=1e-2, decay=0.1)
    before, batches, leaves = tree.snapshot(given.leaves), Two(rows[:2], rows[1:]), given.leaves  # type: ignore[arg-type]
    assert leaves is not None
    (d,) = given.directions(0)
    z = {f.name: noise.draw(d, f.tid, f.numel, width=noise.columns(f.data)).view_as(f.data) for f in leaves}

    def at(theta: dict[str, Tensor], ids: Tensor) -> Tensor:
        return loss(lambda **k: torch.func.functional_call(model, theta, (), k), ids).mean()  # type: ignore[arg-type]

    with torch.no_grad():
        plus, minus = (at({n: w + a * z[n] for n, w in before.items()}, rows[:2]) for a in (1e-3, -1e-3))
    c = float(plus - minus) / 2e-3
    free = {n: w.clone().requires_grad_() for n, w in before.items()}
    g = dict(zip(free, torch.autograd.grad(at(free, rows[1:]), list(free.values())), strict=True))
    state, report = addax.step(given, addax.init(given), batches)  # type: ignore[arg-type]
    for leaf in leaves:
        wanted = (1 - 1e-3) * before[leaf.name] - 1e-2 * (alpha * c * z[leaf.name] + (1 - alpha) * g[leaf.name])
        torch.testing.assert_close(leaf.data, wanted, atol=1e-8, rtol=1e-6)
    assert (report.forwards, report.backwards, state.k) == (3, 1, 1)
    assert report.numbers["c"] == pytest.approx(c, rel=1e-6) and report.moved is not None and not report.moved.replay
    assert [asked[0] for asked in batches.asked] == ["all", "all"]


def test_long_rows_go_to_zeroth_order_and_short_ones_to_first(tiny: Tiny, rows: Tensor) -> None:
    given = problem(tiny("llama"), short_tokens=9, accumulate_upper=2, accumulate_lower=3)
    batches = Two(rows, rows)
    _, report = addax.step(given, State(), batches)  # type: ignore[arg-type]
    assert sorted(batches.asked) == [("long", "zeroth", 2), ("short", "first", 3)]
    assert (report.forwards, report.backwards) == (2 * 2 + 3, 3)


@pytest.mark.parametrize("bad", ["zeroth", "first"])
def test_either_loss_not_finite_moves_nothing(tiny: Tiny, rows: Tensor, bad: str) -> None:
    def of(model: nn.Module, ids: Tensor) -> Tensor:
        wrong = torch.is_grad_enabled() == (bad == "first")
        return loss(model, ids) * (float("nan") if wrong else 1.0)

    model = tiny("llama")
    given = problem(model, of)
    before = tree.snapshot(given.leaves)  # type: ignore[arg-type]
    state, report = addax.step(given, State(), Two(rows, rows))  # type: ignore[arg-type]
    assert report.moved is None and state.bad == 1
    assert all(torch.equal(leaf.data, before[leaf.name]) for leaf in given.leaves or ())


def test_half_precision_weights_are_rounded_stochastically(tiny: Tiny, rows: Tensor) -> None:
    """Steps below half a unit in the last place move them all the same."""
    model = tiny("llama").to(torch.bfloat16)
    given = problem(model, lambda m, ids: loss(m, ids).float(), lr_theta=1e-4, alpha=0.0)
    before = tree.snapshot(given.leaves)  # type: ignore[arg-type]
    addax.step(given, State(), Two(rows, rows))  # type: ignore[arg-type]
    assert any(not torch.equal(leaf.data, before[leaf.name]) for leaf in given.leaves or ())


def encoded(*lengths: int) -> tuple[Encoded, ...]:
    return tuple(Encoded((1,) * n, ((2,),), 0) for n in lengths)


def test_rows_are_parted_by_length() -> None:
    made = job.by_length(5, encoded(3, 5, 6, 9))
    assert [[row.length for row in made[name]] for name in ("short", "long")] == [[3, 5], [6, 9]]
    assert job.by_length(0, encoded(3)) == {}


@pytest.mark.parametrize(("limit", "name"), [(2, "short"), (9, "long")])
def test_a_split_that_leaves_one_side_empty_is_refused(limit: int, name: str) -> None:
    with pytest.raises(
        BadInput, match=f"--method.short_tokens {limit}: no training row is {name}: they have 3 to 9 tokens"
    ):
        job.by_length(limit, encoded(3, 9))


def test_alpha_is_a_share() -> None:
    with pytest.raises(BadInput, match=r"--method\.alpha 1\.5"):
        build({"method.name": "addax", "method.alpha": 1.5})
