"""Numbers as people read them: scores with their error, times, sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SLOTS = ("p", "s", "theta")
"""What a validation row or a result may hold scores of, in the order they are shown."""


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


def score(result: Mapping[str, Any] | None) -> str:
    """An accuracy in percent with its standard error: `85.2 % +- 1.1`; "-" when there is none."""
    value = number(result.get("accuracy")) if result else None
    if result is None or value is None:
        return "-"
    error = number(result.get("se"))
    return f"{100 * value:.1f} %" + (f" +- {100 * error:.1f}" if error is not None else "")


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
