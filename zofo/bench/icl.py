"""`zofo bench icl`: answering a row as it stands against answering it after demonstrations, whose keys and values are kept.

The demonstrations are read once, before the clock runs (what that takes is told apart), and so is what all rows as they
stand have in common: an answer costs its own row's tokens either way, and their attention to what was read before.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from zofo import job, models, sources
from zofo.adapters.slots import attach
from zofo.bench.peak import peak
from zofo.bench.step import interleaved
from zofo.config import AdapterConfig, Config, build
from zofo.errors import BadInput
from zofo.job import Prepared
from zofo.machine import machine
from zofo.measure import Reading, among, shared
from zofo.scoring.batch import Encoded
from zofo.scoring.objective import evaluating
from zofo.scoring.past import Past, can_share
from zofo.scoring.tokens import pad_id


@dataclass(frozen=True)
class Way:
    """A way of answering rows: what reads them, and the rows, after `shots` demonstrations (of `asked`; those that fit)."""

    reading: Reading
    rows: Sequence[Encoded]
    shots: int = 0
    asked: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that are kept."""
        return len(self.reading.past.ids) if self.reading.past is not None else 0


def way(model: nn.Module, rows: Sequence[Encoded], dtype: str, pad: int, shots: int = 0, asked: int = 0) -> Way:
    """Rows to answer, what they have in common read once. Raises: BadInput for a model that cannot go on from it."""
    if not can_share(model):
        found = "rows cannot go on from kept keys and values in it"
        raise BadInput(f"zofo bench icl, {type(model).__name__}", found, "take a model with a plain cache")
    reading = Reading(model, dtype, pad)
    with evaluating(model):
        return Way(replace(reading, past=shared(reading, rows)), rows, shots, asked)


def fitting(config: Config, shots: int) -> tuple[Prepared, int]:
    """Test rows after the same demonstrations each: as many of those asked for as the model reads before its longest row.

    Cost: the rows encoded once for each time that some do not fit.
    """
    while True:
        data = config.data.model_copy(update={"shots": shots})
        ready = job.prepare(config.model_copy(update={"data": data}), wanted=("test",))
        lost = max(row.left_out for row in ready.encoded["test"])
        if not lost:
            return ready, shots
        shots -= lost


def answer(held: Way, batch: int) -> Callable[[], object]:
    """Answering all rows, `batch` of them a pass at most."""

    def run() -> object:
        with evaluating(held.reading.model), torch.no_grad():
            return among(held.reading, held.rows, batch)

    return run


def reading_once(held: Way) -> Callable[[], object]:
    """Reading what a way keeps."""

    def run() -> object:
        with evaluating(held.reading.model):
            return shared(replace(held.reading, past=None), held.rows)

    return run


def kept(past: Past | None) -> int:
    """Bytes of kept keys and values."""
    layers = past.cache.layers if past is not None else ()
    return sum(t.numel() * t.element_size() for layer in layers for t in (layer.keys, layer.values))


def spread(values: Sequence[float], name: str) -> dict[str, float]:
    """Median, least and most of some numbers."""
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def measure(ways: Mapping[str, Way], batches: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Seconds a row of each way and batch, interleaved, as multiples of the first way's; and (apart) peak memory."""
    places = [(name, batch) for batch in batches for name in ways]
    kinds = {f"{name}, {batch}": answer(ways[name], batch) for name, batch in places}
    first = {f"{name}, once": reading_once(held) for name, held in ways.items() if held.shots}
    times = interleaved({**kinds, **first}, rounds)
    unit = next(iter(ways))
    return [
        figures(ways[name], name, batch, times[f"{name}, {batch}"], times[f"{unit}, {batch}"])
        | (spread(times[f"{name}, once"], "read_s") if ways[name].shots else {})
        | memory(ways[name], kinds[f"{name}, {batch}"])
        for name, batch in places
    ]


def figures(held: Way, name: str, batch: int, seconds: Sequence[float], unit: Sequence[float]) -> dict[str, Any]:
    """What was measured of a way: seconds a row, and in each round's own seconds of the first way."""
    ratios = [a / b for a, b in zip(seconds, unit, strict=True)]
    told = {"what": name, "batch": batch, "shots": held.shots, "shots_asked": held.asked, "kept_tokens": held.tokens}
    return told | spread([value / len(held.rows) for value in seconds], "row_s") | spread(ratios, "ratio")


def memory(held: Way, run: Callable[[], object]) -> dict[str, Any]:
    """Bytes above the weights at the peak: of answering, and of what is kept meanwhile."""
    found = peak(run, next(held.reading.model.parameters()).device)
    return {
        "allocated_bytes": found.allocated,
        "resident_bytes": found.resident,
        "kept_bytes": kept(held.reading.past),
        "memory_by": found.by,
    }


def classes(rows: Sequence[Encoded]) -> int:
    """Choices a row, at most."""
    return max(len(row.answers) for row in rows)


def ways_of(
    config: Config, model: nn.Module, adapted: nn.Module | None, shots: Sequence[int], a_class: Sequence[int]
) -> tuple[dict[str, Way], Prepared]:
    """The ways to compare on a task: rows as they stand (first), through an adapter, and after demonstrations."""
    bare, _ = fitting(config, 0)
    rows, pad, dtype = bare.encoded["test"], pad_id(bare.tokenizer), config.model.dtype
    ways = {"no demonstrations": way(model, rows, dtype, pad)}
    if adapted is not None:
        ways["no demonstrations, LoRA apart"] = way(adapted, rows, dtype, pad)
    wanted = {f"{k}": k for k in shots} | {f"{k} a class": k * classes(rows) for k in a_class}
    for name, asked in wanted.items():
        ready, fits = fitting(config, asked)
        ways[f"{name} demonstrations"] = way(model, ready.encoded["test"], dtype, pad, fits, asked)
    return ways, bare


def main(
    model: str = "smollm2-135m",
    tasks: Sequence[str] = ("sst2",),
    shots: Sequence[int] = (16,),
    a_class: Sequence[int] = (4,),
    rows: int = 64,
    batches: Sequence[int] = (1, 32),
    rounds: int = 5,
    dtype: str = "fp32",
    lora: bool = False,
    channel: bool = False,
) -> dict[str, Any]:
    """Answer test rows of tasks with choices as they stand, and after demonstrations, interleaved in one process.

    Args: shots, demonstrations; a_class, the same as so many a choice (16 and 4 a class are MetaICL's and `zofo adapt`'s);
    batches, rows a pass; lora, rows as they stand through an adapter too that is not merged (a second copy of the model).
    """
    found: dict[str, Any] = {}
    held: nn.Module | None = None
    adapted: nn.Module | None = None
    for task in tasks:
        config = build({
            "model.name": model, "model.dtype": dtype, "data.task": task, "data.test_rows": rows, "data.channel": channel,
        })  # fmt: skip
        source = sources.find(model)
        held = held or models.load(source, config.model)
        if lora and adapted is None:
            adapted = attach(models.load(source, config.model), AdapterConfig(), ("p",), 0).model
        ways, bare = ways_of(config, held, adapted, shots, a_class)
        found[task] = {
            "rows": len(bare.encoded["test"]),
            "classes": classes(bare.encoded["test"]),
            "row_tokens": statistics.fmean(row.length for row in bare.encoded["test"]),
            "ways": measure(ways, batches, rounds),
        }
    return {
        "model": model, "dtype": dtype, "rounds": rounds, "channel": channel, "threads": torch.get_num_threads(),
        "machine": machine(), "torch": torch.__version__, "results": found,
    }  # fmt: skip
