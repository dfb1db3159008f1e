"""MeZO on a language model in a page, over zofo.core alone: read this first.

    python examples/mezo_from_scratch.py --model smollm2-135m --steps 20

Each step draws one direction z (never stored), reads the loss at theta + eps z and theta - eps z, and
moves every weight by a = -lr * c along z, c = (loss_plus - loss_minus) / (2 eps). The weights end with the
very bits that `zofo train --preset mezo` gives with the same model, task, seed, rates and batches:

    zofo train --preset mezo --model smollm2-135m --task reviews --steps 20 --run.eval_every 0
"""

from __future__ import annotations

import argparse

import torch

from zofo import models, sources, theta0
from zofo.config import DataConfig, ModelConfig
from zofo.core import streams
from zofo.core.noise import Direction
from zofo.core.probe import Point
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.core.weights import move
from zofo.scoring.objective import row_losses
from zofo.scoring.tokens import pad_id
from zofo.tasks import definition
from zofo.tasks.batches import Batches
from zofo.tasks.render import Style, encode_rows
from zofo.tasks.splits import split


def data(task: str, source: sources.Source, options: DataConfig, seed: int) -> Batches:
    """Training rows in tokens, batched as a pure function of (seed, step)."""
    tokenizer, chosen = models.load_tokenizer(source), definition.find(task)
    rows = split(chosen, options, seed)
    encoded = encode_rows(chosen, [*rows.D_f, *rows.D_p], tokenizer, Style(max_length=options.max_length))
    return Batches({"all": encoded}, options.batch, pad_id(tokenizer), seed)


def mezo(model: torch.nn.Module, batches: Batches, steps: int, lr: float, eps: float, seed: int) -> str:
    """Train all weights by forward passes only; returns the SHA-256 of the weights."""
    theta = tree.find(model)  # every weight under its canonical name; tied ones once
    probe = Scratch(model, theta)  # evaluates at theta + a z without touching a weight

    for step in range(steps):
        (batch,) = batches.batch("all", "train", step, 1)
        z = Direction("gaussian", streams.key(seed, "noise", step, 0))  # a law and 64 bits: that is all of z

        def loss(batch=batch) -> torch.Tensor:  # what is probed: the model as it stands
            return row_losses(model, batch).double().sum() / len(batch.gold)

        plus, minus = probe(loss, [Point(z, +eps), Point(z, -eps)]).flatten().tolist()
        c = (plus - minus) / (2 * eps)  # the projected gradient: one number for all the weights
        a = float(torch.tensor(-lr * c, dtype=torch.float32))  # what a journal stores: 64 bits of key, 32 of a
        move.replay(theta, z.law, [(z.key, a)])  # theta <- theta + a z
        print(f"step {step + 1}  loss {(plus + minus) / 2:.4f}  c {c:+.2f}", flush=True)
    return theta0.fingerprint(theta)


def main(argv: list[str] | None = None) -> str:
    """Parse, load, train, say which weights came out."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--model", default="smollm2-135m")
    words.add_argument("--task", default="reviews")
    for name, kind, value in (("steps", int, 20), ("lr", float, 1e-6), ("eps", float, 1e-3), ("seed", int, 0)):
        words.add_argument(f"--{name}", type=kind, default=value)
    for name, value in (("batch", 8), ("max_length", 512), ("train_rows", 1000)):
        words.add_argument(f"--{name}", type=int, default=value)
    o = words.parse_args(argv)
    source = sources.find(o.model)
    options = DataConfig(task=o.task, batch=o.batch, max_length=o.max_length, train_rows=o.train_rows)
    model = models.load(source, ModelConfig(name=o.model))
    digest = mezo(model, data(o.task, source, options, o.seed), o.steps, o.lr, o.eps, o.seed)
    print(f"SHA-256 of the weights: {digest}")
    return digest


if __name__ == "__main__":
    main()
