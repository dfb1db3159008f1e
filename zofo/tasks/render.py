"""Rows into tokens: a rendered prompt and its answers, each example once.

The prompt gets the special tokens in front that the tokenizer gives to plain text (BOS only if it
adds one) and none behind. One space joins prompt and answer, unless the prompt ends in white space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zofo.errors import BadInput
from zofo.scoring.batch import Encoded
from zofo.scoring.tokens import Ids, bare_ids, leading_ids, prompt_ids
from zofo.tasks.definition import Task
from zofo.tasks.template import render


def answer_ids(tokenizer: Any, prompt: str, choice: str) -> Ids:
    """Tokens of an answer as it stands after its prompt.

    They are the tokens of prompt and answer together less those of the prompt alone. Where the prompt's
    tokens are no prefix of that (the tokenizer merges over the seam), the answer is tokenised alone.
    """
    joined = choice if prompt[-1:].isspace() or not prompt else " " + choice
    context, whole = bare_ids(tokenizer, prompt), bare_ids(tokenizer, prompt + joined)
    return whole[len(context) :] if whole[: len(context)] == context else bare_ids(tokenizer, joined)


def check_choices(task: Task, tokenizer: Any) -> None:
    """Refuse choices that the tokenizer cannot tell apart or turns into nothing. Needs no model.

    Raises: BadInput naming the choices.
    """
    seen: dict[Ids, str] = {}
    for choice in task.choices:
        ids, asked = answer_ids(tokenizer, "x", choice), f"--task {task.name}"
        if not ids:
            raise BadInput(asked, f"choice '{choice}' becomes no token with this model's tokenizer", "use another word")
        if ids in seen:
            found = f"choices '{seen[ids]}' and '{choice}' become the same tokens with this model's tokenizer"
            raise BadInput(asked, found, "use words that it can tell apart")
        seen[ids] = choice


def _fit(context: Ids, lead: Ids, room: int) -> Ids:
    """The context's last tokens that fit in `room`, its leading special tokens kept."""
    if len(context) <= room:
        return context
    kept = room - len(lead)
    return lead + context[len(context) - kept :] if kept > 0 else context[len(context) - room :]


def encode(
    task: Task, row: Mapping[str, Any], tokenizer: Any, hard_prompt: bool = True, max_length: int = 512, number: int = 0
) -> Encoded:
    """Render and tokenise one row.

    Args: row, a mapping with the task's fields and label; hard_prompt, with the task's prompt text or
    without; max_length, tokens of prompt and answer together (a longer prompt is cut on the left, BOS
    and answer kept); number, the row's number for error messages. Raises: BadInput where a field is
    missing, the prompt or an answer has no token, or max_length has no room beside the answer.
    """
    prompt = render(task, row, hard_prompt, number)
    context = prompt_ids(tokenizer, prompt)
    answers = tuple(answer_ids(tokenizer, prompt, choice) for choice in task.choices)
    asked = f"task {task.name}, row {number}"
    if not context or not all(answers):
        what = "an answer" if context else "the prompt"
        raise BadInput(asked, f"{what} has no token with this model's tokenizer", "drop or mend the row")
    room = max_length - max(map(len, answers))
    if room < 1:
        found = f"no room for a prompt beside the answer of row {number}"
        raise BadInput(f"--data.max_length {max_length}", found, "raise it")
    return Encoded(_fit(context, leading_ids(tokenizer), room), answers, int(row[task.label]), cut=len(context) > room)


def encode_rows(
    task: Task, rows: Sequence[Mapping[str, Any]], tokenizer: Any, hard_prompt: bool = True, max_length: int = 512
) -> tuple[Encoded, ...]:
    """Encode rows in their order, numbered from 1 in errors; arguments and errors as `encode`.

    Each says whether it was `cut`; count them and tell the user.
    """
    return tuple(encode(task, row, tokenizer, hard_prompt, max_length, k) for k, row in enumerate(rows, 1))
