"""Numbers as people read them: scores with their error, times, sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SLOTS = ("p", "s", "theta")
"""What a validation row or a result may hold scores of, in the order they are shown."""
ZERO_SHOT = "zero-shot"
"""What the scores of a base that has not met a task yet stand under."""
UNSAID = "not said"
"""What stands for what a record does not say."""


def number(value: Any) -> float | None:
    """A metric as a float (the strings "nan", "inf" and "-inf" of the files too); None when it is none."""
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def figure(value: Any) -> str:
    """A number in four digits; "-" when there is none."""
    found = number(value)
    return "-" if found is None else f"{found:.4g}"


NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "f1a": "F1a", "f1": "F1", "em": "EM", "score": "score"}
"""Metrics as people write them."""

LOSSES = {"loss": "loss", "choice_loss": "choice loss"}
"""Losses of a result, as people write them: of the right answer's tokens (nats a token), and over the choices (their cross-entropy)."""


def measured(result: Mapping[str, Any] | None) -> list[str]:
    """The metrics that a result holds, the task's first one first."""
    return [name for name in result or {} if name in NAMES]


def primary(result: Mapping[str, Any] | None) -> str | None:
    """A result's first metric; None where it holds losses alone."""
    return next(iter(measured(result)), None)


def named(metric: str | None) -> str:
    """A metric as people write it."""
    return NAMES.get(metric or "", "loss")


def common(metrics: Iterable[str]) -> str | None:
    """What a mean of several metrics is in: theirs where they are one, else "score"; None of nothing, and of scores with losses."""
    found = set(metrics)
    return found.pop() if len(found) == 1 else None if "loss" in found or not found else "score"


def score(result: Mapping[str, Any] | None, metric: str | None = None) -> str:
    """A metric (default: the first) in percent with its standard error: `85.2 % +- 1.1`; "-" when there is none."""
    name = metric or primary(result)
    value = number(result.get(name)) if result and name else None
    if result is None or value is None:
        return "-"
    error = number(result.get(f"{name}_se"))
    return f"{100 * value:.1f} %" + (f" +- {100 * error:.1f}" if error is not None else "")


def spread(held: Mapping[str, Any], metric: str = "") -> str:
    """Several measurements: `85.2 % [83.1, 87.3], sd 1.7` (the mean and its 95 % interval); a loss without percent."""
    scale, unit, digits = (1, "", 4) if metric == "loss" else (100, " %", 1)
    mean, sd, low, high = (number(held.get(key)) for key in ("mean", "sd", "low", "high"))
    if mean is None:
        return "-"
    if sd is None or low is None or high is None:
        return f"{scale * mean:.{digits}f}{unit}"
    return f"{scale * mean:.{digits}f}{unit} [{scale * low:.{digits}f}, {scale * high:.{digits}f}], sd {scale * sd:.{digits}f}"


def rows_of(config: Any) -> str:
    """What a run is trained on: its mixture, its task, or the name of its own file."""
    return str(config.data.mixture or config.data.task or Path(config.data.train).name)


def duration(seconds: Any) -> str:
    """A time: `3.2 s`, `4 min 10 s`, `2 h 5 min`; "-" when there is none."""
    value = number(seconds)
    if value is None or not math.isfinite(value):
        return "-"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """A number of bytes: `538 MB` (powers of 1000)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
