"""What a run or a model is scored on: its own task, another one, or a test file with nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zofo.config import COLUMNS, Config, build, flatten, load
from zofo.errors import BadInput

if TYPE_CHECKING:
    from zofo.run.folder import RunFolder
    from zofo.tasks.definition import Task
    from zofo.tasks.files import Source
    from zofo.tasks.mixture import Mixture

OTHER_ROWS = {"data.task", "data.train", "data.mixture"}
"""Options that take a run to another task, or to a mixture of tasks."""
ROWS = OTHER_ROWS | {"data.test"}
"""Options that say what a model is scored on."""
FILES = OTHER_ROWS | {"data.validation", "data.test", *(f"data.{column}" for column in COLUMNS)}
"""Options that say where rows are."""
FIXED = ("run.seed", "data.train_rows", "data.validation_rows", "data.upper_share", *(f"data.{c}" for c in COLUMNS))
"""Options that would choose a run's own rows anew: some that it was trained on could come to be tested."""
FIELDS = {f"data.{column}": column.removesuffix("_column") for column in COLUMNS}
"""The field of a task made from own rows that a column option names."""
ANSWERS = ("data.label_column", "data.completion_column")
"""Options that name a column of answers."""
PREDICTING = {
    "model.dtype", "data.task", "data.train", "data.shots", "data.channel", "data.calibration", "data.hard_prompt",
    "data.max_length", *FIELDS,
}  # fmt: skip
"""Options that have an effect on predicting."""
TRAINING = ("data.batch", "data.redraw")
"""Options of the data that act in training only."""


@dataclass(frozen=True)
class Scored:
    """A task (or mixture) to score on, and how its rows are read; `rows`, where they are read already: those of a test file alone."""

    config: Config
    task: Task | Mixture
    rows: Source | None = None


def scores_with(key: str) -> bool:
    """Whether an option of the configuration has an effect on scores."""
    return (key.startswith("data.") and key not in TRAINING) or key in ("model.dtype", "run.seed")


def of_model(config: Config, flags: Mapping[str, Any], split: str, side: str) -> Scored:
    """What a model is scored on. Raises: BadInput, as `zofo.tasks.own.resolve`."""
    from zofo.tasks import mixture, own

    if alone(flags, config.data.shots, split, side):
        return on_test(config, flags, own.of_test(config.data))
    return Scored(config, mixture.asked_for(config.data))


def of_run(run: RunFolder, own: Config, flags: Mapping[str, Any], split: str, side: str) -> Scored:
    """What a run of the configuration `own` is scored on: its own task, unless options name another.

    A test file that is named is scored whole, and without demonstrations no other file of the run's is read.
    Raises: BadInput for what would mix its rows.
    """
    from zofo import settled
    from zofo.tasks import own as tasks
    from zofo.tasks.definition import Task
    from zofo.tasks.mixture import asked_for, reread

    config, held = settled.plain(changed(own, flags)), member(run, flags)
    if alone(flags, config.data.shots, split, side):
        named = held or (tasks.of_test(config.data) if "data.task" in flags else reread(run.task, f"run {run.name}"))
        if isinstance(named, Task):
            refuse_chosen_anew(own, config, {key: value for key, value in flags.items() if key not in FIELDS})
            here = with_columns(tasks.with_files(named, tasks.tested(config.data.test)), flags)
            return on_test(config, flags, here)
    if held is not None:
        refuse_rows(held, flags, FILES - {"data.task"})
        return Scored(config, held)
    if OTHER_ROWS & set(flags):
        return Scored(config, asked_for(config.data))
    refuse_other_part(flags, split)
    task = with_own_files(run, own, config, flags)
    return Scored(whole(config, flags, task), task)


def to_predict(run: RunFolder | None, name: str, flags: Mapping[str, Any]) -> tuple[Config, Task]:
    """The task that a run's or (without a run) a model's predictions are of, under the names that its own columns have, and how its rows are read.

    Raises: BadInput for a model without a task, for several tasks, for a column of answers, which are not read.
    """
    from zofo import settled
    from zofo.tasks import own as tasks
    from zofo.tasks.definition import Task
    from zofo.tasks.mixture import reread

    if run is None and not PREDICTING & OTHER_ROWS & set(flags):
        raise BadInput(f"zofo predict {name}", "a model needs a task", "add --task NAME, or --data.train FILE")
    own = config_of(run) if run is not None else build({"model.name": name})
    config = settled.plain(changed(own, flags))
    if run is not None and (held := member(run, flags)):
        refuse_rows(held, flags, {"data.train"})
        refuse_answers(flags)
        return config, held
    if run is None or OTHER_ROWS & set(flags):
        return config, tasks.resolve(config.data)
    refuse_answers(flags)
    task = reread(run.task, f"run {run.name}")
    if not isinstance(task, Task):
        raise BadInput(f"zofo predict {run.name}", "it was trained on several tasks", "name the one with --task")
    return config, task


def refuse_answers(flags: Mapping[str, Any]) -> None:
    """Raise BadInput for an option that names a column of answers, where they are predicted."""
    if idle := next((key for key in ANSWERS if key in flags), None):
        raise BadInput(f"--{idle} {flags[idle]}", "answers are predicted, not read", "leave it out")


def refuse_rows(task: Task, flags: Mapping[str, Any], keys: Set[str]) -> None:
    """Raise BadInput for one of these options beside a task of a run's mixture: they would name other rows than it has."""
    if idle := sorted(keys & set(flags)):
        found = f"{task.name} is a task of the run's mixture, which brings rows of its own"
        raise BadInput(f"--{idle[0]} {flags[idle[0]]}", found, "leave it out, or leave --task out")


def refuse_other_part(flags: Mapping[str, Any], split: str) -> None:
    """Raise BadInput for an option about a part of a run's own rows that is not scored: with other test rows, what is called validation rows would be others."""
    others = {"test": ("data.validation",), "validation": ("data.test", "data.test_rows")}[split]
    if idle := next((key for key in others if key in flags), None):
        raise BadInput(f"--{idle} {flags[idle]}", f"{split} rows are scored", "leave it out, or change --split")


def config_of(run: RunFolder) -> Config:
    """A run's configuration, as it was resolved."""
    from zofo import settled

    return settled.plain(load(run.config))


def alone(flags: Mapping[str, Any], shots: int, split: str = "test", side: str = "test") -> bool:
    """Whether a test file is scored with no training rows: none are named beside it, and none are wanted as demonstrations."""
    named = "data.test" in flags and not {"data.train", "data.mixture"} & set(flags)
    return named and not shots and (split, side) == ("test", "test")


def with_columns(task: Task, flags: Mapping[str, Any]) -> Task:
    """A task made from own rows on a file that has other names for its columns. Raises: BadInput for a column that it has not."""
    given = {key: field for key, field in FIELDS.items() if key in flags}
    held = task.files.columns if task.files is not None else {}
    for key, field in given.items():
        if field not in held:
            known = ", ".join(f"--data.{name}_column" for name in held) or "none"
            raise BadInput(f"--{key} {flags[key]}", f"{task.name} reads no such column", f"those that it has: {known}")
    if not given or task.files is None:
        return task
    columns = held | {field: flags[key] for key, field in given.items()}
    return task.model_copy(update={"files": task.files.model_copy(update={"columns": columns})})


def on_test(config: Config, flags: Mapping[str, Any], task: Task) -> Scored:
    """A task on all rows of its test file (or as many as options say)."""
    from zofo.tasks import files

    rows = files.test_alone(task)
    return Scored(all_of(config, flags, len(rows.test or ())), task, rows)


def whole(config: Config, flags: Mapping[str, Any], task: Task | Mixture) -> Config:
    """The configuration that takes all rows of a test file that options name. Cost: reads it."""
    from zofo.tasks import files

    if "data.test" not in flags or getattr(task, "files", None) is None:
        return config
    where = flags["data.test"]
    return all_of(config, flags, len(files.part_rows(where, "test", f"--data.test {where}")))


def all_of(config: Config, flags: Mapping[str, Any], rows: int) -> Config:
    """The configuration with so many test rows, unless options say how many."""
    if "data.test_rows" in flags:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"test_rows": max(rows, 1)})})


def member(run: RunFolder, flags: Mapping[str, Any]) -> Task | None:
    """The task of a run's own mixture that is asked for by its name there, where no task that ships has it (the user's are called own/NAME); else None."""
    from zofo.tasks import definition
    from zofo.tasks.mixture import Mixture, reread

    name = flags.get("data.task", "")
    if not name or name in definition.names() or not run.task.is_file():
        return None
    held = reread(run.task, f"run {run.name}")
    return next((t for _, t in held.sides() if t.name == name), None) if isinstance(held, Mixture) else None


def refuse_chosen_anew(own: Config, config: Config, flags: Mapping[str, Any]) -> None:
    """Raise BadInput for an option that would choose a run's own rows anew, where no other task is named."""
    before, now = flatten(own.model_dump(), ""), flatten(config.model_dump(), "")
    wrong = [key for key in FIXED if key in flags and now[key] != before[key]]
    if wrong and not OTHER_ROWS & set(flags):
        found = "a run's rows are those that it was made on"
        raise BadInput(
            f"--{wrong[0]} {flags[wrong[0]]}", found, "leave it out, or name other rows: --task, --data.train"
        )


def with_own_files(run: RunFolder, own: Config, config: Config, flags: Mapping[str, Any]) -> Task | Mixture:
    """A run's own task (or mixture), its test or validation file replaced where that was asked for. Raises BadInput for what would mix its rows."""
    from zofo.tasks.definition import Task
    from zofo.tasks.mixture import reread

    task = reread(run.task, f"run {run.name}")
    refuse_chosen_anew(own, config, flags)
    new = {key: flags[f"data.{key}"] for key in ("validation", "test") if f"data.{key}" in flags}
    if not isinstance(task, Task):
        for key, value in new.items():
            raise BadInput(f"--data.{key} {value}", "the run's tasks bring files of their own", "leave it out")
        return task
    if new and task.files is None:
        key, value = next(iter(new.items()))
        raise BadInput(
            f"--data.{key} {value}", f"the rows of {task.name} are no files of yours", "give --data.train too"
        )
    files = task.files.model_copy(update=new) if task.files is not None else None
    return task.model_copy(update={"files": files}) if new else task


def changed(own: Config, flags: Mapping[str, Any]) -> Config:
    """A run's configuration with options laid over it; another task forgets the run's own files and objective."""
    before = flatten(own.model_dump(), "")
    if OTHER_ROWS & set(flags):
        fresh = flatten(Config().model_dump(), "")
        before |= {key: fresh[key] for key in (*FILES, "method.objective")}
    return build({**before, **flags}) if flags else own
