"""What a failing block leaves, and what its exception says of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from zofo.errors import NotFinite, note, notes
from zofo.methods.undo import UNDONE, undone, whole, within


class Slots:
    """One adapter of one weight."""

    def __init__(self) -> None:
        self.weight = torch.ones(2)
        self.params = {"p": {"w": self.weight}}
        self.model = SimpleNamespace(active_adapter="p")
        self.used = list[str]()

    def tensors(self, slot: str) -> dict[str, torch.Tensor]:
        return {"w": self.weight.clone()}

    def load(self, slot: str, tensors: dict[str, torch.Tensor]) -> None:
        self.weight.copy_(tensors["w"])

    def use(self, slot: str) -> None:
        self.used.append(slot)


class Counter:
    """A learner that counts."""

    t = 0

    def to_checkpoint(self) -> tuple[int]:
        return (self.t,)

    def from_checkpoint(self, t: int) -> None:
        self.t = t


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("moves", [False, True])
def test_adapters_and_learners_go_back_and_that_is_noted_unless_theta_moves(
    kind: type[BaseException], moves: bool
) -> None:
    slots, learner = Slots(), Counter()
    problem: Any = SimpleNamespace(slots=slots)
    state: Any = SimpleNamespace(learners={"p": learner})
    with pytest.raises(kind) as caught, whole(problem, state) as undo:
        slots.weight.add_(1)
        learner.t = 3
        undo.possible = not moves
        raise kind("no")
    assert slots.weight.tolist() == [1, 1] and learner.t == 0 and slots.used == ["p"]
    assert undone(caught.value) == (not moves) and notes(caught.value) == [UNDONE] * (not moves)


@pytest.mark.parametrize(
    ("error", "task", "said"),
    [(ValueError("no"), "t", ["in task t"]), (ValueError("no"), "", []), (NotFinite("a", "task t", "c"), "t", [])],
)
def test_an_error_is_noted_with_its_task_once(error: Exception, task: str, said: list[str]) -> None:
    problem: Any = SimpleNamespace(task=task)
    with pytest.raises(type(error)) as caught, within(problem), within(problem):
        raise error
    assert notes(caught.value) == said
    note(error, "more")
    note(error, "more")
    assert notes(error) == [*said, "more"]
