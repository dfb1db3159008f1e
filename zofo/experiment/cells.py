"""The cells of a grid: a row on a task with a seed and chosen values, as the configuration of one run."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from zofo import config
from zofo.adapting.options import key_is_read
from zofo.adapting.plan import Plan, settings
from zofo.config import Config, DataConfig, flatten
from zofo.errors import BadInput
from zofo.experiment.grid import Cost, Grid, Row, spread
from zofo.layers import of_mixture, preset
from zofo.methods import table
from zofo.methods.check import check
from zofo.models import sha256
from zofo.tasks import definition, mixture, own, shots

OWN = (
    "model.name", "data.task", "data.mixture", "run.name", "run.dir", "run.seed", "run.steps", "run.seconds", "run.test",
)  # fmt: skip
"""Options that the grid itself sets."""
SILENT = {"run.name", "run.dir", "run.test", "run.keep", "run.save_every", "run.snapshot_every"}
"""Options that change no number of a run: runs that differ in them alone are the same."""
READ = ("data.", "model.dtype", "model.weights", "model.device", "run.threads")
"""Options that an evaluation reads (or their beginnings); `data.batch` is a training one."""
ASIDE = {"run.threads": 0, "model.weights": "fp32", "model.device": "auto"}
"""Options that evaluations came to read later, at the value that leaves one as it was."""
LATER = {"method.lam_every": 1, "method.clip_theta": 0.0}
"""Options that came after the first experiments, at the value that leaves a run as it was: runs made before stay known."""
CONTENTS = "data.task (SHA-256)"
"""Of a task in files of one's own: what stands in its YAML file and in its data."""
BASE = "model.name (SHA-256)"
"""Of a model in a folder of one's own: its configuration and its weights."""
UNSEEN = "unseen."
"""Of how a base meets unseen tasks, after its training."""
OF_A_MODEL = (".json", ".safetensors", ".bin", ".gguf", ".txt", ".model", ".jinja", ".tiktoken")
"""Endings of the files that a model in a folder, its tokenizer too, is read from."""
Values = dict[str, Any]
Chosen = Mapping[tuple[str, str], Values | None]
"""Values chosen by (row, task); None where every candidate failed."""


@dataclass(frozen=True)
class Cell:
    """One run: what it is of, its configuration, what a step costs (seconds; None: not known), and how a mixture's unseen tasks are met."""

    row: str
    task: str
    seed: int
    values: Values
    config: Config
    evaluate: bool
    sweep: bool
    cost: float | None
    unseen: Values | None = None

    @property
    def steps(self) -> int:
        """Steps that it trains for."""
        return 0 if self.evaluate else self.config.run.steps

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The options that its numbers hang on, by dotted key."""
        held = (
            flatten(self.config.model_dump(mode="json"), "") | contents(self.config.data) | base(self.config.model.name)
        )
        held |= {UNSEEN + key: value for key, value in (self.unseen or {}).items()}
        if self.evaluate:
            own = {
                key: value
                for key, value in held.items()
                if key in ("run.seed", "model.name", BASE) or read(key) or key.startswith(UNSEEN)
            }
            return {key: value for key, value in own.items() if key not in ASIDE or value != ASIDE[key]}
        return {key: value for key, value in held.items() if key not in SILENT}

    @cached_property
    def digest(self) -> str:
        """A name for what it does: equal for runs that would be equal."""
        return hashed(self.evaluate, self.flat)

    @cached_property
    def training(self) -> str:
        """A name for its training alone: one run serves all cells that differ in how its base meets unseen tasks."""
        return hashed(self.evaluate, {key: value for key, value in self.flat.items() if not key.startswith(UNSEEN)})

    @property
    def name(self) -> str:
        """The name of its record: readable, and unlike any other's."""
        return self.named(self.digest)

    def named(self, digest: str) -> str:
        """A name with its row, task and seed in words."""
        words = [self.row, self.task.rsplit("/", 1)[-1].split(".")[0], str(self.seed)]
        return "-".join(slug(word) for word in words)[:150] + f"-{digest}"

    @property
    def told(self) -> str:
        """The cell in words."""
        values = "".join(f", {key}={value}" for key, value in self.values.items())
        return f"{self.row}, {self.task}, seed {self.seed}{values}"


def hashed(evaluate: bool, flat: Values) -> str:
    """A name for options: those that came later count where they are not what was meant before there were any."""
    held = {key: value for key, value in flat.items() if key not in LATER or value != LATER[key]}
    return hashlib.sha256(json.dumps([evaluate, held], sort_keys=True).encode()).hexdigest()[:12]


def contents(data: DataConfig) -> dict[str, str]:
    """The SHA-256 of what local files say of a task or a mixture: its YAML file, and the data of its own; nothing of one by name.

    Raises: `BadInput` where a file is missing or wrong. Cost: reads the data, once while it stays as it is.
    """
    name = data.task or data.mixture
    several = mixture.find(name) if name and local(name) and (data.mixture or mixture.is_one(Path(name))) else None
    of = [own.files_of(data)] if several is None else [one.files for _, one in several.sides()]
    parts = ("train", "validation", "test")
    named = [(part, Path(file)) for held in of if held for part in parts if (file := getattr(held, part))]
    found = [
        f"{part}:{sha256(file)}"
        for part, path in named
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    ]
    if several is not None:
        found.insert(0, hashlib.sha256(mixture.dump(several).encode()).hexdigest())
    elif name.endswith(definition.YAML):
        found.insert(0, sha256(Path(name)))
    return {CONTENTS: hashlib.sha256(" ".join(found).encode()).hexdigest()} if found else {}


def base(name: str) -> dict[str, str]:
    """The SHA-256 of a local model's files; nothing of one by name. Cost: reads them, once while they stay as they are."""
    place = Path(name).expanduser()
    held = sorted(place.iterdir()) if place.is_dir() else [place]
    files = [file for file in held if file.is_file() and file.suffix in OF_A_MODEL]
    return {BASE: hashlib.sha256(" ".join(map(sha256, files)).encode()).hexdigest()} if files else {}


def local(name: str) -> bool:
    """Whether a task or a mixture is a file or folder, and none that ships by that name."""
    return name.endswith(definition.YAML) or (name not in mixture.names() and Path(name).is_dir())


def slug(text: str) -> str:
    """A text fit for a file's name, which begins with a letter or a digit."""
    return re.sub(r"[^\w.=+]+", "-", text).lstrip("-.=+").rstrip("-.") or "row"


def read(key: str) -> bool:
    """Whether an evaluation reads an option."""
    return key != "data.batch" and any(key == name or (name.endswith(".") and key.startswith(name)) for name in READ)


def rows_of(grid: Grid, task: str) -> list[Row]:
    """The rows that a task has."""
    return [row for row in grid.rows if not row.tasks or task in row.tasks]


def cost_of(grid: Grid, row: Row, task: str) -> Cost:
    """What a step of a row costs on a task, as far as the file says."""
    held = grid.costs.get(row.name, Cost())
    return held if isinstance(held, Cost) else held.get(task, Cost())


def steps_of(grid: Grid, row: Row, task: str) -> int:
    """Steps that the budget gives a row: the budget over the cost of a step, rounded down, at least one.

    Raises: `BadInput` where the file does not say what a step costs.
    """
    if row.steps is not None or row.name in grid.steps:
        return row.steps or grid.steps[row.name]
    if row.same_steps:
        return steps_of(grid, grid.row(row.like), task)
    if grid.budget.steps is not None:
        return grid.budget.steps
    unit = "seconds" if grid.budget.seconds is not None else "passes"
    budget: float = getattr(grid.budget, unit)
    cost: float | None = getattr(cost_of(grid, row, task), unit)
    if cost is None:
        found = f"the budget is in {unit}, and what a step of this row costs on {task} is not said"
        raise BadInput(f"costs.{row.name}.{unit}", found, "measure it with --costs and write it into the file")
    return max(1, math.floor(budget / cost * (1 + 1e-12)))


def layers(grid: Grid, row: Row) -> tuple[str, dict[str, Any]]:
    """A row's preset and what lies over it: the grid's options, those of the row that it is like, its own."""
    base = grid.row(row.like) if row.like else None
    return row.preset or (base.preset if base else ""), {
        **grid.options, **(base.options if base else {}), **row.options,
    }  # fmt: skip


def cell(grid: Grid, row: Row, task: str, seed: int, values: Values, sweep: bool = False) -> Cell:
    """Make a cell. Raises: `BadInput` naming row and option for what the run would refuse."""
    asked = f"row '{row.name}'"
    try:
        for key in (*grid.options, *row.options, *spread(row.sweep)[0]):
            if key in OWN:
                raise BadInput(
                    f"--{key}", "the experiment sets it", "see model, tasks, seeds, budget in docs/experiments.md"
                )
        made = evaluation(grid, row, task, seed) if row.evaluate else training(grid, row, task, seed, values, sweep)
        met = unseen_of(grid, row, made, sweep)
        if not grid.mixture:
            refuse_no_task(made.data.model_dump_json())
    except BadInput as error:
        raise BadInput(f"{asked}: {error.asked}", error.found, error.do) from None
    cost = None if row.evaluate else cost_of(grid, row, task).seconds
    return Cell(row.name, task, seed, values, made, row.evaluate, sweep, cost, met)


def unseen_of(grid: Grid, row: Row, made: Config, sweep: bool) -> Values | None:
    """How a row's base meets a mixture's unseen tasks: draws by the row's seed, so the same for every row; rows and adapters as its options say.

    None of a task, and of a swept run that the table cannot take up. Raises: BadInput for what adapting would refuse.
    """
    if not grid.mixture or (sweep and grid.sweep.share < 1):
        return None
    refuse_no_unseen(grid.mixture)
    u, shown = grid.unseen, row.unseen == "demonstrations"
    told = {**layers(grid, row)[1], "model.dtype": made.model.dtype}
    flags = {key: value for key, value in told.items() if met_by(key, shown, row.evaluate)}
    if made.model.dtype == "auto":  # a run settles it by its machine, adapting does not: alike for every row
        flags["model.dtype"] = "fp32"
    lr = u.lr if row.unseen_lr is None else row.unseen_lr
    plan = Plan(u.demonstrations if shown else u.shots, u.steps, u.draws, u.batch, lr, made.run.seed)
    check(settings({"model.name": grid.model, **flags}, plan), ())
    if not shown:
        refuse_few(grid.mixture, plan.shots, made.data.model_dump_json())
    acts = ("shots", "draws", "seed") if shown else ("shots", "steps", "draws", "batch", "lr", "seed")
    return {"how": row.unseen, **{key: getattr(plan, key) for key in acts}, "flags": flags}


@cache
def refuse_no_unseen(name: str) -> None:
    """Raise `BadInput` for a mixture that there is not, or that has no unseen tasks. Cost: see `mixture.find`, once."""
    if not mixture.find(name).test:
        raise BadInput(f"--mixture {name}", "it has no unseen tasks", "list some under `test:`")


@cache
def refuse_no_task(data: str) -> None:
    """Raise `BadInput` for a task that there is not, or whose files are wrong. Args: data, a `DataConfig` as JSON. Cost: see `own.resolve`, once."""
    own.resolve(DataConfig.model_validate_json(data))


@cache
def refuse_few(name: str, few: int, data: str) -> None:
    """Raise `BadInput` where an unseen task has too few rows of a class for a draw. Args: data, a `DataConfig` as JSON. Cost: reads each task's files, once."""
    shots.refuse_few_unseen(mixture.find(name), few, DataConfig.model_validate_json(data))


def met_by(key: str, shown: bool, evaluate: bool) -> bool:
    """Whether an option acts where unseen tasks are met. A run's base brings its own dtype and adapter."""
    if key in ("data.shot_length", "method.objective"):
        return shown == (key == "data.shot_length")
    return key_is_read(key) and (evaluate or key.startswith("data."))


def evaluation(grid: Grid, row: Row, task: str, seed: int) -> Config:
    """The configuration of an evaluation without training."""
    for key in row.options:
        if not (met_by(key, row.unseen == "demonstrations", True) if grid.mixture else read(key)):
            raise BadInput(f"--{key}", "an evaluation does not read it", "leave it out")
    held = {key: value for key, value in {**grid.options, **row.options}.items() if read(key)}
    where = place(grid, task)
    own = {**of_mixture(where), **held, **where}
    return config.build({**own, "model.name": grid.model, "run.seed": seed, "run.test": False})


def place(grid: Grid, task: str) -> Values:
    """The option that says where rows are."""
    return {"data.mixture" if grid.mixture else "data.task": task}


def training(grid: Grid, row: Row, task: str, seed: int, values: Values, sweep: bool) -> Config:
    """The configuration of a run."""
    name, held = layers(grid, row)
    steps = steps_of(grid, row, task)
    if sweep:
        steps = max(1, round(steps * grid.sweep.share))
    every = math.ceil(steps / grid.validations)
    base = preset(name) if name else {}
    made = config.build({
        **of_mixture(place(grid, task)), **base, "run.eval_every": every, "run.save_every": every, **held, **values,
        "model.name": grid.model, **place(grid, task), "run.seed": seed, "run.steps": steps, "run.seconds": 0.0,
        "run.test": False,
    })  # fmt: skip
    check(made, {*row.options, *values} if not row.like else set(row.options))
    return made


def combinations(row: Row) -> list[Values]:
    """Every combination of a row's swept values, in the file's order."""
    return spread(row.sweep)


def sweeps(grid: Grid) -> list[Cell]:
    """The runs that options are chosen by: every combination on the sweep's seeds."""
    rows = [(task, row) for task in grid.subjects for row in rows_of(grid, task) if row.sweep]
    made = [one for task, row in rows for one in swept(grid, row, task)]
    if grid.sweep.by == "metric":
        for one in made:
            check_scored(one)
    return made


def swept(grid: Grid, row: Row, task: str) -> list[Cell]:
    """The runs that a row's options are chosen by on a task."""
    return [
        cell(grid, row, task, seed, values, sweep=True) for values in combinations(row) for seed in grid.sweep.seeds
    ]


def check_scored(one: Cell) -> None:
    """Raise `BadInput` for a run whose validation has losses alone: free answers are not written there, unless it learns by them."""
    if one.config.data.mixture:
        found = "a mixture's unseen tasks are met after the choice, and validation is of the tasks that it trains on"
        raise BadInput(f"row '{one.row}': sweep.by = metric", found, "choose by loss")
    task = own.resolve(one.config.data)
    if one.config.method.objective not in table.METRICS and (task.kind == "text" or not task.metrics):
        found = f"validation on {one.task} has no metric ({'free answers' if task.metrics else 'the task has none'})"
        raise BadInput(f"row '{one.row}': sweep.by = metric", found, "choose by loss")


def finals(grid: Grid, chosen: Chosen) -> list[Cell]:
    """The runs of the table: every row on every task with every seed, with its chosen values (without a choice: none).

    What a row says itself goes before what was chosen for the row that it is like.
    """
    found = []
    for task in grid.subjects:
        for row in rows_of(grid, task):
            values = chosen.get((row.like or row.name, task), {})
            if values is not None:
                own = {key: value for key, value in values.items() if key not in row.options}
                found += [cell(grid, row, task, seed, own) for seed in grid.seeds]
    return found


def rehearsed(grid: Grid) -> dict[tuple[str, str], Values | None]:
    """A choice for a plan before anything was chosen: the first combination of each row."""
    return {(row.name, task): combinations(row)[0] for task in grid.subjects for row in rows_of(grid, task)}
