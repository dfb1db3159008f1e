"""Checkpoints: folders that appear whole, are verified before they are used, and are never overwritten.

`NAME.safetensors` for each group of tensors, `state.json`, and `MANIFEST.json` with sizes and
SHA-256. There is no pointer to the newest one: the folder's listing plus verification is the pointer.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from zofo.run import manifest, seam
from zofo.run.errors import Corrupt, Newer
from zofo.run.jsonfile import read_json
from zofo.run.manifest import Manifest, verify
from zofo.run.seam import Parts

if TYPE_CHECKING:
    import torch
    from safetensors import safe_open

BEST = "best"
STATE = "state.json"
OLD = ".old"  # a checkpoint set aside while another takes its name: NAME.old.tmp-PID
ASIDE = re.compile(r"\.old\.tmp-\d+$")
STEP = re.compile(r"step-(\d{6,})")
MARGIN = 1 << 16  # bytes for headers, state and folder beside the tensors
NONE_WHOLE = "start a new run with another name"

Group: TypeAlias = "Mapping[str, torch.Tensor] | Parts"
Groups: TypeAlias = "Mapping[str, Group]"
"""Tensors by group and name; a group may be a safetensors file in parts."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint; its tensors are read when asked for."""

    path: Path
    step: int
    state: dict[str, Any]
    manifest: Manifest

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups of tensors that it holds."""
        return tuple(name.removesuffix(".safetensors") for name in self.manifest.files if name.endswith(".safetensors"))

    def file(self, name: str) -> Path:
        """The path of a group's safetensors file. Raises `Corrupt` when the checkpoint has none."""
        if name not in self.names:
            raise Corrupt(f"checkpoint {self.path}", f"it holds no {name}.safetensors", manifest.RESTORE)
        return self.path / f"{name}.safetensors"

    def load(self, name: str) -> dict[str, torch.Tensor]:
        """Read all tensors of a group, on the CPU. Raises `Corrupt` when it has none. Memory: the group."""
        from safetensors.torch import load_file

        with self._reading(name):
            return load_file(self.file(name))

    def open(self, name: str) -> safe_open:
        """Open a group to read it tensor by tensor: `with c.open(name) as f: f.keys(); f.get_tensor(key)`."""
        from safetensors import safe_open

        with self._reading(name):
            return safe_open(self.file(name), framework="pt")

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Call a file that its own format refuses corrupt: one that somebody forged with its manifest."""
        from safetensors import SafetensorError

        try:
            yield
        except (SafetensorError, OSError) as error:
            found = f"{name}.safetensors is not readable ({str(error)[:120]})"
            raise Corrupt(f"checkpoint {self.path}", found, manifest.RESTORE) from error


def step_name(step: int) -> str:
    """The folder name of a step: `step-000123`."""
    return f"step-{step:06d}"


def publish(folder: Path, step: int, tensors: Groups, state: Mapping[str, Any]) -> Path:
    """Write the checkpoint of a step under `folder/step-000123`; see `publish_as`."""
    return publish_as(folder, step_name(step), step, tensors, state)


def publish_as(folder: Path, name: str, step: int, tensors: Groups, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint so that `folder/name` is whole at any instant, and read it back.

    Args: tensors: groups by name, each key -> dense tensor, none sharing storage, or the parts of its file; state: JSON values
    (floats exact, non-finite ones too). A checkpoint of that name with the same bytes is kept;
    another one is set aside until the new one is in place. Raises `ZofoError` when the disk refuses or has not the
    room (nothing changed then), `Corrupt` when what is read back differs. Memory: no copy of
    tensors. Cost: writes the bytes once, reads them twice.
    """
    seam.make_folder(folder)
    sweep(folder)
    final, spare = folder / name, seam.beside(folder / name)
    need = MARGIN + sum(map(nbytes, tensors.values()))
    with seam.told(final, need):
        seam.room(folder, need)
        try:
            _place(spare, final, _fill(spare, step, tensors, state))
        except BaseException:
            seam.discard(spare)
            raise
    verify(final)
    return final


def nbytes(group: Group) -> int:
    """Bytes of a group."""
    return group.nbytes if isinstance(group, Parts) else sum(tensor.nbytes for tensor in group.values())


def _fill(spare: Path, step: int, tensors: Groups, state: Mapping[str, Any]) -> Manifest:
    """Write all files of a checkpoint into a new folder, fsynced, the manifest last."""
    seam.disk.mkdir(spare)
    for name, group in tensors.items():
        path = spare / f"{name}.safetensors"
        if isinstance(group, Parts):
            seam.put_parts(path, group.make())
        else:
            seam.put_tensors(path, group)
    seam.put(spare / STATE, json.dumps(state, indent=1).encode())
    content = manifest.describe(spare, step)
    seam.put(spare / manifest.NAME, content.text())
    seam.disk.fsync_dir(spare)
    return content


def _place(spare: Path, final: Path, content: Manifest) -> None:
    """Give a finished folder its name, durably."""
    aside = seam.beside(final.with_name(final.name + OLD))
    if not os.path.lexists(final):
        seam.disk.rename(spare, final)
    elif _same(final, content):
        seam.remove(spare)
    else:
        _swap(spare, final, aside)
    seam.disk.fsync_dir(final.parent)
    if os.path.lexists(aside):
        seam.discard(aside)


def _same(final: Path, content: Manifest) -> bool:
    try:
        return verify(final) == content
    except Corrupt:
        return False


def _swap(spare: Path, final: Path, aside: Path) -> None:
    """Set the old folder aside and the new one in; between the two, `standing` finds the old one aside."""
    seam.disk.rename(final, aside)
    try:
        seam.disk.rename(spare, final)
    except BaseException:
        seam.disk.rename(aside, final)
        raise


def standing(folder: Path) -> dict[str, Path]:
    """Every checkpoint of a folder by name, whole or not; one whose writer died replacing it is found aside."""
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        name = ASIDE.sub("", entry.name)
        if (STEP.fullmatch(name) or name == BEST) and (name == entry.name or not os.path.lexists(folder / name)):
            found[name] = entry
    return found


def listing(folder: Path) -> list[int]:
    """Steps that have a checkpoint (whole or not), rising."""
    return sorted(int(name.removeprefix("step-")) for name in standing(folder) if name != BEST)


def read(path: Path) -> Checkpoint:
    """Verify a checkpoint and read its state. Raises `Corrupt` naming what is wrong. Cost: every byte once."""
    path = standing(path.parent).get(path.name, path)
    content = verify(path)
    if STATE not in content.files:
        raise Corrupt(f"checkpoint {path}", f"it holds no {STATE}", manifest.RESTORE)
    return Checkpoint(path, content.step, read_json(path / STATE), content)


def unchanged(found: Checkpoint) -> bool:
    """Whether what was read still stands under its name: a writer may have put a newer one in its place meanwhile."""
    try:
        return manifest.load(found.path) == found.manifest
    except (Corrupt, OSError):
        return False


def newest_good(
    folder: Path, also: Callable[[Checkpoint], object] | None, say: Callable[[str], None]
) -> Checkpoint | None:
    """Return the newest checkpoint that is whole; None when the folder has none at all.

    Args: also: a further check (of the journal), which rejects by raising `Corrupt` or returning
    False; say: told of every one that is rejected. Raises `Corrupt` when there are some and none
    is good (a run never begins again from step 0 by itself), `Newer` for one of a newer format.
    """
    steps = listing(folder)
    for step in reversed(steps):
        try:
            found = read(folder / step_name(step))
            if also is None or also(found) is not False:
                return found
            say(f"{step_name(step)} is not used: it does not fit the run; taking the one before")
        except Newer:
            raise
        except Corrupt as error:
            say(f"{step_name(step)} is not used: {error.found}; taking the one before")
    if steps:
        raise Corrupt(f"resume from {folder}", "no checkpoint of this run is whole", NONE_WHOLE)
    return None


def prune(folder: Path, keep: int, protect: Collection[int] = ()) -> list[int]:
    """Delete all but the newest `keep` checkpoints (and those of `protect`, and the best); returns their steps.

    The newest is verified first: raises `Corrupt`, and deletes nothing, when it is not whole.
    """
    steps = listing(folder)
    old = [step for step in steps[: -max(keep, 1)] if step not in protect]
    if old:
        read(folder / step_name(steps[-1]))
    for step in old:
        seam.retire(standing(folder)[step_name(step)])
    return old


def cut(folder: Path, step: int, say: Callable[[str], None]) -> None:
    """Delete the checkpoints after a step that a run resumes from, the best too if it is later or not whole.

    Call it with the step of `newest_good`, before training goes on. `say` is told of each. Raises: `Newer` for a best one of a newer format.
    """
    for name, path in standing(folder).items():
        try:
            late = (verify(path).step if name == BEST else int(name.removeprefix("step-"))) > step
            why = f"the run resumes at step {step}"
        except Newer:
            raise
        except Corrupt as error:
            late, why = True, error.found
        if late:
            say(f"{name} is deleted: {why}")
            seam.retire(path)


def sweep(folder: Path) -> list[str]:
    """Put back what a dead writer set aside, delete what dead writers left unfinished, and name the latter."""
    for name, path in standing(folder).items():
        if path.name != name and not seam.alive(int(path.name.rpartition("-")[2])):
            with seam.told(folder / name):
                seam.disk.rename(path, folder / name)
                seam.disk.fsync_dir(folder)
    return seam.sweep(folder)
