"""A picture of `zofo bench step`: time and memory of each kind, two panels of bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo import picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ZOFO, OTHER, GREY = "#2166ac", "#b0b0b0", "#555555"


def step(found: Mapping[str, Any], path: Path) -> None:
    """Draw a result of `zofo.bench.step.main` and write it, whole or not at all: PNG, PDF or SVG by the file's ending."""
    picture.write(drawn(found), path)


def drawn(found: Mapping[str, Any]) -> Figure:
    """The figure: time in plain forward passes on the left, memory above the weights on the right."""
    results: Mapping[str, Mapping[str, Any]] = found["results"]
    names, rows = list(results), list(results.values())
    figure = picture.sheet(13.5, 1.7 + 0.42 * len(names), dpi=120)
    figure.suptitle(title(found).replace("$", r"\$"), fontsize=10)
    time, memory = figure.subplots(1, 2, sharey=True)
    bars(time, names, [row["forwards"] for row in rows])
    labels(
        time, [row["forwards"] for row in rows], [f"{row['forwards']:.2f}  ({row['median_s']:.2f} s)" for row in rows]
    )
    time.set(title="time", xlabel="plain forward passes")
    resident, allocated = ([row[f"{key}_bytes"] / 1e6 for row in rows] for key in ("resident", "allocated"))
    bars(memory, names, resident, pale=True)
    bars(memory, names, allocated)
    ends = [max(pair) for pair in zip(resident, allocated, strict=True)]
    labels(
        memory, ends, [f"{a:.3g} MB  ({row['allocated_ratio']:.2f})" for a, row in zip(allocated, rows, strict=True)]
    )
    reference(memory, rows)
    memory.set(title="memory above the weights, at the peak", xlabel="MB that torch allocates (pale: resident)")
    return figure


def title(found: Mapping[str, Any]) -> str:
    """What was measured, in a line."""
    size = f"{found['weights'] / 1e6:.4g} M weights, {found['rows']} x {found['tokens']} tokens, {found['dtype']}"
    return f"{Path(str(found['model'])).name}, {size}, head at {found['head']}, threads: {found['threads']}"


def bars(axes: Axes, names: Sequence[str], values: Sequence[float], pale: bool = False) -> None:
    """Horizontal bars, the first on top; zofo's own in colour."""
    colours = [ZOFO if "zofo" in name else OTHER for name in names]
    axes.barh(range(len(names)), values, color=colours, height=0.66, alpha=0.3 if pale else 1.0)
    axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names], fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def labels(axes: Axes, ends: Sequence[float], texts: Sequence[str]) -> None:
    """A text after the end of each bar, and room for it."""
    for place, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axes.annotate(text, (end, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(0, max(ends) * 1.3)


def reference(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line at the plain forward pass with logits at all positions, which the ratios are to."""
    whole = next((row["allocated_bytes"] / 1e6 for row in rows if row["allocated_ratio"] == 1.0), None)
    if whole is not None:
        axes.axvline(whole, color=GREY, linestyle="--", linewidth=1, zorder=0)
