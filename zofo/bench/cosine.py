"""How near whole estimates g come to the gradient G, by estimator, beside what mathematics says (`nearness`).

    cosine     <g, G> / (|g| |G|)
    variance   |g - G|^2 / |G|^2

G is autograd's in fp32, over all base weights, of the loss A and of A + lambda (B - C); g is c z or Q R, as a
training step takes it in each computing dtype, over keys 0, 1, ... of z or R.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from zofo.bench import gradient
from zofo.bench.nearness import Estimated, Near, near
from zofo.bench.setting import Asked, combinations, mean_and_se, problem_in, uppers
from zofo.core import noise, sketch
from zofo.core.estimate import ESTIMATORS
from zofo.errors import BadInput
from zofo.job import Job
from zofo.methods import above
from zofo.methods import plan as plans
from zofo.methods.plan import Plan
from zofo.methods.state import Micro, Problem, State

Options = Mapping[str, Any]  # of the method
ZEROTH: dict[str, Options] = {
    f"{name}-{law}": {"upper": "zeroth-order", "estimator": name, "noise": law}
    for name in ESTIMATORS
    for law in noise.LAWS
}
SKETCHES: dict[str, Options] = {
    f"sketch-{law}-{side}": {"upper": "sketch", "noise": law, "side": side}
    for law in sketch.LAWS
    for side in get_args(sketch.Side)
}
KINDS = ZEROTH | SKETCHES
Key = tuple[str, str, str, float | None]  # objective, kind, dtype, eps (a sketch has none)


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The kinds that begin with these words, "all" being every one. Raises: BadInput for words that none begins with."""
    found = {name: [kind for kind in KINDS if name == "all" or f"{kind}-".startswith(f"{name}-")] for name in names}
    for name, some in found.items():
        if not some:
            raise BadInput(f"--kinds {name}", "no such estimator", f"take all, or the beginning of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if any(kind in some for some in found.values()))


def options_of(kind: str) -> Options:
    """The method's options of a kind: one of `KINDS`, or `central-low-rank-4`, a law of another rank."""
    estimator, _, law = kind.partition("-")
    return KINDS.get(kind) or {"upper": "zeroth-order", "estimator": estimator, "noise": law}


def objectives(todo: Plan) -> dict[str, Plan]:
    """A alone, and G where the method has it, as plans that move theta only."""
    weights = combinations(todo.terms)
    return {
        name: replace(
            todo,
            p_above=False,
            terms=tuple(replace(term, weight=w) for term, w in zip(todo.terms, weights[name], strict=True) if w),
        )
        for name in ("A", "G")
        if name in weights
    }


def measure(held: Job, asked: Asked, k: int, say: Callable[[str], None]) -> dict[Key, list[Near]]:
    """Estimates at theta and adapters as they stand, on the batches of outer iterations k, k + 1, ..."""
    found = dict[Key, list[Near]]()
    todo = plans.plan(held.config.method, plans.lam_at(held.config.method, k, held.problem.steps))
    for b in range(asked.batches if asked.kinds else 0):
        for upper in uppers(held, k + b):
            for key, some in on_batch(held, asked, todo, State(k=k + b), upper):
                say(f"batch {b + 1} of {asked.batches}: {' '.join(str(part) for part in key if part is not None)}")
                found.setdefault(key, []).extend(some)
    return found


def on_batch(
    held: Job, asked: Asked, todo: Plan, state: State, upper: tuple[Micro, Micro]
) -> Iterator[tuple[Key, list[Near]]]:
    """Estimates on one batch of D_f and one of D_p.

    Cost: four forward and backward passes for G's; then for each kind, dtype, eps and key eight forward passes (a sketch: four
    forward and backward), and a noise pass and two fp64 products of model size each for A and G. Memory: one gradient beside an estimate's.
    """
    plain, rows = problem_in(held, "fp32", noise.LAWS[0]), {"f": upper[0], "p": upper[1]}
    for name, plan in objectives(todo).items():
        G = gradient.whole(plain, plan.terms, [term.weight for term in plan.terms], rows)
        squares = gradient.squares(G)
        for kind, dtype, eps in cases(asked):
            problem = problem_of(held, options_of(kind), dtype, eps, asked.rank)
            estimates = (estimated(replace(problem, seed=key), state, plan, upper) for key in range(asked.keys))
            yield (name, kind, dtype, eps), [near(g, G, squares, held.leaves) for g in estimates]


def cases(asked: Asked) -> Iterator[tuple[str, str, float | None]]:
    """Kind, dtype, and each probe size (of a sketch: none)."""
    for kind in asked.kinds:
        for dtype in asked.dtypes:
            for eps in (None,) if kind in SKETCHES else asked.eps:
                yield kind, dtype, eps


def problem_of(held: Job, options: Options, dtype: str, eps: float | None, rank: int) -> Problem:
    """The job's problem with another estimator."""
    problem = problem_in(held, dtype, str(options["noise"]))
    return replace(problem, config=problem.config.model_copy(update={"eps": eps or 0.0, "rank": rank, **options}))


def estimated(problem: Problem, state: State, todo: Plan, upper: tuple[Micro, Micro]) -> Estimated:
    """The gradient in theta as an iteration takes it; lambda is in the terms' weights, and p takes no share."""
    with problem.standing_still():
        _, found = above.backwards(problem, state.k, todo, 0.0, upper)
    return (found or above.look(problem, state, todo, upper)).grad


def rows_of(where: str, found: Mapping[Key, Sequence[Near]]) -> list[dict[str, Any]]:
    """A row for each objective, kind, dtype and eps, by objective."""
    rows = [
        {"where": where, "objective": objective, "kind": kind, "dtype": dtype, "eps": eps, **summary(some)}
        for (objective, kind, dtype, eps), some in found.items()
    ]
    return sorted(rows, key=lambda row: str(row["objective"]))


def summary(found: Sequence[Near]) -> dict[str, Any]:
    """Means over keys and batches with their standard errors (None: not finite, or no gradient to compare with)."""
    cosine, cosine_se = mean_and_se([one.cosine for one in found])
    variance, variance_se = mean_and_se([one.variance for one in found])
    formula, _ = mean_and_se([one.formula for one in found])
    return {
        "n": len(found),
        "finite": sum(math.isfinite(one.square) for one in found),
        "cosine": cosine,
        "cosine_se": cosine_se,
        "variance": variance,
        "variance_se": variance_se,
        "formula": formula,
    }
