"""MeZO's step against explicit z, and its costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from zofo.config import MethodConfig
from zofo.core import noise
from zofo.core.kernels.reference import rank_of
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.errors import NotFinite
from zofo.methods import mezo
from zofo.methods.state import Problem

Tiny = Callable[..., nn.Module]


class Rows:
    """Always the same micro-batches."""

    def __init__(self, *micro: Any) -> None:
        self.micro = list(micro)

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[Any]:
        assert (part, stream) == ("all", "train")
        return self.micro

    def mixed(self, stream: str, step: int, micro: int, share: float) -> list[Any]:
        raise AssertionError("MeZO has no mixed batch")


def loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return -out[:, -2].log_softmax(-1).gather(1, ids[:, -1:]).squeeze(1)


def problem(model: nn.Module, **options: Any) -> Problem:
    leaves = tree.find(model)
    return Problem(model, loss, MethodConfig(name="mezo", **options), 0, 5, leaves, Scratch(model, leaves))


def law_options(law: noise.Law) -> dict[str, Any]:
    """The options that ask for a law."""
    rank = rank_of(law)
    return {"noise": "low-rank", "rank": rank} if rank else {"noise": law}


@pytest.mark.parametrize("law", noise.LAWS)
def test_a_step_is_theta_minus_lr_c_z(tiny: Tiny, rows: torch.Tensor, law: noise.Law) -> None:
    model = tiny("opt").double()
    given = problem(model, **law_options(law), lr_theta=1e-3, q=2)
    leaves = given.leaves
    assert leaves is not None
    before = tree.snapshot(leaves)
    state, report = mezo.step(given, mezo.init(given), Rows(rows))
    z = [
        {
            leaf.name: noise.draw(d, leaf.tid, leaf.data.numel(), width=noise.columns(leaf.data)).view_as(leaf.data)
            for leaf in leaves
        }
        for d in given.directions(0)
    ]
    assert {d.law for d in given.directions(0)} == {law}

    def at(theta: dict[str, torch.Tensor]) -> float:
        with torch.no_grad():
            return float(loss(lambda **k: torch.func.functional_call(model, theta, (), k), rows).mean())  # type: ignore[arg-type]

    def shifted(i: int, a: float) -> dict[str, torch.Tensor]:
        return {n: w + a * z[i][n] for n, w in before.items()}

    c = [(at(shifted(i, 1e-3)) - at(shifted(i, -1e-3))) / 2e-3 / 2 for i in range(2)]
    for leaf in leaves:
        wanted = before[leaf.name] - 1e-3 * sum(c[i] * z[i][leaf.name] for i in range(2))
        torch.testing.assert_close(leaf.data, wanted, atol=1e-9, rtol=0)
    assert report.forwards == 4 and report.backwards == 0 and state.k == 1


def test_micro_batches_are_one_batch(tiny: Tiny, rows: torch.Tensor) -> None:
    ends = []
    for micro in ((rows,), (rows[:1], rows[1:])):
        model = tiny("opt").double()
        given = problem(model, lr_theta=1e-3)
        mezo.step(given, mezo.init(given), Rows(*micro))
        ends.append([p.clone() for p in model.parameters()])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_it_learns(tiny: Tiny, rows: torch.Tensor) -> None:
    model = tiny("llama")
    given = problem(model, lr_theta=3e-4, noise="rademacher")
    state, reports = mezo.init(given), []
    for _ in range(150):
        state, report = mezo.step(given, state, Rows(rows))
        reports.append(report.numbers["A"])
    assert sum(reports[-10:]) < sum(reports[:10]) - 1


def test_non_finite_losses_are_skipped_counted_and_stop(tiny: Tiny, rows: torch.Tensor) -> None:
    model = tiny("llama")
    leaves = tree.find(model)
    config = MethodConfig(name="mezo", max_bad=3)
    given = Problem(model, lambda m, b: loss(m, b) * float("nan"), config, 0, 5, leaves, Scratch(model, leaves))
    before, state = tree.snapshot(leaves), mezo.init(given)
    for bad in (1, 2):
        state, report = mezo.step(given, state, Rows(rows))
        assert report.moved is None and state.bad == bad
    with pytest.raises(NotFinite, match="3 times in a row"):
        mezo.step(given, state, Rows(rows))
    assert all(torch.equal(before[leaf.name], leaf.data) for leaf in leaves)


def test_a_step_too_large_for_fp32_is_bad_and_moves_nothing(tiny: Tiny, rows: torch.Tensor) -> None:
    model = tiny("llama")
    given = problem(model, lr_theta=1e39)
    assert given.leaves is not None
    before = tree.snapshot(given.leaves)
    state, report = mezo.step(given, mezo.init(given), Rows(rows))
    assert report.moved is None and state.bad == 1
    assert all(torch.equal(before[leaf.name], leaf.data) for leaf in given.leaves)
