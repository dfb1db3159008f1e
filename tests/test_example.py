"""What a run proposes to try is a short prompt of its own validation rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from zofo import example
from zofo.tasks.definition import Task

FIXED = Task(name="t", template="{{ text }}\nlabel:", template_free="{{ text }}", choices=("a", "b"))
CHAT = Task(name="c", template="{{ messages }}", chat="messages", label="messages", metrics=())


def ready(task: Task, rows: list[dict[str, Any]], members: tuple[Any, ...] = ()) -> Any:
    return SimpleNamespace(task=task, splits=SimpleNamespace(validation=rows), members=members)


def test_the_shortest_of_the_rows_as_the_model_reads_it() -> None:
    rows = [{"text": "quite a long text"}, {"text": "two\nlines "}, {"text": "something else"}]
    assert example.of(ready(FIXED, rows)) == {"prompt": "two\nlines \nlabel:", "choices": True}
    assert example.of(ready(FIXED, rows), hard_prompt=False)["prompt"] == "two\nlines"


def test_a_long_prompt_keeps_its_end_from_a_word_on() -> None:
    (found,) = {example.of(ready(FIXED, [{"text": "words " * 40}]))["prompt"]}
    assert found.endswith("words \nlabel:") and found.startswith("words ") and 70 < len(found) <= example.MOST
    assert len(example.shortened("x" * 200)) == example.MOST


def test_of_a_conversation_what_the_user_said_last() -> None:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]
    talk += [{"role": "user", "content": [{"type": "text", "text": "why?"}]}, {"role": "assistant", "content": "so"}]
    assert example.of(ready(CHAT, [{"messages": talk}])) == {"prompt": "why?", "choices": False}


@pytest.mark.parametrize(("rows", "prompt"), [([{"text": "x"}], "x\nlabel:"), ([], "")])
def test_of_a_mixture_a_row_of_a_task_that_has_some(rows: list[dict[str, Any]], prompt: str) -> None:
    members = (ready(FIXED, []), ready(FIXED, rows))
    assert example.of(ready(FIXED, [], members)) == {"prompt": prompt, "choices": False}
