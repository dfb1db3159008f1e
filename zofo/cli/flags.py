"""The configuration as command line options: one flag a dotted key, typed in `config`, checked there only."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from cyclopts import Group, Parameter
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from zofo.config import Config

NAMES = {
    "model.name": ("--model.name", "--model"),
    "model.dtype": ("--model.dtype", "--dtype"),
    "data.task": ("--data.task", "--task"),
    "data.mixture": ("--data.mixture", "--mixture"),
    "data.batch": ("--data.batch", "--batch"),
    "data.shots": ("--data.shots", "--shots"),
    "data.channel": ("--data.channel", "--channel"),
    "data.calibration": ("--data.calibration", "--calibration"),
    "method.objective": ("--method.objective", "--objective"),
    "method.lam": ("--method.lam", "--method.lambda"),
    "run.name": ("--run.name", "--run"),
    "run.seed": ("--run.seed", "--seed"),
    "run.steps": ("--run.steps", "--steps"),
    "run.seconds": ("--run.seconds", "--seconds"),
    "run.memory_cap": ("--run.memory_cap", "--memory-cap"),
}
"""Keys with more names than `--section.key`."""

WORDS = {"true", "false", "yes", "no", "1", "0"}
Command = Callable[..., int]


def sections() -> dict[str, type[BaseModel]]:
    """The sections of the configuration, in its order."""
    return {name: cast("type[BaseModel]", field.annotation) for name, field in Config.model_fields.items()}


def shown(value: Any) -> str:
    """A default as it would be typed."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else " ".join(value) if isinstance(value, tuple) else str(value)


def option(key: str, field: FieldInfo, group: Group) -> inspect.Parameter:
    """One option. Its value stays text (a list of texts, a truth value): `config.build` is what checks it."""
    kind, default = field.annotation, shown(field.default)
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    hint = f" [{' | '.join(choices)}]" if choices else ""
    metavar = None if kind is bool else getattr(kind, "__name__", "text").upper() if not choices else "CHOICE"
    shape: Any = bool if kind is bool else tuple[str, ...] if get_origin(kind) is tuple else str
    told = Parameter(
        name=NAMES.get(key, f"--{key}"),
        negative=(f"--no-{key}",) if kind is bool else (),
        metavar={"STR": "TEXT", "TUPLE": "NAME..."}.get(metavar or "", metavar),
        help=f"{field.description}{hint}",
        group=group,
        show_default=(lambda _: default) if default else False,
        consume_multiple=True if shape not in (bool, str) else None,
    )
    kind, name = Annotated[shape | None, told], key.replace(".", "__")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def every(_: str) -> bool:
    """Whether a key becomes an option: all do."""
    return True


def options(wanted: Callable[[str], bool] = every) -> list[inspect.Parameter]:
    """The options of the configuration that are wanted, a help section for each of its rooms."""
    found = []
    for rank, (name, kind) in enumerate(sections().items(), 1):
        group = Group(name, help=kind.__doc__ or "", sort_key=rank)
        fields = {f"{name}.{key}": field for key, field in kind.model_fields.items() if wanted(f"{name}.{key}")}
        found += [option(key, field, group) for key, field in fields.items()]
    return found


def with_flags(command: Command, wanted: Callable[[str], bool] = every) -> Command:
    """Give a command the configuration options that are `wanted`; those that were typed are its first argument, a dict by dotted key."""

    def call(*args: Any, **given: Any) -> int:
        flags = {name.replace("__", ".", 1): given.pop(name) for name in list(given) if "__" in name}
        typed = {key: value for key, value in flags.items() if value is not None}
        return command(typed, *args, **given)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    both = [*own, *options(wanted)]
    both.sort(key=lambda p: p.kind)
    call.__annotations__ = {p.name: p.annotation for p in both} | {"return": int}
    call.__doc__, call.__name__ = command.__doc__, command.__name__
    vars(call)["__signature__"] = inspect.Signature(both, return_annotation=int)
    return call


def joined(argv: list[str]) -> list[str]:
    """Let a truth value follow its flag after a space: `--x.flag false` becomes `--x.flag=false`."""
    fields = [(f"{name}.{key}", field) for name, kind in sections().items() for key, field in kind.model_fields.items()]
    switches = {flag for key, field in fields if field.annotation is bool for flag in NAMES.get(key, (f"--{key}",))}
    found: list[str] = []
    for word in argv:
        if found and found[-1].replace("-", "_").replace("__", "--", 1) in switches and word.lower() in WORDS:
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found
