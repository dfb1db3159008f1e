"""`zofo bench eval`: scoring a task's test rows against scoring one candidate at a time with logits everywhere."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from zofo import job, models
from zofo.bench.step import interleaved
from zofo.config import build
from zofo.job import Prepared
from zofo.machine import machine
from zofo.measure import evaluate
from zofo.scoring.batch import Encoded
from zofo.scoring.objective import computing
from zofo.scoring.tokens import pad_id

Scores = list[list[float]]


@torch.no_grad()
def one_by_one(model: nn.Module, encoded: Sequence[Encoded], dtype: str) -> Scores:
    """Mean log-probabilities of each row's candidates: a forward pass each, logits at every position (MeZO's loop)."""
    found: Scores = []
    for example in encoded:
        found.append([])
        for k, answer in enumerate(example.answers):
            scored = len(answer) - (example.skip[k] if example.skip else 0)
            ids = torch.tensor([example.context + answer], device=next(model.parameters()).device)
            with computing(ids.device, dtype):
                logits = model(input_ids=ids, use_cache=False).logits
            scores = torch.log_softmax(logits.float(), -1)[0, :-1].gather(1, ids[0, 1:, None])
            found[-1].append(float(scores[-scored:].mean()))
    return found


def apart(one: Scores, other: Scores) -> float:
    """The largest difference of two lists of scores."""
    pairs = zip((v for row in one for v in row), (v for row in other for v in row), strict=True)
    return max(abs(a - b) for a, b in pairs)


def best(scores: Scores) -> list[int]:
    """The first highest candidate of each row."""
    return [max(range(len(row)), key=row.__getitem__) for row in scores]


def measure(model: nn.Module, ready: Prepared, rounds: int, dtype: str) -> dict[str, Any]:
    """Seconds of both ways as medians, their ratio, and whether they agree."""
    encoded, seen = ready.encoded["test"], dict[str, Scores]()

    def slow() -> None:
        seen["one"] = one_by_one(model, encoded, dtype)

    def fast() -> None:
        found = evaluate(model, encoded, ready.task, dtype=dtype, pad=pad_id(ready.tokenizer), predictions=True)
        seen["zofo"] = found["scores"]

    kinds: dict[str, Callable[[], Any]] = {"one by one": slow, "zofo": fast}
    times = interleaved(kinds, rounds)
    ratios = [a / b for a, b in zip(times["one by one"], times["zofo"], strict=True)]
    return {
        "rows": len(encoded),
        "candidates": sum(len(example.answers) for example in encoded),
        "one_by_one_s": statistics.median(times["one by one"]),
        "zofo_s": statistics.median(times["zofo"]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "equal_predictions": best(seen["one"]) == best(seen["zofo"]),
        "max_logprob_difference": apart(seen["one"], seen["zofo"]),
    }


def main(
    model: str = "smollm2-135m",
    tasks: Sequence[str] = ("sst2", "copa"),
    rows: int = 1000,
    rounds: int = 3,
    dtype: str = "fp32",
) -> dict[str, Any]:
    """Score the test rows of tasks with choices both ways, interleaved in one process after a round that does not count."""
    found: dict[str, Any] = {}
    held: nn.Module | None = None
    for task in tasks:
        config = build({"model.name": model, "model.dtype": dtype, "data.task": task, "data.test_rows": rows})
        ready = job.prepare(config, wanted=("test",))
        held = held or models.load(ready.source, config.model)
        found[task] = measure(held, ready, rounds, dtype)
    return {
        "model": model,
        "dtype": dtype,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "torch": torch.__version__,
        "results": found,
    }
