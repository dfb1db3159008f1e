"""Results over a mixture side by side: each unseen task before and after, by method; as a table and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo import picture
from zofo import spread as spreads
from zofo.errors import BadInput
from zofo.report.plots import GREY
from zofo.report.words import named, number, primary, spread
from zofo.run.jsonfile import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEAN = "mean over tasks"
COLOURS = ("#2166ac", "#b2182b", "#1b7837", "#762a83", "#b35806", "#35978f", "#c51b7d", "#4d4d4d")
SIGNS = ("o", "s", "^", "D")  # of the first eight methods, of the next ...
EDGE = 2  # points that the picture shows beyond 0 and 100
SLOT = 0.2  # inches a method takes in a task's row


@dataclass(frozen=True)
class Point:
    """A task's score: before (None where it was not measured), and after with the interval's ends; or why there is none."""

    metric: str = ""
    before: float | None = None
    after: Mapping[str, Any] | None = None
    rows: str = ""  # the SHA-256 of its test rows ("": not known)
    failed: str = ""
    draws: tuple[float, ...] = ()  # the score of each draw, where there are some, those of one training seed together
    seeds: int = 1

    @property
    def scored(self) -> bool:
        """Whether it has a score that can stand in a mean over tasks: a loss has another scale."""
        return self.after is not None and self.metric != "loss" and number(self.after.get("mean")) is not None


@dataclass(frozen=True)
class Series:
    """One file of results: what it is called, and its tasks' points (with `averaged`, the mean among them)."""

    name: str
    points: dict[str, Point]


def read(path: Path) -> list[Series]:
    """The results over a mixture that `adapt --json` or `eval --out` wrote: one series, or (of `eval`) one an adapter.

    Raises: BadInput where a file holds none.
    """
    held = read_json(path)
    held = held if isinstance(held, dict) else {}
    try:
        if held.get("tasks"):
            return [of_draws(path.stem, held)]
        found = {name: r for name, r in held.get("results", {}).items() if "tasks" in r}
        if found:
            several = len(found) > 1
            sha = held.get("members_sha256", {})
            return [of_scores(f"{path.stem} {name}" if several else path.stem, r, sha) for name, r in found.items()]
    except KeyError as error:
        raise BadInput(f"results {path}", f"a task lacks {error}", "write the file anew") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise BadInput(f"results {path}", f"it is not what zofo wrote ({error})", "write the file anew") from None
    raise BadInput(f"results {path}", "it holds no scores by task", "give files of zofo adapt --json, or eval --out")


def of_draws(name: str, held: Mapping[str, Any]) -> Series:
    """Results over draws, before and after."""
    if lacking := [task for task, record in held["tasks"].items() if "mean" not in record.get("after", {"mean": None})]:
        raise KeyError(f"'after.mean' ({lacking[0]})")
    return Series(name, {task: point(record) for task, record in held["tasks"].items()})


def of_scores(name: str, result: Mapping[str, Any], sha: Mapping[str, str]) -> Series:
    """Scores as they are, without draws; `sha`: of each task's rows, where the file says it."""
    points = {}
    for task, held in result["tasks"].items():
        metric = primary(held) or "loss"
        points[task] = Point(metric, None, {"mean": held[metric]}, sha.get(task, ""))
    return Series(name, points)


def pooled(name: str, several: Sequence[Mapping[str, Mapping[str, Any]]]) -> Series:
    """Records by task of several seeds as one series: each task's draws side by side."""
    return Series(name, {task: joined([point(records[task]) for records in several]) for task in several[0]})


def joined(points: Sequence[Point]) -> Point:
    """A task's points of several seeds as one."""
    draws = tuple(value for p in points for value in p.draws)
    before = [p.before for p in points if p.before is not None]
    rows = "; ".join(dict.fromkeys(p.rows for p in points))
    middle = statistics.fmean(before) if len(before) == len(points) else None
    return Point(points[0].metric, middle, asdict(over(draws, len(points))), rows, "", draws, len(points))


def over(draws: Sequence[float], seeds: int) -> spreads.Spread:
    """The spread of draws of some training seeds, as many of each: those of one seed have its theta in common."""
    each = len(draws) // seeds
    return spreads.nested([draws[k : k + each] for k in range(0, len(draws), each)])


def point(record: Mapping[str, Any]) -> Point:
    """A task's record as a point."""
    if "failed" in record:
        return Point(failed=str(record["failed"]))
    metric = record["metric"]
    draws = tuple(float(draw["result"][metric]) for draw in record["draws"])
    return Point(metric, number(record["before"][metric]), record["after"], record["test"]["sha256"], "", draws)


def shared(series: Sequence[Series]) -> list[str]:
    """The tasks that have a score in every file, by one metric."""
    held = {name: [one.points.get(name, Point()) for one in series] for name in tasks(series) if name != MEAN}
    return [n for n, found in held.items() if all(p.scored for p in found) and len({p.metric for p in found}) == 1]


def averaged(series: Sequence[Series]) -> list[Series]:
    """The series, each with its mean over the tasks that all share: means over different tasks do not compare. None is added without such tasks, or for one task alone."""
    names = shared(series)
    if not names or len(tasks(series)) < 2:
        return list(series)
    return [Series(s.name, s.points | {MEAN: mean([s.points[name] for name in names])}) for s in series]


def mean(points: Sequence[Point]) -> Point:
    """The mean of some tasks, before and after; over draws, with the interval of each draw's own mean."""
    before = [p.before for p in points if p.before is not None]
    after = {"mean": statistics.fmean(float(p.after["mean"]) for p in points if p.after is not None)}
    if len({len(p.draws) for p in points}) == 1 and points[0].draws:
        means = [statistics.fmean(draw) for draw in zip(*(p.draws for p in points), strict=True)]
        after = asdict(over(means, points[0].seeds))
    return Point("score", statistics.fmean(before) if len(before) == len(points) else None, after)


def called(series: Sequence[Series], name: str) -> str:
    """What a line is called: its task, or over how many tasks the mean is, where some are left out."""
    used, of = len(shared(series)), len(tasks(series)) - 1
    return f"mean over {used} of {of} tasks" if name == MEAN and used < of else name


def left_out(series: Sequence[Series]) -> list[str]:
    """Tasks that are not in the mean, where there is one."""
    used = {*shared(series), MEAN}
    return [name for name in tasks(series) if name not in used] if MEAN in tasks(series) else []


def tasks(series: Sequence[Series]) -> list[str]:
    """The tasks of all files, in order, the mean last."""
    names = dict.fromkeys(name for one in series for name in one.points if name != MEAN)
    return [*names, *([MEAN] if any(MEAN in one.points for one in series) else [])]


def rows(series: Sequence[Series]) -> tuple[list[str], list[list[str]]]:
    """The table: a line a task, and for each file the score before and after."""
    columns = ["task", "metric"] + [f"{one.name}, {when}" for one in series for when in ("before", "after")]
    found = []
    for task in tasks(series):
        held = [one.points.get(task, Point(failed="-")) for one in series]
        metric = next((p.metric for p in held if p.metric), "")
        cells = [cell for p in held for cell in words(p)]
        found.append([called(series, task), named(metric), *cells])
    return columns, found


def words(p: Point) -> tuple[str, str]:
    """A point in words: before, after."""
    if p.after is None:
        return "-", p.failed if p.failed == "-" else f"failed: {p.failed}"
    scale, unit = (1, "") if p.metric == "loss" else (100, " %")
    before = "-" if p.before is None else f"{scale * p.before:.1f}{unit}"
    return before, spread(p.after, p.metric)


def unequal(series: Sequence[Series]) -> list[str]:
    """Tasks whose test rows are not the same in all files."""
    return [task for task, found in tested(series).items() if len(set(found) - {""}) > 1]


def unknown(series: Sequence[Series]) -> list[str]:
    """Tasks of several files, one of which does not say on which rows it was tested."""
    return [task for task, found in tested(series).items() if len(found) > 1 and "" in found]


def tested(series: Sequence[Series]) -> dict[str, list[str]]:
    """By task, the rows of every file that has scored it."""
    held = {task: [one.points[task] for one in series if task in one.points] for task in tasks(series) if task != MEAN}
    return {task: [p.rows for p in found if p.after is not None] for task, found in held.items()}


def draw(series: Sequence[Series], path: Path) -> None:
    """Write the picture, whole or not at all: PNG, PDF or SVG by the file's ending. Cost: a second."""
    picture.write(drawn(series), path)


def drawn(series: Sequence[Series]) -> Figure:
    """The figure: a row a task, in it each method from before (hollow) to after (full, with its 95 % interval)."""
    names = [name for name in tasks(series) if any(shown(one, name) for one in series)]
    if not names:
        raise BadInput("--plot", "no task has a score", "see the table")
    high = len(names) * (SLOT * len(series) + 0.16) + 1.1 + 0.2 * -(-len(series) // 2)
    figure = picture.sheet(8.0, max(3.0, high))
    axes = figure.subplots()
    for rank, one in enumerate(series):
        line(axes, names, one, rank, len(series))
    dress(axes, [called(series, name) for name in names], names[-1] == MEAN)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def shown(one: Series, task: str) -> bool:
    """Whether a task of a file can be drawn: losses stand on another scale."""
    held = one.points.get(task)
    return held is not None and held.after is not None and held.metric != "loss"


def line(axes: Axes, names: Sequence[str], one: Series, rank: int, of: int) -> None:
    """A method's points, a little apart from the others' in each task's row."""
    colour, label = COLOURS[rank % len(COLOURS)], one.name
    sign = SIGNS[rank // len(COLOURS) % len(SIGNS)]
    for at, task in enumerate(names):
        held = one.points.get(task)
        if held is None or held.after is None or not shown(one, task):
            continue
        y, after = at + 0.8 * ((rank + 0.5) / of - 0.5), 100 * float(held.after["mean"])
        if held.before is not None:
            axes.plot([100 * held.before, after], [y, y], color=colour, linewidth=1, alpha=0.45)
            axes.plot(100 * held.before, y, sign, color=colour, markerfacecolor="white", markersize=4.5)
        if held.after.get("low") is not None:
            ends = [100 * float(held.after[key]) for key in ("low", "high")]
            axes.plot(ends, [y, y], color=colour, linewidth=2.4, alpha=0.6, solid_capstyle="butt")
        axes.plot(after, y, sign, color=colour, markersize=5, label=label)
        label = "_nolegend_"


def dress(axes: Axes, names: Sequence[str], mean: bool) -> None:
    """Names (`mean`: the last is of the mean), lines between tasks, and what the signs mean."""
    axes.set_yticks(range(len(names)), [name.removeprefix("crossfit/") for name in names], fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for at in range(1, len(names)):
        last = mean and at == len(names) - 1
        axes.axhline(at - 0.5, color=GREY, linewidth=1.2 if last else 0.4, alpha=1 if last else 0.5)
    axes.grid(axis="x", alpha=0.25)
    left, right = axes.get_xlim()  # an interval of few draws may go beyond what a score can be
    axes.set_xlim(max(left, -EDGE), min(right, 100 + EDGE))
    axes.set_xlabel("score of the unseen task (%): macro-F1, accuracy or F1")
    axes.set_title("before (hollow) and after (full; bar: 95 % interval over draws)", fontsize=11)
