"""`zofo eval --shots K --draws N`: in-context learning, with its spread over draws of the demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zofo.cli import drawn
from zofo.cli.output import line
from zofo.report.words import duration
from zofo.run import outfile

if TYPE_CHECKING:
    from zofo.evaluating.found import Asked


def evaluate(target: str, flags: Mapping[str, Any], asked: Asked, draws: int, out: str | None, dir: str) -> int:
    """Score a model or a run with several draws of demonstrations, on a task or on every unseen task of a mixture."""
    from zofo.evaluating.demonstrated import over_draws
    from zofo.run.jsonfile import write_json

    several = bool(flags.get("data.mixture"))
    show = drawn.Demonstrations(alone=not several)
    found = over_draws(target, flags, asked, draws, dir, show, drawn.keeping(out, show))
    if several:
        drawn.mixture(found)
    else:
        drawn.task(found)
        line(f"scoring took {duration(next(iter(found['tasks'].values()))['seconds'])} a draw")
    if out is not None:
        write_json(outfile.written_to(out), found)
    return int(any("failed" in record for record in found["tasks"].values()))
