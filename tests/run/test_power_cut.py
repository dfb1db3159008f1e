"""Power cuts: a model of the disk says what each one could leave, and the reader must find its way.

Every operation of a run is recorded. After each prefix of them the model puts together the states
that a file system may legally leave: a file's unsynced bytes kept, dropped, zeroed or cut in half,
a folder's unsynced names there or not, and random mixtures. (After Pillai et al., OSDI 2014.)
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from zofo.run import checkpoint, journal, seam
from zofo.run.checkpoint import BEST
from zofo.run.errors import Corrupt
from zofo.run.journal import Applied, Journal


@dataclass(eq=False)
class File:
    """Bytes as processes see them, and as they are on the disk."""

    data: bytes = b""
    durable: bytes = b""


@dataclass(eq=False)
class Folder:
    """Names as processes see them, and as they are on the disk."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)


class Recorder(seam.Disk):
    """A disk that works, and notes (operation, arguments) with paths in place of file numbers."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.paths: dict[int, Path] = {}

    def create(self, path: Path) -> int:
        self.events.append(("create", path))
        file = super().create(path)
        self.paths[file] = path
        return file

    def extend(self, path: Path) -> int:
        self.events.append(("extend", path))
        file = super().extend(path)
        self.paths[file] = path
        return file

    def write(self, file: int, data: bytes) -> None:
        self.events.append(("write", self.paths[file], data))
        super().write(file, data)

    def truncate(self, file: int, length: int) -> None:
        self.events.append(("truncate", self.paths[file], length))
        super().truncate(file, length)

    def save(self, path: Path, tensors: Any) -> None:
        super().save(path, tensors)
        self.events += [("create", path), ("write", path, path.read_bytes())]

    def fsync(self, file: int) -> None:
        self.events.append(("fsync", self.paths[file]))

    def fsync_dir(self, folder: Path) -> None:
        self.events.append(("fsync_dir", folder))

    def rename(self, old: Path, new: Path) -> None:
        self.events.append(("rename", old, new))
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self.events.append(("unlink", path))
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        self.events.append(("mkdir", path))
        super().mkdir(path)

    def rmdir(self, path: Path) -> None:
        self.events.append(("rmdir", path))
        super().rmdir(path)


class Model:
    """The disk as the events leave it."""

    def __init__(self, base: Path) -> None:
        self.base, self.root = base, Folder()

    def folder(self, path: Path) -> Folder:
        here = self.root
        for part in path.relative_to(self.base).parts:
            here = here.now[part]  # type: ignore[assignment]
        return here

    def file(self, path: Path) -> File:
        return self.folder(path.parent).now[path.name]  # type: ignore[return-value]

    def apply(self, name: str, path: Path, *rest: Any) -> None:
        names = self.root.now if path == self.base else self.folder(path.parent).now
        if name == "mkdir":
            names[path.name] = Folder()
        elif name in ("create", "extend"):
            file = names.setdefault(path.name, File())
            assert isinstance(file, File)
            file.data = file.data if name == "extend" else b""
        elif name == "write":
            self.file(path).data += rest[0]
        elif name == "truncate":
            self.file(path).data = self.file(path).data[: rest[0]]
        elif name == "fsync":
            self.file(path).durable = self.file(path).data
        elif name == "fsync_dir":
            self.folder(path).durable = dict(self.folder(path).now)
        elif name == "rename":
            self.folder(rest[0].parent).now[rest[0].name] = names.pop(path.name)
        elif name in ("unlink", "rmdir"):
            del names[path.name]


def kept(file: File) -> bytes:
    return file.data


def dropped(file: File) -> bytes:
    return file.durable


def zeroed(file: File) -> bytes:
    return file.durable + bytes(max(0, len(file.data) - len(file.durable)))


def torn(file: File) -> bytes:
    return file.data[: (len(file.data) + len(file.durable) + 1) // 2]


Names = Callable[[Folder], dict[str, "File | Folder"]]
BYTES = [kept, dropped, zeroed, torn]
NAMES: list[Names] = [lambda folder: folder.now, lambda folder: folder.durable]


def states(root: Folder, seed: int) -> Iterator[dict[str, bytes | None]]:
    """What a cut now may leave: path -> bytes, None for a folder. Eight pure states and six mixtures."""
    for data in BYTES:
        for names in NAMES:
            yield flat(root, lambda: data, lambda: names)  # noqa: B023
    draw = random.Random(seed)
    for _ in range(6):
        yield flat(root, lambda: draw.choice(BYTES), lambda: draw.choice(NAMES))


def flat(folder: Folder, data: Callable[[], Callable[[File], bytes]], names: Callable[[], Names], at: str = "") -> Any:
    found: dict[str, bytes | None] = {}
    for name, node in names()(folder).items():
        if isinstance(node, File):
            found[at + name] = data()(node)
        else:
            found[at + name] = None
            found |= flat(node, data, names, f"{at}{name}/")
    return found


def train(base: Path, disk: Recorder) -> None:
    """A small run: journal, checkpoints pruned to the last, one replaced, the best replaced at each."""
    log = Journal(base / "journal")
    for step in (1, 2, 3, 3):
        if step > log._last:
            log.append(Applied(step, ((step, 0.5),)))
            log.sync()
        mark = float(len(disk.events))
        length, sha256 = log.position()
        state = {"mark": mark, "journal": [length, sha256]}
        for name in (checkpoint.step_name(step), BEST):
            group = {"t": {"a": torch.full((9,), mark)}}
            checkpoint.publish_as(base / "checkpoints", name, step, group, state)
            disk.events.append(("done", base, name, step, mark))
        checkpoint.prune(base / "checkpoints", 1)
    log.close()


def violations(base: Path, events: list[tuple[Any, ...]], scratch: Path) -> Iterator[str]:
    """Play every prefix of a run and every state it may leave; say where a reader is let down."""
    model, checked = Model(base), 0
    done: dict[str, tuple[int, float]] = {}
    for count, (name, *rest) in enumerate(events):
        if name == "done":
            done["best" if rest[1] == BEST else "step"] = (rest[2], rest[3])
            continue
        model.apply(name, *rest)
        seen = []
        for state in states(model.root, count):
            if state in seen:
                continue
            seen.append(state)
            checked += 1
            place = scratch / "state"
            for path, data in state.items():
                if data is None:
                    (place / path).mkdir(parents=True)
                else:
                    (place / path).parent.mkdir(parents=True, exist_ok=True)
                    (place / path).write_bytes(data)
            found = faults(place, done)
            shutil.rmtree(place, ignore_errors=True)
            yield from (f"after {count} {name}: {fault}" for fault in found)
    assert checked > 300


def faults(place: Path, done: dict[str, tuple[int, float]]) -> list[str]:
    """What a reader of this folder would have to complain of: a lost checkpoint, or a wrong one taken."""

    def fits(found: checkpoint.Checkpoint) -> None:
        journal.read(place / "journal", *found.state["journal"])

    faults = []
    for kind in done:
        try:
            if kind == "step":
                got = checkpoint.newest_good(place / "checkpoints", fits, lambda text: None)
            else:
                got = checkpoint.read(place / "checkpoints" / BEST)
        except Corrupt as error:
            faults.append(f"{kind}: {error}")
            continue
        if got is None or (got.step, got.state["mark"]) < done[kind]:
            faults.append(f"{kind}: lost {done[kind]}")
        elif not torch.equal(got.load("t")["a"], torch.full((9,), got.state["mark"])):
            faults.append(f"{kind}: a broken checkpoint was taken")
    return faults


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[tuple[Any, ...]]]:
    """The events of a whole run."""
    base = tmp_path / "run"
    base.mkdir()
    disk = Recorder()
    monkeypatch.setattr(seam, "disk", disk)
    train(base, disk)
    return base, disk.events


def test_after_any_power_cut_what_was_published_is_found_whole(tmp_path, recorded):
    base, events = recorded
    assert list(violations(base, events, tmp_path)) == []


@pytest.mark.parametrize("without", ["fsync", "fsync_dir"])
def test_the_model_catches_a_writer_that_does_not_sync(tmp_path, recorded, without):
    base, events = recorded
    assert next(violations(base, [event for event in events if event[0] != without], tmp_path), None)
