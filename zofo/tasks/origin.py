"""Which rows are the same in other tasks: a row's own text, as words."""

from __future__ import annotations

import hashlib
import re

from zofo.tasks.definition import Task
from zofo.tasks.read import Row
from zofo.tasks.splits import normalised, value
from zofo.tasks.template import own_text

WORDS = re.compile(r"\w+")
FEW = 4  # words: shorter texts are compared as they are, for they may agree by chance


def text(task: Task, row: Row) -> str:
    """A row's own text as its words in lower case, whatever options, prompt and punctuation its task puts around it."""
    words = WORDS.findall(" ".join(str(value(row, field)) for field in own_text(task)).lower())
    return " ".join(words) if len(words) >= FEW else normalised(task, row)


def hashed(text: str) -> str:
    """A name for a text, 64 bits: whether it is there can be asked, and what it says cannot be read."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
