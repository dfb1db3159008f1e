"""Templates: text with a row's fields in it, rendered in a sandbox that knows nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from zofo.errors import BadInput
from zofo.tasks.definition import Task

MAX_TEXT = 1 << 18  # characters of a rendered text


FILTERS = ("capitalize", "default", "first", "join", "last", "length", "lower", "replace", "title", "trim", "upper")


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox less all calls, all names of its own (`range` ...), and the operators that repeat text."""

    intercepted_binops = frozenset(["**", "*"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse products and powers, which can grow without bound."""
        raise SecurityError(f"the operator {operator} is not allowed here")

    def is_safe_callable(self, obj: Any) -> bool:
        """Nothing is called from a template."""
        return False


@cache
def _environment() -> _Environment:
    # Text goes to a tokenizer, not to a page: nothing is escaped.
    environment = _Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in FILTERS}
    return environment


@cache
def _compiled(text: str) -> Template:
    return _environment().from_string(text)


@cache
def _names(text: str) -> tuple[str, ...]:
    return tuple(sorted(meta.find_undeclared_variables(_environment().parse(text))))


def fields(task: Task) -> tuple[str, ...]:
    """The fields of a row that the task's prompt-free template reads, sorted: they say which row it is.

    Raises: BadInput when the template is broken or reads none.
    """
    try:
        found = _names(task.template_free)
    except TemplateSyntaxError as error:
        raise _broken(task, error) from None
    if not found:
        raise BadInput(f"task {task.name}", "template_free reads no field of a row", "write one as {{ field }}")
    return found


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


def render(task: Task, row: Mapping[str, Any], hard_prompt: bool = True, number: int = 0) -> str:
    """The prompt of a row, with the task's hard prompt or without (the answer comes after one space).

    Args: row, its fields; number, the row's number for error messages. Raises: BadInput naming the task
    and the row where a field is missing, the template asks for what the sandbox refuses, or the text is
    longer than MAX_TEXT characters.
    """
    asked = f"task {task.name}, row {number}"
    try:
        text = _bounded(_compiled(task.template if hard_prompt else task.template_free), row)
    except UndefinedError as error:
        do = "fields of this row: " + ", ".join(sorted(row))
        raise BadInput(asked, f"a field is missing ({error})", do) from None
    except TemplateSyntaxError as error:
        raise _broken(task, error) from None
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise BadInput(asked, f"the template cannot be rendered ({error})", "use plain fields of the row") from None
    if text is None:
        found = f"the rendered text is longer than {MAX_TEXT} characters"
        raise BadInput(asked, found, "shorten the row or the template")
    return text
