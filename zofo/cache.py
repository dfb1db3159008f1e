"""zofo's cache: a folder of the user's for what can be made again (converted models, copies of bases, working copies)."""

from __future__ import annotations

import os
from pathlib import Path

from zofo.errors import BadInput
from zofo.run import seam

AGAIN = "give the command again"


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
