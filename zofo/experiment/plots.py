"""The plots of an experiment, one PNG each; one without anything to show is not drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zofo import picture
from zofo.experiment.lines import Line
from zofo.experiment.table import clock, series
from zofo.picture import sheet
from zofo.report import unseen
from zofo.report.plots import GREY
from zofo.report.words import named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Callable[[Line, int, Mapping[str, Any]], float]
"""Where a point of a curve (of a line and seed) stands on the x axis."""
WIDE = 20
"""Rows from which colours repeat."""


def draw(folder: Path, table: Mapping[str, Any], lines: Sequence[Line]) -> None:
    """Draw all plots that there is something for. Cost: seconds; matplotlib is imported here."""
    done = [line for line in lines if line.done]
    drawn = {
        "accuracy-seconds": curves(table, done, clock, "training seconds"),
        "accuracy-passes": curves(table, done, lambda line, seed, p: float(p["passes"]), "forward passes (a backward one as two)"),
        "gap": gaps(table, done),
        "memory": memory(table),
        "step-time": step_time(table),
        "prompt": prompt(table),
    }  # fmt: skip
    if found := series(done):
        unseen.draw(found, folder / "unseen.png")
    for name, figure in drawn.items():
        if figure is not None:
            picture.write(figure, folder / f"{name}.png")


def panels(table: Mapping[str, Any], lines: Sequence[Line], high: float = 4.8) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel a task that there are lines of, four in a row, and room for one legend below."""
    tasks = [task for task in table["tasks"] if any(line.task == task for line in lines)]
    wide = min(len(tasks), 4)
    deep = -(-len(tasks) // wide)
    figure = sheet(max(7.0, 4.6 * wide), high * deep)
    axes = figure.subplots(deep, wide, squeeze=False).flat
    held = dict(zip(tasks, axes, strict=False))
    for unused in list(axes)[len(tasks) :]:
        unused.set_axis_off()
    for task, panel in held.items():
        panel.set_title(task, fontsize=11)
        panel.grid(alpha=0.25)
    return figure, held


def looks(table: Mapping[str, Any], lines: Sequence[Line]) -> dict[str, dict[str, Any]]:
    """A colour a row, the same in every panel; a row without the hard prompt has that of the row with it, dotted."""
    import matplotlib as mpl

    bare = {pair["without"]: pair["row"] for pair in table.get("prompt", [])}
    names = list(dict.fromkeys(bare.get(line.row, line.row) for line in lines))
    colours = mpl.colormaps["tab10" if len(names) <= 10 else "tab20"]
    own = {name: {"color": colours(k % WIDE), "linestyle": "-"} for k, name in enumerate(names)}
    return own | {without: own[row] | {"linestyle": ":"} for without, row in bare.items()}


def legend(figure: Figure, axes: Mapping[str, Axes]) -> None:
    """One legend for all panels."""
    held: dict[str, Any] = {}
    for panel in axes.values():
        handles, names = panel.get_legend_handles_labels()
        held |= dict(zip(names, handles, strict=True))
    if held:
        look: dict[str, Any] = {"ncols": abreast(figure, held), "fontsize": 8, "frameon": False}
        figure.legend(list(held.values()), list(held), loc="outside lower center", **look)


def abreast(figure: Figure, names: Iterable[str]) -> int:
    """How many names stand in a line of a legend: four, or as many of the longest as the figure is wide."""
    names = list(names)
    wide = 0.5 + 0.056 * max(map(len, names))  # inches: the sign, and letters of 8 points
    return max(1, min(4, len(names), int(figure.get_figwidth() / wide)))


def label(text: str) -> str:
    """A row's name as matplotlib takes it."""
    return text.replace("$", r"\$").lstrip("_") or "row"


def curves(table: Mapping[str, Any], lines: Sequence[Line], at: Points, unit: str) -> Figure | None:
    """Validation score (without a metric: loss) against a cost: the mean over seeds, each seed faintly; the test score as a mark at the end."""
    trained = [line for line in lines if any(record.get("curve") for record in line.done.values())]
    if not trained:
        return None
    figure, axes = panels(table, trained)
    look = looks(table, lines)
    for line in trained:
        curve(axes[line.task], line, at, look[line.row])
    for line in lines:
        if line not in trained and line.task in axes:
            level = float(np.mean([test(record) for record in line.done.values()]))
            own = look[line.row]
            style = "-." if own["linestyle"] == "-" else ":"
            axes[line.task].axhline(level, color=own["color"], linestyle=style, linewidth=1, label=label(line.row))
    for task, panel in axes.items():
        metric = metric_of(next(line for line in trained if line.task == task))
        panel.set(xlabel=unit, ylabel=f"{named(metric)}{'' if metric == 'loss' else ' (%)'}: validation; dots: test")
        panel.set_xlim(left=0)
    legend(figure, axes)
    return figure


def metric_of(line: Line) -> str:
    """What a line was tested by."""
    return str(next(iter(line.done.values()))["test"]["metric"])


def test(record: Mapping[str, Any]) -> float:
    """A record's test score as it is drawn: in percent, a loss as it is."""
    held = record["test"]
    return scale(held["metric"]) * float(held["slots"][held["used"]][held["metric"]])


def scale(metric: str) -> float:
    """What a value is multiplied by to be drawn."""
    return 1.0 if metric == "loss" else 100.0


def curve(axes: Axes, line: Line, at: Points, look: Mapping[str, Any]) -> None:
    """One row's curve and its test: seeds are validated at the same steps, so their means are taken point by point."""
    tracks, metric = [], metric_of(line)
    key, by = "loss" if metric == "loss" else "score", scale(metric)
    for seed, record in line.done.items():
        points = [(at(line, seed, p), by * float(p[key])) for p in record["curve"] if p[key] is not None]
        if points:
            tracks.append(np.array(points))
            axes.plot(*tracks[-1].T, **look, alpha=0.25, linewidth=0.8)
    hollow: dict[str, Any] = {"markeredgecolor" if look["linestyle"] == "-" else "markerfacecolor": "white"}
    if tracks:
        size = min(map(len, tracks))
        mean = np.mean([track[:size] for track in tracks], axis=0)
        axes.plot(*mean.T, **look, label=label(line.row), marker=".", markersize=4)
        end = mean[-1, 0]
    else:  # validation has losses alone: the test is all that is drawn
        end = np.mean([at(line, seed, r["curve"][-1]) for seed, r in line.done.items() if r["curve"]])
        hollow["label"] = label(line.row)
    score = np.mean([test(r) for r in line.done.values()])
    axes.plot(end, score, "o", color=look["color"], markersize=8, **hollow)


def gaps(table: Mapping[str, Any], lines: Sequence[Line]) -> Figure | None:
    """The gap B - C over the steps, its mean over seeds."""
    held = [line for line in lines if any(record.get("gap") for record in line.done.values())]
    if not held:
        return None
    figure, axes = panels(table, held)
    look = looks(table, lines)
    for line in held:
        tracks = [np.array(record["gap"], dtype=float) for record in line.done.values() if record.get("gap")]
        size = min(map(len, tracks))
        mean = np.mean([t[:size] for t in tracks], axis=0)
        axes[line.task].plot(*mean.T, **look[line.row], label=label(line.row), linewidth=1)
    for panel in axes.values():
        panel.axhline(0, color=GREY, linewidth=0.8)
        panel.set(xlabel="step", ylabel="B - C (loss difference)")
    legend(figure, axes)
    return figure


def bars(entries: Sequence[Mapping[str, Any]], kinds: Mapping[str, Sequence[float | None]], unit: str) -> Figure | None:
    """Horizontal bars, a group a row, a colour a kind."""
    if not any(value is not None for values in kinds.values() for value in values):
        return None
    names = labels(entries)
    figure = sheet(9.0, 1.4 + (0.18 + 0.2 * len(kinds)) * len(names))
    axes = figure.subplots()
    high = 0.8 / len(kinds)
    for k, (kind, values) in enumerate(kinds.items()):
        places = [i + (k - (len(kinds) - 1) / 2) * high for i in range(len(names))]
        made = axes.barh(places, [value or 0.0 for value in values], height=high * 0.92, label=kind)
        axes.bar_label(made, ["" if value is None else f"{value:.4g}" for value in values], fontsize=7, padding=3)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(unit)
    axes.margins(x=0.12)
    if len(kinds) > 1:
        axes.legend(fontsize=8)
    return figure


KINDS = {
    "weights": "weights, and their half-precision twins", "adapters": "adapters, and copies of them",
    "moments": "moments", "scratch": "scratch for probing", "pass": "the largest pass: activations, logits, gradients",
    "": "all of it, of a record that does not part it",
}  # fmt: skip
MEASURED = {
    "standing_mb": ("before training, the whole process", "|"),
    "peak_mb": ("peak of training, the whole process", "d"),
}


def memory(table: Mapping[str, Any]) -> Figure | None:
    """Memory by kind, as estimated for what torch allocates, and what was measured of the process beside it."""
    rows = [entry for entry in table["rows"] if entry["memory"]]
    if not rows:
        return None
    figure = sheet(9.0, 1.8 + 0.38 * len(rows))
    axes, places = figure.subplots(), range(len(rows))
    left = [0.0] * len(rows)
    for kind, word in KINDS.items():
        sizes = [kinds(entry["memory"]).get(kind, 0.0) for entry in rows]
        if any(sizes):
            axes.barh(places, sizes, left=left, height=0.6, label=f"{word} (estimated)")
            left = [before + size for before, size in zip(left, sizes, strict=True)]
    for key, (word, mark) in MEASURED.items():
        there = [(entry["memory"][key], k) for k, entry in enumerate(rows) if key in entry["memory"]]
        axes.plot([x for x, _ in there], [y for _, y in there], mark, color="black", markersize=7, label=word)
    axes.set_yticks(places, labels(rows), fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("MB (largest over a run, mean over seeds)")
    axes.legend(
        fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.8 / figure.get_figheight()), ncols=2, frameon=False
    )
    return figure


def kinds(memory: Mapping[str, float]) -> dict[str, float]:
    """The estimate of a run's memory by kind; of an older record, as a whole."""
    held = {kind: float(memory[key]) for kind in KINDS if (key := f"estimated_{kind}_mb") in memory}
    return held or {"": float(memory.get("estimated_mb", 0.0))}


def labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows' names, with the task where there are several."""
    several = len({entry["task"] for entry in rows}) > 1
    return [label(entry["row"] + (f", {entry['task']}" if several else "")) for entry in rows]


def step_time(table: Mapping[str, Any]) -> Figure | None:
    """Seconds a step, as the file says and as the runs took."""
    rows = [entry for entry in table["rows"] if entry["step_seconds"] is not None]
    kinds = {"in the runs": [entry["step_seconds"] for entry in rows]}
    if any(entry["cost"] is not None for entry in rows):
        kinds |= {"in the file": [entry["cost"] for entry in rows]}
    return bars(rows, kinds, "seconds a step")


def prompt(table: Mapping[str, Any]) -> Figure | None:
    """Scores with and without the hard prompt (losses only where there is nothing else)."""
    held = table.get("prompt", [])
    rows = [entry for entry in held if entry["metric"] != "loss"]
    unit, by, rows = ("test score (%)", 100.0, rows) if rows else ("test loss", 1.0, held)
    kinds = {
        word: [by * entry["scores"][k] for entry in rows] for k, word in enumerate(("with the hard prompt", "without"))
    }
    return bars(rows, kinds, unit) if rows else None
