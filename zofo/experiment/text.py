"""An experiment's tables as text: columns and cells, for a terminal and for markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zofo.report.card import grid as markdown
from zofo.report.words import UNSAID, ZERO_SHOT, duration, figure, named

Made = tuple[str, Sequence[str], list[Sequence[str]]]
"""A title, columns and rows."""
THETA = (("moved", "theta moved by then"), ("cosine", "cosine"))
"""|theta - theta_0| / |theta_0| at the checkpoint, and the cosine of the last estimate of G with its gradient (G is A where lambda is 0; notes say where only A was measured)."""


def tables(table: Mapping[str, Any]) -> list[Made]:
    """All tables of an experiment: an overview over tasks, each task's rows, times to reach scores, the prompt's part."""
    found = [overview(table)] if "average" in table else []
    found += [task(table, name) for name in table["tasks"]]
    found += [reach(table)] if "reach" in table else []
    found += [prompt(table)] if "prompt" in table else []
    found += [unseen(table)] if "unseen" in table else []
    return found


def told(value: float, metric: str | None, sign: str = "") -> str:
    """A value in percent, a loss as it is; `sign`: "+" where one is always written."""
    return format(value, f"{sign}.4g") if metric == "loss" else format(100 * value, f"{sign}.1f")


def score(entry: Mapping[str, Any]) -> str:
    """Mean and standard deviation, in percent but for a loss; "-" where there is none."""
    if entry.get("mean") is None:
        return "-"
    metric, sd = entry.get("metric"), entry.get("sd")
    return told(entry["mean"], metric) + (f" +- {told(sd, metric)}" if sd is not None else "")


def difference(entry: Mapping[str, Any]) -> str:
    """A paired difference with its interval, in points but for a loss (lower is better); metric and seeds, where they are not the score's."""
    held = entry.get("difference")
    if held is None:
        return "-"
    metric = held["metric"]
    mean, low, high = (told(held[key], metric, "+") for key in ("mean", "low", "high"))
    apart = [named(metric)] if metric != entry["metric"] else []
    apart += [seeds(held["seeds"])] if held["seeds"] != entry["seeds"] else []
    return f"{mean} [{low}, {high}]" + (f" ({', '.join(apart)})" if apart else "")


def seeds(count: int) -> str:
    """A number of seeds in words."""
    return f"{count} seed{'s' if count != 1 else ''}"


def note(entry: Mapping[str, Any]) -> str:
    """What is missing, what failed, what was chosen."""
    parts = [*entry["failures"], *entry["notes"]]
    parts += [f"{entry['pending']} to run"] if entry["pending"] else []
    parts += (
        [", ".join(f"{key.split('.', 1)[1]} {value}" for key, value in entry["values"].items())]
        if entry["values"]
        else []
    )
    return "; ".join([*parts, *entry.get("remarks", [])])


def task(table: Mapping[str, Any], name: str) -> Made:
    """A task's rows."""
    rows = [entry for entry in table["rows"] if entry["task"] == name]
    metric = next((entry["metric"] for entry in rows if entry["metric"]), None)
    unit = "" if metric == "loss" else ", %"
    versus = [f"less {table['against']} [95 %]"] if table["against"] else []
    about = [(key, title) for key, title in THETA if any(entry.get(key) is not None for entry in rows)]
    apart = slots(table)
    columns = [
        "row", f"test {named(metric)}{unit}", "seeds", *versus, *apart, "used", "steps", "tested at step", "seconds", "passes", "s a step", "memory, MB",
        *(title for _, title in about), "notes",
    ]  # fmt: skip
    return (
        f"{name}, {table['model']}",
        columns,
        [cells(entry, bool(versus), apart, [key for key, _ in about]) for entry in rows],
    )


def slots(table: Mapping[str, Any]) -> Sequence[str]:
    """What stands apart beside the score: both adapters, or the base before it met an unseen task."""
    return (ZERO_SHOT,) if "unseen" in table else ("p", "s")


def unseen(table: Mapping[str, Any]) -> Made:
    """Each unseen task of a mixture before and after, a row a task."""
    return "unseen tasks: mean and 95 % over draws of all seeds", table["unseen"]["columns"], table["unseen"]["rows"]


def cells(entry: Mapping[str, Any], versus: bool, apart: Sequence[str], about: Sequence[str]) -> list[str]:
    """A line's cells; `apart`: the slots that stand beside the score; `about`: what is told of theta."""
    slots, peak = entry["slots"], entry["memory"].get("peak_mb")
    used = " ".join(f"{name} x{count}" if len(entry["used"]) > 1 else name for name, count in entry["used"].items())
    seconds = entry["budgeted_seconds"] if entry["budgeted_seconds"] is not None else entry["seconds"]
    step = entry["cost"] if entry["cost"] is not None else entry["step_seconds"]
    return [
        entry["row"], score(entry), f"{entry['seeds']} of {entry['wanted']}", *([difference(entry)] if versus else []),
        *(score({**slots[slot], "metric": entry["metric"]}) if slot in slots else "-" for slot in apart),
        used or "-", str(entry["steps"] or "-"), figure(entry["checkpoint"]), duration(seconds), figure(entry["passes"]), figure(step),
        figure(peak and round(peak)), *(figure(entry.get(key)) for key in about), note(entry),
    ]  # fmt: skip


def overview(table: Mapping[str, Any]) -> Made:
    """Rows by tasks, with the mean over tasks and the number of seeds that all of it is over."""
    wanted, versus = len(table["seeds"]), [f"less {table['against']} [95 %]"] if table["against"] else []
    most = next((entry["seeds"] for entry in table["average"] if entry["row"] == table["against"]), None)
    rows: list[Sequence[str]] = []
    for entry in table["average"]:
        held = entry["tasks"]
        cells = [on(held[name], entry["seeds"]) if name in held else "-" for name in table["tasks"]]
        told = [difference(entry) + since(entry, most)] if versus else []
        rows.append([entry["row"], *cells, score(entry), f"{entry['seeds']} of {wanted}", *told])
    return f"all tasks, {table['model']}", ["row", *table["tasks"], "mean", "seeds", *versus], rows


def on(held: Mapping[str, Any], whole: int) -> str:
    """A row's score on a task in a table over tasks; its seeds, where they are not those of all tasks."""
    return score(held) + (f" ({seeds(held['seeds'])})" if held["seeds"] not in (0, whole) else "")


def since(entry: Mapping[str, Any], most: int | None) -> str:
    """What the other row has on the seeds of a difference, where it stands in the table with more of them."""
    return "" if entry["other"] is None or entry["seeds"] == most else f" from {told(entry['other'], entry['metric'])}"


def reach(table: Mapping[str, Any]) -> Made:
    """Seconds until validation first scored so much: the mean over seeds, or how many of them never did."""
    levels = [f"{level:g}" for level in table["levels"]]
    rows: list[Sequence[str]] = [
        [entry["row"], entry["task"], *(first(entry["seconds"][level]) for level in levels)] for entry in table["reach"]
    ]
    columns = ["row", "task", *(f"{100 * float(level):g} %" for level in levels)]
    return "training time until validation first scored", columns, rows


def first(times: Sequence[float | None]) -> str:
    """The mean of times; "> budget" for those that never came."""
    held = [value for value in times if value is not None]
    if len(held) == len(times):
        return duration(sum(held) / len(held)) if held else "-"
    few = f" ({len(times) - len(held)} of {len(times)} seeds)" if held else ""
    return f"> budget{few}"


def prompt(table: Mapping[str, Any]) -> Made:
    """What the hard prompt is worth, on the seeds that rows with and without it have."""
    rows: list[Sequence[str]] = []
    for entry in table["prompt"]:
        scores = [told(value, entry["metric"]) for value in entry["scores"]]
        drop = difference(entry) if entry["difference"] else told(-entry["drop"], entry["metric"], "+")
        rows.append([entry["row"], entry["task"], *scores, f"{entry['seeds']} of {len(table['seeds'])}", drop])
    unit = "" if all(entry["metric"] == "loss" for entry in table["prompt"]) else ", %"
    columns = ["row", "task", f"with{unit}", f"without{unit}", "seeds", f"{'points' if unit else 'difference'} [95 %]"]
    return "the hard prompt", columns, rows


def made_on(machines: Mapping[str, int]) -> str:
    """Where the runs were made, as far as their records say; of several machines, what that means."""
    held = ", ".join(machines) if len(machines) == 1 else "; ".join(f"{name} ({n})" for name, n in machines.items())
    known = [name for name in machines if name != UNSAID]
    more = (
        " Computed in a half type, single scores differ between machines by more than a last digit."
        if len(known) > 1
        else ""
    )
    return f"Runs were made on: {held}.{more}"


def document(table: Mapping[str, Any], name: str) -> str:
    """The markdown of all tables."""
    budget = ", ".join(f"{value:g} {unit}" for unit, value in table["budget"].items())
    parts = [
        f"# {name}",
        table["about"],
        f"Model {table['model']}; seeds {', '.join(map(str, table['seeds']))}; budget {budget} a run.",
    ]
    parts += [made_on(table["machines"])] if table["machines"] else []
    met = (
        "of the mean over unseen tasks, zero-shot apart. Brackets: 95 % of the paired difference over seeds and draws (of one seed: over draws alone)"
        if "unseen" in table
        else "at the checkpoint and with the adapter of the lowest validation loss; p and s apart. "
        "Brackets: 95 % of the paired difference over seeds and test rows (of one seed: over rows alone)"
    )
    parts.append(
        f"Test scores are means over seeds +- their standard deviation, {met}, in another metric where one is named. Losses are as they are: lower is better. Seconds are steps x the cost of a step where the file gives one, else as measured; a backward pass counts as two passes."
    )
    if "average" in table:
        parts[-1] += (
            " In the table of all tasks a row's scores, mean and difference are over the seeds that it has on every task, and the row that it is compared with too"
            " (`from`: what that one has there, where it has more seeds itself)."
        )
    for title, columns, rows in tables(table):
        parts.append(f"## {title}\n\n{markdown(columns, rows)}")
    return "\n\n".join(part for part in parts if part) + "\n"
