"""zofo's cache: a folder of the user's for what can be made again (converted models, copies of bases, working copies)."""

from __future__ import annotations

import errno
import os
import platform
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zofo.errors import BadInput
from zofo.run import seam

AGAIN = "give the command again"
HOST = f".{platform.node()}"  # several may share the folder, and a process's number says nothing on another
LEFT = re.compile(
    rf"(?:{re.escape(HOST)}|[0-9a-f]{{16}})\.tmp-(\d+)$"
)  # what dead processes left (of versions before: without the host)
ONE = threading.Lock()  # a thread at a time: the names of what is being made hold a process's number


def place() -> Path:
    """The cache: $ZOFO_CACHE, or `zofo` in the user's cache folder."""
    return Path(
        os.environ.get("ZOFO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "zofo").expanduser()
    )


def folder(name: str) -> Path:
    """A folder of the cache, made where it is not there. Raises: BadInput where it cannot be made or written to; ZofoError where the disk is full."""
    path = place() / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in seam.FULL:
            raise seam.failure(path, 0, error, AGAIN) from error
        raise refused(path, (error.strerror or str(error)).lower()) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise refused(path, "it cannot be written to")
    return path


def refused(path: Path, why: str) -> BadInput:
    """The error of a cache that is of no use."""
    asked = f"ZOFO_CACHE {place()}" if os.environ.get("ZOFO_CACHE") else f"the cache {place()}"
    return BadInput(asked, f"{path}: {why}", "set ZOFO_CACHE to a folder that can be written")


def sweep(name: str) -> None:
    """Delete what dead processes of this machine left in a folder of the cache, as far as it can be."""
    with ONE, suppress(OSError):
        seam.sweep(place() / name, LEFT)


@contextmanager
def new(path: Path, need: int = 0) -> Iterator[Path]:
    """A block that writes a file or a folder under the name given, which then becomes `path`, whole and fsynced.

    Where another process was first, its copy stays (it is the same). What dead processes left is deleted.
    Args: need, about how many bytes, so that a write without room does not begin.
    Raises: ZofoError where the disk refuses; what the block raises. Nothing is left then.
    """
    spare = path.with_name(f"{path.name}{HOST}.tmp-{os.getpid()}")
    with ONE, seam.told(path, need, AGAIN):
        seam.sweep(path.parent, LEFT)
        seam.room(path.parent, need)
        try:
            yield spare
            settle(spare)
            placed(spare, path)
        except BaseException:
            seam.discard(spare)
            raise
        seam.disk.fsync_dir(path.parent)


def settle(path: Path) -> None:
    """Fsync a file or a folder."""
    if path.is_dir():
        seam.settle_folder(path)
    else:
        seam.settle(seam.disk.extend(path))


def placed(spare: Path, path: Path) -> None:
    """Give what was made its name, or delete it where a folder of that name is there."""
    try:
        seam.disk.rename(spare, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        seam.discard(spare)
