"""curves.png: losses, gap and validation scores of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo import picture
from zofo.report import history
from zofo.report.history import Row
from zofo.report.words import named, number, primary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREEN, BLUE, RED = "#1b7837", "#2166ac", "#b2182b"
COLOURS = {
    "A": GREEN,
    "B": BLUE,
    "C": RED,
    "loss_p": BLUE,
    "loss_s": RED,
    "p": BLUE,
    "s": RED,
    "theta": GREEN,
    "loss_theta": BLUE,
}
LABELS = {
    "A": "A (theta, p on D_f)",
    "B": "B (theta, p on D_p)",
    "C": "C (theta, s on D_p)",
    "loss_p": "p, lower level",
    "loss_s": "s, lower level",
}
ALONE = {"A": "training loss", "loss_p": "training loss of p", "loss_theta": "training loss, first-order batch"}
"""Labels where a method has no levels."""

GREY = "#555555"
SMOOTH_FROM = 20
"""Steps from which a curve gets a running mean over it."""


def curves(rows: Sequence[Row], path: Path, name: str, zero_shot: Mapping[str, Any] | None = None) -> None:
    """Draw a run's curves and write them to `path`, whole or not at all.

    Args: rows, the metrics; path, `runs/NAME/curves.png`; name, the run's; zero_shot, the result before
    training (its score becomes a line). Cost: about a second; matplotlib is imported here.
    """
    before = number(zero_shot.get(primary(zero_shot) or "")) if zero_shot else None
    picture.write(drawn(rows, name, before), path)


def drawn(rows: Sequence[Row], title: str, zero_shot: float | None = None) -> Figure:
    """The figure: losses, gap (where the method has one), validation."""
    steps = history.steps(rows)
    wide = any("gap" in row for row in steps)
    figure = picture.sheet(13.5 if wide else 9.2, 4.4)
    figure.suptitle(title.replace("$", r"\$"))
    panels = figure.subplots(1, 3 if wide else 2)
    losses(panels[0], steps)
    if wide:
        gap(panels[1], steps)
    validation(panels[-1], rows, zero_shot)
    end = max([int(row["step"]) for row in rows if "step" in row], default=1)
    for axes in panels:
        axes.set(xlabel="step", xlim=(0, max(end, 1) * 1.02))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
    return figure


def curve(axes: Axes, found: tuple[list[int], list[float]], colour: str, label: str, style: str = "-") -> None:
    """A curve; a long one is drawn faintly, with its running mean over it."""
    steps, values = found
    if not steps:
        return
    if len(steps) < SMOOTH_FROM:
        axes.plot(steps, values, style, color=colour, label=label, marker="." if len(steps) < 3 else None)
        return
    axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.7)
    axes.plot(steps, running(values, max(5, len(values) // 15)), style, color=colour, label=label)


def running(values: Sequence[float], width: int) -> list[float]:
    """Means over the last `width` values (over fewer at the start)."""
    return [sum(values[max(0, i + 1 - width) : i + 1]) / min(i + 1, width) for i in range(len(values))]


def losses(axes: Axes, steps: Sequence[Row]) -> None:
    """Training losses, as many as the method has; those below dashed."""
    labels = LABELS if any("lam" in row for row in steps) else ALONE
    several = len({name for row in steps for name in labels if name in row}) > 1
    for name, label in labels.items():
        style = "--" if several and "loss" in name else "-"
        curve(axes, history.series(steps, name), COLOURS[name], label if several else ALONE.get(name, label), style)
    mean = " (faint: each step; line: running mean)" if len(steps) >= SMOOTH_FROM else ""
    negative = any((number(row.get("A")) or 0.0) < 0 for row in steps)  # a metric is minimised: minus its value
    finish(
        axes,
        f"training losses{mean}",
        "loss, or minus the metric" if negative else "loss (nats a token)",
        "no steps yet",
    )


def gap(axes: Axes, steps: Sequence[Row]) -> None:
    """The gap B - C, which the penalty closes."""
    curve(axes, history.series(steps, "gap"), "#762a83", "B - C")
    axes.axhline(0, color=GREY, linewidth=0.8)
    finish(axes, "gap B - C", "loss difference (nats a token)", "no steps yet")


def validation(axes: Axes, rows: Sequence[Row], zero_shot: float | None) -> None:
    """Validation score (left) and loss (right, dotted) of p and s, the best checkpoint, the zero-shot score."""
    checks = history.validations(rows)
    right = axes.twinx() if checks else axes
    metric = next((name for row in checks for slot in history.slots(row) if (name := primary(row[slot]))), None)
    word = named(metric) if metric else "score"
    for slot in ("p", "s", "theta"):
        colour, held = COLOURS[slot], [scored(row, slot) for row in checks]
        steps, values = history.series(held, metric or "")
        if held and not steps and "loss" in held[0]:
            right.plot(*history.series(held, "loss"), ":", color=colour, marker=".", label=f"{slot}, loss")
        if steps:
            shares = [100 * value for value in values]
            axes.plot(steps, shares, color=colour, marker="o", markersize=4, label=f"{slot}, {word}")
            right.plot(*history.series(held, "loss"), ":", color=colour, marker=".")
            axes.plot([], [], ":", color=colour, marker=".", label=f"{slot}, loss")
    best = history.best(rows)
    if best is not None:
        axes.axvline(int(best["step"]), color=GREY, linestyle="--", linewidth=1, label=f"best (step {best['step']})")
    if zero_shot is not None:
        axes.axhline(100 * zero_shot, color=GREY, linestyle="-.", linewidth=1, label=f"zero-shot {word} (test)")
    if checks:
        right.set_ylabel("loss (nats a token)")
    finish(axes, "validation", f"{word} (%)", "no validation yet")


def scored(row: Row, slot: str) -> dict[str, Any]:
    """A slot's scores with their step; empty of scores when a validation has none of it."""
    return {**(row.get(slot) or {}), "step": row["step"]}


def finish(axes: Axes, title: str, unit: str, empty: str) -> None:
    """Title, unit and legend, or a word where there is nothing to draw."""
    axes.set_title(title, fontsize=11)
    axes.set_ylabel(unit)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    elif not axes.has_data():
        axes.text(0.5, 0.5, empty, ha="center", va="center", transform=axes.transAxes, color=GREY)
