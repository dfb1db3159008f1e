"""The manifest of a checkpoint: size and SHA-256 of every file in it, and of itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.run.errors import Corrupt, Newer

FORMAT = 1
NAME = "MANIFEST.json"
MAX_MANIFEST = 1 << 20  # bytes
STEP = re.compile(r"step-(\d+)")
RESTORE = "use another checkpoint, or restore this one from where it was whole"


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds: its step, and (bytes, SHA-256 in hex) for each file by name."""

    step: int
    files: dict[str, tuple[int, str]]

    def text(self) -> bytes:
        """The one text of this manifest; its last key is the SHA-256 of the rest."""
        files = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in sorted(self.files.items())}
        body: dict[str, Any] = {"format": FORMAT, "step": self.step, "files": files}
        return f"{json.dumps({**body, 'sha256': _seal(body)}, indent=1)}\n".encode()


def _seal(body: dict[str, Any]) -> str:
    """SHA-256 of a manifest's content but for the key that holds it: the same in every format to come."""
    rest = {key: value for key, value in body.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file in hex, a block at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(folder: Path, step: int) -> Manifest:
    """Make the manifest of the files in a folder. Cost: reads them all once."""
    return Manifest(step, {path.name: (path.stat().st_size, digest(path)) for path in folder.iterdir()})


def _damaged(folder: Path, what: str) -> Corrupt:
    return Corrupt(f"checkpoint {folder}", what, RESTORE)


def _parse(folder: Path, data: bytes) -> Manifest:
    """Read a manifest's text, which must be to the byte what `text` makes of its content."""
    try:
        tree = json.loads(data)
        if _seal(tree) == tree["sha256"] and tree["format"] > FORMAT:
            found = f"{NAME} has format {tree['format']}, this zofo knows {FORMAT}"
            raise Newer(f"checkpoint {folder}", found, "use a newer zofo")
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in tree["files"].items()}
        manifest = Manifest(int(tree["step"]), files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise _damaged(folder, f"{NAME} is damaged") from None
    if manifest.text() != data:
        raise _damaged(folder, f"{NAME} is damaged (it does not match its own SHA-256)")
    return manifest


def _check(folder: Path, name: str, size: int, sha256: str) -> None:
    """Check one file against its entry."""
    status = (folder / name).lstat()
    if not stat.S_ISREG(status.st_mode):
        raise _damaged(folder, f"{name} is not a plain file")
    if status.st_size != size:
        raise _damaged(folder, f"{name} has {status.st_size} bytes and should have {size}")
    if digest(folder / name) != sha256:
        raise _damaged(folder, f"{name} does not match its SHA-256")


def load(folder: Path) -> Manifest:
    """Read the manifest of a folder; its step must be the one in the folder's name."""
    status = (folder / NAME).lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_MANIFEST:
        raise _damaged(folder, f"{NAME} is not a plain file of at most {MAX_MANIFEST} bytes")
    manifest = _parse(folder, (folder / NAME).read_bytes())
    named = STEP.match(folder.name)
    if named and int(named[1]) != manifest.step:
        raise _damaged(folder, f"{NAME} is that of step {manifest.step}")
    return manifest


def verify(folder: Path) -> Manifest:
    """Check that a checkpoint is whole: every file, no other, each of its size and SHA-256.

    Raises `Corrupt` naming the file at fault, or the newer format. Cost: reads every byte once,
    with a block of memory.
    """
    try:
        present = set(os.listdir(folder))
        if NAME not in present:
            raise _damaged(folder, f"{NAME} is missing")
        manifest = load(folder)
        for name in sorted(manifest.files.keys() - present):
            raise _damaged(folder, f"{name} is missing")
        for name in sorted(present - manifest.files.keys() - {NAME}):
            raise _damaged(folder, f"{name} is not part of it")
        for name, (size, sha256) in manifest.files.items():
            _check(folder, name, size, sha256)
    except OSError as error:
        raise _damaged(folder, f"cannot be read ({(error.strerror or str(error)).lower()})") from error
    return manifest
