"""Which tasks an iteration takes: a function of (seed, k), without replacement, uniform or by size."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from zofo.config import MethodConfig
from zofo.errors import BadInput
from zofo.methods.state import Member, Problem, State
from zofo.methods.tasks import averaged, left_out, sampled, used


def problem(rows: list[int], seed: int = 0, **options: Any) -> Problem:
    members = tuple(Member(f"t{i}", None, None, None, n) for i, n in enumerate(rows))  # type: ignore[arg-type]
    config = MethodConfig(name="meta", **options)
    return Problem(nn.Identity(), lambda m, b: b, config, seed, 1, members=members)


def names(given: Problem, k: int) -> list[str]:
    return [member.name for member in sampled(given, k)]


@pytest.mark.parametrize("sampling", ["uniform", "size"])
def test_tasks_are_a_function_of_seed_and_k_and_none_comes_twice(sampling: str) -> None:
    one, two = problem([10] * 8, tasks=3, sampling=sampling), problem([10] * 8, seed=1, tasks=3, sampling=sampling)
    drawn = [names(one, k) for k in range(20)]
    assert drawn == [names(one, k) for k in range(20)] and drawn != [names(two, k) for k in range(20)]
    assert all(len(set(each)) == 3 for each in drawn) and len({tuple(each) for each in drawn}) > 10


def test_there_are_never_more_than_all() -> None:
    assert sorted(names(problem([1, 2], tasks=5), 0)) == ["t0", "t1"]
    with pytest.raises(BadInput, match="--mixture"):
        sampled(problem([]), 0)


def test_by_size_a_task_comes_in_proportion_to_its_rows() -> None:
    sized, alike = problem([30, 10], tasks=1, sampling="size"), problem([30, 10], tasks=1)
    share = [sum(names(given, k) == ["t0"] for k in range(600)) / 600 for given in (sized, alike)]
    assert share == [pytest.approx(0.75, abs=0.06), pytest.approx(0.5, abs=0.07)]


def test_counts_means_and_what_is_said() -> None:
    given = problem([1, 1, 1], tasks=2)
    state = State(uses={"t0": 4, "t9": 1})
    assert used(state, given.members[:2]) == {"t0": 5, "t1": 1, "t9": 1} and state.uses == {"t0": 4, "t9": 1}
    assert averaged([{"A": 1.0, "c": 3.0}, {"A": 2.0, "c": 5.0}]) == {"A": 1.5, "c": 4.0} and averaged([]) == {}
    assert left_out([], "x") == () and left_out(["a", "b"], "the loss")[0].startswith(
        "the loss was not finite for a, b"
    )
