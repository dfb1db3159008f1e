"""The kinds of step that `zofo bench step` compares: each a small function that makes a step on a model and a batch.

All compute the same rows, and apply the head to the same positions. `KINDS` lists them: one more kind is one more
function (`zofo.bench.ours`, or `plain` what they are compared with) and one more line. A kind that puts adapters on
the model works on a `twin`, which shares its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zofo.bench.how import How, Make
from zofo.bench.ours import first_order, first_order_all, iteration, noise_pass, sketched, upper, zeroth_order
from zofo.bench.plain import (
    forward,
    forward_full,
    iteration_plain,
    mezo,
    peft_all,
    peft_loop,
    randn_pass,
    ready_pass,
    upper_plain,
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of step: what it is called, how it is made, whether there is one for each law of z, and what it fixes."""

    label: str
    make: Make
    laws: bool = False
    dtype: str = ""  # none: the one asked for
    stack: bool = False


KINDS: dict[str, Kind] = {
    "forward": Kind("plain forward", forward),
    "forward-full": Kind("plain forward, logits at all positions", forward_full),
    "forward-bf16": Kind("plain forward in bf16", forward, dtype="bf16"),
    "zofo": Kind("zofo step", zeroth_order, laws=True),
    "zofo-stacked": Kind("zofo step, stacked", zeroth_order, laws=True, stack=True),
    "zofo-bf16": Kind("zofo step in bf16", zeroth_order, laws=True, dtype="bf16"),
    "zofo-bf16-stacked": Kind("zofo step in bf16, stacked", zeroth_order, laws=True, dtype="bf16", stack=True),
    "mezo": Kind("MeZO's loop", mezo),
    "noise": Kind("a z added to all weights", noise_pass, laws=True),
    "noise-ready": Kind("a z at hand added to all weights", ready_pass),
    "noise-randn": Kind("a z of torch.randn added to all weights", randn_pass),
    "peft": Kind("first-order LoRA, peft and torch.optim", peft_loop),
    "first-order": Kind("first-order LoRA, zofo", first_order),
    "peft-all": Kind("LoRA on every linear layer, peft and torch.optim", peft_all),
    "first-order-all": Kind("LoRA on every linear layer, zofo", first_order_all),
    "sketch": Kind("sketch of all weights' gradient, zofo", sketched),
    "upper-plain": Kind("upper level, its passes plainly", upper_plain),
    "upper": Kind("upper level, zofo", upper),
    "upper-stacked": Kind("upper level, zofo, stacked", upper, stack=True),
    "upper-bf16-plain": Kind("upper level in bf16, its passes plainly", upper_plain, dtype="bf16"),
    "upper-bf16": Kind("upper level in bf16, zofo", upper, dtype="bf16"),
    "upper-bf16-stacked": Kind("upper level in bf16, zofo, stacked", upper, dtype="bf16", stack=True),
    "iteration-plain": Kind("iteration (T = 10), its passes plainly", iteration_plain),
    "iteration-bf16": Kind("iteration (T = 10) in bf16, zofo", iteration, dtype="bf16"),
    "iteration-bf16-stacked": Kind("iteration (T = 10) in bf16, zofo, stacked", iteration, dtype="bf16", stack=True),
}


REFERENCES = ("forward", "forward-full")
"""The kinds that the others are compared with, in time and in memory: always measured."""


def chosen(names: Sequence[str], laws: Sequence[str], how: How) -> Iterator[tuple[str, Kind, How]]:
    """The kinds that are wanted and the references, with their labels; a kind with laws once for each."""
    for name, kind in KINDS.items():
        if name not in (*names, *REFERENCES):
            continue
        for law in laws if kind.laws else [how.law]:
            label = f"{kind.label}, {law}" if kind.laws else kind.label
            yield label, kind, How(kind.dtype or how.dtype, how.full, law, kind.stack)
