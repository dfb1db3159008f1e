"""Several tasks: one that fails stays with its reason and loses nobody else; the mean goes by draws."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict
from typing import Any

import pytest

from zofo import spread
from zofo.adapting import each
from zofo.adapting.show import Quiet
from zofo.errors import BadInput
from zofo.tasks.definition import find
from zofo.tasks.mixture import Mixture


def unseen(*names: str) -> Mixture:
    task = find("reviews")
    return Mixture("m", "", (), tuple(task.model_copy(update={"name": name}) for name in names))


def record(before: float, *after: float, metric: str = "accuracy") -> dict[str, Any]:
    draws = [{"result": {metric: value}} for value in after]
    return {"metric": metric, "before": {metric: before}, "draws": draws, "after": asdict(spread.of(after))}


def test_a_task_that_fails_keeps_its_place_and_its_reason() -> None:
    told: list[tuple[str, int, int]] = []

    class Listening(Quiet):
        def task(self, record: Any, number: int, of: int) -> None:
            told.append((record["task"], number, of))

    def work(task: Any) -> dict[str, Any]:
        if task.name == "b":
            raise BadInput("--shots 4", "class 'x' of b has 1 training rows", "ask for fewer")
        if task.name == "c":
            raise RuntimeError("no\nmemory")
        return record(0.1, 0.2)

    found = each.each(unseen("a", "b", "c", "d"), work, Listening())["tasks"]
    assert list(found) == ["a", "b", "c", "d"] and told == [(n, k, 4) for k, n in enumerate("abcd", 1)]
    assert found["b"]["failed"] == "--shots 4: class 'x' of b has 1 training rows; ask for fewer"
    assert found["c"]["failed"] == "RuntimeError: no memory" and "failed" not in found["d"]


def test_an_interruption_is_no_failure_of_a_task() -> None:
    def work(task: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        each.each(unseen("a"), work, Quiet())


def test_what_is_done_is_kept_after_each_task() -> None:
    kept: list[dict[str, Any]] = []

    def work(task: Any) -> dict[str, Any]:
        if task.name == "c":
            raise KeyboardInterrupt
        return record(0.1, 0.2)

    with pytest.raises(KeyboardInterrupt):
        each.each(unseen("a", "b", "c"), work, Quiet(), {"kind": "x"}, lambda found: kept.append(deepcopy(found)))
    assert [list(found["tasks"]) for found in kept] == [["a"], ["a", "b"]]
    assert kept[1]["kind"] == "x" and (kept[1]["mean"]["tasks"], kept[1]["mean"]["of"]) == (2, 3)


def test_what_was_kept_is_not_done_again_but_for_what_failed_and_not_for_another_base() -> None:
    kept = {
        "kind": "x",
        "base": {"sha": 1},
        "tasks": {"a": {**record(0.5, 0.6), "task": "a"}, "b": {"task": "b", "failed": "no"}},
    }
    done: list[str] = []

    def work(task: Any) -> dict[str, Any]:
        done.append(task.name)
        return record(0.1, 0.2)

    found = each.each(unseen("a", "b", "c"), work, Quiet(), {"kind": "x", "base": {"sha": 1}}, kept=kept)
    assert done == ["b", "c"] and found["tasks"]["a"] == kept["tasks"]["a"] and "failed" not in found["tasks"]["b"]
    each.each(unseen("a", "b", "c"), work, Quiet(), {"kind": "x", "base": {"sha": 2}}, kept=kept)
    assert done == ["b", "c", "a", "b", "c"]


def test_the_mean_over_tasks_has_its_interval_over_draws() -> None:
    records = {
        "a": record(0.1, 0.2, 0.4, 0.3),
        "b": record(0.3, 0.6, 0.6, 0.9, metric="macro_f1"),
        "c": {"failed": "no"},
        "d": record(3.0, 2.0, 1.0, 1.0, metric="loss"),
    }
    found = each.mean(records)
    assert found is not None and (found["tasks"], found["of"], found["before"]) == (2, 4, pytest.approx(0.2))
    assert found["after"] == asdict(spread.of([(0.2 + 0.6) / 2, (0.4 + 0.6) / 2, (0.3 + 0.9) / 2]))
    assert each.mean({"c": {"failed": "no"}}) is None
