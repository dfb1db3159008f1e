"""Every estimator as a training step takes it, compared with autograd's gradient, for A and for G."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zofo.bench import cosine, estimate
from zofo.bench.cosine import KINDS
from zofo.bench.nearness import Near
from zofo.bench.setting import Asked, problem_in
from zofo.core.seedgrad import SeedGrad
from zofo.core.sketch.grad import SketchGrad
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput
from zofo.job import Job
from zofo.methods import above, bilevel, losses, theta
from zofo.methods.state import Micro, State

LAM = 10.0  # of the job `held`


def asked(*kinds: str, **options: object) -> Asked:
    plain = {"eps": (1e-3,), "seeds": 1, "batches": 1, "dtypes": ("fp32",), "noise": "gaussian", "keys": 3, "rank": 4}
    return Asked(**{**plain, **options, "kinds": cosine.chosen(kinds)})  # type: ignore[arg-type]


def measured(held: Job, wanted: Asked, k: int = 0) -> dict[cosine.Key, list[Near]]:
    return cosine.measure(held, wanted, k, lambda _: None)


def upper(held: Job) -> tuple[Micro, Micro]:
    return bilevel.draw(held.problem, State(), held.batches)[1]


def test_names_choose_kinds_by_their_beginning() -> None:
    assert cosine.chosen(["all"]) == tuple(KINDS) and len(KINDS) == 12
    assert cosine.chosen(["sketch-gaussian", "central-low-rank-8"]) == (
        "central-low-rank-8", "sketch-gaussian-input", "sketch-gaussian-smaller",
    )  # fmt: skip
    assert cosine.chosen(["forward"]) == tuple(kind for kind in KINDS if kind.startswith("forward-"))
    assert cosine.chosen([]) == () and cosine.chosen(cosine.chosen(["all"])) == tuple(KINDS)
    for name in ("centr", "low-rank-8", ""):
        with pytest.raises(BadInput, match=f"--kinds {name}: no such estimator; take all, or"):
            cosine.chosen([name])


def test_objectives_are_a_and_g_and_move_theta_only(held: Job) -> None:
    todo = bilevel.plan(held.config.method.model_copy(update={"coupling": "outer"}), LAM)
    found = cosine.objectives(todo)
    assert {name: [(t.name, t.weight) for t in plan.terms] for name, plan in found.items()} == {
        "A": [("A", 1.0)], "G": [("A", 1.0), ("B", LAM), ("C", -LAM)],
    }  # fmt: skip
    assert todo.p_above and not any(plan.p_above for plan in found.values())
    assert list(cosine.objectives(bilevel.plan(held.config.method, 0.0))) == ["A"]


@pytest.mark.slow
def test_every_kind_is_measured_against_a_and_g(held: Job) -> None:
    """A sketch is near and as far as its formula says; zeroth order is nearly orthogonal, on the gradient's side."""
    found = measured(held, asked("all", keys=6))
    assert set(found) == {(o, kind, "fp32", None if "sketch" in kind else 1e-3) for o in "AG" for kind in KINDS}
    d = held.leaves.count
    for (_, kind, _, _), some in found.items():
        assert len(some) == 6
        mean = sum(one.cosine for one in some) / 6
        if kind in cosine.SKETCHES:
            assert mean > 0.3 and sum(one.variance for one in some) / 6 == pytest.approx(some[0].formula, rel=0.25)
        else:
            assert 0 < mean < 4 / math.sqrt(d) and d - 1 <= some[0].formula * (1 + 1e-12) <= (d + 1) * (1 + 1e-9)
    assert found["A", "sketch-gaussian-input", "fp32", None][0].truth != found["G", "sketch-gaussian-input", "fp32", None][0].truth  # fmt: skip


def test_zeroth_order_is_the_methods_own_step(held: Job) -> None:
    """The same c along the same z as `above.look` takes, forward and central, low rank too."""
    plan = bilevel.plan(held.config.method, LAM)
    for kind in ("central-sphere", "forward-low-rank-8"):
        problem = replace(cosine.problem_of(held, KINDS[kind], "fp32", 1e-3, 4), seed=2)
        found = cosine.estimated(problem, State(), plan, upper(held))
        plain = problem_in(held, "fp32", str(KINDS[kind]["noise"]))
        options = {"estimator": kind.split("-")[0], "eps": 1e-3}
        plain = replace(plain, seed=2, config=plain.config.model_copy(update=options))
        assert found == above.look(plain, State(), plan, upper(held)).grad
        assert isinstance(found, SeedGrad) and found.law == KINDS[kind]["noise"]


def test_a_sketch_is_taken_as_training_takes_it(held: Job) -> None:
    """One R a leaf for all terms, Q of A + lambda (B - C), in the dtype that is computed in."""
    batch, found = upper(held), {}
    for dtype in ("fp32", "bf16"):
        problem = replace(cosine.problem_of(held, KINDS["sketch-gaussian-smaller"], dtype, None, 4), seed=3)
        found[dtype] = cosine.estimated(problem, State(), bilevel.plan(held.config.method, LAM), batch)
        assert isinstance(found[dtype], SketchGrad)
        with theta.capturing(problem, 0) as capture:
            for rows, slot, weight in ((batch[0], "p", 1.0), (batch[1], "p", LAM), (batch[1], "s", -LAM)):
                losses.gradient(problem, rows, slot, 0, dropout=False, capture=capture, weight=weight)
        want = capture.grad()
        assert (want.projection.law, want.projection.rank, want.projection.side) == ("gaussian", 4, "smaller")
        assert all(torch.equal(found[dtype].dense(leaf), want.dense(leaf)) for leaf in held.leaves)
    off = [float((found["fp32"].dense(leaf) - found["bf16"].dense(leaf)).norm()) for leaf in held.leaves]
    assert 0 < sum(x * x for x in off) ** 0.5 < 0.2 * found["fp32"].norm(held.leaves)


def test_a_higher_rank_is_nearer(held: Job) -> None:
    low, high = (measured(held, asked("sketch-rademacher-input", rank=r))["A", "sketch-rademacher-input", "fp32", None] for r in (2, 8))  # fmt: skip
    assert high[0].formula == pytest.approx(low[0].formula / 4)
    assert sum(one.cosine for one in high) > sum(one.cosine for one in low)


def test_keys_and_batches_are_each_their_own(held: Job) -> None:
    found = measured(held, asked("central-rademacher", "sketch-rademacher-input", batches=2, keys=2))
    for some in found.values():
        assert len({one.inner for one in some}) == 4 and len({one.truth for one in some}) == 2


def test_nothing_is_measured_unasked(held: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine, "on_batch", None)
    assert measured(held, asked()) == {}


def test_nothing_is_left_behind(held: Job) -> None:
    before = tree.snapshot(held.leaves)
    wanted = {name: p.requires_grad for name, p in held.model.named_parameters()}
    measured(held, asked("sketch", "central-gaussian", dtypes=("fp32", "bf16"), keys=1))
    assert held.slots is not None
    held.slots.use("p")
    assert {name: p.requires_grad for name, p in held.model.named_parameters()} == wanted
    assert all(p.grad is None for p in held.model.parameters())
    assert all(torch.equal(leaf.data, before[leaf.name]) for leaf in held.leaves)
    assert not any("forward" in vars(module) for module in held.model.modules())


def test_rows_are_means_with_their_standard_errors() -> None:
    near = [Near(3.0, 25.0, 1.0, 20.0), Near(1.0, 25.0, 1.0, 20.0)]
    wild = [Near(math.nan, math.nan, 1.0, 20.0)]
    one, other = cosine.rows_of("start", {("G", "k", "fp32", 1e-3): near, ("A", "k", "fp32", None): wild})[::-1]
    assert one == {
        "where": "start", "objective": "G", "kind": "k", "dtype": "fp32", "eps": 1e-3, "n": 2, "finite": 2,
        "cosine": pytest.approx(0.4), "cosine_se": pytest.approx(0.2), "variance": 22.0, "variance_se": 2.0, "formula": 20.0,
    }  # fmt: skip
    assert (other["objective"], other["n"], other["finite"], other["eps"]) == ("A", 1, 0, None)
    assert other["cosine"] is None and other["variance"] is None and other["formula"] == 20.0


def test_the_whole_table(folder: str, small: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the table of errors, which stays as it was."""
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    options = {"eps": (1e-3,), "seeds": 1, "batches": 1, "dtypes": ("fp32",)}
    found = estimate.main(
        {"model.name": folder, **small}, **options, kinds=("sketch", "forward-sphere"), keys=2, rank=3
    )
    plain = estimate.main({"model.name": folder, **small}, **options)
    assert found["results"] == plain["results"] and found["places"] == plain["places"] and plain["cosines"] == []
    assert len(found["cosines"]) == 2 * 5 and found["kinds"] == list(cosine.chosen(("sketch", "forward-sphere")))
    assert (found["keys"], found["rank"]) == ([0, 1], 3)
