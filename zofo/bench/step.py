"""`zofo bench step`: a zeroth-order step against plain no-grad forward passes, interleaved in one process."""

from __future__ import annotations

import functools
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zofo import models, sources
from zofo.config import ModelConfig
from zofo.core import streams
from zofo.core.optim import ZO
from zofo.scoring.batch import Batch, Encoded, lm_batch
from zofo.scoring.objective import computing, row_losses


def batch(model: nn.Module, rows: int, tokens: int) -> Batch:
    """Random tokens with one answer position a row: shape (rows, tokens)."""
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator, union-attr]
    drawn = streams.generator(0, "bench").integers(0, vocabulary, (rows, tokens + 1)).tolist()
    return lm_batch([Encoded(tuple(row[:-1]), ((row[-1],),), 0) for row in drawn], range(rows), pad=0)


def full_logits(model: nn.Module, made: Batch, dtype: str) -> Tensor:
    """The same loss with the head applied to every position."""
    with computing(made.input_ids.device, dtype):
        logits = model(input_ids=made.input_ids, attention_mask=made.attention_mask, use_cache=False).logits
    scores = torch.log_softmax(logits[made.rows.row, made.rows.col].float(), -1)
    return -scores[torch.arange(len(made.token)), made.token].mean()


class Walk:
    """MeZO's own loop: seed torch's generator, add, subtract twice, add, update, a `randn` of every tensor each time."""

    def __init__(self, model: nn.Module, closure: Callable[[], Tensor], eps: float = 1e-3, lr: float = 1e-7) -> None:
        self.params = list(model.parameters())
        self.closure, self.eps, self.lr = closure, eps, lr

    def shift(self, a: float) -> None:
        """theta <- theta + a z, z drawn anew from the same seed."""
        generator = torch.Generator().manual_seed(1)
        for param in self.params:
            param.data.add_(torch.randn(param.shape, generator=generator), alpha=a)

    @torch.no_grad()
    def step(self) -> None:
        """One step: two forward passes, four passes over the weights."""
        self.shift(self.eps)
        plus = float(self.closure())
        self.shift(-2 * self.eps)
        minus = float(self.closure())
        self.shift(self.eps)
        self.shift(-self.lr * (plus - minus) / (2 * self.eps))


def interleaved(kinds: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each kind over some rounds, one of each a round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for r in range(rounds + 1):
        for name, run in kinds.items():
            began = time.perf_counter()
            run()
            if r:
                times[name].append(time.perf_counter() - began)
    return times


def measure(model: nn.Module, made: Batch, laws: Sequence[str], rounds: int, dtype: str, full: bool) -> dict[str, Any]:
    """Times of the plain forward pass, of `zofo.ZO` with each law and of MeZO's loop, as medians and ratios."""

    def loss() -> Tensor:
        return full_logits(model, made, dtype) if full else row_losses(model, made, dtype).mean()

    def plain() -> None:
        with torch.no_grad():
            loss()

    kinds: dict[str, Callable[[], Any]] = {"plain forward": plain}
    for law in laws:
        optimizer = ZO(model, lr=1e-7, noise=law)  # type: ignore[arg-type]
        kinds[f"zofo step, {law}"] = functools.partial(optimizer.step, loss)
    kinds["MeZO's loop"] = Walk(model, loss).step
    times = interleaved(kinds, rounds)
    unit = statistics.median(times["plain forward"])
    return {
        name: {
            "median_s": statistics.median(t),
            "min_s": min(t),
            "max_s": max(t),
            "forwards": statistics.median(t) / unit,
        }
        for name, t in times.items()
    }


def main(
    model: str = "smollm2-135m",
    noise: Sequence[str] = ("rademacher", "gaussian"),
    rows: int = 8,
    tokens: int = 64,
    rounds: int = 9,
    dtype: str = "fp32",
    full: bool = False,
) -> dict[str, Any]:
    """Measure one zeroth-order step over all weights of a model against one plain no-grad forward pass.

    Both compute the same rows and head positions: one answer position a row, or all (`full`).
    Returns medians in seconds, and ratios to the plain forward pass.
    """
    loaded = models.load(sources.find(model), ModelConfig(name=model)).requires_grad_(True)
    made = batch(loaded, rows, tokens)
    return {
        "model": model,
        "rows": rows,
        "tokens": tokens,
        "rounds": rounds,
        "dtype": dtype,
        "head": "all positions" if full else "one position a row",
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "weights": sum(p.numel() for p in loaded.parameters()),
        "results": measure(loaded, made, noise, rounds, dtype, full),
    }
