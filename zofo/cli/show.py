"""`zofo show`: one run, task, mixture or preset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from zofo.cli import mixture
from zofo.cli.output import line, plain, table
from zofo.cli.target import Dir
from zofo.config import Config, flatten, load, read_yaml
from zofo.errors import BadInput, nearest
from zofo.layers import PRESETS, preset, presets
from zofo.report import history
from zofo.report.words import duration, figure, named, primary, score
from zofo.run import folder
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_scores
from zofo.run.metrics import read_metrics

if TYPE_CHECKING:
    from zofo.tasks.definition import Task

COLUMNS = ("what", "metric", "score", "loss", "rows")
Name = Annotated[
    str,
    Parameter(
        name="RUN|TASK|MIXTURE|PRESET",
        help="a run, a task (or its YAML file), a mixture (or its YAML file or folder) or a preset",
    ),
]


def show(name: Name, /, *, dir: Dir = "runs") -> int:
    """Show a run (what differs from the defaults, results, last metrics), a task, a mixture of tasks or a preset."""
    from zofo.tasks import definition
    from zofo.tasks import mixture as mixtures

    if name in folder.names(dir):
        return of_run(folder.find(name, dir))
    if name in mixtures.names() or mixtures.is_one(Path(name)):
        return mixture.show(name)
    if name in definition.names() or name.endswith((".yaml", ".yml")):
        return of_task(definition.find(name))
    if name in presets():
        return of_preset(name)
    try:
        return of_run(folder.find(name, dir))
    except BadInput as error:
        if error.found != "no such run":
            raise
    known = [*folder.names(dir), *definition.names(), *mixtures.names(), *presets()]
    do = nearest(name, known, "see `zofo ls runs`, or tasks, mixtures, presets")
    raise BadInput(f"zofo show {name}", "no such run, task, mixture or preset", do)


def of_preset(name: str) -> int:
    """A preset: its line and its keys."""
    line(f"preset {name}: {plain(read_yaml(PRESETS / f'{name}.yaml', f'preset {name}').get('about', ''))}")
    table(("key", "value"), [(key, value) for key, value in preset(name).items()], header=False)
    return 0


def of_task(task: Task) -> int:
    """A task: prompt, choices, metric, and where its rows come from."""
    line(f"task {task.name}: {plain(task.about)}")
    rows = [
        ("template", task.template.replace("\n", "\\n")),
        ("template without the hard prompt", task.free.replace("\n", "\\n")),
        ("task-only prompt, for calibration", task.template_task.replace("\n", "\\n") or "none"),
        ("answers", answers(task)),
        ("label", task.label),
        ("metrics", ", ".join(map(named, task.metrics))),
        ("objective", task.objective),
        ("a row too long loses", f"the end of '{task.shorten}'" if task.shorten else "its beginning"),
        ("data", "; else ".join(places(task))),
        ("validation rows", "a file of their own" if task.validation == "file" else "carved from the training rows"),
    ]
    table(("what", "value"), [*rows, *([("note", task.note)] if task.note else [])], header=False)
    return 0


def answers(task: Task) -> str:
    """What a row may be answered with."""
    if task.choices:
        return f"{', '.join(task.choices)} (in label order)"
    fields = task.options if isinstance(task.options, str) else ", ".join(task.options)
    return f"the row's own: {fields}" + (f", as {task.answer}" if fields else "") if fields else "free text"


def places(task: Task) -> list[str]:
    """Where a task's rows are looked for, in order."""
    found = ["in the package"] if task.packaged else []
    found += [f"$ZOFO_DATA/{task.folder}"] if task.folder else []
    found += [f"files {task.files.train}"] if task.files else []
    return found + ([f"hub {task.hub.id}" + (f" ({task.hub.config})" if task.hub.config else "")] if task.hub else [])


def of_run(run: RunFolder) -> int:
    """A run: differences from the defaults, results, last metrics."""
    config = load(run.config)
    line(f"run {run.name} in {plain(run.path)}")
    table(("key", "value", "default"), differences(config))
    if run.eval.exists():
        found = read_scores(run.eval)
        where = f"{found.get('checkpoint')} checkpoint (step {found.get('step')})"
        line(f"\n{found.get('split')} rows, {where}, uses {found.get('used')}")
        table(COLUMNS, [results(name, r) for name, r in found.get("results", {}).items()])
    rows = read_metrics(run.metrics) if run.metrics.exists() else []
    done, checks = history.steps(rows), history.validations(rows)
    if done:
        last = done[-1]
        line(f"\nstep {last['step']} of {config.run.steps}, {duration(last.get('time', {}).get('train'))} of training")
        numbers = [(key, figure(value)) for key, value in last.items() if isinstance(value, int | float)]
        table(("metric", "value"), numbers)
    if checks:
        line(f"\nlast validation, step {checks[-1]['step']}")
        table(COLUMNS, [results(s, checks[-1][s]) for s in history.slots(checks[-1])])
        if "moved" in checks[-1]:
            line(f"theta has moved: |theta - theta_0| / |theta_0| = {figure(checks[-1]['moved'])}")
    return 0


def results(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    """A line of a table of results."""
    return (name, named(primary(found)), score(found), figure(found.get("loss")), str(found.get("n", "-")))


def differences(config: Config) -> list[tuple[str, str, str]]:
    """Keys whose values differ from the defaults: key, value, default."""
    own, default = flatten(config.model_dump(), ""), flatten(Config().model_dump(), "")
    return [(key, typed(value), typed(default[key])) for key, value in own.items() if value != default[key]]


def typed(value: Any) -> str:
    """A value as it is typed in a flag."""
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
