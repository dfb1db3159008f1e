"""A mixture of tasks: those that are trained on and those that are left unseen, from a list or a folder of folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from zofo import yamlfile
from zofo.config import COLUMNS, DataConfig
from zofo.errors import BadInput, nearest
from zofo.tasks import definition, metaicl, own, twins
from zofo.tasks.definition import YAML, Task
from zofo.tasks.files import VARIABLE

MIXTURES = Path(__file__).parent / "mixtures"
Side = Literal["train", "test"]
Kind = Literal["any", "classification"]
SIDES: tuple[Side, ...] = get_args(Side)


@dataclass(frozen=True)
class Mixture:
    """Training tasks and unseen (test) tasks; `kind` "classification": all of them have options."""

    name: str
    about: str
    train: tuple[Task, ...]
    test: tuple[Task, ...]
    kind: Kind = "any"

    def sides(self) -> Iterator[tuple[Side, Task]]:
        """Every task with its side, training tasks first."""
        for side in SIDES:
            for task in getattr(self, side):
                yield side, task


class Listing(BaseModel):
    """A mixture as its file lists it: entries as `--task` takes them, relative paths from the file's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    about: str = ""
    kind: Kind = "any"
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


def names() -> list[str]:
    """Names of the mixtures that ship with zofo."""
    return sorted(path.stem for path in MIXTURES.glob("*.yaml"))


def find(name_or_path: str | Path, asked: str = "") -> Mixture:
    """A mixture by its shipped name, its YAML file, or a folder of task folders (all are training tasks then).

    Args: asked, what errors name (default: `--mixture NAME`).
    Raises: BadInput, with the nearest name for one that is not known; for a broken file, an entry that is no task,
    two tasks of one name, or a task on both sides, naming the entry; for tasks that cannot be had, naming them all.
    Cost: reads the training file of each entry that is a folder; asks the hub once where some are there alone.
    """
    text = str(name_or_path)
    asked = asked or f"--mixture {text}"
    name, folder, listing = listed(text, asked)
    refuse_twice(listing, asked)
    refuse_one_data_set(listing, asked)
    missing = [entry for side in SIDES for entry in getattr(listing, side) if not here(entry, folder)]
    if missing and not (all(map(metaicl.on_hub, missing)) and metaicl.hub_answers()):
        raise BadInput(asked, *not_here(missing, len(listing.train) + len(listing.test)))
    made = {side: [task_of(e, folder, asked, side, k) for k, e in entries(listing, side)] for side in SIDES}
    refuse_one_name(made, listing, asked)
    return Mixture(name, listing.about, tuple(made["train"]), tuple(made["test"]), listing.kind)


def asked_for(data: DataConfig) -> Task | Mixture:
    """The task, or the mixture of tasks, that a configuration asks for. Raises: BadInput as `find` and `own.resolve`, or for both at once."""
    if not data.mixture:
        return own.resolve(data)
    for key in ("task", "train", "validation", "test", *COLUMNS):
        if value := getattr(data, key):
            raise BadInput(
                f"--data.{key} {value}", f"--mixture {data.mixture} brings tasks of its own", "give one of the two"
            )
    return find(data.mixture)


def turned(task: Task | Mixture, side: str) -> Task | Mixture:
    """The mixture whose tasks of a side are those that are scored, on their test rows. Raises: BadInput for the training side of one task, or of a mixture that has none."""
    if side == "test":
        return task
    if not isinstance(task, Mixture):
        raise BadInput(f"--side {side}", f"{task.name} is one task, not a mixture", "leave it out")
    if not task.train:
        raise BadInput(f"--side {side}", f"mixture {task.name} has no training tasks", "leave it out")
    return replace(task, train=(), test=task.train)


def dump(mixture: Mixture) -> str:
    """The mixture with its tasks as YAML text, every key spelled out: what `reread` reads."""
    tree: dict[str, object] = {"name": mixture.name, "about": mixture.about, "kind": mixture.kind}
    tree |= {side: [task.model_dump(mode="json") for task in getattr(mixture, side)] for side in SIDES}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def reread(path: Path, asked: str) -> Task | Mixture:
    """A run's own task, or mixture of tasks, from the file that it was written to. Raises: BadInput where it is damaged."""
    tree = definition.tree(path, asked)
    if "train" not in tree:
        return definition.validated(tree, asked)
    try:
        made = {side: tuple(definition.validated(held, asked) for held in tree[side]) for side in SIDES}
        return Mixture(str(tree["name"]), str(tree["about"]), made["train"], made["test"], tree["kind"])
    except (KeyError, TypeError) as error:
        raise BadInput(asked, f"{path.name} is damaged ({error!r})", "bring the file back") from None


def listed(text: str, asked: str) -> tuple[str, Path, Listing]:
    """A mixture's name, the folder of its relative paths, and what it lists, no task looked up. Raises: BadInput for what is no mixture."""
    path = Path(text)
    if text in names():
        return text, MIXTURES, read(MIXTURES / f"{text}.yaml", asked)
    if text.endswith(YAML):
        return plain(path.stem), path.resolve().parent, read(path, asked)
    if path.is_dir():
        return plain(path.resolve().name), path.resolve(), of_folder(path, asked)
    raise BadInput(asked, "no such mixture, YAML file or folder", nearest(text, names()))


def plain(word: str) -> str:
    """A word as a name: letters, digits, dots and dashes."""
    held = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "._-") else "-" for sign in word)
    return held.lstrip("._-")[:64] or "mixture"


def read(path: Path, asked: str) -> Listing:
    """Read a mixture's YAML file: a list of entries (training tasks), or `about`, `kind`, `train` and `test`."""
    tree = yamlfile.read(path, asked, "a mixture")
    return validated({"train": tree} if isinstance(tree, list) else tree, path, asked)


def is_one(path: Path) -> bool:
    """Whether a path is a mixture's: a YAML file that lists tasks, or a folder of folders with training files."""
    if path.suffix in YAML and path.is_file() and path.stat().st_size <= yamlfile.MAX_FILE:
        with suppress(*yamlfile.UNREADABLE):
            tree = yamlfile.parse(path.read_text(encoding="utf-8"))
            return isinstance(tree, list) or (isinstance(tree, dict) and bool({"train", "test"} & set(tree)))
    return path.is_dir() and any(any(held.glob("train.*")) for held in path.iterdir() if held.is_dir())


def validated(tree: object, path: Path, asked: str) -> Listing:
    """A file's content as a listing. Raises: BadInput for a wrong key or value, or no entry at all."""
    if tree is None or not tree:
        raise BadInput(
            f"{asked}, file {path}", "it lists no task", "write `train: [NAME, ...]` and `test: [NAME, ...]`"
        )
    try:
        listing = Listing.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        do = "write a list of tasks, or `train: [NAME, ...]` and `test: [NAME, ...]`"
        unknown = first["type"] == "extra_forbidden"
        found = "no such key" if unknown else first["msg"].lower()
        raise BadInput(
            f"{asked}, file {path}, {key}", found, nearest(key, Listing.model_fields) if unknown else do
        ) from None
    if not listing.train and not listing.test:
        raise BadInput(
            f"{asked}, file {path}", "it lists no task", "write `train: [NAME, ...]` and `test: [NAME, ...]`"
        )
    return listing


def of_folder(folder: Path, asked: str) -> Listing:
    """A folder whose folders are tasks, all for training."""
    there = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not there:
        do = "give a folder of folders with train.jsonl and test.jsonl (.gz too), or a YAML list"
        raise BadInput(asked, "the folder holds no folder", do)
    return Listing(about=f"The folders of {folder.name}.", train=tuple(f"./{name}" for name in there))


def entries(listing: Listing, side: Side) -> Iterator[tuple[int, str]]:
    """A side's entries with their numbers from 1."""
    return iter(enumerate(getattr(listing, side), 1))


def here(entry: str, folder: Path) -> bool:
    """Whether an entry can be looked up without the hub; a path, or a name that no list of MetaICL's has, counts (it is an error of its own)."""
    known = entry in definition.names() or (folder / entry).exists() or metaicl.folder(entry) is not None
    return known or not metaicl.on_hub(entry)


def not_here(missing: Sequence[str], of: int) -> tuple[str, str]:
    """What was found and what to do where tasks of a list are neither shipped, nor under $ZOFO_DATA, nor on a hub that answers."""
    shown = ", ".join(name.removeprefix(metaicl.PREFIX) for name in missing)
    found = f"{len(missing)} of its {of} tasks cannot be had: {shown}"
    own = ", ".join(n for n in names() if not n.endswith("-paper"))
    form = f"${VARIABLE}/crossfit/NAME/train.jsonl and test.jsonl (MetaICL's form)"
    return (
        found,
        f"go online (the hub does not answer, or has them not), put each at {form}, or take a list that is here: {own}",
    )


def task_of(entry: str, folder: Path, asked: str, side: Side, number: int) -> Task:
    """The task that an entry means. Raises: BadInput naming the mixture, the entry and its number."""
    if entry in definition.names():
        return definition.find(entry)
    if not here(entry, folder):
        return metaicl.from_hub(entry, side)
    place, named = folder / entry, metaicl.folder(entry)
    with naming(f"{asked}, {side} task {number} ({entry})"):
        task = own.resolve(DataConfig(task=str(named or (place if place.exists() else entry))))
    return task.model_copy(update={"name": entry}) if named else task


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Put the task at fault before whatever bad input is found in a block."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{what}: {error.asked}", error.found, error.do) from None


def refuse_twice(listing: Listing, asked: str) -> None:
    """Raise BadInput for an entry that stands twice, or on both sides."""
    seen: dict[str, str] = {}
    for side in SIDES:
        for number, entry in entries(listing, side):
            if entry in seen:
                both = not seen[entry].startswith(side)
                found = "it stands on both sides" if both else "it is listed twice"
                raise BadInput(
                    f"{asked}, {side} task {number}, {entry}", f"{found} (also {seen[entry]})", "list it once"
                )
            seen[entry] = f"{side} task {number}"


def refuse_one_data_set(listing: Listing, asked: str) -> None:
    """Raise BadInput where a task that comes with zofo stands on one side, and the same data set under another name on the other."""
    trained = {
        twins.data_set(entry): f"{entry} (train task {number})"
        for number, entry in entries(listing, "train")
        if named(entry)
    }
    for number, entry in entries(listing, "test"):
        if named(entry) and (other := trained.get(twins.data_set(entry))):
            found = f"its data set is that of {other}"
            raise BadInput(f"{asked}, test task {number} ({entry})", found, "put both on one side, or leave one out")


def named(entry: str) -> bool:
    """Whether an entry is the name of a task that comes with zofo, or of one on the hub."""
    return entry in definition.names() or metaicl.on_hub(entry)


def refuse_one_name(made: dict[Side, list[Task]], listing: Listing, asked: str) -> None:
    """Raise BadInput where two tasks have one name."""
    seen: dict[str, str] = {}
    for side in SIDES:
        for (number, entry), task in zip(entries(listing, side), made[side], strict=True):
            if task.name in seen:
                found = f"its name is {task.name}, which {seen[task.name]} has too"
                raise BadInput(f"{asked}, {side} task {number} ({entry})", found, "give each task a name of its own")
            seen[task.name] = f"{side} task {number} ({entry})"
