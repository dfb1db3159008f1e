"""A prompt of a run's own to try it on: what `zofo train` proposes when it has ended."""

from __future__ import annotations

from typing import Any

from zofo.prepared import Prepared
from zofo.tasks.definition import Task
from zofo.tasks.read import Row
from zofo.tasks.render import spoken
from zofo.tasks.template import fill

LOOKED_AT = 50  # rows that the shortest prompt is taken from
MOST = 80  # characters of it


def of(ready: Prepared, hard_prompt: bool = True) -> dict[str, Any]:
    """A short prompt of a validation row, and whether rows have choices to predict (of one task: a mixture's would have to be named)."""
    held = next((m for m in ready.members or (ready,) if m.splits.validation), None)
    texts = [prompt(held.task, row, hard_prompt) for row in held.splits.validation[:LOOKED_AT]] if held else []
    found = min(filter(None, texts), key=len, default="")
    return {"prompt": shortened(found), "choices": not ready.members and ready.task.kind != "text"}


def prompt(task: Task, row: Row, hard_prompt: bool) -> str:
    """A row's prompt as the model reads it; of a conversation its last message before the answer."""
    if task.chat is not None:
        return str(spoken(row[task.chat], task.name)[-2].get("content") or "").strip()
    return fill(task, task.template if hard_prompt else task.free, row, task.name).strip()


def shortened(text: str) -> str:
    """A text's last words, `MOST` characters at most: a prompt's end is what is answered."""
    if len(text) <= MOST:
        return text
    return text[-MOST:].partition(" ")[2] or text[-MOST:]
