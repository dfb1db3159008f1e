"""`zofo bench estimate`: projected gradients in each computing dtype against the exact directional derivative.

    truth     <grad f, z>, the gradient by autograd in fp32 over all base weights, summed in fp64
    estimate  c = [ f(theta + eps z) - f(theta - eps z) ] / (2 eps), as a training step takes it
    error     mean of (c - <grad f, z>)^2 / |grad f|^2

|grad f|^2 is the variance of <grad f, z> over z exactly, for every law has unit variance: an error of 1 is
noise as large as the signal. f is A, G = A + lambda (B - C), and B, C and B - C, to see where G's error is from.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zofo import checkpoints, config, job, layers, objectives, theta0
from zofo.bench import cosine
from zofo.bench.gradient import exact
from zofo.bench.setting import Asked, combinations, computed, mean_and_se, problem_in, uppers, with_seed
from zofo.config import Config
from zofo.errors import BadInput
from zofo.job import Job
from zofo.machine import machine
from zofo.methods import above, bilevel, meta, table
from zofo.methods import plan as plans
from zofo.methods.plan import Plan
from zofo.methods.state import Micro, State
from zofo.run import checkpoint as files
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_object
from zofo.tasks import mixture

GOAL = 0.05
EPS = (3e-4, 1e-3, 3e-3, 1e-2)
DTYPES = ("fp32", "bf16")
MODEL, TASK, PRESET = "smollm2-135m", "sst2", "bilevel-lora"
ERROR = "mean of (c - <grad, z>)^2 / |grad|^2, |grad|^2 being the exact variance of <grad, z> over z"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sample:
    """A projected gradient with what it should be, and |grad|^2."""

    c: float
    truth: float
    square: float

    @property
    def ratio(self) -> float:
        """The squared error in units of the variance (nan where the gradient is 0)."""
        return (self.c - self.truth) ** 2 / self.square if self.square else math.nan


Key = tuple[str, str, float]  # objective, dtype, eps


def measure(held: Job, asked: Asked, k: int, say: Say) -> tuple[float | None, dict[Key, list[Sample]]]:
    """lambda at outer iteration k (None: without a penalty), and samples at theta and adapters as they stand, on the batches of k, k + 1, ..."""
    method, samples = held.config.method, dict[Key, list[Sample]]()
    lam = plans.lam_at(method, k, held.problem.steps)
    todo = plans.plan(method, lam)
    for b in range(asked.batches):
        say(f"batch {b + 1} of {asked.batches}")
        for upper in uppers(held, k + b):
            for key, found in on_batch(held, asked, todo, State(k=k + b), upper).items():
                samples.setdefault(key, []).extend(found)
    return (lam if len(todo.terms) > 1 else None), samples


def on_batch(held: Job, asked: Asked, todo: Plan, state: State, upper: tuple[Micro, Micro]) -> dict[Key, list[Sample]]:
    """Samples on one batch of D_f and one of D_p: every objective, dtype and eps with the same directions.

    Cost: eight forward and backward passes, then six forward passes an estimate (A alone: one, two).
    """
    weights, seeds, rows = combinations(todo.terms), range(asked.seeds), {"f": upper[0], "p": upper[1]}
    plain, samples = problem_in(held, "fp32", asked.noise), dict[Key, list[Sample]]()
    z = [with_seed(plain, seed).directions(state.k)[0] for seed in seeds]
    truth = {name: exact(plain, todo.terms, w, rows, z) for name, w in weights.items()}
    for dtype in asked.dtypes:
        problem = problem_in(held, dtype, asked.noise)
        for eps in asked.eps:
            slopes = [above.look(with_seed(problem, s, eps), state, todo, upper).by_term for s in seeds]
            for name, w in weights.items():
                cs = [sum(x * y for x, y in zip(w, slope, strict=True)) for slope in slopes]
                found = [Sample(c, t, truth[name].square) for c, t in zip(cs, truth[name].along, strict=True)]
                samples[name, dtype, eps] = found
    return samples


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """The error with its standard error, and absolute numbers (None: not finite, or no gradient to compare with)."""
    ratios = [sample.ratio for sample in samples]
    misses = [(sample.c - sample.truth) ** 2 for sample in samples]
    error, spread = mean_and_se(ratios)
    return {
        "n": len(samples),
        "finite": sum(math.isfinite(sample.c) for sample in samples),
        "error": error,
        "error_se": spread,
        "rms_error": root(misses) if all(map(math.isfinite, misses)) else None,
        "grad_norm": root([sample.square for sample in samples]),
        "rms_truth": root([sample.truth**2 for sample in samples]),
    }


def root(values: Sequence[float]) -> float:
    """The root of the mean."""
    return math.sqrt(statistics.fmean(values))


def rows_of(where: str, samples: Mapping[Key, Sequence[Sample]]) -> list[dict[str, Any]]:
    """A row for each objective, dtype and eps, by objective; the eps with the smallest error of a dtype is marked."""
    rows = []
    for (objective, dtype, eps), found in samples.items():
        row = {"where": where, "objective": objective, "dtype": dtype, "eps": eps, **summary(found)}
        rows.append(row | {"goal": row["error"] is not None and row["error"] <= GOAL})
    order = list(dict.fromkeys(objective for objective, _, _ in samples))
    rows.sort(key=lambda row: order.index(row["objective"]))
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["objective"], row["dtype"]
        if row["error"] is not None and (key not in best or row["error"] < best[key]["error"]):
            best[key] = row
    return [row | {"best": any(row is other for other in best.values())} for row in rows]


def opened(run: RunFolder) -> Job:
    """A run's job at its start: its rows, fresh adapters, theta_0. Raises as `zofo resume` does where they are not the run's."""
    if not files.listing(run.checkpoints):
        raise BadInput(f"run {run.name}", "it has no checkpoint yet", "let it train first")
    settings = config.load(run.config)
    prepared = job.prepare(settings, task=mixture.reread(run.task, f"run {run.name}"))
    job.same_rows(read_object(run.splits, "parts"), prepared)
    held = assembled(settings, prepared, f"run {run.name}")
    base = read_object(run.environment, "base")["base"]
    theta0.same_base(held.digest, base["sha256"], base["name"])
    return held


def at_last(run: RunFolder, say: Say = lambda _: None) -> tuple[Job, int]:
    """A run's job as its last checkpoint has it, and the step."""
    held = opened(run)
    return held, to_last(held, run, say)


def to_last(held: Job, run: RunFolder, say: Say) -> int:
    """Bring a run's job from its start to its last checkpoint, each task's adapters at rest too; returns the step."""
    found = checkpoints.newest(run, say)
    if found is None:
        return 0
    checkpoints.weights(held, run, found)
    checkpoints.rested(held, found)
    return found.step


def has_terms(settings: Config) -> bool:
    """Whether a method has the terms A, B and C."""
    return table.METHODS[settings.method.name].load() in (bilevel, meta)


def assembled(settings: Config, prepared: job.Prepared, asked: str) -> Job:
    """Load the model and join everything. Raises: BadInput for a method without A, B and C, or an objective without gradient."""
    if not has_terms(settings):
        raise BadInput(asked, f"method {settings.method.name} has no terms A, B and C", "take a bilevel run or preset")
    name = objectives.name_of(settings, prepared.task)
    if objectives.build(settings, prepared.task, prepared.tokenizer).upper is not None:
        raise BadInput(asked, f"its objective {name} has no gradient to compare with", "take lm or classification")
    if settings.model.weights != "fp32":
        found = f"its weights are held in {settings.model.weights}, and the exact derivative is taken in fp32"
        raise BadInput(asked, found, "take fp32 weights")
    return job.assemble(computed(settings, "fp32"), prepared)


def at_start(flags: Mapping[str, Any], preset: str) -> Job:
    """A job at its start, from options over a preset (smollm2-135m on sst2 where nothing else is named)."""
    named = {"model.name": MODEL, "data.task": "" if {"data.train", "data.mixture"} & set(flags) else TASK}
    settings = config.build({**named, **layers.preset(preset), **flags})
    return assembled(settings, job.prepare(settings, flags, wanted=("f", "p")), f"--preset {preset}")


def main(
    flags: Mapping[str, Any] | None = None,
    preset: str = PRESET,
    run: RunFolder | None = None,
    eps: Sequence[float] = EPS,
    seeds: int = 8,
    batches: int = 2,
    dtypes: Sequence[str] = DTYPES,
    noise: str = "gaussian",
    say: Say = lambda text: None,
    kinds: Sequence[str] = (),
    keys: int = 4,
    rank: int = 8,
) -> dict[str, Any]:
    """Measure the error of projected gradients at a start and, given a run, after it, on its own rows and options.

    Args: flags and preset, options by dotted key as `zofo train` takes them (without a run); run, one with a
    checkpoint, whose last is taken; seeds, how many z a batch. The standard error is over seeds and batches. kinds,
    keys and rank: see `cosine`.
    Cost: per place and batch, see `on_batch`, and with kinds `cosine.on_batch`. Memory: the weights, one gradient of their size, and a training step's.
    """
    asked, began = Asked(eps, seeds, batches, dtypes, noise, cosine.chosen(kinds), keys, rank), time.perf_counter()
    for dtype in dtypes:
        computed(Config(), dtype)
    held = opened(run) if run is not None else at_start(flags or {}, preset)
    places = [measured(held, asked, "start", 0, say)]
    if run is not None:
        step = to_last(held, run, say)
        places.append(measured(held, asked, f"after step {step}", step, say))
    lists = {"results": "rows", "cosines": "cosines"}
    return {
        **described(held, asked, run),
        "places": [{key: value for key, value in place.items() if key not in lists.values()} for place in places],
        **{name: [row for place in places for row in place[key]] for name, key in lists.items()},
        "seconds": time.perf_counter() - began,
    }


def measured(held: Job, asked: Asked, where: str, k: int, say: Say) -> dict[str, Any]:
    """A place with its step, lambda, rows and cosines: of the next iteration that looks at the penalty, whose lambda is `lam_every` times as large."""
    look = plans.next_look(held.config.method, k)
    lam, samples = measure(held, asked, look, lambda text: say(f"{where}: {text}"))
    found = cosine.measure(held, asked, look, lambda text: say(f"{where}: {text}"))
    rows, cosines = rows_of(where, samples), cosine.rows_of(where, found)
    return {"where": where, "step": k, "lambda": lam, "rows": rows, "cosines": cosines}


def described(held: Job, asked: Asked, run: RunFolder | None) -> dict[str, Any]:
    """What the numbers depend on."""
    settings = held.config
    return {
        "model": settings.model.name,
        "task": held.prepared.task.name,
        "run": run.name if run is not None else None,
        "adapter": settings.adapter.kind,
        "objective": held.objective.name,
        "lambda": settings.method.lam,
        "lam_every": settings.method.lam_every,
        "weighting": settings.method.weighting,
        "batch": settings.data.batch * settings.method.accumulate_upper,
        "seed": settings.run.seed,
        "noise": asked.noise,
        "seeds": list(range(asked.seeds)),
        "batches": asked.batches,
        "dtypes": list(asked.dtypes),
        "eps": list(asked.eps),
        "kinds": list(asked.kinds),
        "keys": list(range(asked.keys)),
        "rank": asked.rank,
        "error": ERROR,
        "goal": GOAL,
        "weights": held.leaves.count,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "torch": torch.__version__,
    }
