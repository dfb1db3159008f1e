"""`zofo bench`: what steps and scoring cost on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from zofo.cli.output import line, table
from zofo.errors import BadInput
from zofo.tasks import definition

Laws = tuple[Literal["rademacher", "gaussian", "sphere"], ...]

COLUMNS = (
    "task", "rows", "candidates", "one by one, s", "zofo, s", "times faster", "same predictions", "log-probabilities differ by",
)  # fmt: skip


def as_json(result: dict[str, Any]) -> str:
    """A result as JSON text."""
    return dumps(result, indent=1)


def build(rank: int) -> App:
    """The `bench` commands, at a place in the list of commands."""
    app = App(
        name="bench",
        help="Measure what steps and scoring cost on this machine.",
        help_format="plaintext",
        sort_key=rank,
    )
    app.command(step, name="step")
    app.command(evaluate, name="eval")
    return app


def step(
    *,
    model: Annotated[str, Parameter(metavar="MODEL", help="as --model of train takes it")] = "smollm2-135m",
    noise: Annotated[Laws, Parameter(consume_multiple=True, negative=(), help="laws")] = (
        "rademacher",
        "gaussian",
    ),
    rows: Annotated[int, Parameter(help="rows a batch")] = 8,
    tokens: Annotated[int, Parameter(help="tokens a row")] = 64,
    rounds: Annotated[int, Parameter(help="rounds, interleaved in one process")] = 9,
    dtype: Annotated[Literal["fp32", "bf16"], Parameter(help="computing dtype")] = "fp32",
    full: Annotated[bool, Parameter(negative=(), show_default=False, help="logits of all positions")] = False,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="print JSON")] = False,
) -> int:
    """Compare a zeroth-order step over all weights with a plain forward pass of the same batch."""
    refuse_below_one({"--rows": rows, "--tokens": tokens, "--rounds": rounds})
    from zofo.bench import step as bench

    found = bench.main(model=model, noise=noise, rows=rows, tokens=tokens, rounds=rounds, dtype=dtype, full=full)
    if json:
        line(as_json(found))
        return 0
    line(f"{found['model']}, {rows} x {tokens} tokens, {dtype}, head: {found['head']}, {found['threads']} threads")
    columns = ("what", "median, s", "min, s", "max, s", "in plain forward passes")
    shown = [
        (name, *(f"{t[key]:.3f}" for key in ("median_s", "min_s", "max_s")), f"{t['forwards']:.2f}")
        for name, t in found["results"].items()
    ]
    table(columns, shown)
    return 0


def evaluate(
    *,
    model: Annotated[str, Parameter(metavar="MODEL", help="as --model of train takes it")] = "smollm2-135m",
    task: Annotated[
        tuple[str, ...], Parameter(metavar="TASK...", consume_multiple=True, negative=(), help="tasks with choices")
    ] = ("sst2", "copa"),
    rows: Annotated[int, Parameter(help="test rows at most")] = 1000,
    rounds: Annotated[int, Parameter(help="rounds, interleaved in one process")] = 3,
    dtype: Annotated[Literal["fp32", "bf16"], Parameter(help="computing dtype")] = "fp32",
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="print JSON")] = False,
) -> int:
    """Compare scoring test rows with scoring one candidate at a time with logits at every position."""
    refuse_below_one({"--rows": rows, "--rounds": rounds})
    for name in task:
        if definition.find(name).kind == "text":
            raise BadInput(f"--task {name}", "it has no choices to score", "take a task that has")
    from zofo.bench import evaluate as bench

    found = bench.main(model=model, tasks=task, rows=rows, rounds=rounds, dtype=dtype)
    if json:
        line(as_json(found))
        return 0
    line(f"{found['model']}, {dtype}, {found['threads']} threads, median of {rounds} rounds")
    table(COLUMNS, [compared(name, result) for name, result in found["results"].items()])
    return 0


def compared(name: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    """A task's line of the table."""
    times = (f"{result['one_by_one_s']:.2f}", f"{result['zofo_s']:.2f}", f"{result['ratio']:.2f}")
    same = "yes" if result["equal_predictions"] else "NO"
    return (
        name,
        str(result["rows"]),
        str(result["candidates"]),
        *times,
        same,
        f"{result['max_logprob_difference']:.1e}",
    )


def refuse_below_one(values: Mapping[str, int]) -> None:
    """Raise BadInput for the first number that is not 1 or more."""
    for name, value in values.items():
        if value < 1:
            raise BadInput(f"{name} {value}", "not 1 or more", "give a whole number above 0")
