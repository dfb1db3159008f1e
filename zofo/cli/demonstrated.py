"""`zofo eval --shots K --draws N`: in-context learning, with its spread over draws of the demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zofo.cli import drawn
from zofo.cli.output import line
from zofo.errors import BadInput
from zofo.report.words import duration

OURS = ("data.shots", "data.mixture", "run.seed")
"""Options that say what is drawn; all others say how rows are read."""


def refuse(slot: str | None, split: str, side: str, samples: str | None) -> None:
    """Raise where an option does not go with draws."""
    if samples is not None:
        raise BadInput(f"--samples {samples}", "with --draws every row is answered several times", "leave one out")
    if slot is not None:
        raise BadInput(f"--slot {slot}", "with --draws the adapter that the run uses is scored", "leave one out")
    if split != "test" or side != "test":
        asked = f"--split {split}" if split != "test" else f"--side {side}"
        raise BadInput(asked, "with --draws the test rows of a task, or of unseen tasks, are scored", "leave one out")


def evaluate(target: str, flags: Mapping[str, Any], which: str, draws: int, out: str | None, dir: str) -> int:
    """Score a model or a run with several draws of demonstrations, on a task or on every unseen task of a mixture."""
    from zofo.adapting import shown
    from zofo.adapting.plan import Plan
    from zofo.adapting.run import Asked
    from zofo.config import build
    from zofo.run.jsonfile import write_json

    ours = build({key: value for key, value in flags.items() if key in OURS})
    if not ours.data.shots:
        raise BadInput(f"--draws {draws}", "there are no demonstrations to draw", "add --shots K, or leave it out")
    plan = Plan(shots=ours.data.shots, draws=draws, seed=ours.run.seed)
    asked = Asked(target, which, None, dir, {key: value for key, value in flags.items() if key not in OURS})
    name = ours.data.mixture
    show = drawn.Demonstrations(alone=not name)
    keep = drawn.keeping(out, show)
    found = shown.over(asked, plan, name, show, keep) if name else shown.alone(asked, plan, show, keep)
    if name:
        drawn.mixture(found)
    else:
        drawn.task(found)
        line(f"scoring took {duration(next(iter(found['tasks'].values()))['seconds'])} a draw")
    if out is not None:
        write_json(Path(out), found)
    return int(any("failed" in record for record in found["tasks"].values()))
