"""What one step of theta is worth: how far the loss of rows falls by a step along one z, a sketch, the gradient, and by p's gradient.

python benchmarks/evidence/worth.py TASK [WARM]      WARM: iterations of `bilevel-lora` at lambda 0 first (8), ten LoRA steps each

A is the mean loss in fp32, at theta_0 and p as it then stands: of `ROWS` rows of D_f, from which steps are taken, and of as many validation rows.
One z: c and h are A's first and second difference along it. Over z a step -lr c z lowers A by lr |g|^2 - lr^2 |g|^2 (tr H + 2 k) / 2, where
mean c^2 = |g|^2, mean h = tr H, and k = g'Hg / g'g is the curvature along the gradient; steps at some rates are taken along each z to see it.
The others: the best of a line search on the rows that the step is taken from.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from zofo import theta0
from zofo.core.probe import Point
from zofo.core.weights import move
from zofo.job import Job, assemble, prepare
from zofo.layers import resolve
from zofo.methods import losses, theta
from zofo.methods.state import Micro, Problem
from zofo.scoring.batch import merged

ROWS, DIRECTIONS, SIZE, RATES = 48, 8, 1e-3, (3e-5, 1e-4, 3e-4)
ASKED: dict[str, Any] = {
    "model.name": "smollm2-135m",
    "model.dtype": "fp32",
    "data.validation_rows": 168,
    "method.lam": 0,
    "run.steps": 41,
}


def made(task: str) -> Job:
    """The preset's job on the rows of the grid, computed in fp32."""
    config, _ = resolve(ASKED | {"data.task": task}, "bilevel-lora")
    return assemble(config, prepare(config))


def batches(job: Job) -> tuple[Micro, Micro]:
    """Rows of D_f, and evenly spread validation rows."""
    held = job.prepared.encoded["validation"]
    rows = [held[i * len(held) // ROWS] for i in range(ROWS)]
    return job.batches.batch("f", "worth", 0, ROWS // job.config.data.batch), job.batches.cut(rows, range(ROWS))


@torch.no_grad()
def value(problem: Problem, batch: Micro) -> float:
    """A as theta and p stand."""
    problem.model.eval()
    return float(losses.mean_loss(problem, batch, "p"))


def along_z(problem: Problem, batch: Micro, other: Micro) -> None:
    """Slope and curvature along each z, and how far A falls by steps at each rate: on the rows that c is from, and on others."""
    assert problem.probe is not None
    z = replace(problem, config=problem.config.model_copy(update={"q": DIRECTIONS})).directions(0, stream="worth")
    objective = losses.terms(problem, [("p", [merged(batch)]), ("p", [merged(other)])])
    problem.model.eval()

    def at(points: Sequence[Point]) -> torch.Tensor:
        """A of both kinds of rows, (points, 2)."""
        return torch.stack([problem.probe(objective, [point])[0] for point in points])

    here, around = at([Point()])[0], at([Point(one, sign * SIZE) for one in z for sign in (1, -1)])
    up, down = around[::2], around[1::2]
    c, h = (up - down) / (2 * SIZE), (up + down - 2 * here) / SIZE**2
    print(f"{DIRECTIONS} z: mean c^2 {told(c[:, 0].square())}, z'Hz {told(h[:, 0])}", flush=True)
    for lr in RATES:
        falls = here - at([Point(one, -lr * float(slope)) for one, slope in zip(z, c[:, 0], strict=True)])
        same, others = told(falls[:, 0]), told(falls[:, 1])
        print(f"steps along one z at lr {lr:.0e}: A falls by {same}, on other rows by {others}", flush=True)


def told(values: torch.Tensor) -> str:
    """A mean and its standard error."""
    found = values.tolist()
    return f"{statistics.fmean(found):.3g} (se {statistics.stdev(found) / len(found) ** 0.5:.2g})"


def searched(step: Callable[[float], object], look: Callable[[], float], first: float) -> tuple[float, float]:
    """Rate and fall of the best step of a line search: rates a factor of 2 apart, until A rises. `step` goes on by a difference of rates."""
    before, best, lr, reached = look(), (0.0, 0.0), first, 0.0
    while True:
        step(lr - reached)
        reached, fall = lr, before - look()
        if fall < best[1]:
            return best
        best, lr = (lr, fall), 2 * lr


def by_gradients(job: Job, batch: Micro, other: Micro) -> None:
    """The best steps along a sketch of A's gradient, the gradient in theta, and the one in p, each from where theta and p stood."""
    problem = job.problem
    leaves, slots = problem.leaves, problem.slots
    assert leaves is not None and slots is not None
    sketching = replace(
        problem, config=resolve(ASKED | {"data.task": "sst2"}, "bilevel-sketch-lora")[0].method
    )  # its rank and law of R
    with theta.capturing(sketching, 0) as capture:
        losses.gradient(problem, batch, "p", 0, dropout=False, learn=False, capture=capture)
    sketch = capture.grad()
    whole = losses.gradient(problem, batch, "p", 0, dropout=False, whole=True).grads
    own = losses.gradient(problem, batch, "p", 0, dropout=False).grads
    print(
        f"|g|^2 {sum(float(g.double().square().sum()) for g in whole):.3g} in theta, {sum(float(g.square().sum()) for g in own):.3g} in p",
        flush=True,
    )
    p = slots.tensors("p")
    ways: dict[str, tuple[Callable[[float], object], float]] = {
        f"a sketch of rank {sketching.config.rank}": (lambda lr: move.apply(leaves, sketch, lr), 2.5e-4),
        "the gradient in theta": (lambda lr: going([leaf.param for leaf in leaves], whole, lr), 2.5e-4),
        "the gradient in p": (lambda lr: going(slots.list("p"), own, lr), 5e-3),
    }
    for name, (step, first) in ways.items():
        was = value(problem, other)
        lr, fall = searched(step, lambda: value(problem, batch), first)
        step(-lr)  # back from twice the best
        print(
            f"along {name}: at lr {lr:.2g} A falls by {fall:.3g}, on other rows by {was - value(problem, other):.3g}",
            flush=True,
        )
        theta0.reset(leaves, job.base)
        slots.load("p", p)


def going(params: Sequence[torch.Tensor], grads: Sequence[torch.Tensor], lr: float) -> None:
    """params <- params - lr grads."""
    with torch.no_grad():
        for param, grad in zip(params, grads, strict=True):
            param.sub_(grad, alpha=lr)


def main(task: str, warm: str = "8") -> None:
    """Print what LoRA's steps were worth, and then what a step of each kind is."""
    job = made(task)
    batch, other = batches(job)
    state, was = job.begin(), value(job.problem, other)
    print(f"{task}: A of validation rows {was:.4f} before training", flush=True)
    for _ in range(int(warm)):
        state, _report = job.method.step(job.problem, state, job.batches)
        now = value(job.problem, other)
        print(f"after {10 * state.k} steps of LoRA: {now:.4f}, a fall of {(was - now) / 10:.2e} a step", flush=True)
        was = now
    assert job.problem.leaves is not None
    theta0.reset(job.problem.leaves, job.base)  # theta's own steps are not in what follows
    print(
        f"A {value(job.problem, batch):.4f} of D_f's rows, {value(job.problem, other):.4f} of validation rows",
        flush=True,
    )
    along_z(job.problem, batch, other)
    by_gradients(job, batch, other)


if __name__ == "__main__":
    main(*sys.argv[1:])
