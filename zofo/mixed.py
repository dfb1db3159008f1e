"""A mixture's rows: each task's own, prepared alone and joined end to end."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from zofo import models, objectives
from zofo.config import Config
from zofo.errors import BadInput
from zofo.prepared import Prepared, of_task
from zofo.sources import Source
from zofo.tasks import files, origin
from zofo.tasks.answers import answers
from zofo.tasks.definition import Task
from zofo.tasks.mixture import Mixture, Side, naming
from zofo.tasks.parts import PARTS, TRAINED
from zofo.tasks.read import Row
from zofo.tasks.splits import Splits, digest

SERVES: dict[Side, tuple[str, ...]] = {"train": (*TRAINED, "validation"), "test": ("test",)}
"""The parts that the tasks of a side serve for."""
OWN = "each task's own"
TRAINED_ON = ("D_f", "D_p")


def of_mixture(config: Config, mixture: Mixture, source: Source, wanted: Collection[str] = tuple(PARTS)) -> Prepared:
    """Prepare every task of a mixture for the parts that are wanted, and join them.

    A training task's rows are those of its training file; it is validated on rows of its test file, which serves for
    nothing else. An unseen task is tested on its test rows; its training rows serve for demonstrations alone.
    Raises: BadInput naming the task, the file and the row where one is at fault; where a text to train or validate on
    stands among the test rows of an unseen task (all of them: `zofo adapt` takes others than a run does); without a
    training task where one is wanted. Cost: reads each task's data once.
    """
    asked = f"--mixture {config.data.mixture or mixture.name}"
    refuse_unfit(config, mixture, wanted, asked)
    tokenizer, members, read = models.load_tokenizer(source), list[Prepared](), dict[str, files.Source]()
    for side, task in mixture.sides():
        if own := [part for part in wanted if part in SERVES[side]]:
            with naming(f"{asked}, task {task.name}"):
                read[task.name] = rows = files.load(task)
                members.append(member(config, mixture, side, task, source, tokenizer, own, rows))
    refuse_shared(members, asked, read)
    return joined(config, mixture, members, source, tokenizer, wanted)


def refuse_unfit(config: Config, mixture: Mixture, wanted: Collection[str], asked: str) -> None:
    """Raise BadInput for an objective that several tasks cannot share, and for no tasks to train on, or to score, where some are wanted."""
    if config.method.objective in ("accuracy", "f1"):
        found = "a mixture is trained on a loss: a metric of rows of several tasks means nothing"
        raise BadInput(f"--objective {config.method.objective}", found, "take lm or classification")
    if not mixture.train and set(TRAINED) & set(wanted):
        raise BadInput(
            asked, "it has no training tasks", "list some under `train`, or score it with `zofo eval --mixture`"
        )
    if not mixture.test and set(wanted) == {"test"}:
        raise BadInput(asked, "it has no unseen tasks", "list some under `test`, or score the others with --side train")


def member(
    config: Config,
    mixture: Mixture,
    side: Side,
    task: Task,
    source: Source,
    tokenizer: Any,
    wanted: Sequence[str],
    rows: files.Source,
) -> Prepared:
    """One task of a mixture, prepared for the parts that its side serves for."""
    if mixture.kind == "classification" and task.kind == "text":
        found = "it has no options, and the mixture is of classification tasks"
        raise BadInput(f"{rows.files['train']}, row 1", found, "give its rows options, or leave the task out")
    notes = idle_options(task, rows)
    made = of_task(config, task, source, tokenizer, wanted, rows.without_test() if side == "train" else rows)
    encoded = {part: made.encoded.get(part, ()) for part in PARTS}
    about = {PARTS[part] for part in wanted} | ({"train"} if side == "train" or config.data.shots else set())
    notes += [note for note in made.notes if note.partition(":")[0] not in {*PARTS.values(), "train"} - about]
    parts = {part: held for part, held in made.splits.record["parts"].items() if part in map(PARTS.get, wanted)}
    splits = replace(made.splits, record={**made.splits.record, "parts": parts})
    return replace(made, splits=splits, encoded=encoded, notes=notes, side=side)


def idle_options(task: Task, rows: files.Source) -> list[str]:
    """Say which options are no row's answer, where all rows share theirs. Raises: BadInput for one in the user's own files: it is a slip there."""
    held = [answers(task, row, "") for row in chain(rows.train, rows.validation or (), rows.test or ())]
    choices = {answer.choices for answer in held}
    if task.kind == "text" or len(choices) > 1:
        return []
    said = {answer.choices[k] for answer in held for k in answer.right}
    idle = [choice for choice in choices.pop() if choice not in said]
    if idle and task.files is not None:
        found = f"option {idle[0]!r} is the answer of no row"
        raise BadInput(f"{rows.files['train']}, row 1", found, "mend the labels, or take it from the options")
    return [f"options that are no row's answer: {', '.join(idle)}"] if idle else []


def refuse_shared(members: Sequence[Prepared], asked: str, read: Mapping[str, files.Source]) -> None:
    """Raise BadInput where the text of a row to train or validate on stands among the test rows of an unseen task, taken or not."""
    used = texts(members, ("validation", *TRAINED_ON))
    for m in members if used else ():
        for row, name in tested(read[m.task.name]) if m.side == "test" else ():
            if other := used.get(origin.text(m.task, row)):
                found = f"the text of {name} of the unseen task {m.task.name} is that of {other[1]} of the training task {other[0]}"
                raise BadInput(asked, found, "put them on one side, or drop the row")


def tested(rows: files.Source) -> Iterator[tuple[Row, str]]:
    """All rows that an unseen task may be tested on, and what errors call each: its test file; without one the training file, for which are set apart goes by a seed."""
    file = "train" if rows.test is None else "test"
    held = rows.train if rows.test is None else rows.test
    return ((row, f"{rows.files[file]}, row {k}") for k, row in enumerate(held, 1))


def texts(members: Sequence[Prepared], parts: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The texts of training tasks' parts, each with its task (the last one that has it) and what errors call the row."""
    return {
        origin.text(m.task, row): (m.task.name, name)
        for m in members if m.side == "train" for part in parts
        for row, name in zip(getattr(m.splits, part), m.splits.named[part], strict=True)
    }  # fmt: skip


def shared(members: Sequence[Prepared]) -> list[str]:
    """Say which training tasks are validated on texts that another one trains on (within a task there are none)."""
    trained, notes = texts(members, TRAINED_ON), []
    for m in members:
        if m.side == "train" and (n := sum(origin.text(m.task, row) in trained for row in m.splits.validation)):
            notes.append(f"validation: {n} rows of {m.task.name} have the text of a row that another task trains on")
    return notes


def joined(
    config: Config, mixture: Mixture, members: list[Prepared], source: Source, tokenizer: Any, wanted: Collection[str]
) -> Prepared:
    """The members' rows end to end, under a task that stands for the mixture."""
    trained = [m.task for m in members if m.side == "train"] or [m.task for m in members]
    task, notes = standing(config, mixture, trained)
    encoded = {part: tuple(chain.from_iterable(m.encoded[part] for m in members)) for part in PARTS if part in wanted}
    nulls = {part: tuple(chain.from_iterable(m.nulls.get(part, ()) for m in members)) for part in wanted}
    notes += [*alike(members), *([*without_metric(members), *shared(members)] if "validation" in wanted else [])]
    rows = splits(config, mixture, members, notes)
    return Prepared(
        task, rows, tokenizer, source, encoded, {k: v for k, v in nulls.items() if v}, notes, members=tuple(members)
    )


def standing(config: Config, mixture: Mixture, tasks: Sequence[Task]) -> tuple[Task, list[str]]:
    """A task that stands for a mixture: named as it, trained on the objective that its tasks share, else on the LM loss (said)."""
    found = {task.name: objectives.name_of(config, task) for task in tasks}
    same = len(set(found.values())) == 1
    closed = all(task.kind != "text" for task in tasks)
    objective = "classification" if same and "classification" in found.values() else "lm"
    made = Task(
        name=mixture.name, about=mixture.about, template=OWN, options="options" if closed else (), metrics=(),
        objective=objective,
    )  # fmt: skip
    own = sorted(name for name, objective in found.items() if objective == "classification")
    note = f"rows of several tasks are trained on the LM loss: {', '.join(own)} would be trained by classification alone, the others not"
    return made, [] if same else [note]


def splits(config: Config, mixture: Mixture, members: Sequence[Prepared], notes: list[str]) -> Splits:
    """The members' raw rows end to end, and their record."""
    parts: dict[str, list[Any]] = {part: [] for part in PARTS.values()}
    named: dict[str, list[str]] = {part: [] for part in PARTS.values()}
    for m in members:
        for part in m.splits.record["parts"]:
            parts[part] += getattr(m.splits, part)
            named[part] += m.splits.named[part]
    record = {
        "task": mixture.name,
        "source": counted(members),
        "seed": config.run.seed,
        "notes": list(notes),
        "parts": {part: {"rows": len(rows), "of": OWN, "sha256": digest(rows)} for part, rows in parts.items()},
    }
    return Splits(**parts, notes=list(notes), record=record, named=named)


def counted(members: Sequence[Prepared]) -> str:
    """How many tasks there are of each side that is used."""
    train, test = (sum(m.side == side for m in members) for side in SERVES)
    return f"{train} training and {test} unseen tasks" if train else f"{test} tasks"


def alike(members: Sequence[Prepared]) -> list[str]:
    """The members' notes, each with the tasks that it is about."""
    about: dict[str, list[str]] = {}
    for m in members:
        for note in m.notes:
            about.setdefault(note, []).append(m.task.name)
    return [f"{', '.join(names)}: {note}" for note, names in about.items()]


def without_metric(members: Sequence[Prepared]) -> list[str]:
    """Say which training tasks have free answers: their answers are not written in validations, so their loss alone counts there."""
    free = [m.task.name for m in members if m.side == "train" and m.task.kind == "text"]
    return [f"validation: {', '.join(free)} judged by the loss alone (answers are free text)"] if free else []
