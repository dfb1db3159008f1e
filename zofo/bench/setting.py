"""What `zofo bench estimate` is asked, and a job's problem as it is measured: a computing dtype, a law, a seed, an objective."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from zofo import config, job, objectives
from zofo.config import Config
from zofo.core.probe.scratch import Scratch
from zofo.job import Job
from zofo.methods import bilevel
from zofo.methods.plan import Term
from zofo.methods.state import Micro, Problem, State
from zofo.methods.tasks import sampled
from zofo.problem import FP16_SCALE

Weights = dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Asked:
    """What to measure over: probe sizes, seeds of z (0, 1, ...), batches, computing dtypes, and z's law.

    kinds: estimators whose whole estimate is compared too, over `keys` keys of z or R; rank: that of a sketch.
    """

    eps: Sequence[float]
    seeds: int
    batches: int
    dtypes: Sequence[str]
    noise: str
    kinds: Sequence[str] = ()
    keys: int = 4
    rank: int = 8


def combinations(terms: Sequence[Term]) -> Weights:
    """The objectives as weights of the terms: A, G as the method weighs it, B, C and B - C (A alone where there is no more)."""
    alone = {term.name: tuple(float(term is other) for other in terms) for term in terms}
    if len(terms) == 1:
        return alone
    gap = tuple(b - c for b, c in zip(alone["B"], alone["C"], strict=True))
    return {"A": alone["A"], "G": tuple(term.weight for term in terms), **alone, "B - C": gap}


def computed(settings: Config, dtype: str) -> Config:
    """A configuration with another computing dtype. Raises: BadInput for one that there is not."""
    return config.build({**config.flatten(settings.model_dump(), ""), "model.dtype": dtype})


def problem_in(held: Job, dtype: str, law: str) -> Problem:
    """The job's problem, computed in a dtype: exact probing, central differences along one z."""
    objective = objectives.build(computed(held.config, dtype), held.prepared.task, held.prepared.tokenizer)
    method = held.config.method.model_copy(update={"noise": law, "q": 1, "estimator": "central"})
    probe = Scratch(held.model, held.leaves)
    return replace(
        held.problem, loss=objective.loss, upper=None, shadow=None, config=method, leaves=held.leaves, probe=probe,
        scale=FP16_SCALE if dtype == "fp16" else 1.0,
    )  # fmt: skip


def uppers(held: Job, k: int) -> Iterator[tuple[Micro, Micro]]:
    """The batches above of iteration k: of D_f and of D_p; of several tasks, those of each that k takes, with its own adapters in place."""
    problem = held.problem
    if not problem.members:
        yield bilevel.draw(problem, State(k=k), held.batches)[1]
        return
    for member in sampled(problem, k):
        job.at_hand(problem, member.name)
        yield bilevel.drawn(problem, k, member.source, k)[1]
    if problem.bank is not None and problem.slots is not None:
        problem.bank.rest(problem.slots)


def with_seed(problem: Problem, seed: int, eps: float = 1.0) -> Problem:
    """The problem with a z of this seed, and a probe size."""
    return replace(problem, seed=seed, config=problem.config.model_copy(update={"eps": eps}))


def mean_and_se(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean and its standard error (None: not all finite, or too few)."""
    if not all(map(math.isfinite, values)):
        return None, None
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
