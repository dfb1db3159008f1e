"""The file of an experiment: read, laid over by a scale, checked. An unknown key is an error; nothing is run here."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from zofo import config
from zofo.config import Section, flatten, read_yaml
from zofo.errors import BadInput, nearest
from zofo.methods.table import effective

READY = Path(__file__).parent / "ready"
Options = dict[str, Any]
Values = dict[str, Any]


def once(values: list[Any]) -> list[Any]:
    """Values that stand once each. Raises ValueError (for pydantic)."""
    if twice := [value for k, value in enumerate(values) if value in values[:k]]:
        raise ValueError(f"{twice[0]} stands there twice")
    return values


Met = Literal["adapted", "demonstrations"]
Seeds = Annotated[list[int], AfterValidator(once)]
Names = Annotated[list[str], AfterValidator(once)]
Share = Annotated[float, Field(gt=0, le=1)]
Seconds = Annotated[float, Field(gt=1e-9, lt=1e9)]
Passes = Annotated[float, Field(gt=1e-9, lt=1e12)]
Stages = tuple[Seconds, Seconds]
MEASURES = ("data.validation", "data.validation_rows", "data.test", "data.test_rows", "data.train", "data.channel")
"""Options that say what is measured, and on which rows: candidates measured on other rows, or by another loss, do not compare."""
COSTLY = (
    "adapter.kind", "adapter.last", "adapter.targets", "data.batch", "data.max_length", "data.shot_length", "data.shots",
    "method.T", "method.accumulate_lower", "method.accumulate_upper", "method.coupling", "method.estimator", "method.lam_every",
    "method.lower", "method.name", "method.objective", "method.q", "method.s", "method.stage_one", "method.tasks", "method.tune",
    "method.upper", "model.activation_checkpointing", "model.dtype", "model.weights", "run.threads",
)  # fmt: skip
"""Options that change what a step costs: under a budget in seconds or passes, candidates that differ in them would spend more than it, or less."""


class Budget(Section):
    """What every row may spend a run: one of the three."""

    seconds: Seconds | None = Field(None, description="training seconds: steps x the row's cost a step")
    passes: Passes | None = Field(None, description="forward passes, a backward one counted as two")
    steps: int | None = Field(None, ge=1, description="steps (outer iterations)")

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if sum(value is not None for value in (self.seconds, self.passes, self.steps)) != 1:
            raise ValueError("give one of seconds, passes, steps")
        return self


class Cost(Section):
    """What a step of a row costs, measured once (`zofo experiment FILE --costs`) and written into the file."""

    seconds: Seconds | None = Field(None, description="seconds a step")
    passes: Passes | None = Field(None, description="forward passes a step, a backward one counted as two")
    stages: Stages | None = Field(
        None, description="of a method of two stages: seconds a step of each, whose mean over a run is `seconds`"
    )

    @field_validator("stages", mode="after")
    @classmethod
    def _mean(cls, value: Stages | None, info: ValidationInfo) -> Stages | None:
        if value is not None and not min(value) <= (info.data.get("seconds") or 0) <= max(value):
            raise ValueError("`seconds`, their mean over a run's steps, lies not between them")
        return value


class Sweep(Section):
    """How swept options are chosen: on validation, in runs that never read the test rows."""

    seeds: Seeds = Field([0], min_length=1, description="seeds of the swept runs")
    share: float = Field(1.0, gt=0, le=1, description="share of the budget that a swept run takes")
    by: Literal["loss", "metric"] = Field("loss", description="validation loss (as the run counts it), or the metric")


class Unseen(Section):
    """How a mixture's unseen tasks are met by each row's base, as `zofo adapt` does it, or with demonstrations as `zofo eval --draws`."""

    shots: int = Field(4, ge=1, description="examples a class to adapt with")
    steps: int = Field(10, ge=1, description="adapter steps")
    batch: int = Field(8, ge=1, description="rows a step")
    lr: float = Field(0.0, ge=0, description="their rate (0: by the adapter's kind)")
    demonstrations: int = Field(16, ge=1, description="rows in front of each, for `unseen: demonstrations`")
    draws: int = Field(5, ge=1, description="draws of the examples, or demonstrations")


class Row(Section):
    """A row of the table: a preset with options, or (`evaluate`) the model as it is."""

    name: str = Field(min_length=1, description="the row's name")
    preset: str = Field("", description="preset to begin with")
    like: str = Field(
        "", description="another row: its preset, options and chosen values come first, `options` over them"
    )
    same_steps: bool = Field(False, description="with `like`: as many steps as that row, whatever they cost")
    evaluate: bool = Field(False, description="no training: the model's own answers (options: data.shots, ...)")
    unseen: Met = Field("adapted", description="of a mixture: how its unseen tasks are met")
    unseen_lr: float | None = Field(
        None,
        ge=0,
        description="of a mixture: the rate that this row's unseen tasks are met with, instead of `unseen.lr`",
    )
    options: Options = Field({}, description="any option of `zofo train`")
    sweep: Values = Field({}, description="options with the values to choose among (several that go together: `a b`)")
    vary: Values = Field({}, description="options with values that make a row each, NAME key=value")
    steps: int | None = Field(
        None, ge=1, description="steps, instead of what the budget gives (as `steps` of the file)"
    )
    tasks: Names = Field([], description="only these tasks")

    @field_validator("options", mode="after")
    @classmethod
    def _options(cls, value: Options) -> Options:
        return told(value)

    @field_validator("sweep", "vary", mode="after")
    @classmethod
    def _lists(cls, value: Values) -> Values:
        if any(not isinstance(held, list) or not held for held in nested(value).values()):
            raise ValueError("give each option a list of values")
        return {" ".join(told(dict.fromkeys(key.split()))): held for key, held in nested(value).items()}


class Grid(Section):
    """A whole experiment."""

    about: str = Field("", description="what it is, in a line")
    model: str = Field(min_length=1, description="as --model takes it")
    tasks: Names = Field([], description="tasks by name, or tasks' YAML files")
    mixture: str = Field("", description="instead of tasks: a mixture to meta-train on, as --mixture takes it")
    unseen: Unseen = Field(default_factory=Unseen, description="how a mixture's unseen tasks are met")
    seeds: Seeds = Field([0], min_length=1, description="seeds of every row")
    budget: Budget
    costs: dict[str, Cost | dict[str, Cost]] = Field({}, description="cost a step by row (or by row and task)")
    steps: dict[str, int] = Field({}, description="steps by row, instead of what the budget gives")
    options: Options = Field({}, description="options of every row, where they have an effect")
    sweep: Sweep = Field(default_factory=Sweep, description="how swept options are chosen")
    validations: int = Field(10, ge=1, description="validations a run, at most (eval_every follows from the steps)")
    against: str = Field("", description="row that the others' differences are taken to")
    reach: list[Share] = Field([], description="validation scores whose first time is told, such as 0.8")
    draws: int = Field(4000, ge=100, description="bootstrap draws")
    cosines: int = Field(
        0,
        ge=0,
        description="keys of z or R at which a bilevel run's last estimate meets the exact gradient (0: not measured)",
    )
    rows: list[Row] = Field(min_length=1, description="the rows")

    @field_validator("options", mode="after")
    @classmethod
    def _options(cls, value: Options) -> Options:
        return told(value)

    @model_validator(mode="after")
    def _one(self) -> Grid:
        if bool(self.tasks) == bool(self.mixture):
            raise ValueError("give tasks, or a mixture")
        return self

    @property
    def subjects(self) -> list[str]:
        """What rows are run on: the tasks, or the mixture."""
        return self.tasks or [self.mixture]

    def row(self, name: str) -> Row:
        """A row by its name."""
        return next(row for row in self.rows if row.name == name)

    def base(self, name: str) -> Row:
        """The row that a row is like, whose choice it takes; else itself."""
        return self.row(self.row(name).like or name)


def told(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by dotted key. Raises ValueError (for pydantic) where one is unknown."""
    try:
        return flatten(options, "option")
    except BadInput as error:
        raise ValueError(f"{error.asked}: {error.found}; {error.do}") from None


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{method: {lam: [1]}}` as `{method.lam: [1]}`; keys of several options stay as they are."""
    found: dict[str, Any] = {}
    for key, held in values.items():
        found |= told({key: held}) if isinstance(held, dict) else {key: held}
    return found


def spread(values: Values) -> list[Options]:
    """Every combination of values, in the file's order, by single option."""
    return [
        {name: value for key, value in zip(values, held, strict=True) for name in key.split()}
        for held in itertools.product(*values.values())
    ]


def names() -> list[str]:
    """Experiments that ship with zofo."""
    return sorted(path.stem for path in READY.glob("*.yaml"))


def locate(asked: str) -> Path:
    """The file of an experiment: a path, or one that ships with zofo by name. Raises `BadInput` with the nearest name."""
    path = Path(asked)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path
    if asked not in names():
        raise BadInput(
            f"zofo experiment {asked}", "no such file, and no experiment of that name", nearest(asked, names())
        )
    return READY / f"{asked}.yaml"


def read(asked: str, scale: str | None = None) -> tuple[Grid, str | None]:
    """Read an experiment's file at a scale (none: its first); returns the grid and the scale's name.

    Raises: `BadInput` naming the key for whatever is wrong in it. Reads no data and no model.
    """
    source = f"zofo experiment {asked}:"
    tree = read_yaml(locate(asked), f"zofo experiment {asked}")
    scales = tree.pop("scales", {})
    if not isinstance(scales, dict) or not all(isinstance(value, dict) for value in scales.values()):
        raise BadInput(f"{source} scales", "not a mapping of names to keys", "write `scales: {small: {key: value}}`")
    if scale is not None and scale not in scales:
        do = nearest(scale, scales) if scales else "leave it out"
        raise BadInput(f"--scale {scale}", f"{asked} has no such scale", do)
    chosen = scale or next(iter(scales), None)
    laid = over(tree, scales[chosen], f"{source} options") if chosen is not None else tree
    return check(expanded(build(laid, source)), source), chosen


def over(tree: Mapping[str, Any], scale: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A file's keys with those of a scale laid over them; `options` are laid option by option, `costs` and `steps` row by row, `sweeps` in the place of its rows' own."""
    merged = {**tree, **{key: value for key, value in scale.items() if key != "sweeps"}}
    if "sweeps" in scale:
        merged["rows"] = swept(merged.get("rows"), scale["sweeps"], source.removesuffix(" options"))
    for key in ("options", "costs", "steps"):
        held, new = tree.get(key), scale.get(key)
        if isinstance(held, dict) and isinstance(new, dict):
            merged[key] = flatten(held, source) | flatten(new, source) if key == "options" else {**held, **new}
    return merged


def swept(rows: Any, sweeps: Any, source: str) -> list[Any]:
    """A file's rows with other sweeps, by their names. Raises: BadInput for a row that there is not."""
    known = [row["name"] for row in rows or () if isinstance(row, dict) and "name" in row]
    if not isinstance(sweeps, dict):
        raise BadInput(
            f"{source} scales: sweeps", "not a mapping of rows to options", "write `sweeps: {row: {option: [values]}}`"
        )
    if unknown := next((name for name in sweeps if name not in known), None):
        raise BadInput(f"{source} scales: sweeps.{unknown}", "no such row", nearest(str(unknown), known))
    return [
        {**row, "sweep": sweeps[row["name"]]} if isinstance(row, dict) and row.get("name") in sweeps else row
        for row in rows
    ]


def build(tree: Mapping[str, Any], source: str) -> Grid:
    """Validate an experiment. Raises `BadInput` naming the first wrong key."""
    try:
        return Grid.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"]]
        where = ".".join(part for part in parts if part != "Cost" and not part.startswith("dict["))  # pydantic's words
        value = "" if first["type"] in ("missing", "value_error") else f" = {reprlib.repr(first['input'])}"
        found = first["msg"].removeprefix("Value error, ").lower() if first["type"] != "value_error" else first["msg"]
        found = {"extra_forbidden": "no such key", "missing": "it is missing"}.get(first["type"], found)
        do = hint(first["type"], first["loc"])
        raise BadInput(f"{source} {where}{value}", found.removeprefix("Value error, "), do) from None


def hint(kind: str, loc: Sequence[int | str]) -> str:
    """What to do about a wrong key: the nearest of those there are, where it is unknown."""
    if kind != "extra_forbidden":
        return "see docs/experiments.md"
    within: dict[str, type[Section]] = {"budget": Budget, "sweep": Sweep, "costs": Cost, "rows": Row, "unseen": Unseen}
    known = within.get(str(loc[0]), Grid) if len(loc) > 1 else Grid
    return nearest(str(loc[-1]), known.model_fields)


def shown(value: Any) -> str:
    """A value in a row's name."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def expanded(grid: Grid) -> Grid:
    """The grid with a row for each combination of the values that a row varies."""
    rows = []
    for row in grid.rows:
        for held in spread(row.vary):
            told = " ".join(f"{key.split('.', 1)[1]}={shown(value)}" for key, value in held.items())
            name = f"{row.name} {told}" if held else row.name
            rows.append(row.model_copy(update={"name": name, "options": row.options | held, "vary": {}}))
    return grid.model_copy(update={"rows": rows})


def check(grid: Grid, source: str) -> Grid:
    """Raise `BadInput` for rows that do not fit together."""
    known = [row.name for row in grid.rows]
    for name in known:
        if known.count(name) > 1:
            raise BadInput(f"{source} rows", f"two rows are called '{name}'", "give each a name of its own")
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
    for name, held in grid.costs.items():
        said = [held] if isinstance(held, Cost) else held.values()
        if other := [task for task in ({} if isinstance(held, Cost) else held) if task not in grid.subjects]:
            raise BadInput(
                f"{source} costs.{name}.{other[0]}", "not one of its tasks", nearest(other[0], grid.subjects)
            )
        if any(cost.stages for cost in said) and not has_stages(grid, name):
            raise BadInput(f"{source} costs.{name}.stages", "its method has one stage", "give `seconds` alone")
    return grid


def has_stages(grid: Grid, name: str) -> bool:
    """Whether a row's method has two stages."""
    row, base = grid.row(name), grid.base(name)
    held = {**(config.preset(base.preset) if base.preset else {}), **grid.options, **base.options, **row.options}
    method = {key: value for key, value in held.items() if key == "method.name"}
    return "method.stage_one" in effective(config.build(method))


def refuse_unchosen(grid: Grid, row: Row, other: Row, asked: str) -> None:
    """Raise `BadInput` where a row is on tasks for which the row that it is like chooses nothing."""
    chosen = other.tasks or grid.tasks
    if other.sweep and (more := [task for task in row.tasks or grid.tasks if task not in chosen]):
        found = f"its options are chosen on {', '.join(chosen)}, not on {', '.join(more)}"
        raise BadInput(f"{asked}: like = {row.like}", found, "give both rows the same tasks")


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


def check_row(grid: Grid, row: Row, asked: str) -> None:
    """Raise `BadInput` where a row contradicts itself or names what is not there."""
    if row.like:
        others = {other.name: other for other in grid.rows if other.name != row.name}
        if row.like not in others:
            raise BadInput(f"{asked}: like = {row.like}", "no such row", nearest(row.like, others))
        if others[row.like].like or others[row.like].evaluate:
            raise BadInput(
                f"{asked}: like = {row.like}",
                "that row is itself like another, or an evaluation",
                "name a row that stands alone",
            )
        if row.preset or row.sweep:
            raise BadInput(f"{asked}: preset, sweep", f"they come from '{row.like}'", "leave them out")
        refuse_unchosen(grid, row, others[row.like], asked)
    if row.same_steps and (row.steps is not None or row.name in grid.steps):
        raise BadInput(f"{asked}: same_steps", "its steps are given too", "keep one of the two")
    if row.same_steps and not row.like:
        raise BadInput(f"{asked}: same_steps", "there is no `like`", "add `like: ROW`, or leave it out")
    if row.evaluate and (row.preset or row.like or row.sweep or row.steps):
        raise BadInput(
            f"{asked}: evaluate", "nothing is trained, so preset, like, sweep and steps say nothing", "leave them out"
        )
    if row.preset and row.preset not in config.presets():
        raise BadInput(f"{asked}: preset = {row.preset}", "no such preset", nearest(row.preset, config.presets()))
    if twice := sorted(set(row.options) & set(spread(row.sweep)[0])):
        raise BadInput(f"{asked}: {twice[0]}", "it is both given and swept", "keep one of the two")
    if other := sorted(set(MEASURES) & set(spread(row.sweep)[0])):
        found = "it says what is measured, or on which rows, and candidates measured differently do not compare"
        raise BadInput(f"{asked}: sweep.{other[0]}", found, "give it in `options`, or `vary` it: a row each")
    refuse_costly(grid, row, asked)
    for task in row.tasks:
        if grid.mixture:
            raise BadInput(f"{asked}: tasks = {task}", "there is one mixture", "leave it out")
        if task not in grid.tasks:
            raise BadInput(f"{asked}: tasks = {task}", "not one of the experiment's tasks", nearest(task, grid.tasks))
    if not grid.mixture and row.unseen != "adapted":
        raise BadInput(f"{asked}: unseen = {row.unseen}", "there is no mixture", "leave it out")
    if row.unseen_lr is not None and (not grid.mixture or row.unseen != "adapted"):
        raise BadInput(f"{asked}: unseen_lr = {row.unseen_lr:g}", "no unseen task is adapted to", "leave it out")
