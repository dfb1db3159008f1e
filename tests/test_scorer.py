"""A job scores its one task, or each task of a mixture, and the mean is that of the tasks' own scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zofo import scorer
from zofo.job import assemble, prepare
from zofo.layers import resolve
from zofo.measure import evaluate
from zofo.scorer import ManyTasks, OneTask


@pytest.fixture
def job(folder: str, mixed: Path, cache: Path) -> Any:
    """A small job on the toy mixture."""
    options = {
        "model.name": folder,
        "data.mixture": str(mixed),
        "data.batch": 2,
        "method.name": "mezo",
        "method.stack": "off",
    }
    settings, given = resolve(options | {"model.dtype": "fp32"})
    return assemble(settings, prepare(settings, given))


def test_one_task_is_scored_as_it_always_was(folder: str, made: Any) -> None:
    held = made(folder, model__dtype="fp32")
    ready = held.prepared
    assert isinstance(held.scorer, OneTask)
    assert held.scorer(held.model, "test") == evaluate(
        held.model, ready.encoded["test"], ready.task, tokenizer=ready.tokenizer
    )


def test_every_task_of_the_part_is_scored_alone_and_the_mean_is_theirs(job: Any) -> None:
    found = job.scorer(job.model, "test")
    assert isinstance(job.scorer, ManyTasks) and list(found["tasks"]) == ["own/c", "own/d"]
    for member in job.prepared.of("test"):
        assert found["tasks"][member.task.name] == evaluate(job.model, member.encoded["test"], member.task)
    scores = [result["macro_f1"] for result in found["tasks"].values()]
    assert found["score"] == pytest.approx(sum(scores) / 2) and found["n"] == 16


def test_validation_is_of_the_training_tasks_and_writes_no_free_answers(job: Any) -> None:
    found = job.scorer(job.model, "validation", False)
    assert list(found["tasks"]) == ["own/a", "own/b", "own/four", "own/free"]
    assert "f1" not in found["tasks"]["own/free"] and found["scored"] == 3
    assert found["loss"] == pytest.approx(sum(r["loss"] for r in found["tasks"].values()) / 4)
    assert "choice_loss" not in found


def test_what_a_task_needs_first_is_called_with_its_name(job: Any) -> None:
    seen: list[str] = []
    marks = replace(job.scorer, before=seen.append)
    assert marks(job.model, "test") == job.scorer(job.model, "test")
    assert seen == ["own/c", "own/d"]


def test_the_scorer_is_chosen_by_what_was_prepared(job: Any, folder: str, made: Any) -> None:
    assert isinstance(scorer.of(job.prepared), ManyTasks)
    assert isinstance(scorer.of(made(folder).prepared), OneTask)


def test_what_was_answered_to_each_row_is_kept_apart_from_the_results(job: Any) -> None:
    seen: dict[str, Any] = {}
    marks = scorer.of(job.prepared, keep=lambda ready, part, found: seen.update({ready.task.name: found}))
    assert marks(job.model, "test") == job.scorer(job.model, "test")
    assert {name: len(found["predictions"]) for name, found in seen.items()} == {"own/c": 8, "own/d": 8}
