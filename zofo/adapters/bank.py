"""The bank: adapters of many tasks, and their optimizers' moments, at rest in files, so that memory holds one task's.

A task has one safetensors file in a work folder, read when the task is used and written anew after it. A file is never
written over: a new one takes its place when it is whole.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from safetensors.torch import load_file, save_file
from torch import Tensor

from zofo.adapters.slots import Slots
from zofo.errors import BadInput, ZofoError

Keep = Callable[[str, Mapping[str, Tensor]], None]


class Bank:
    """Tensors by task: adapters as "adapter.SLOT.NAME", and whatever else a method keeps with them.

    Args: folder, where a folder of this bank's own is made, which goes with it (those of dead processes too); names, the tasks, in an order that a
    resumed run has too; start, the adapters of a task that was never used, by slot. Memory: `start`, and a path a task used.
    """

    def __init__(self, folder: Path, names: Sequence[str], start: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.names, self.count = tuple(names), 0
        self.start = {f"adapter.{slot}.{name}": t for slot, own in start.items() for name, t in own.items()}
        self.files: dict[str, Path] = {}
        sweep(folder)
        self.folder = Path(mkdtemp(prefix=f"bank-{platform.node()}-{os.getpid()}-", dir=folder))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def take(self, name: str) -> dict[str, Tensor]:
        """A task's tensors, on the CPU; of one never used, the start. They are the bank's: copy before changing them."""
        held = self.files.get(self.known(name))
        if held is None:
            return dict(self.start)
        with telling(f"fetch the adapters of task {name} from {self.folder}"):
            return load_file(held)

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Put a task's tensors to rest; on a failure it has those that it had."""
        with self.changing() as keep:
            keep(name, tensors)

    @contextmanager
    def changing(self) -> Iterator[Keep]:
        """A block that keeps tensors of several tasks, all at its end, or none when an exception leaves it."""
        made: dict[str, Path] = {}

        def keep(name: str, tensors: Mapping[str, Tensor]) -> None:
            before = made.get(self.known(name))
            made[name] = self.written(tensors)
            if before is not None:
                forgotten(before)

        try:
            yield keep
        except BaseException:
            for path in made.values():
                forgotten(path)
            raise
        old = [self.files[name] for name in made if name in self.files]
        self.files = {**self.files, **made}
        for path in old:
            forgotten(path)

    def into(self, slots: Slots, name: str) -> None:
        """Load a task's adapters into the slots of a model."""
        load(slots, self.take(name))

    def rest(self, slots: Slots) -> None:
        """Load the start into the slots."""
        load(slots, self.start)

    def groups(self) -> dict[str, Path]:
        """The files of the tasks used, by a name that is the task's place among the names: for a checkpoint."""
        return {group(i): self.files[name] for i, name in enumerate(self.names) if name in self.files}

    def named(self) -> dict[str, str]:
        """Which task each of `groups` is."""
        return {group(i): name for i, name in enumerate(self.names) if name in self.files}

    def restore(self, held: Mapping[str, Path]) -> None:
        """Take up copies of files that `groups` named; tasks that are not among them start anew."""
        made = {}
        for i, name in enumerate(self.names):
            if group(i) in held:
                made[name] = self.fresh()
                with telling(f"put adapters to rest in {self.folder}"):
                    shutil.copyfile(held[group(i)], made[name])
        old, self.files = self.files, made
        for path in old.values():
            forgotten(path)

    def known(self, name: str) -> str:
        """The name of one of the tasks. Raises `BadInput` for another."""
        if name not in self.names:
            raise BadInput(f"adapters of task {name}", "the run has no such training task", "name one of its own")
        return name

    def fresh(self) -> Path:
        """A path that no file has."""
        self.count += 1
        return self.folder / f"{self.count:06d}.safetensors"

    def written(self, tensors: Mapping[str, Tensor]) -> Path:
        """Write tensors to a new file, whole, or raise `ZofoError` and leave none."""
        path = self.fresh()
        try:
            with telling(f"put adapters to rest in {self.folder}"):
                save_file({name: t.detach().contiguous() for name, t in tensors.items()}, path)
        except BaseException:
            forgotten(path)
            raise
        return path


@contextmanager
def telling(asked: str) -> Iterator[None]:
    """A block whose failures, of whatever kind, are a `ZofoError` that says what was asked."""
    try:
        yield
    except Exception as error:
        raise ZofoError(
            asked, str(error)[:160], "make room there, or bring the file back, then go on with `zofo resume`"
        ) from error


def group(i: int) -> str:
    """The name of a task's tensors in a checkpoint."""
    return f"task-{i:04d}"


def sweep(folder: Path) -> None:
    """Delete the banks of this machine's processes that are no more."""
    mine = f"bank-{platform.node()}-"
    for place in folder.glob(f"{mine}*-*"):
        owner, *more = place.name.removeprefix(mine).split("-")
        ours = len(more) == 1 and owner.isdecimal()  # else of a host whose name begins with this one's
        if ours and not alive(int(owner)):
            shutil.rmtree(place, ignore_errors=True)


def alive(pid: int) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def forgotten(path: Path) -> None:
    """Delete a file, as far as it can be."""
    with contextlib.suppress(OSError):
        path.unlink()


def load(slots: Slots, tensors: Mapping[str, Tensor]) -> None:
    """Load the adapters among some tensors into the slots."""
    for slot in slots.params:
        prefix = f"adapter.{slot}."
        slots.load(slot, {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
