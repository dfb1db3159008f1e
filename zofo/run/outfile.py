"""A file that the user asks for: refused at the start where it cannot be written at the end; a link is written through."""

from __future__ import annotations

from pathlib import Path

from zofo.errors import BadInput


def refuse(option: str, path: str | Path | None) -> None:
    """Raise BadInput where a file that an option names cannot be written: no folder for it, or something else than a file there."""
    if path is None:
        return
    place = written_to(path)
    if not place.parent.is_dir():
        raise BadInput(f"{option} {path}", "its folder does not exist", "make it first")
    if place.is_dir():
        raise BadInput(f"{option} {path}", "it is a folder", "name a file")
    if place.exists() and not place.is_file():
        raise BadInput(f"{option} {path}", "it is no regular file, and would be replaced by one", "name another")


def written_to(path: str | Path) -> Path:
    """Where a file is written: what a link points to stays what it is called by."""
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError):  # links in a circle
        return Path(path)
