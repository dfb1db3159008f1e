"""A step that happens whole or not at all: adapters and their learners go back on any exception."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zofo.errors import NotFinite, note, notes
from zofo.methods.state import Problem, State

UNDONE = "the step that failed changed nothing"
"""A note on exceptions that left theta, adapters and learners as they were before a step."""


@dataclass
class Undo:
    """Whether a failing block goes back whole: it does until theta begins to move."""

    possible: bool = True


@contextmanager
def whole(problem: Problem, state: State) -> Iterator[Undo]:
    """Run a block; on any exception put back every adapter of the state's learners, and the learners, and note that on it.

    theta needs no copy: probing does not move it, and it moves last (say so: `possible = False`). Cost: a copy of the adapters and
    their moments.
    """
    slots, undo = problem.slots, Undo()
    assert slots is not None
    adapters = {slot: slots.tensors(slot) for slot in slots.params}
    learners = {slot: learner.to_checkpoint() for slot, learner in state.learners.items()}
    active = str(slots.model.active_adapter)
    try:
        yield undo
    except BaseException as error:
        for slot, tensors in adapters.items():
            slots.load(slot, tensors)
        for slot, held in learners.items():
            state.learners[slot].from_checkpoint(*held)
        slots.use(active)
        if undo.possible:
            note(error, UNDONE)
        raise


@contextmanager
def within(problem: Problem) -> Iterator[None]:
    """A block on one task of several, which errors that do not name it are noted with."""
    try:
        yield
    except Exception as error:
        if problem.task and not isinstance(error, NotFinite):
            note(error, f"in task {problem.task}")
        raise


def undone(error: BaseException) -> bool:
    """Whether an exception left everything as it was before the step."""
    return UNDONE in notes(error)
