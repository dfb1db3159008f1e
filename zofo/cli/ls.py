"""`zofo ls`: tasks, mixtures, presets, models, experiments, runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from cyclopts import Parameter

from zofo.cli.output import table
from zofo.cli.target import Dir
from zofo.config import load, read_yaml
from zofo.errors import ZofoError
from zofo.layers import PRESETS, presets

Row = tuple[str, ...]


def ls(
    what: Annotated[
        Literal["tasks", "mixtures", "presets", "models", "experiments", "runs"], Parameter(help="what to list")
    ],
    /,
    *,
    dir: Dir = "runs",
) -> int:
    """List tasks, mixtures of tasks, presets, models, experiments or runs; tab-separated when standard output is no terminal."""
    columns, rows = LISTS[what](dir)
    table(columns, rows, header=False)
    return 0


def tasks(_: str) -> tuple[Row, list[Row]]:
    """Tasks that ship with zofo."""
    from zofo.tasks import definition

    found = [definition.find(name) for name in definition.names()]
    return ("task", "about"), [(task.name, task.about) for task in found]


def mixtures(_: str) -> tuple[Row, list[Row]]:
    """Mixtures of tasks that ship with zofo."""
    from zofo.tasks import mixture

    return ("mixture", "about"), [(name, mixture.listed(name, f"mixture {name}")[2].about) for name in mixture.names()]


def presets_(_: str) -> tuple[Row, list[Row]]:
    """Presets that ship with zofo."""
    found = [(name, str(read_yaml(PRESETS / f"{name}.yaml", f"preset {name}").get("about", ""))) for name in presets()]
    return ("preset", "about"), list(found)


def models(_: str) -> tuple[Row, list[Row]]:
    """Models that zofo knows by name (any folder, .gguf file or hub id works too)."""
    from zofo.sources import known

    return ("model", "about"), list(known().items())


def experiments(_: str) -> tuple[Row, list[Row]]:
    """Experiments that ship with zofo, with their scales."""
    from zofo.experiment import reading

    found = []
    for name in reading.names():
        tree = read_yaml(reading.READY / f"{name}.yaml", f"experiment {name}")
        found.append((name, ", ".join(tree.get("scales", {})), str(tree.get("about", ""))))
    return ("experiment", "scales", "about"), list(found)


def runs(dir: str) -> tuple[Row, list[Row]]:
    """Runs of a folder; one that cannot be read says why."""
    from zofo.run import folder

    return ("run", "method", "task", "model", "score"), [about_run(dir, name) for name in folder.names(dir)]


def about_run(dir: str, name: str) -> Row:
    """A run's line: its method, task, model, and the test score of what it uses."""
    from zofo.report import history
    from zofo.report.words import ZERO_SHOT, rows_of, score
    from zofo.run import folder
    from zofo.run.jsonfile import read_scores
    from zofo.run.metrics import read_metrics

    try:
        run = folder.find(name, dir)
        config = load(run.config)
        found = read_scores(run.eval) if run.eval.exists() else {}
        done = (
            history.steps(read_metrics(run.metrics)) if found.get("used") == ZERO_SHOT and run.metrics.exists() else []
        )
    except ZofoError as error:
        return (name, "-", "-", "-", error.found)
    result = found.get("results", {}).get(found.get("used"))
    if found.get("used") == ZERO_SHOT:  # the score before training is no result of it
        told = f"not finished: step {done[-1]['step'] if done else 0} of {config.run.steps}"
    else:
        told = score(result) if result else "not evaluated"
    return (name, config.method.name, rows_of(config), config.model.name, told)


LISTS: dict[str, Callable[[str], tuple[Row, list[Row]]]] = {
    "tasks": tasks, "mixtures": mixtures, "presets": presets_, "models": models, "experiments": experiments, "runs": runs,
}  # fmt: skip
