"""`zofo bench train`: whole iterations of several configurations on a task's own rows, interleaved in one process.

What an iteration costs here, for comparisons at equal seconds: steps = seconds / cost.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zofo import config, job, layers, settled
from zofo.bench.peak import allocated
from zofo.bench.step import interleaved
from zofo.config import Config
from zofo.errors import BadInput
from zofo.job import Job
from zofo.machine import machine
from zofo.methods.check import check
from zofo.methods.plan import every
from zofo.methods.state import State
from zofo.methods.table import effective

MODEL, TASK = "smollm2-135m", "sst2"


@dataclass
class Running:
    """A configuration in training: its job, where it stands, and the forward and backward passes an iteration of the last call."""

    job: Job
    state: State
    passes: tuple[float, float] = (0, 0)

    @property
    def period(self) -> int:
        """Iterations after which their costs repeat."""
        return every(self.job.config.method)

    def steps(self, n: int) -> Callable[[], None]:
        """A call that takes so many."""

        def run() -> None:
            seen = []
            for _ in range(n):
                self.step()
                seen.append(self.passes)
            forwards, backwards = (statistics.fmean(part) for part in zip(*seen, strict=True))
            self.passes = forwards, backwards

        return run

    def step(self) -> None:
        """One iteration."""
        self.state, report = self.job.method.step(self.job.problem, self.state, self.job.batches)
        self.passes = (report.forwards, report.backwards)


def started(name: str, flags: Mapping[str, Any], say: Callable[[str], None]) -> Running:
    """A configuration at its start: a preset by name or a YAML file, and options over it."""
    file = name.endswith((".yaml", ".yml"))
    held, given = layers.resolve(flags, None if file else name, name if file else None)
    named = {"model.name": held.model.name or MODEL}
    named |= {} if held.data.mixture or held.data.task or held.data.train else {"data.task": TASK}
    settings = config.build({**config.flatten(held.model_dump(), ""), **named})
    check(settings, given)
    if "method.stage_one" in effective(settings):
        say(f"{name}: it has two stages, and what is measured begins with the first; one cost does not hold for both")
    return begun(settings, given, lambda note: say(f"{name}: {note}"))


def begun(settings: Config, given: Collection[str], say: Callable[[str], object]) -> Running:
    """A configuration at its start, as `zofo train` begins it; no validation or test row is read."""
    ready = job.prepare(settings, given, wanted=("f", "p"))
    settings, notes = settled.types(settings, ready.task)
    made, more = settled.stacked(job.assemble(settings, ready))
    for note in (*notes, *more):
        say(note)
    return Running(made, made.begin())


def main(
    names: Sequence[str],
    flags: Mapping[str, Any] | None = None,
    rounds: int = 5,
    steps: int = 8,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Seconds an iteration of each configuration, and what an iteration takes above what stands between them.

    Of a method of two stages the iterations measured begin with the first. With `lam_every` n an iteration is the mean of n, and a round takes whole n.

    Args: names, presets or YAML files; flags, options over all of them, by dotted key; rounds of `steps` iterations of
    each, interleaved, after one that does not count. Means, for rows differ: take enough iterations. Raises: BadInput.
    Memory: a model for each configuration.
    """
    if len(set(names)) < len(names) or not names:
        raise BadInput(" ".join(names) or "no configuration", "each is measured once", "name presets or YAML files")
    running = {name: started(name, flags or {}, say) for name in names}
    turns = {name: math.ceil(steps / one.period) * one.period for name, one in running.items()}
    taken = interleaved({name: one.steps(turns[name]) for name, one in running.items()}, rounds)
    seconds = {name: [s / turns[name] for s in taken[name]] for name in names}
    unit = statistics.fmean(seconds[names[0]])
    first = next(iter(running.values())).job.config
    return {
        "model": first.model.name,
        "task": first.data.mixture or first.data.task or first.data.train,
        "batch": first.data.batch,
        "rounds": rounds,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "torch": torch.__version__,
        "results": {name: told(running[name], seconds[name], unit) for name in names},
    }


def told(one: Running, seconds: Sequence[float], unit: float) -> dict[str, Any]:
    """A configuration's figures. The mean, for rows differ from iteration to iteration."""
    mean = statistics.fmean(seconds)
    return {
        "dtype": one.job.config.model.dtype,
        "mean_s": mean,
        "min_s": min(seconds),
        "max_s": max(seconds),
        "ratio": mean / unit,
        "forwards": one.passes[0],
        "backwards": one.passes[1],
        "allocated_bytes": allocated(one.steps(one.period)),
    }
