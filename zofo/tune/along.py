"""The probe size and the rate of theta by zeroth order, from values of the objective along a few directions (`zeroth`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zofo.config import Config
from zofo.core import streams
from zofo.core.probe import Point
from zofo.methods.learner import rate as learning
from zofo.methods.plan import every
from zofo.methods.state import State, law_of
from zofo.methods.table import effective
from zofo.methods.two_stage import first_steps
from zofo.tune import trial, zeroth
from zofo.tune.pick import rounded
from zofo.tune.trial import Bench, Show, with_method
from zofo.tune.zeroth import Line

DIRECTIONS = 5  # along which theta is probed, on two batches each
SHIFTS = 2  # times that a better probe size at the edge of three is followed


def choose(at: Bench, open_: Sequence[str], show: Show) -> Bench:
    """Choose the probe size and theta's rate, as far as they are open, at theta and adapters as they stand.

    Cost: DIRECTIONS times 7 evaluations of the objective for the size, 3 more for the rate.
    """
    first = [Walk(at, i, 2 * i) for i in range(DIRECTIONS)]
    if "eps" in open_:
        at = trial.with_options(at, eps=size(first, show))
    if "lr_theta" in open_ and trial.by_curvature(at.job):
        second = [Walk(at, i, 2 * i + 1) for i in range(DIRECTIONS)]
        at = trial.with_options(at, lr_theta=rate(at, first, second, show))
    return at


def size(walks: Sequence[Walk], show: Show) -> float:
    """The probe size of the least error, from the configured one on."""
    m = walks[0].problem.config
    eps = m.eps
    for _ in range(1 + SHIFTS):
        three = zeroth.sizes(eps)
        found = zeroth.errors([walk.line(three) for walk in walks], three, m.estimator == "forward")
        parts = ", ".join(f"{x:.2g}: {found[x]:.2g}" for x in three)
        show.phase(f"  eps, and the square error of c there in parts of its mean square: {parts}")
        if (lead := zeroth.better(found, eps)) == eps:
            break
        eps = lead
    kept = "kept, for its error is small or no other's is half of it"
    show.phase(f"  eps {eps:.2g}: {kept if eps == m.eps else 'the least error'}")
    return eps


def rate(at: Bench, first: Sequence[Walk], second: Sequence[Walk], show: Show) -> float:
    """theta's rate by curvature (`zeroth.rate`); the one configured where that says nothing, and it is told."""
    m = at.job.config.method
    if m.rule == "adam":
        show.note(f"--auto-lr: curvature along z bounds no rate of rule adam: lr_theta {m.lr_theta:.2g} is kept")
        return m.lr_theta
    shares, n = squares(at.job.config), every(m)
    looks = sum(shares[::n])
    walked = [w.line([m.eps]) for w in first], [w.line([m.eps]) for w in second]
    alone = [w.alone() for w in (*first, *second)]
    found = zeroth.rate(*walked, m.eps, m.q, looks, alone, sum(shares) - looks)
    if found is None:
        show.note(f"--auto-lr: no probe changed the loss, or one was not finite: lr_theta {m.lr_theta:.2g} is kept")
        return m.lr_theta
    lr = rounded(found.lr * (found.rms if m.rule == "scalar-adaptive" else 1.0))
    told = (
        f"rms of c {math.sqrt(found.square):.3g}, z'Hz {found.bend:.3g}, {found.share:.0%} of c^2 common to two batches"
    )
    why = (
        f"{len(shares)} steps walk {zeroth.REACH:g} eps far"
        if found.bounded
        else "half of the rate that lowers the loss most"
    )
    show.phase(f"  lr_theta {lr:.2g}: {why} ({told})")
    return lr


def squares(config: Config) -> list[float]:
    """(rate / lr)^2 of each step that a run takes by zeroth order."""
    steps = config.run.steps
    steps -= first_steps(config.method, steps) if "method.stage_one" in effective(config) else 0
    return [learning(k, 1.0, config.method.schedule_theta, 0, steps) ** 2 for k in range(steps)]


class Walk:
    """The run's objective on one batch, along one direction; what was evaluated is not evaluated again.

    lambda is that of the run's last look at the penalty. The direction is of a stream of its own.
    """

    def __init__(self, at: Bench, direction: int, batch: int) -> None:
        heavy = every(at.job.config.method) * at.job.config.method.lam
        update = {
            "lam_schedule": "constant",
            "lam": heavy,
            "lam_every": 1,
            "T": 1,
        }  # T: the batches below are drawn with those above, and not used
        job = with_method(at.job, at.job.config.method.model_copy(update=update))
        self.problem, self.spent = job.problem, at.spent
        self.held: dict[float, float] = {}  # by how far from theta: G
        self.first: dict[float, float] = {}  # and its first term
        assert self.problem.leaves is not None
        key = streams.key(self.problem.seed, "tune", direction)
        self.z = self.problem.leaves.direction(law_of(self.problem.config), key)
        self.objective = job.method.objective(self.problem, State(k=batch), job.batches)
        self.weights: list[float] = job.method.weights(self.problem, State(k=batch))

    def line(self, sizes: Sequence[float]) -> Line:
        """Values at theta, and at some sizes on both sides. Cost: an evaluation of the objective each that is new."""
        wanted = [a for a in (0.0, *(sign * eps for eps in sizes for sign in (1, -1))) if a not in self.held]
        if wanted:
            assert self.problem.probe is not None
            points = [Point(self.z, a) if a else Point() for a in wanted]
            for a, terms in zip(wanted, self.problem.probe(self.objective, points).tolist(), strict=True):
                self.held[a] = sum(w * term for w, term in zip(self.weights, terms, strict=True))
                self.first[a] = terms[0]
            self.spent.forwards += len(self.weights) * self.problem.config.accumulate_upper * len(wanted)
        return Line(self.held)

    def alone(self) -> Line:
        """Values of the first term where `line` was taken: what an iteration without a look at the penalty sees."""
        return Line(self.first)
