"""What benchmarks are asked to count and score, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zofo.errors import BadInput
from zofo.tasks import definition


def refuse_below_one(counts: Mapping[str, int | Sequence[int]]) -> None:
    """Raise BadInput for the first number, by its flag, that is not 1 or more."""
    for flag, given in counts.items():
        for value in (given,) if isinstance(given, int) else given:
            if value < 1:
                raise BadInput(f"{flag} {value}", "not 1 or more", "give a whole number above 0")


def refuse_free_answers(tasks: Sequence[str]) -> None:
    """Raise BadInput for the first task that has no choices to score."""
    for name in tasks:
        if definition.find(name).kind == "text":
            raise BadInput(f"--task {name}", "it has no choices to score", "take a task that has")
