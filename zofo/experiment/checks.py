"""Rows of an experiment that do not fit together, or contradict themselves, are refused by name before anything is run."""

from __future__ import annotations

from zofo import config, layers
from zofo.errors import BadInput, nearest
from zofo.experiment.grid import Cost, Grid, Row, Unseen, spread
from zofo.methods.table import effective

MEASURES = ("data.validation", "data.validation_rows", "data.test", "data.test_rows", "data.train", "data.channel")
"""Options that say what is measured, and on which rows: candidates measured on other rows, or by another loss, do not compare."""
COSTLY = (
    "adapter.kind", "adapter.last", "adapter.targets", "adapter.tokens", "data.batch", "data.hard_prompt", "data.max_length",
    "data.redraw", "data.shot_length", "data.shots", "method.T", "method.accumulate_lower", "method.accumulate_upper",
    "method.coupling", "method.estimator", "method.lam_every", "method.lower", "method.name", "method.noise", "method.objective",
    "method.probe", "method.probe_dtype", "method.q", "method.rank", "method.s", "method.side", "method.stack", "method.stage_one",
    "method.tasks", "method.tune", "method.upper", "model.activation_checkpointing", "model.dtype", "model.weights", "run.threads",
)  # fmt: skip
"""Options that change what a step costs: under a budget in seconds or passes, candidates that differ in them would spend more than it, or less."""


def check(grid: Grid, source: str) -> Grid:
    """Raise `BadInput` for rows that do not fit together."""
    known = [row.name for row in grid.rows]
    if twice := [name for k, name in enumerate(known) if name in known[:k]]:
        raise BadInput(f"{source} rows", f"two rows are called '{twice[0]}'", "give each a name of its own")
    if grid.against and grid.against not in known:
        raise BadInput(f"{source} against = {grid.against}", "no such row", nearest(grid.against, known))
    if grid.unseen != Unseen() and not grid.mixture:
        raise BadInput(f"{source} unseen", "there is no mixture", "leave it out")
    for row in grid.rows:
        check_row(grid, row, f"{source} row '{row.name}'")
    for key in ("costs", "steps"):
        for name in getattr(grid, key):
            if name not in known:
                raise BadInput(f"{source} {key}.{name}", "no such row", nearest(name, known))
            if grid.row(name).evaluate:
                raise BadInput(f"{source} {key}.{name}", "nothing is trained in that row", "leave it out")
    for name, held in grid.costs.items():
        check_cost(grid, name, {} if isinstance(held, Cost) else held, f"{source} costs.{name}")
    return grid


def check_cost(grid: Grid, name: str, by_task: dict[str, Cost], asked: str) -> None:
    """Raise `BadInput` where a cost is of a task that is not there, or has stages that its method has not."""
    if other := [task for task in by_task if task not in grid.subjects]:
        raise BadInput(f"{asked}.{other[0]}", "not one of its tasks", nearest(other[0], grid.subjects))
    held = grid.costs[name]
    said = [held] if isinstance(held, Cost) else held.values()
    if any(cost.stages for cost in said) and not has_stages(grid, name):
        raise BadInput(f"{asked}.stages", "its method has one stage", "give `seconds` alone")


def has_stages(grid: Grid, name: str) -> bool:
    """Whether a row's method has two stages."""
    row, base = grid.row(name), grid.base(name)
    held = {**(layers.preset(base.preset) if base.preset else {}), **grid.options, **base.options, **row.options}
    method = {key: value for key, value in held.items() if key == "method.name"}
    return "method.stage_one" in effective(config.build(method))


def check_row(grid: Grid, row: Row, asked: str) -> None:
    """Raise `BadInput` where a row contradicts itself or names what is not there."""
    check_likeness(grid, row, asked)
    if row.evaluate and (row.preset or row.like or row.sweep or row.steps):
        raise BadInput(
            f"{asked}: evaluate", "nothing is trained, so preset, like, sweep and steps say nothing", "leave them out"
        )
    if row.preset and row.preset not in layers.presets():
        raise BadInput(f"{asked}: preset = {row.preset}", "no such preset", nearest(row.preset, layers.presets()))
    check_sweep(grid, row, asked)
    check_subjects(grid, row, asked)


def check_likeness(grid: Grid, row: Row, asked: str) -> None:
    """Raise `BadInput` where a row is like one that it cannot be like, or gives what comes from there."""
    if row.like:
        others = {other.name: other for other in grid.rows if other.name != row.name}
        if row.like not in others:
            raise BadInput(f"{asked}: like = {row.like}", "no such row", nearest(row.like, others))
        if others[row.like].like or others[row.like].evaluate:
            found = "that row is itself like another, or an evaluation"
            raise BadInput(f"{asked}: like = {row.like}", found, "name a row that stands alone")
        if row.preset or row.sweep:
            raise BadInput(f"{asked}: preset, sweep", f"they come from '{row.like}'", "leave them out")
        refuse_unchosen(grid, row, others[row.like], asked)
    if row.same_steps and (row.steps is not None or row.name in grid.steps):
        raise BadInput(f"{asked}: same_steps", "its steps are given too", "keep one of the two")
    if row.same_steps and not row.like:
        raise BadInput(f"{asked}: same_steps", "there is no `like`", "add `like: ROW`, or leave it out")


def refuse_unchosen(grid: Grid, row: Row, other: Row, asked: str) -> None:
    """Raise `BadInput` where a row is on tasks for which the row that it is like chooses nothing."""
    chosen = other.tasks or grid.tasks
    if other.sweep and (more := [task for task in row.tasks or grid.tasks if task not in chosen]):
        found = f"its options are chosen on {', '.join(chosen)}, not on {', '.join(more)}"
        raise BadInput(f"{asked}: like = {row.like}", found, "give both rows the same tasks")


def check_sweep(grid: Grid, row: Row, asked: str) -> None:
    """Raise `BadInput` for a swept option that is given too, or by which candidates would not compare."""
    swept = set(spread(row.sweep)[0])
    if twice := sorted(set(row.options) & swept):
        raise BadInput(f"{asked}: {twice[0]}", "it is both given and swept", "keep one of the two")
    if other := sorted(set(MEASURES) & swept):
        found = "it says what is measured, or on which rows, and candidates measured differently do not compare"
        raise BadInput(f"{asked}: sweep.{other[0]}", found, "give it in `options`, or `vary` it: a row each")
    refuse_costly(grid, row, asked)


def refuse_costly(grid: Grid, row: Row, asked: str) -> None:
    """Raise `BadInput` for a swept option by which candidates would differ in what a step costs, where the budget is in that."""
    if grid.budget.steps is not None or row.steps is not None or row.name in grid.steps:
        return
    held = spread(row.sweep)
    costly = [key for key in COSTLY if key in held[0]]
    lams = {one["method.lam"] == 0 for one in held if "method.lam" in one}
    costly += ["method.lam"] if len(lams) > 1 else []  # without the penalty s is not trained, and B and C are not taken
    if costly:
        found = "it changes what a step costs, so one cost does not hold for all candidates and they break the budget"
        raise BadInput(f"{asked}: sweep.{costly[0]}", found, "`vary` it: a row each, with a cost of its own")


def check_subjects(grid: Grid, row: Row, asked: str) -> None:
    """Raise `BadInput` for tasks that are not the experiment's, and for what is said of a mixture where there is none."""
    for task in row.tasks:
        if grid.mixture:
            raise BadInput(f"{asked}: tasks = {task}", "there is one mixture", "leave it out")
        if task not in grid.tasks:
            raise BadInput(f"{asked}: tasks = {task}", "not one of the experiment's tasks", nearest(task, grid.tasks))
    if not grid.mixture and row.unseen != "adapted":
        raise BadInput(f"{asked}: unseen = {row.unseen}", "there is no mixture", "leave it out")
    if row.unseen_lr is not None and (not grid.mixture or row.unseen != "adapted"):
        raise BadInput(f"{asked}: unseen_lr = {row.unseen_lr:g}", "no unseen task is adapted to", "leave it out")
