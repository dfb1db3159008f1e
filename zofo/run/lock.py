"""One process a run: a lock that the system frees when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zofo.errors import BadInput, ZofoError
from zofo.run import seam
from zofo.run.folder import RunFolder


@contextmanager
def lock(run: RunFolder) -> Iterator[None]:
    """Hold a run for this process while the block runs. Raises `BadInput` at once when another holds it.

    The lock is the kernel's (flock), so none is ever stale; pid and host are written for people to
    read. The file stays. A forked child that outlives its parent keeps the lock; an exec'ed one does not.
    """
    with seam.told(run.lock):
        file = seam.disk.extend(run.lock)
    try:
        _take(run, file)
        with seam.told(run.lock):
            seam.disk.truncate(file, 0)
            seam.disk.write(file, f"{os.getpid()} {socket.gethostname()}\n".encode())
        yield
        with suppress(OSError):
            seam.disk.truncate(file, 0)
    finally:
        os.close(file)


def _take(run: RunFolder, file: int) -> None:
    """Take the kernel's lock on an open file, or say who has it."""
    try:
        with seam.told(run.lock):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ZofoError as error:
        if not isinstance(error.__cause__, BlockingIOError):
            raise
        found = f"{_holder(run.lock)} is working on it"
        raise BadInput(f"run {run.name}", found, "wait for it or stop it, or use another --run name") from None


def _holder(path: Path) -> str:
    """Who wrote itself into a lock file, for a message."""
    try:
        pid, host = path.read_text(encoding="utf-8").split()
        return f"process {int(pid)} on {host}"
    except (OSError, ValueError):
        return "another process"
