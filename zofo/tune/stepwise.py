"""Rates of first-order steps and of sketches, by trials: tried, told, and chosen (`pick`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zofo.job import Job
from zofo.tune import pick, trial
from zofo.tune.pick import Choice, Losses
from zofo.tune.trial import Bench, Show, Tensors, Trial

RATES = {"p": "lr_p", "s": "lr_s", "theta": "lr_theta"}  # by what learns
STILL = 1e-30  # a rate at which theta stays where it is, and every pass is taken as at another


def rates(at: Bench, tried: Sequence[str], show: Show) -> tuple[Bench, Tensors]:
    """Choose the rates of p and s, or of theta, by trials at one rate for all that is tried.

    Returns the bench with the choices, and the adapters as the chosen trials left them (for theta: as they are not to be used).
    """
    m, done = at.job.config.method, dict[float, Trial]()
    before = {slot: without(at, slot) for slot in tried}
    show.phase(
        f"  {'theta standing still' if beside(at.job, tried) else 'before training'}: validation loss {told(before)} ({len(before[tried[0]])} rows)"
    )
    while len(done) < pick.MOST and (lr := following(at.job, done, tried)) is not None:
        done[lr] = trial.run(at, {RATES[slot]: lr for slot in tried}, tried)
        found = {slot: done[lr].losses[slot] for slot in tried}
        show.phase(f"  {' = '.join(RATES[slot] for slot in tried)} {lr:.2g}: validation loss {told(found)}")
    choices = {
        slot: pick.choose(losses(done, slot), before[slot], getattr(m, RATES[slot]), longer(at.job, slot))
        for slot in tried
    }
    for slot, choice in choices.items():
        show.phase(f"  {RATES[slot]} {choice.lr:.2g}: {choice.why}")
    return trial.with_options(at, **{RATES[slot]: c.lr for slot, c in choices.items()}), ends(done, choices)


def without(at: Bench, slot: str) -> list[float]:
    """The losses that a rate has to lower: those before training; of theta beside an adapter, after a trial in which p learns alone."""
    if not beside(at.job, [slot]):
        return trial.looked(at, slot)
    return trial.run(at, {RATES[slot]: STILL}, [slot]).losses[slot] or trial.looked(at, "p")


def beside(job: Job, tried: Sequence[str]) -> bool:
    """Whether it is theta that is tried, and judged with p."""
    return "theta" in tried and job.slots is not None


def losses(done: Mapping[float, Trial], slot: str) -> dict[float, Losses]:
    """What the trials came to for a slot."""
    return {lr: found.losses[slot] for lr, found in done.items()}


def following(job: Job, done: Mapping[float, Trial], tried: Sequence[str]) -> float | None:
    """The rate to try next, for the first that wants one."""
    first = getattr(job.config.method, RATES[tried[0]])
    wanted = (pick.wanted(losses(done, slot), first) for slot in tried)
    return next((lr for lr in wanted if lr is not None), None)


def ends(done: Mapping[float, Trial], choices: Mapping[str, Choice]) -> Tensors:
    """The adapters at the end of the chosen trials, each of its own; one that was not chosen, as another's trial left it."""
    found: Tensors = {}
    for slot, choice in choices.items():
        if choice.tried is not None:
            adapters = done[choice.tried].adapters
            found = {**adapters, **found, **({slot: adapters[slot]} if slot in adapters else {})}
    return found


def longer(job: Job, slot: str) -> float:
    """How many times the steps of a trial the run has for a slot, where its rate stays as high all along; else 1."""
    m = job.config.method
    if (m.schedule_theta if slot == "theta" else m.schedule) != "constant":
        return 1.0
    learner = job.begin().learners.get(slot)
    return max(1.0, (learner.total if learner is not None else job.problem.steps) / trial.STEPS)


def told(found: Mapping[str, Losses]) -> str:
    """Mean losses in words."""
    return ", ".join(f"of {slot} {average(losses)}" for slot, losses in found.items())


def average(losses: Losses) -> str:
    """A mean loss in words."""
    return "not finite" if losses is None else f"{sum(losses) / len(losses):.4f}"
