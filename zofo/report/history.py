"""A run's metrics rows, asked for what reports and comparisons need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zofo.report.words import SLOTS, named, number, primary

Row = Mapping[str, Any]
LAG = 0.05
"""How far p's validation score may lie below s's before the run says so (and `SURE` standard errors)."""
LAG_LOSS = 0.2
"""How far its loss may lie above s's where there is no score: nats a token, so a perplexity a fifth higher, and that part of s's loss."""
SURE = 2.5
"""Standard errors of their difference, as if each had rows of its own. The rows are the same, hard for both or for neither: so it is surer than that."""


def steps(rows: Iterable[Row]) -> list[Row]:
    """The rows of steps."""
    return [row for row in rows if row.get("kind") == "step"]


def validations(rows: Iterable[Row]) -> list[Row]:
    """The rows of validations."""
    return [row for row in rows if row.get("kind") == "validation"]


def slots(row: Row) -> list[str]:
    """The slots that a validation row has scores of: p, s, theta."""
    return [slot for slot in SLOTS if isinstance(row.get(slot), Mapping)]


def validation_loss(row: Row) -> float | None:
    """The loss (or other measure, `by`) by which a validation counts: of the slot in use, else the lowest."""
    found = {slot: number(row[slot].get(row.get("by", "loss"))) for slot in slots(row)}
    if found.get(str(row.get("used"))) is not None:
        return found[str(row["used"])]
    return min((loss for loss in found.values() if loss is not None), default=None)


def best(rows: Iterable[Row]) -> Row | None:
    """The validation whose checkpoint is the best one: the last that was marked so."""
    marked = [row for row in validations(rows) if row.get("best")]
    return marked[-1] if marked else None


def series(rows: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a number, where rows have it (a non-finite value is a gap in a curve)."""
    found = [(int(row["step"]), number(row.get(name))) for row in rows]
    return [k for k, value in found if value is not None], [value for _, value in found if value is not None]


def lag(row: Row) -> str | None:
    """A sentence when p is clearly worse than s in a validation (`behind`), else None."""
    p, s = row.get("p"), row.get("s")
    if not isinstance(p, Mapping) or not isinstance(s, Mapping):
        return None
    metric = primary(s)
    by = behind(p, s, metric)
    if by is None:
        return None
    much = f"{by:.2g} nats" if metric is None else f"{100 * by:.0f} points"
    return (
        f"p lags behind s by {much} of validation {named(metric)} at step {row.get('step')}: "
        "p needs more steps (coupling both, a larger T) or a higher --method.lr_p"
    )


def behind(p: Row, s: Row, metric: str | None) -> float | None:
    """By how much p's metric lies below s's, or its loss above where there is none; None within `LAG`, `LAG_LOSS`, `SURE`."""
    name = metric or "loss"
    of_p, of_s = number(p.get(name)), number(s.get(name))
    if of_p is None or of_s is None or not math.isfinite(of_p - of_s):
        return None
    by, least = of_s - of_p, LAG
    if metric is None:
        by, least = -by, max(LAG_LOSS, LAG_LOSS * of_s)
    errors = (number(scores.get(f"{name}_se")) or 0.0 for scores in (p, s))
    return by if by > max(least, SURE * math.hypot(*errors)) else None


def still(rows: Iterable[Row]) -> str | None:
    """A sentence when most projected gradients were exactly 0 (a metric that no probe changed), else None."""
    found = [number(row["c"]) for row in steps(rows) if "c" in row]
    zero = sum(value == 0 for value in found)
    if 2 * zero <= len(found):
        return None
    return (
        f"c was exactly 0 in {zero} of {len(found)} steps: the probes changed no answer, and theta did not move there; "
        "raise --batch, --method.eps or --method.q, or take a loss as the objective"
    )


def advice(rows: Iterable[Row]) -> list[Row]:
    """The rows of advice given on the way."""
    return [row for row in rows if row.get("kind") == "advice"]


def passes(rows: Iterable[Row]) -> tuple[int, int]:
    """Forward and backward passes so far (a step's row holds the totals)."""
    last = (steps(rows) or [{}])[-1]
    return int(last.get("forwards", 0)), int(last.get("backwards", 0))
