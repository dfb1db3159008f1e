"""`--auto-lr`: the probe size and the rates of a run chosen by a few probing steps before it, once, and written to its folder.

Rates of first-order steps (p, s, all weights) and of sketches: the method itself, a few steps at each of some rates, judged
on validation rows (`trial`, `stepwise`, `pick`). Of theta by zeroth order: from the loss along a few directions (`along`,
`zeroth`), with p and s as those trials left them. What the user gave is kept, and so is what is 0, which means off.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from zofo.config import Config, MethodConfig
from zofo.errors import BadInput
from zofo.job import Job
from zofo.methods import table
from zofo.tune import along, stepwise, trial
from zofo.tune.trial import Bench, Show, Tensors, with_method

OPTIONS = ("lr_s", "lr_p", "lr_theta", "eps")


def refuse(config: Config) -> None:
    """Raise `BadInput` for a method whose tasks learn each by itself: a trial would need adapters of every task."""
    if table.several(config):
        found = f"method {config.method.name} trains each task of a mixture by itself, and no trial of that is made"
        raise BadInput(
            "--auto-lr", found, "give the rates, or probe on one of the tasks with method bilevel and take its rates"
        )


def choose(job: Job, given: Collection[str], show: Show) -> Job:
    """Choose what is open of `OPTIONS` for a job at its start, and tell what was tried, what was chosen, why, and what it cost.

    Args: given, dotted keys that the user gave. Returns the job with the choices in its configuration; its weights and
    adapters have the bits that they had. Cost: a trial a rate tried (`trial.run`); of zeroth order, `along.DIRECTIONS` times
    10 evaluations of the objective. Memory: a training step's.
    """
    open_ = free(job, given)
    if not open_:
        show.note("--auto-lr has nothing to choose: rates and probe size are given, off, or without effect")
        return job
    show.phase(f"--auto-lr: probing {', '.join(open_)} before the run")
    at, began = trial.bench(job), time.perf_counter()
    made = chosen(at, open_, show)
    spent = at.spent
    cost = f"{spent.forwards} forward and {spent.backwards} backward passes, {time.perf_counter() - began:.0f} s"
    values = ", ".join(f"{name} {getattr(made, name):.2g}" for name in open_)
    show.note(f"--auto-lr: {values} (it took {cost}, which no budget counts)")
    return with_method(job, made)


def free(job: Job, given: Collection[str]) -> list[str]:
    """The options that are probed: with effect, not given, not off. The steps of a metric have no probe size of least error."""
    used, m = table.effective(job.config), job.config.method
    found = [n for n in OPTIONS if f"method.{n}" in used and f"method.{n}" not in given and getattr(m, n)]
    return [name for name in found if name != "eps" or job.objective.upper is None]


def chosen(at: Bench, open_: Sequence[str], show: Show) -> MethodConfig:
    """The options with the choices: first p and s (those that take steps of their own), then theta with them."""
    job = at.job
    there, used = job.begin().learners.keys() - {"theta"}, table.effective(job.config)
    learners = [slot for slot in trial.slots(job) if slot in there and f"method.{stepwise.RATES[slot]}" in used]
    tried = [slot for slot in learners if stepwise.RATES[slot] in open_]
    adapters: Tensors = {}
    with trial.restored(job, theta=bool(learners) or job.config.method.probe == "inplace"):
        if tried:
            at, adapters = stepwise.rates(at, tried, show)
        if "lr_theta" in open_ and not trial.by_curvature(job):
            at, _ = stepwise.rates(at, ["theta"], show)
        if "eps" in open_ or ("lr_theta" in open_ and trial.by_curvature(job)):
            put(job, adapters or (trial.run(at, {}, learners).adapters if learners else {}))
            at = along.choose(at, open_, show)
    return at.job.config.method


def put(job: Job, adapters: Tensors) -> None:
    """Write adapters into their slots."""
    for slot, tensors in adapters.items():
        assert job.slots is not None
        job.slots.load(slot, tensors)
