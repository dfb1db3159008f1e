"""The truth is autograd's, the estimate is the method's own, and the error behaves as mathematics says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zofo.bench import estimate, gradient
from zofo.bench.estimate import Asked, Sample
from zofo.bench.gradient import Truth
from zofo.config import MethodConfig
from zofo.core import noise
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput
from zofo.job import Job
from zofo.methods import above, bilevel
from zofo.methods.losses import mean_loss
from zofo.methods.state import Micro, State
from zofo.tune.trial import with_method

LAM = 10.0  # of the job `held`


def rows(held: Job, k: int = 0) -> dict[str, Micro]:
    _, upper = bilevel.draw(held.problem, State(k=k), held.batches)
    return {"f": upper[0], "p": upper[1]}


def plan(lam: float = LAM, **options: Any) -> bilevel.Plan:
    return bilevel.plan(MethodConfig(lam=lam, **options), lam)


def asked(**options: Any) -> Asked:
    return Asked(**{"eps": (1e-2,), "seeds": 3, "batches": 1, "dtypes": ("fp32",), "noise": "gaussian"} | options)


def errors(held: Job, **options: Any) -> dict[tuple[str, str, float], float]:
    """Errors by objective, dtype and eps."""
    _, samples = estimate.measure(held, asked(**options), 0, lambda _: None)
    return {key: estimate.summary(found)["error"] for key, found in samples.items()}


def test_objectives_are_weights_of_the_terms() -> None:
    assert estimate.combinations(plan().terms) == {
        "A": (1, 0, 0), "G": (1, LAM, -LAM), "B": (0, 1, 0), "C": (0, 0, 1), "B - C": (0, 1, -1),
    }  # fmt: skip
    assert estimate.combinations(plan(weighting="normalised").terms)["G"] == pytest.approx((1 / 11, 10 / 11, -10 / 11))
    for alone in (plan(0.0), plan(s="off"), plan(coupling="follow")):
        assert estimate.combinations(alone.terms) == {"A": (1.0,)}


@pytest.mark.parametrize("law", noise.LAWS)
def test_the_truth_is_autograds_inner_product(held: Job, law: str) -> None:
    problem = replace(estimate.problem_in(held, "fp32", law), seed=4)
    directions = problem.directions(0) + problem.directions(1)
    todo, batch = plan(), rows(held)
    found = gradient.exact(problem, todo.terms, (1.0, LAM, -LAM), batch, directions)

    params = [leaf.param.requires_grad_(True) for leaf in held.leaves]
    total = sum(term.weight * mean_loss(problem, batch[term.rows], term.slot) for term in todo.terms)
    grads = torch.autograd.grad(total, params)
    assert found.square == pytest.approx(sum(float(g.double().square().sum()) for g in grads), rel=1e-5)
    for z, along in zip(directions, found.along, strict=True):
        drawn = [noise.draw(z, leaf.tid, leaf.numel, width=noise.columns(leaf.data)) for leaf in held.leaves]
        wanted = sum(float(g.double().reshape(-1) @ d) for g, d in zip(grads, drawn, strict=True))
        assert along == pytest.approx(wanted, rel=1e-4, abs=1e-5 * math.sqrt(found.square))


def test_pieces_of_a_leaf_add_up(held: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = estimate.problem_in(held, "fp32", "gaussian")
    once = gradient.exact(problem, plan().terms, (1.0, 0.0, 0.0), rows(held), problem.directions(0))
    monkeypatch.setattr(noise, "CHUNK", 100)
    again = gradient.exact(problem, plan().terms, (1.0, 0.0, 0.0), rows(held), problem.directions(0))
    assert again.square == pytest.approx(once.square, rel=1e-12) and again.along == pytest.approx(once.along, rel=1e-9)


def test_nothing_is_left_behind(held: Job) -> None:
    before = tree.snapshot(held.leaves)
    wanted = {name: p.requires_grad for name, p in held.model.named_parameters()}
    errors(held, dtypes=("fp32", "bf16"), seeds=1)
    assert held.slots is not None
    held.slots.use("p")
    assert {name: p.requires_grad for name, p in held.model.named_parameters()} == wanted
    assert all(p.grad is None for p in held.model.parameters())
    assert all(torch.equal(leaf.data, before[leaf.name]) for leaf in held.leaves)


def test_gradients_reach_a_padding_row_and_everything_is_put_back_on_an_error() -> None:
    model = nn.Sequential(nn.Embedding(3, 2, padding_idx=0), nn.Linear(2, 1)).requires_grad_(False)
    leaves = tree.find(model)
    with pytest.raises(KeyError), gradient.differentiable(model, leaves):
        model(torch.tensor([0])).sum().backward()
        assert model[0].weight.grad[0].abs().sum() > 0  # a probe moves this row too
        raise KeyError
    assert model[0].padding_idx == 0
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_a_leaf_that_the_loss_does_not_read_counts_nothing() -> None:
    (leaf,) = tree.find(nn.Linear(2, 1, bias=False))
    assert gradient.products(leaf, None, [noise.Direction("gaussian", 1)]) == Truth(0.0, [0.0])


def test_the_dtype_that_a_run_probes_in_is_not_measured_for_another(
    held: Job, folder: str, small: dict[str, str], apart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's own `probe_dtype` is left out: what is called fp32 is computed in fp32."""
    flags = {"model.name": folder, "model.dtype": "bf16", "method.probe_dtype": "bf16", **small}
    other = estimate.at_start(flags, "bilevel-lora")
    apart(other)
    dtypes = ("fp32", "bf16")
    found, wanted = (errors(job, dtypes=dtypes, seeds=1) for job in (other, held))
    assert found == wanted
    assert found["A", "fp32", 1e-2] != found["A", "bf16", 1e-2]


def test_the_error_is_that_of_the_curvature_in_fp32(held: Job) -> None:
    """c is off by O(eps^2), so the mean square is O(eps^4); and a small eps meets the goal, for every objective."""
    found = errors(held, eps=(5e-4, 2e-3, 4e-3), seeds=4)
    for name in ("A", "G", "B", "C", "B - C"):
        assert found[name, "fp32", 5e-4] < estimate.GOAL
        assert 8 < found[name, "fp32", 4e-3] / found[name, "fp32", 2e-3] < 32


def test_bf16_is_worse_and_worst_where_eps_is_small(held: Job) -> None:
    found = errors(held, eps=(1e-4, 1e-2), dtypes=("fp32", "bf16"), seeds=4)
    for name in ("A", "G", "B - C"):
        assert found[name, "bf16", 1e-4] > 100 * found[name, "bf16", 1e-2]
        assert found[name, "bf16", 1e-4] > 100 * found[name, "fp32", 1e-4]


def test_projected_gradients_are_the_methods_own(held: Job) -> None:
    """G's c is the coefficient that a training step takes, along a z of its own for each seed and batch."""
    lam, samples = estimate.measure(held, asked(batches=2), 5, lambda _: None)
    assert lam == LAM and {len(found) for found in samples.values()} == {6}
    problem = estimate.with_seed(estimate.problem_in(held, "fp32", "gaussian"), 2, 1e-2)
    _, upper = bilevel.draw(held.problem, State(k=6), held.batches)
    step = above.look(problem, State(k=6), plan(), upper)
    assert samples["G", "fp32", 1e-2][5].c == pytest.approx(step.grad.coefficients[0], rel=1e-9)
    assert len({sample.truth for sample in samples["A", "fp32", 1e-2]}) == 6


def test_a_fresh_adapter_makes_g_equal_a(
    folder: str, small: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    found = estimate.main({"model.name": folder, **small}, eps=(1e-3,), seeds=2, batches=1, dtypes=("fp32",))
    by = {row["objective"]: row for row in found["results"]}
    assert list(by) == ["A", "G", "B", "C", "B - C"]
    assert by["B - C"]["error"] is None and by["B - C"]["grad_norm"] == 0 and not by["B - C"]["goal"]
    assert by["G"]["error"] == pytest.approx(by["A"]["error"], rel=1e-3)
    assert found["lambda"] == LAM and found["seeds"] == [0, 1] and found["run"] is None
    assert found["threads"] == torch.get_num_threads() and found["torch"] == torch.__version__ and found["machine"]


def test_the_summary_is_a_mean_with_its_standard_error() -> None:
    found = estimate.summary([Sample(3.0, 1.0, 4.0), Sample(2.0, 2.0, 4.0), Sample(5.0, 1.0, 8.0)])
    assert found["error"] == pytest.approx(1.0) and found["rms_error"] == pytest.approx(math.sqrt(20 / 3))
    assert found["error_se"] == pytest.approx(1 / math.sqrt(3))
    assert found["grad_norm"] == pytest.approx(4 / math.sqrt(3)) and (found["n"], found["finite"]) == (3, 3)


def test_what_is_not_finite_is_counted_and_not_averaged() -> None:
    found = estimate.summary([Sample(math.inf, 1.0, 4.0), Sample(2.0, 2.0, 4.0)])
    assert (found["n"], found["finite"]) == (2, 1)
    assert found["error"] is None and found["error_se"] is None and found["rms_error"] is None


def test_the_eps_with_the_smallest_error_is_marked_a_dtype() -> None:
    off = {"fp32": (0.5, 0.1), "bf16": (2.0, 3.0)}
    samples = {
        (name, dtype, eps): [Sample(c, 0.0, 1.0)]
        for dtype, cs in off.items()
        for eps, c in zip((1e-3, 1e-2), cs, strict=True)
        for name in ("A", "G")
    }
    found = estimate.rows_of("start", samples)
    assert [row["objective"] for row in found] == ["A"] * 4 + ["G"] * 4
    marked = {(row["objective"], row["dtype"], row["eps"]) for row in found if row["best"]}
    assert marked == {("A", "fp32", 1e-2), ("A", "bf16", 1e-3), ("G", "fp32", 1e-2), ("G", "bf16", 1e-3)}
    assert [row["goal"] for row in found[:4]] == [False, True, False, False]


@pytest.mark.parametrize(
    ("flags", "preset", "told"),
    [
        ({}, "mezo", "method mezo has no terms A, B and C"),
        ({"method.objective": "accuracy"}, "bilevel-lora", "its objective accuracy has no gradient"),
        ({"model.weights": "bf16"}, "bilevel-lora", "its weights are held in bf16"),
    ],
)
def test_what_has_no_truth_is_refused(
    folder: str, monkeypatch: pytest.MonkeyPatch, flags: dict[str, str], preset: str, told: str
) -> None:
    monkeypatch.setattr(estimate.job, "assemble", None)
    with pytest.raises(BadInput, match=told):
        estimate.main({"model.name": folder, "data.task": "reviews", **flags}, preset)


def test_a_dtype_that_there_is_not_is_refused() -> None:
    with pytest.raises(BadInput, match=r"--model\.dtype fp8"):
        estimate.main(dtypes=("fp8",))


def test_a_place_is_measured_where_the_penalty_is_looked_at(held: Job) -> None:
    """Between two looks lambda is 0, and G nothing but A."""
    seldom = with_method(held, held.config.method.model_copy(update={"lam_every": 3}))
    place = estimate.measured(seldom, asked(), "after step 4", 4, lambda _: None)
    assert place["lambda"] == 3 * LAM and place["step"] == 4
    assert {row["objective"] for row in place["rows"]} > {"A", "G"}
