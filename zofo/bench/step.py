"""`zofo bench step`: steps of several kinds against plain no-grad forward passes, in time and in memory, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from zofo import models, sources
from zofo.bench.how import How, Step, batch
from zofo.bench.kinds import KINDS, REFERENCES, Kind, chosen
from zofo.bench.peak import Peak, peak
from zofo.config import ModelConfig
from zofo.core import devices
from zofo.errors import BadInput
from zofo.machine import machine
from zofo.scoring.batch import Batch


def interleaved(
    kinds: Mapping[str, Callable[[], Any]], rounds: int, tell: Callable[[int, str, float], object] = lambda *_: None
) -> dict[str, list[float]]:
    """Seconds of each kind over some rounds, one of each a round, after one round, the 0th, that does not count.

    `tell` hears of every turn as it ends: its round, its kind, its seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for r in range(rounds + 1):
        for name, run in kinds.items():
            began = time.perf_counter()
            run()
            devices.finish()
            seconds = time.perf_counter() - began
            if r:
                times[name].append(seconds)
            tell(r, name, seconds)
    return times


def memory(kind: Kind, model: nn.Module, made: Batch, how: How) -> Peak:
    """What a kind takes above the weights: it is made anew and takes two steps, so what it keeps between steps counts."""

    def steps() -> Step:
        run = kind.make(model, made, how)
        run()
        run()
        return run

    return peak(steps, made.input_ids.device)


def timed(seconds: Sequence[float], unit: Sequence[float]) -> dict[str, float]:
    """Median, least and most seconds, and the median in those of the plain forward pass."""
    median = statistics.median(seconds)
    least, most = min(seconds), max(seconds)
    return {"median_s": median, "min_s": least, "max_s": most, "forwards": median / statistics.median(unit)}


def taken(found: Peak, unit: Peak) -> dict[str, Any]:
    """Bytes above the weights, and as multiples of the plain forward pass with logits at all positions."""
    return {
        "allocated_bytes": found.allocated,
        "resident_bytes": found.resident,
        "allocated_ratio": found.allocated / unit.allocated,
        "resident_ratio": found.resident / unit.resident if unit.resident else None,
    }


def measure(
    model: nn.Module, made: Batch, laws: Sequence[str], rounds: int, how: How, methods: Sequence[str] = tuple(KINDS)
) -> dict[str, Any]:
    """Times, interleaved, and then (apart, each kind made anew) peak memory of the kinds, by label."""
    kinds = {label: (kind, own) for label, kind, own in chosen(methods, laws, how)}
    times = interleaved({label: kind.make(model, made, own) for label, (kind, own) in kinds.items()}, rounds)
    peaks = {label: memory(kind, model, made, own) for label, (kind, own) in kinds.items()}
    unit, whole = (KINDS[name].label for name in REFERENCES)
    return {
        label: {**timed(times[label], times[unit]), **taken(peaks[label], peaks[whole]), "memory_by": peaks[label].by}
        for label in kinds
    }


def main(
    model: str = "smollm2-135m",
    noise: Sequence[str] = ("rademacher", "gaussian"),
    rows: int = 8,
    tokens: int = 64,
    rounds: int = 9,
    dtype: str = "fp32",
    full: bool = False,
    methods: Sequence[str] = tuple(KINDS),
) -> dict[str, Any]:
    """Measure one step of each kind over a model against plain no-grad forward passes.

    All compute the same rows and head positions: one answer position a row, or all (`full`). Times are medians in
    seconds, and multiples of the plain forward pass; memory is bytes above the weights at the peak of two steps, and
    multiples of the plain forward pass with logits at all positions, whichever the head's positions are.
    """
    source = sources.find(model)
    if tokens > (most := models.positions(source) or tokens):
        raise BadInput(f"--tokens {tokens}", f"{model} reads {most} at most", f"give {most} or fewer")
    loaded = models.load(source, ModelConfig(name=model)).requires_grad_(True)
    made = batch(loaded, rows, tokens)
    return {
        "model": model,
        "rows": rows,
        "tokens": tokens,
        "rounds": rounds,
        "dtype": dtype,
        "head": "all positions" if full else "one position a row",
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "torch": torch.__version__,
        "weights": sum(p.numel() for p in loaded.parameters()),
        "results": measure(loaded, made, noise, rounds, How(dtype, full), methods),
    }
