"""What a run needs in memory, before it has run: what stands, and what its passes hold at their peak."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from zofo.config import Config
from zofo.core.rules import RuleState
from zofo.memory import dry
from zofo.memory.work import Work
from zofo.methods import table
from zofo.methods.state import State
from zofo.methods.table import METHODS

UNKNOWN = -1
"""Stands for a size that is not estimated."""

PASSES = {
    "learning": "an adapter's forward and backward pass",
    "descending": "a forward and backward pass for all weights",
    "probing": "a forward pass of the zeroth-order level",
    "sketching": "a forward and backward pass that leaves a sketch of theta's gradient",
    "moving": "theta's update",
    "scoring": "scoring validation and test rows",
}
PASS = "pass"
KINDS = ("weights", "adapters", "moments", "scratch")
"""What stands beside the passes."""
WHEN = {"before": "before training and ever after", "steps": "from the first step on"} | PASSES
"""The times that a size may belong to, in words."""


@dataclass(frozen=True)
class Size:
    """Bytes of something that a run holds (or `UNKNOWN`), and when.

    when: a key of `WHEN`. Of the `PASSES` the largest counts, since they come one after another. kind: one of `KINDS`, or `PASS`.
    """

    name: str
    bytes: int
    when: str
    kind: str = PASS


def estimate(config: Config, skeleton: nn.Module, work: Work) -> list[Size]:
    """List what a run holds, in bytes that torch allocates.

    Not in it: Python and its libraries, what numba and BLAS keep for themselves, and what malloc adds on a CPU
    (measured there: 35 to 65 % in first-order steps; `zofo.bench.peak` says more).
    Args: skeleton, the base model on the meta device, which is used up (see `dry.hollow`); work, its largest batches.
    Raises: BadInput where the adapter does not fit the model. Cost: a second or more; no tensor of the model's size.
    """
    made, row = dry.hollow(config, skeleton, work), METHODS[config.method.name]
    state = dry.remembering(made) if row.zeroth or table.sketches(config.method) else RuleState()
    begun = dry.optimizing(made) if table.exact(config) else State()
    if made.problem.shadow is not None:
        made.problem.shadow.refresh()
    found = passes(made, state, begun)
    return [size for size in [*standing(made, state, begun), *found, *writing(config, skeleton, work)] if size.bytes]


def standing(made: dry.Hollow, state: RuleState, begun: State) -> list[Size]:
    """What stands beside the passes, after they have been run dry once. Args: state, the rule's; begun, of theta's optimizer."""
    m, problem, adapters = made.config.method, made.problem, dry.taken(made.adapters)
    row = METHODS[m.name]
    learners = row.learners(made.config)
    moments = 2 * adapters if learners and m.optimizer == "adam" else 0
    above = row.zeroth and not row.joint  # the others' first-order steps have copies after their passes
    copies = adapters + (0 if row.apart(made.config) else moments) if learners and above else 0
    whole = [t for learner in begun.learners.values() for t in learner.to_checkpoint(copy=False)[1].values() if t.dim()]
    what, when = ("the sketch", "steps") if table.sketches(m) else ("what zeroth order moves", "before")
    scratch = dry.scratch_of(problem) if table.zeroth(m) else None
    pool = scratch.pool.free if scratch is not None else []
    twins = problem.shadow.twins if problem.shadow is not None else []
    count = len(problem.slots.params) if problem.slots is not None else 0
    return [
        Size(f"weights ({made.config.model.weights})", dry.taken(made.base), "before", "weights"),
        Size(f"adapters ({count})", adapters, "before", "adapters"),
        Size(f"moments of {what} (rule {m.rule})", dry.taken(state.moments.values()), when, "moments"),
        Size(f"optimizer of the adapters ({m.optimizer})", moments, "steps", "moments"),
        Size(f"optimizer of all weights ({m.optimizer})", dry.taken(whole), "steps", "moments"),
        Size("copies that a failed step goes back to", copies, "steps", "adapters"),
        Size("copies of the adapters for several tasks", row.spare(made.config) * adapters, "steps", "adapters"),
        Size("half-precision shadow of the weights", dry.taken(twins), "steps", "weights"),
        Size("scratch for probing", dry.taken(pool), "steps", "scratch"),
    ]


def passes(made: dry.Hollow, state: RuleState, begun: State) -> list[Size]:
    """What each kind of pass holds at its peak; `UNKNOWN` where a model cannot be run without its weights."""
    row, runs = METHODS[made.config.method.name], dict[str, Callable[[], dry.Parts]]()
    if row.learners(made.config):
        runs["learning"] = lambda: dry.learning(made)
    if table.zeroth(made.config.method):
        runs["probing"], runs["moving"] = lambda: dry.probing(made), lambda: dry.moving(made, state)
    if table.sketches(made.config.method):
        runs["sketching"], runs["moving"] = lambda: dry.sketching(made), lambda: dry.moving(made, state)
    if table.exact(made.config):
        runs["descending"], runs["moving"] = lambda: dry.descending(made), lambda: dry.settling(made, begun)
    if made.work.score is not None:
        runs["scoring"] = lambda: dry.scoring(made)
    return [size for when, run in runs.items() for size in tried(when, run)]


def tried(when: str, run: Callable[[], dry.Parts]) -> list[Size]:
    """A pass's parts, the layers' first; those below a thousandth are left out."""
    try:
        with quiet():
            parts = run()
    except Exception:  # whatever an architecture's own code does with numbers that are not there
        return [Size("activations and logits", UNKNOWN, when)]
    parts = {name: parts.get(name, 0) for name in (dry.LAYERS, dry.COPIES, dry.HEAD, dry.SLOPES)}
    return [Size(name, size, when) for name, size in parts.items() if size > sum(parts.values()) / 1000]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's log of fake tensors silent for a block: it writes a traceback of every failure, also of one that is caught."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def writing(config: Config, skeleton: nn.Module, work: Work) -> list[Size]:
    """Keys and values of all layers, kept while answers are generated."""
    shape: Any = getattr(skeleton, "config", None)
    heads, hidden, layers = (
        int(getattr(shape, name, 0) or 0) for name in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    each = int(getattr(shape, "head_dim", 0) or 0) or (hidden // heads if heads else 0)
    a_token = 2 * layers * int(getattr(shape, "num_key_value_heads", 0) or heads) * each
    wide = 2 if config.model.dtype in ("bf16", "fp16") else 4
    name = "keys and values of answers that are written"
    return [Size(name, tokens * a_token * wide, when) for when, tokens in work.written.items()]


def total(sizes: Sequence[Size], steps_only: bool = False, above: bool = False) -> int:
    """Bytes that stand together at the most: everything that stays, and the largest pass (what is unknown: left out).

    steps_only, without the passes of scoring; above, without what stands before training.
    """
    sums = dict.fromkeys(("before", "steps", *PASSES), 0)
    for size in sizes:
        sums[size.when] += max(0, size.bytes)
    most = max(sums[name] for name in PASSES if not (steps_only and name == "scoring"))
    return sums["steps"] + most + (0 if above else sums["before"])


def by_kind(sizes: Sequence[Size]) -> dict[str, int]:
    """The bytes of `total(sizes, steps_only=True)` by kind: `KINDS`, and `PASS`, the largest pass of training."""
    found = {kind: sum(max(0, size.bytes) for size in sizes if size.kind == kind) for kind in KINDS}
    return found | {PASS: total(sizes, steps_only=True) - sum(found.values())}


def whole(sizes: Sequence[Size]) -> bool:
    """Whether everything is estimated."""
    return all(size.bytes != UNKNOWN for size in sizes)
