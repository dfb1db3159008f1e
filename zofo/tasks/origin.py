"""What rows and tasks are the same under other names: a row's own text as words, a task's data set."""

from __future__ import annotations

import hashlib
import re

from zofo.tasks.definition import Task
from zofo.tasks.read import Row
from zofo.tasks.splits import normalised, value
from zofo.tasks.template import own_text

WORDS = re.compile(r"\w+")
FEW = 4  # words: shorter texts are compared as they are, for they may agree by chance
DRESS = re.compile(r"^(?:glue|superglue)-|^unifiedqa:|-(?:with_context|no_context|finegrained)$|_")
SAME = {"rottentomatoes": "sst2"}  # both are cut from the same reviews
OWN = "own/"


def text(task: Task, row: Row) -> str:
    """A row's own text as its words in lower case, whatever options, prompt and punctuation its task puts around it."""
    words = WORDS.findall(" ".join(str(value(row, field)) for field in own_text(task)).lower())
    return " ".join(words) if len(words) >= FEW else normalised(task, row)


def hashed(text: str) -> str:
    """A name for a text, 64 bits: whether it is there can be asked, and what it says cannot be read."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def data_set(name: str) -> str | None:
    """The data set that a task's name stands for: rte, glue-rte and superglue-rte are one. None of a user's own task."""
    if name.startswith(OWN):
        return None
    bare = DRESS.sub("", name.rpartition("/")[2])
    return SAME.get(bare, bare)
