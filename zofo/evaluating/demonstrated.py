"""In-context learning, with its spread over draws of the demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zofo.adapting import run, shown
from zofo.adapting.each import Keep
from zofo.adapting.plan import Plan
from zofo.adapting.show import Show
from zofo.config import build
from zofo.errors import BadInput
from zofo.evaluating.found import Asked

OURS = ("data.shots", "data.mixture", "run.seed")
"""Options that say what is drawn; all others say how rows are read."""


def refuse(asked: Asked, draws: int) -> None:
    """Raise BadInput where something asked for does not go with draws."""
    if asked.adapter is not None:
        raise BadInput(f"--draws {draws}", "a saved adapter is of one draw", "leave one of the two out")
    if asked.samples is not None:
        raise BadInput(
            f"--samples {asked.samples}", "with --draws every row is answered several times", "leave one out"
        )
    if asked.slot is not None:
        raise BadInput(f"--slot {asked.slot}", "with --draws the adapter that the run uses is scored", "leave one out")
    if (asked.split, asked.side) != ("test", "test"):
        words = f"--split {asked.split}" if asked.split != "test" else f"--side {asked.side}"
        raise BadInput(words, "with --draws the test rows of a task, or of unseen tasks, are scored", "leave one out")


def over_draws(
    target: str, flags: Mapping[str, Any], asked: Asked, draws: int, dir: str, show: Show, keep: Keep | None = None
) -> dict[str, Any]:
    """A model or a run with several draws of demonstrations, on a task or on every unseen task of a mixture; `keep` is given the results so far.

    Raises: BadInput. Cost: (draws + 1) evaluations a task.
    """
    refuse(asked, draws)
    ours = build({key: value for key, value in flags.items() if key in OURS})
    if not ours.data.shots:
        raise BadInput(f"--draws {draws}", "there are no demonstrations to draw", "add --shots K, or leave it out")
    plan = Plan(shots=ours.data.shots, draws=draws, seed=ours.run.seed)
    rest = {key: value for key, value in flags.items() if key not in OURS}
    wanted, name = run.Asked(target, asked.which, None, dir, rest), ours.data.mixture
    return shown.over(wanted, plan, name, show, keep) if name else shown.alone(wanted, plan, show, keep)
