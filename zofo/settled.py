"""What `auto` means on this machine: chosen by measuring, once, and written to the run folder.

The computing dtype goes by one product in each type; whether points are stacked, by one estimate each way on the run's
own rows. The probe size, and the type that theta's probes are computed in, go by the errors of estimates as
`zofo bench estimate` measured them (benchmarks/estimate).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch

from zofo import models, objectives
from zofo.config import Config
from zofo.core.estimate import ESTIMATORS
from zofo.core.probe import Stackable
from zofo.core.probe.scratch import Scratch
from zofo.job import Job
from zofo.methods import table
from zofo.methods.plan import heaviest
from zofo.methods.state import EPS, Problem
from zofo.methods.table import moves_theta
from zofo.tasks.definition import Task

SIZES = {("bf16", "lm"): 3e-3}  # probe sizes of the smallest error by type and objective, where it is not EPS
HELD = {
    ("bf16", "lm"): 10.0,
    ("bf16", "classification"): 0.0,
}  # the largest lambda at which estimates of G were within the bar
GAIN = 0.97  # of the time: less is not worth another order of summation
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def plain(config: Config) -> Config:
    """The choices that need no measuring, for every `auto` that is left: fp32 (the weights' own half type), points one by one."""
    kept = config.model.weights
    dtype = config.model.dtype if config.model.dtype != "auto" else kept
    probes = config.method.probe_dtype if config.method.probe_dtype != "auto" else dtype
    stack = config.method.stack if config.method.stack != "auto" else "off"
    return with_(config, dtype, probes, config.method.eps or EPS, stack)


def with_(config: Config, dtype: str, probe_dtype: str, eps: float, stack: str) -> Config:
    """The configuration with these choices."""
    method = config.method.model_copy(update={"probe_dtype": probe_dtype, "eps": eps, "stack": stack})
    return config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype}), "method": method})


def types(config: Config, task: Task | None = None) -> tuple[Config, list[str]]:
    """Choose computing dtype, the probes' dtype and the probe size; returns the choices and what to tell. Cost: a few products.

    The task says which loss `--objective auto` is; without one it is the LM loss.
    """
    notes: list[str] = []
    asked = objectives.name_of(config, task) if task is not None else config.method.objective
    objective = "classification" if asked == "classification" else "lm"
    dtype = config.model.dtype
    if dtype == "auto" and config.model.weights != "fp32":
        dtype = config.model.weights
    elif dtype == "auto":
        times = products(models.device(config.model))
        dtype = cast(Any, min(times, key=lambda name: times[name]))
        told = ", ".join(f"{name} {seconds * 1e3:.2f} ms" for name, seconds in times.items())
        notes.append(f"computing in {dtype} (a product took: {told}); --dtype fixes it")
    probes = config.method.probe_dtype
    if probes == "auto":
        probes = dtype if config.model.weights != "fp32" or holds(config, dtype, objective) else "fp32"
        if probes != dtype and table.zeroth(config.method):
            known = f"lambda {config.method.lam:g} magnifies the error that {dtype} makes"
            why = known if (dtype, objective) in HELD else f"what errors {dtype} makes was not measured"
            notes.append(f"theta's probes are computed in fp32: {why}")
    eps = config.method.eps or SIZES.get((probes, objective), EPS)
    return with_(config, dtype, probes, eps, config.method.stack), notes


def holds(config: Config, dtype: str, objective: str = "lm") -> bool:
    """Whether estimates in a dtype are within the error bar, as far as it was measured: mean square error 0.05 of the variance.

    One loss, and G up to the lambda of HELD, in bf16 with the head in fp32 (benchmarks/estimate). A larger lambda pulls p
    and s together, B - C to nothing, and its error stays; a classification loss bends so much after training that the
    larger probe which the LM loss wants in bf16 is too large for it.
    """
    magnified = table.zeroth(config.method) and "method.lam" in table.effective(config)
    held = HELD.get((dtype, objective))
    return dtype == "fp32" or (held is not None and (not magnified or heaviest(config.method) <= held))


def products(device: torch.device) -> dict[str, float]:
    """Seconds of one product of 512 x 1024 x 1024 in fp32 and in the device's half type, the best of five."""
    made = {name: torch.ones(2, 1024, 1024, dtype=TYPES[name], device=device) for name in ("fp32", half(device))}
    return {name: fastest(lambda m=pair: (m[0, :512] @ m[1]).sum().item()) for name, pair in made.items()}  # type: ignore[misc]


def half(device: torch.device) -> str:
    """The half type that `auto` may take: bf16, which has fp32's range; fp16 on accelerators that compute no bf16 by themselves."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "mps":
        return "bf16" if torch.backends.mps.is_macos_or_newer(14, 0) else "fp16"
    return "bf16"


def fastest(run: Callable[[], object], times: int = 5) -> float:
    """The shortest of some times, after one that does not count."""
    found = []
    for _ in range(times + 1):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found[1:])


def stacked(job: Job) -> tuple[Job, list[str]]:
    """Choose whether points are stacked, where `auto` leaves it open; see that it can be done where `on` was asked for.

    Cost: two estimates on the run's first rows each way that is tried.
    """
    config, probe = job.config, job.problem.probe
    if config.method.stack == "off":
        return job, []
    if not (moves_theta(config) and isinstance(probe, Scratch) and job.problem.stacks):
        return chosen(job, "off"), []
    if not isinstance(job.method.objective(job.problem, job.begin(), job.batches), Stackable):
        told = "choices of several tokens go on from their contexts: estimates on such rows go one point a pass"
        return (chosen(job, "off") if config.method.stack == "auto" else job), [told]
    ways = {"off": "one point a pass", "on": "two points a pass"}
    tried = ("off", "on") if config.method.stack == "auto" else ("on",)
    times = {way: fastest(lambda way=way: look(job, way == "on"), 1) for way in tried}  # type: ignore[misc]
    if probe.unstacked is not None:
        return chosen(job, "off"), [f"points are evaluated one by one: {probe.unstacked}"]
    if "off" not in times:
        return job, []
    best = "on" if times["on"] < GAIN * times["off"] else "off"
    told = ", ".join(f"{ways[name]} {seconds:.2f} s" for name, seconds in times.items())
    return chosen(job, best), [f"estimates go {ways[best]} ({told}); --method.stack fixes it"]


def look(job: Job, stack: bool) -> None:
    """One estimate on the first step's rows; nothing moves."""
    problem: Problem = job.problem
    assert isinstance(problem.probe, Scratch)
    problem.probe.stack = stack
    objective = job.method.objective(problem, job.begin(), job.batches)
    ESTIMATORS["central"](
        problem.probe, objective, problem.directions(0)[:1], problem.eps, [1.0] * len(objective.parts)
    )


def chosen(job: Job, stack: str) -> Job:
    """The job with the choice made."""
    method = job.config.method.model_copy(update={"stack": stack})
    if isinstance(job.problem.probe, Scratch):
        job.problem.probe.stack = stack == "on"
    config = job.config.model_copy(update={"method": method})
    return replace(job, config=config, problem=replace(job.problem, config=method))
