"""Mean losses over micro-batches: as a value for probes, and with their exact gradient for an adapter, or for all weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zofo.adapters.slots import learning
from zofo.core import noise, streams
from zofo.core.attention import Wide
from zofo.core.estimate import central
from zofo.core.noise import Direction
from zofo.core.probe import Objective
from zofo.core.probe.inplace import Inplace
from zofo.core.probe.stand import CannotStack
from zofo.core.sketch.capture import Capture
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput
from zofo.methods.state import Micro, Problem, law_of
from zofo.scoring.batch import merged


class Slope(NamedTuple):
    """A mean loss and its gradient with respect to an adapter's parameters, or to all weights."""

    loss: float
    grads: list[Tensor]


def mean_loss(problem: Problem, batch: Micro, slot: str | None, upper: bool = True) -> Tensor:
    """F(theta, slot; batch): the mean over all rows of all micro-batches, fp64. Cost: a forward pass a micro-batch (branched: its two halves).

    `upper`: of what the zeroth-order level minimises, which may be a metric instead of the loss.
    """
    if slot is not None and problem.slots is not None:
        problem.slots.use(slot)
    loss = problem.loss_above if upper else problem.loss
    rows = [loss(problem.model, micro).reshape(-1) for micro in batch]
    return torch.stack([r.cpu().double().sum() for r in rows]).sum() / sum(r.numel() for r in rows)


@dataclass(frozen=True)
class Terms:
    """Terms F(theta, slot; batch) as an objective for probes: (slot, batch) each, evaluated one after the other, or all at once."""

    problem: Problem
    parts: tuple[tuple[str | None, Micro], ...]

    def __call__(self) -> Tensor:
        """Each term's mean loss, (terms,). Cost: a forward pass a micro-batch of each term."""
        return torch.stack([mean_loss(self.problem, batch, slot) for slot, batch in self.parts])

    def stacked(self, n: int) -> Tensor:
        """The terms at n points, (n, terms): the micro-batches of all terms and points are the rows of one forward pass.

        Adapters of several slots go by row where they can (LoRA), else the slots' terms go one after the other.
        """
        groups = [list(range(len(self.parts)))]
        slots = dict.fromkeys(slot for slot, _ in self.parts)
        if len(slots) > 1 and not (self.problem.slots is not None and self.problem.slots.by_row):
            groups = [[i for i, (slot, _) in enumerate(self.parts) if slot == wanted] for wanted in slots]
        values: dict[int, Tensor] = {}
        for group in groups:
            values |= dict(zip(group, self.together(group, n), strict=True))
        return torch.stack([values[i] for i in range(len(self.parts))], 1)

    def together(self, group: list[int], n: int) -> list[Tensor]:
        """The mean losses, (n,), of some terms."""
        sums, counts = [torch.zeros(n, dtype=torch.float64) for _ in group], [0] * len(group)
        for micros in zip(*(self.parts[i][1] for i in group), strict=True):
            names = [self.parts[i][0] for i in group] * n
            with rows_of(self.problem, names, [len(m.input_ids) for m in micros] * n):
                losses = self.problem.loss_above(self.problem.model, merged([*micros] * n))
            sizes = [m.count.numel() for m in micros]
            table = losses.reshape(n, -1).cpu().double().split(sizes, 1)
            sums = [total + part.sum(1) for total, part in zip(sums, table, strict=True)]
            counts = [count + size for count, size in zip(counts, sizes, strict=True)]
        return [total / count for total, count in zip(sums, counts, strict=True)]


def terms(problem: Problem, parts: Sequence[tuple[str | None, Micro]]) -> Objective:
    """Terms as an objective for probes; stackable where the problem's loss takes merged batches, and none is branched."""
    made = Terms(problem, tuple(parts))
    merges = problem.stacks and all(getattr(micro, "tails", None) is None for _, batch in parts for micro in batch)
    return made if merges else made.__call__


@contextmanager
def rows_of(problem: Problem, names: Sequence[str | None], counts: Sequence[int]) -> Iterator[None]:
    """Use an adapter by name for each run of rows, for one forward pass. Raises: CannotStack where a module with an adapter sees other rows than these."""
    if problem.slots is None or names[0] is None:
        yield
    elif len(set(names)) == 1:
        problem.slots.use(str(names[0]))
        yield
    else:
        rows = [str(name) for name, k in zip(names, counts, strict=True) for _ in range(k)]
        try:
            with problem.slots.rows(rows):
                yield
        except ValueError as error:
            if "adapter_names" not in str(error):
                raise
            raise CannotStack("tokens of all rows go through an adapter together") from None


def gradient(
    problem: Problem, batch: Micro, slot: str | None, *step: int, dropout: bool = True, learn: bool = True,
    capture: Capture | None = None, weight: float = 1.0, whole: bool = False,
) -> Slope:  # fmt: skip
    """The exact gradient of F with respect to a slot (or, `whole`, to all of theta), accumulated over micro-batches.

    Cost: a forward and a backward pass a micro-batch; activations of one micro-batch. The adapter's own
    dropout is on unless `dropout` is false, its random numbers a function of the seed and `step`; the base's is off.
    learn: whether the slot's gradient is wanted (without a slot there is none). capture: the same passes leave the
    sketch of `weight` F's gradient in theta there.
    """
    own: list[nn.Parameter] = []
    if slot is not None and problem.slots is not None:
        problem.slots.use(slot)
        own = problem.slots.list(slot)
    if whole:
        assert problem.leaves is not None
        own = [leaf.param for leaf in problem.leaves]
    params: list[Tensor] = [*own] if learn else []
    anchor = [capture.anchor] if capture is not None else []
    total, count = 0.0, 0
    grads: list[Tensor] = []
    with learning(problem.model, dropout), wanting(own, learn), Wide():
        for i, micro in enumerate(batch):
            with torch.enable_grad(), streams.seeded(problem.seed, problem.stream(f"dropout-{slot}"), *step, i):
                rows = problem.loss(problem.model, micro).reshape(-1)
                parts = derived(rows.sum() * problem.scale, params, anchor)
            total, count = total + float(rows.detach().cpu().double().sum()), count + rows.numel()
            grads = [grad.add_(part) for grad, part in zip(grads, parts, strict=True)] if grads else apart(parts)
            del parts  # or they would stand beside the next micro-batch's passes
    if capture is not None:
        capture.close(weight / (count * problem.scale))
    return Slope(total / count, [grad.div_(count * problem.scale) for grad in grads])


def derived(loss: Tensor, params: Sequence[Tensor], anchor: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of a loss in each of `params`: zero in one that took no part (an expert that no token went to).

    Raises: BadInput for a loss that hangs on none of them.
    """
    parts: tuple[Tensor | None, ...] = (None,)
    if loss.requires_grad:
        parts = torch.autograd.grad(loss, [*params, *anchor], allow_unused=True)
    if all(part is None for part in parts):
        do = "give a loss that is computed by the model that it is given, and not detached"
        raise BadInput("the loss", "it hangs on none of the weights that are to learn from it", do)
    pairs = zip(parts, params, strict=False)  # without the anchor's own
    return tuple(torch.zeros_like(param) if part is None else part for part, param in pairs)


def apart(grads: Sequence[Tensor]) -> list[Tensor]:
    """Gradients that can each be written to: autograd may give two parameters one tensor, or a view of a smaller one."""
    seen = Counter(map(id, grads))
    return [grad.clone() if seen[id(grad)] > 1 or not grad.is_contiguous() else grad for grad in grads]


@contextmanager
def wanting(params: Sequence[nn.Parameter], wanted: bool) -> Iterator[None]:
    """Run a block in which some parameters want a gradient, or none, so that nothing is kept for one."""
    changed = [param for param in params if param.requires_grad != wanted]
    try:
        for param in changed:
            param.requires_grad_(wanted)
        yield
    finally:
        for param in changed:
            param.requires_grad_(not wanted)


def estimated_gradient(problem: Problem, batch: Micro, slot: str, *step: int, dropout: bool = False) -> Slope:
    """The gradient of F for a slot by a central difference along the z of `step` (`lower="zeroth-order"`), in eval mode: without dropout.

    Cost: two forward passes a micro-batch. The adapter is walked in place and put back from a copy, exactly.
    """
    assert problem.slots is not None
    own = problem.slots.params[slot]
    leaves = tree.collect((name, param, ()) for name, param in own.items())
    z = leaves.direction(law_of(problem.config), streams.key(problem.seed, problem.stream(f"noise-{slot}"), *step))
    before = problem.slots.tensors(slot)
    problem.model.eval()
    try:
        estimate = central(
            Inplace(leaves), lambda: mean_loss(problem, batch, slot, False), [z], problem.config.lower_eps
        )
    finally:
        problem.slots.load(slot, before)
    ((_, c),) = estimate.grad.terms
    return Slope(estimate.terms[0], [expand(z, leaf, c) for leaf in leaves])


def expand(z: Direction, leaf: tree.Leaf, c: float) -> Tensor:
    """c z of one small leaf, as a tensor."""
    zero = torch.zeros(leaf.data.shape, dtype=leaf.data.dtype, device=leaf.data.device)
    return noise.perturb(zero, zero, z, c, leaf.tid)


def weighted(parts: Sequence[tuple[float, Slope]]) -> list[Tensor]:
    """sum_i w_i g_i."""
    (w0, first), *rest = parts
    grads = [g * w0 for g in first.grads]
    for w, slope in rest:
        for grad, part in zip(grads, slope.grads, strict=True):
            grad.add_(part, alpha=w)
    return grads
