"""Rows into tokens: a rendered prompt and its answers, each example once.

Demonstrations, prompt and answer are tokenised as one text, and the answer's tokens are found by where its
characters stand in it: no tokenizer has to turn the prompt alone into a prefix of the whole. The special
tokens that the tokenizer puts before plain text stand in front (BOS only if it adds one), none behind. One
space joins prompt and answer, unless the prompt ends or the answer begins in white space.

In the noisy channel each answer stands first, a newline and the prompt follow, and the prompt's tokens are what is
scored, all of them: a template's own words too, before or after the row's text. White space around it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zofo.errors import BadInput
from zofo.scoring.batch import Encoded
from zofo.scoring.tokens import bare_ids, common, leading_ids, parted, starting_ids
from zofo.tasks.answers import Answers, answers, fault
from zofo.tasks.cutting import cut_behind, cut_on_the_left, shorter
from zofo.tasks.definition import Task
from zofo.tasks.scored import refuse_empty, refuse_equal
from zofo.tasks.template import CHOICE, fill

TRIES = 8  # times a passage is shortened before its row is given up
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Style:
    """How rows are rendered: with the hard prompt or without (or, `task_only`, with the prompt but no row in it).

    `max_length` is in tokens of prompt and answer together, demonstrations not counted; `positions` is what
    the model can read in all (None: no limit). `channel`: answer first, then the prompt, which is scored.
    `shot_length`: tokens of a demonstration at most (0: no limit), where the task has a field that may be cut.
    """

    hard_prompt: bool = True
    max_length: int = 512
    positions: int | None = None
    task_only: bool = False
    channel: bool = False
    shot_length: int = 0


PLAIN = Style()


@dataclass(frozen=True)
class Written:
    """A row as text: the prompt, and each answer with what joins it to the prompt; and what is right.

    `heads`, in the channel: each answer with what joins the prompt to it.
    """

    prompt: str
    tails: tuple[str, ...]
    held: Answers
    heads: tuple[str, ...] = ()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """For each answer, what stands first and what is scored after it."""
        return [(head, self.prompt) for head in self.heads] or [(self.prompt, tail) for tail in self.tails]


def written(task: Task, row: Row, tokenizer: Any, style: Style, asked: str) -> Written:
    """Render a row: its prompt and its answers. Raises: BadInput naming `asked`."""
    if task.chat is not None:
        return chat(task, row, tokenizer, asked)
    held = answers(task, row, asked)
    template = task.template if style.hard_prompt else task.free
    if style.task_only:  # without the hard prompt nothing is left
        template = task.template_task if style.hard_prompt else ""
    prompt = fill(task, template, row, asked) if template else ""
    texts = held.choices[:1] if task.kind == "text" else held.choices
    if task.answer != "{{ choice }}":
        texts = tuple(fill(task, task.answer, {**row, CHOICE: text}, asked) for text in texts)
    if style.channel:
        return Written(prompt.strip(), texts, held, tuple(text.strip() + "\n" for text in texts))
    gap = " " if prompt and not prompt[-1].isspace() else ""
    tails = tuple((gap if not text[:1].isspace() else "") + text + ending(task, tokenizer) for text in texts)
    return Written(prompt, tails, held)


def ending(task: Task, tokenizer: Any) -> str:
    """What closes an answer, so that a model learns to stop: nothing after a choice; what generation stops at after free text."""
    if task.end:
        return str(tokenizer.eos_token or "")
    return "\n" if task.kind == "text" and task.stop == "newline" else ""


def chat(task: Task, row: Row, tokenizer: Any, asked: str) -> Written:
    """A conversation by the tokenizer's chat template: its last message, the assistant's, is the answer."""
    messages = spoken(row.get(task.chat or ""), asked)
    well = isinstance(messages, list) and len(messages) > 1 and all(isinstance(m, dict) for m in messages)
    if not well or messages[-1].get("role") != "assistant" or not str(messages[-1].get("content") or "").strip():  # type: ignore[index]
        found = f"field '{task.chat}' is no list of messages that ends with the assistant's"
        raise BadInput(asked, found, 'write [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]')
    for k, message in enumerate(messages):  # type: ignore[arg-type]
        refuse_silent(message, f"message {k + 1}", asked)
    if not getattr(tokenizer, "chat_template", None):
        raise BadInput(asked, "this model's tokenizer has no chat template", "use prompt and completion columns")
    try:
        prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)  # type: ignore[index]
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception as error:  # a template can raise whatever it likes
        raise BadInput(asked, f"the chat template refuses this row ({str(error)[:160]})", "mend the messages") from None
    if not whole.startswith(prompt):
        found = "the chat template changes earlier messages when the answer is added"
        raise BadInput(asked, found, "use prompt and completion columns")
    return Written(prompt, (whole[len(prompt) :],), Answers((str(messages[-1]["content"]),), (0,)))  # type: ignore[index]


def spoken(messages: Any, asked: str) -> Any:
    """Messages whose contents are texts: one that is a list of text parts becomes their texts, joined. Raises: BadInput for other contents."""
    if not isinstance(messages, list):
        return messages
    return [
        {**m, "content": said(m["content"], asked)} if isinstance(m, dict) and m.get("content") is not None else m
        for m in messages
    ]


def refuse_silent(message: Mapping[str, Any], name: str, asked: str) -> None:
    """Raise BadInput for a message that nobody says, or that says nothing: no content, and nothing else such as a tool's call."""
    role = message.get("role")
    if not (isinstance(role, str) and role.strip()):
        raise BadInput(asked, f"{name} has no role", 'write "role": "user", "assistant" or "system"')
    if message.get("content") is None and not any(v for k, v in message.items() if k not in ("role", "content")):
        raise BadInput(asked, f"{name} has no content", "write a text there, or drop the row")


def said(content: Any, asked: str) -> str:
    """A message's content as text."""
    if isinstance(content, list):
        if not all(isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in content):
            found = "a message's content has a part that is no text"
            raise BadInput(asked, found, 'write a text, or a list of {"type": "text", "text": ...}')
        return "".join(part["text"] for part in content)
    if wrong := fault(content) or ("a truth value" if isinstance(content, bool) else ""):
        raise BadInput(asked, f"a message's content is {wrong}", "write a text there, or drop the row")
    return str(content)


def demonstration(task: Task, row: Row, tokenizer: Any, style: Style, asked: str) -> str:
    """A row with its right answer, as text: what stands before another row's prompt, `style.shot_length` tokens at most.

    It loses text from the end of the field that the task says; where there is none, or no more of it, it stays longer.
    """
    if task.chat is not None:
        raise BadInput("--data.shots", "conversations cannot be demonstrations", "leave it out")
    text, field = solved(task, row, tokenizer, style, asked), task.shorten or ""
    for _ in range(TRIES if style.shot_length and isinstance(row.get(field), str) else 0):
        over = len(bare_ids(tokenizer, text.removesuffix(task.separator))) - style.shot_length
        if over <= 0 or not row[field]:
            break
        row = {**row, field: shorter(tokenizer, row[field], over)}
        text = solved(task, row, tokenizer, style, asked)
    return text


def solved(task: Task, row: Row, tokenizer: Any, style: Style, asked: str) -> str:
    """A row with its right answer and what stands between demonstrations."""
    text = written(task, row, tokenizer, style, asked)
    first, second = text.pairs[text.held.right[0] if task.kind != "text" else 0]
    return first + second.removesuffix("\n") + task.separator


def encode(
    task: Task, row: Row, tokenizer: Any, style: Style = PLAIN, asked: str = "", shots: Sequence[str] = ()
) -> Encoded:
    """Render and tokenise one row.

    Args: row, a mapping with the task's fields and label; asked, what errors name (the file and the row);
    shots, demonstrations as text. A row longer than `style.max_length` loses text from the end of the field
    that the task says, and only there; where the task says none, its prompt loses its beginning (in the channel
    too: the choice stays). Where the model cannot read all, the first demonstrations are left out. Raises: BadInput
    where a field is missing, an answer has no token or those of another, or nothing that may be cut makes it fit.
    """
    asked = asked or f"task {task.name}"
    text = written(task, row, tokenizer, style, asked)
    shots, left_out = fitting(tokenizer, shots, style, text)
    before = "".join(shots)
    room = style.max_length + len(bare_ids(tokenizer, before)) if before else style.max_length
    made = joined(text, tokenizer, before, asked)
    if made.length + 1 > room:
        made = shortened(task, row, tokenizer, style, asked, before, made, room)
    return replace(made, left_out=left_out)


def fitting(tokenizer: Any, shots: Sequence[str], style: Style, row: Written) -> tuple[Sequence[str], int]:
    """The last demonstrations that leave room for the row (cut to `max_length`), and how many are left out."""
    if not shots or style.positions is None:
        return shots, 0
    own = max(len(bare_ids(tokenizer, first + second)) for first, second in row.pairs)
    room, kept = style.positions - min(own, style.max_length) - len(leading_ids(tokenizer)), 0
    for text in reversed(shots):
        room -= len(bare_ids(tokenizer, text)) + 1  # joined, they may take a token more
        if room < 0:
            break
        kept += 1
    return shots[len(shots) - kept :], len(shots) - kept


def joined(text: Written, tokenizer: Any, before: str, asked: str) -> Encoded:
    """Tokenise a written row: the context that its answers share, and each answer's tokens after it."""
    pairs = [(before + first, second) for first, second in text.pairs]
    found = parted(tokenizer, pairs)
    refuse_empty(text.tails, found, bool(text.heads), asked)
    size = min(common([ids for ids, _ in found]), *(start for _, start in found)) if len(found) > 1 else found[0][1]
    begun = bool(size) or (bool(text.heads) and all(start for _, start in found))  # by an answer that is not scored
    lead = leading_ids(tokenizer) if begun else starting_ids(tokenizer)
    if size and pairs[0][0].startswith(getattr(tokenizer, "bos_token", None) or "\0"):
        lead = ()  # a chat template has written it already
    if not lead and not begun:
        raise BadInput(asked, "the prompt has no token with this model's tokenizer", "drop or mend the row")
    tails = tuple(ids[size:] for ids, _ in found)
    skip = tuple(start - size for _, start in found)
    refuse_equal(text.tails, tails, asked)
    right = text.held.right if len(tails) == len(text.held.choices) else (0,)
    return Encoded(
        context=lead + found[0][0][:size],
        answers=tails,
        label=right[0],
        right=right,
        skip=skip if any(skip) else (),
        texts=text.held.choices,
        channel=bool(text.heads),
    )


def own_from(text: Written, tokenizer: Any, before: str, made: Encoded) -> int:
    """The first token of the context that a row's own prompt has a part in: a tokenizer may join the end of what is before otherwise than alone."""
    if not before:
        return len(leading_ids(tokenizer))
    ((ids, border),) = parted(tokenizer, [(before, "".join(text.pairs[0]))])
    return len(made.context) + len(made.answers[0]) - len(ids) + border


def shortened(
    task: Task, row: Row, tokenizer: Any, style: Style, asked: str, before: str, made: Encoded, room: int
) -> Encoded:
    """A row cut to `room` tokens, where the task allows it."""
    field, over = task.shorten, made.length + 1 - room
    if field is None or style.task_only or task.chat is not None or not isinstance(row.get(field), str):
        named = f"--data.max_length {style.max_length}, {asked}"
        if made.channel:
            return cut_behind(made, over, named)
        first = own_from(written(task, row, tokenizer, style, asked), tokenizer, before, made)
        return cut_on_the_left(made, first, over, named, bool(before))
    text = str(row[field])
    for _ in range(TRIES):
        text = shorter(tokenizer, text, over)
        less = joined(written(task, {**row, field: text}, tokenizer, style, asked), tokenizer, before, asked)
        over = less.length + 1 - room
        if over <= 0:
            return replace(less, cut=True)
        if not text:
            break
    found = f"no room for the rest of the row beside '{field}', which alone may be cut"
    raise BadInput(f"--data.max_length {style.max_length}, {asked}", found, "raise it")


def check_choices(task: Task, tokenizer: Any) -> None:
    """Refuse choices that the tokenizer cannot tell apart or turns into nothing. Needs no rows, no model.

    Raises: BadInput naming the choices.
    """
    if task.choices and task.answer == "{{ choice }}":
        text = Written("x", tuple(f" {choice}" for choice in task.choices), Answers(task.choices, (0,)))
        joined(text, tokenizer, "", f"--task {task.name}")


def encode_rows(
    task: Task,
    rows: Sequence[Row],
    tokenizer: Any,
    style: Style = PLAIN,
    named: Sequence[str] | None = None,
    shots: Sequence[Sequence[str]] | None = None,
) -> tuple[Encoded, ...]:
    """Encode rows in their order; arguments and errors as `encode`.

    Args: named, what errors call each row (default: the task and a number from 1); shots, the demonstrations
    of each. Each example says whether it was `cut`, and how many demonstrations were `left_out`: count them and tell the user.
    """
    names = named or [f"task {task.name}, row {k}" for k in range(1, len(rows) + 1)]
    before: Sequence[Sequence[str]] = shots or [()] * len(rows)
    return tuple(
        encode(task, row, tokenizer, style, name, own) for row, name, own in zip(rows, names, before, strict=True)
    )
