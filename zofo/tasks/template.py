"""Templates: text with a row's fields in it, rendered in a sandbox that knows nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from zofo.errors import BadInput, nearest
from zofo.tasks.answers import UNKNOWN
from zofo.tasks.definition import Task

MAX_TEXT = 1 << 18  # characters of a rendered text


FILTERS = ("capitalize", "default", "first", "join", "last", "length", "lower", "replace", "title", "trim", "upper")
TEXTUAL = {"after", "before", "capitalize", "default", "lower", "replace", "title", "trim", "upper"}
"""Filters that write a list or an object as Python would."""
CHOICE = "choice"
"""What the answer template calls the choice that it renders."""


def before(text: str, mark: str) -> str:
    """The text before the first `mark` (all of it where there is none)."""
    return str(text).partition(mark)[0]


def after(text: str, mark: str) -> str:
    """The text after the first `mark` (nothing where there is none)."""
    return str(text).partition(mark)[2]


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox less all calls, all names of its own (`range` ...), and the operators that repeat text."""

    intercepted_binops = frozenset(["**", "*", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse products, powers and padding (`'%9d' % x`), which can grow without bound."""
        raise SecurityError(f"the operator {operator} is not allowed here")

    def is_safe_callable(self, obj: Any) -> bool:
        """Nothing is called from a template."""
        return False


@cache
def _environment() -> _Environment:
    # Text goes to a tokenizer, not to a page: nothing is escaped.
    environment = _Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in FILTERS} | {"before": before, "after": after}
    return environment


@cache
def _compiled(text: str) -> Template:
    return _environment().from_string(text)


@cache
def _names(text: str) -> frozenset[str]:
    return frozenset(meta.find_undeclared_variables(_environment().parse(text)))


@cache
def _plain(text: str) -> frozenset[str]:
    """The fields that a template writes as they are, or through filters of texts; none that it sets itself."""
    tree = _environment().parse(text)
    written = {_bare(node) for output in tree.find_all(nodes.Output) for node in output.nodes}
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    return frozenset(written & _names(text) - own)


def _bare(node: nodes.Expr) -> str:
    """The name that an expression is but for filters of texts, or nothing."""
    while isinstance(node, nodes.Filter) and node.name in TEXTUAL and node.node is not None:
        node = node.node
    return node.name if isinstance(node, nodes.Name) else ""


def fields(task: Task) -> tuple[str, ...]:
    """The fields of a row that the task's templates and options read, sorted: they say which row it is.

    Raises: BadInput when a template is broken, or none of them reads a field.
    """
    try:
        prompt = _names(task.template) | _names(task.free) | _names(task.template_task)
        answer = _names(task.answer) - {CHOICE}
    except TemplateSyntaxError as error:
        raise _broken(task, error) from None
    if task.chat is not None:
        return (task.chat,)
    if not prompt:
        raise BadInput(f"task {task.name}", "the template reads no field of a row", "write one as {{ field }}")
    options = (task.options,) if isinstance(task.options, str) else task.options
    return tuple(sorted(prompt | answer | {name for name in options if name}))


def own_text(task: Task) -> tuple[str, ...]:
    """The fields that hold a row's own text: those of the prompt-free template, sorted."""
    return (task.chat,) if task.chat is not None else tuple(sorted(_names(task.free)))


def plain_fields(task: Task) -> tuple[str, ...]:
    """The fields that must hold text, for the templates write them as they are, sorted; none of chat messages."""
    if task.chat is not None:
        return ()
    templates = (task.template, task.free, task.template_task, task.answer)
    return tuple(sorted(frozenset[str]().union(*map(_plain, templates)) - {CHOICE}))


def _broken(task: Task, error: TemplateSyntaxError) -> BadInput:
    found = f"the template is broken at line {error.lineno} ({error.message})"
    return BadInput(f"task {task.name}", found, "mend it")


def _bounded(template: Template, row: Mapping[str, Any]) -> str | None:
    """Render piece by piece; None when the text grows beyond MAX_TEXT."""
    pieces, size = [], 0
    for piece in template.generate(row):
        size += len(piece)
        if size > MAX_TEXT:
            return None
        pieces.append(piece)
    return "".join(pieces)


def fill(task: Task, template: str, row: Mapping[str, Any], asked: str) -> str:
    """A template of the task with a row's fields in it.

    Args: asked, what errors name (the file and row). Raises: BadInput where a field is missing, the template
    asks for what the sandbox refuses, or the text is longer than MAX_TEXT characters.
    """
    try:
        text = _bounded(_compiled(template), row)
    except UndefinedError as error:
        known = sorted(name for name, value in row.items() if name != CHOICE and value is not UNKNOWN)
        missing = re.search(r"'(\w+)' is undefined", str(error))
        do = nearest(missing[1] if missing else "", known)
        raise BadInput(asked, f"task {task.name}'s template reads a field that is missing ({error})", do) from None
    except TemplateSyntaxError as error:
        raise _broken(task, error) from None
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise BadInput(asked, f"the template cannot be rendered ({error})", "use plain fields of the row") from None
    if text is None:
        found = f"the rendered text is longer than {MAX_TEXT} characters"
        raise BadInput(asked, found, "shorten the row or the template")
    return text
