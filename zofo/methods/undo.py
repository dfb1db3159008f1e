"""A step that happens whole or not at all: adapters and their learners go back on any exception."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zofo.methods.state import Problem, State


@contextmanager
def whole(problem: Problem, state: State) -> Iterator[None]:
    """Run a block; on any exception put back every adapter of the state's learners, and the learners.

    theta needs no copy: probing does not move it, and it moves last. Cost: a copy of the adapters and
    their moments.
    """
    slots = problem.slots
    assert slots is not None
    adapters = {slot: slots.tensors(slot) for slot in slots.params}
    learners = {slot: learner.to_checkpoint() for slot, learner in state.learners.items()}
    active = str(slots.model.active_adapter)
    try:
        yield
    except BaseException:
        for slot, tensors in adapters.items():
            slots.load(slot, tensors)
        for slot, held in learners.items():
            state.learners[slot].from_checkpoint(*held)
        slots.use(active)
        raise
