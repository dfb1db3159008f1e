"""`zofo bench`: what steps cost on this machine."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from zofo.cli.output import line, table
from zofo.errors import BadInput

Laws = tuple[Literal["rademacher", "gaussian", "sphere"], ...]


def build(rank: int) -> App:
    """The `bench` commands, at a place in the list of commands."""
    app = App(name="bench", help="Measure what a step costs on this machine.", help_format="plaintext", sort_key=rank)
    app.command(step, name="step")
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
    for name, value in (("--rows", rows), ("--tokens", tokens), ("--rounds", rounds)):
        if value < 1:
            raise BadInput(f"{name} {value}", "not 1 or more", "give a whole number above 0")
    from zofo.bench import step as bench

    found = bench.main(model=model, noise=noise, rows=rows, tokens=tokens, rounds=rounds, dtype=dtype, full=full)
    if json:
        line(bench.as_json(found))
        return 0
    line(f"{found['model']}, {rows} x {tokens} tokens, {dtype}, head: {found['head']}, {found['threads']} threads")
    columns = ("what", "median, s", "min, s", "max, s", "in plain forward passes")
    shown = [
        (name, *(f"{t[key]:.3f}" for key in ("median_s", "min_s", "max_s")), f"{t['forwards']:.2f}")
        for name, t in found["results"].items()
    ]
    table(columns, shown)
    return 0
