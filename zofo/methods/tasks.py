"""What methods over several tasks share: which tasks an iteration takes, and the mean of what they say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from zofo.core import streams
from zofo.errors import BadInput
from zofo.methods.state import Member, Problem, State


def sampled(problem: Problem, k: int) -> list[Member]:
    """min(tasks, all) members of iteration k, drawn without replacement, uniformly or in proportion to their rows.

    A function of (seed, k). Raises: BadInput where there are no tasks.
    """
    members, config = problem.members, problem.config
    if not members:
        raise BadInput(
            f"--method.name {config.name}", "there is one task, and it learns from several", "name a --mixture"
        )
    shares = None
    if config.sampling == "size":
        total = sum(member.rows for member in members)
        shares = [member.rows / total for member in members]
    draw = streams.generator(problem.seed, "tasks", k)
    index = draw.choice(len(members), min(config.tasks, len(members)), replace=False, p=shares)
    return [members[i] for i in index]


def used(state: State, members: Iterable[Member]) -> dict[str, int]:
    """The counts after an iteration on these tasks."""
    return {**state.uses, **{member.name: state.uses.get(member.name, 0) + 1 for member in members}}


def averaged(numbers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number over the tasks that have it and whose it is finite (nan: none's is)."""
    found = {}
    for key in dict.fromkeys(key for of in numbers for key in of):
        finite = [of[key] for of in numbers if math.isfinite(of.get(key, math.nan))]
        found[key] = sum(finite) / len(finite) if finite else math.nan
    return found


def left_out(names: Sequence[str], what: str) -> tuple[str, ...]:
    """A line that says which tasks are not in a step's mean (none: none)."""
    return (f"{what} was not finite for {', '.join(names)}: left out of this step's mean",) if names else ()
