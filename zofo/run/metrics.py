"""Metrics: one JSON object a line, appended; a torn last line is not there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zofo.errors import BadInput
from zofo.run import seam
from zofo.run.errors import Corrupt
from zofo.run.jsonfile import plain

MAX_LINE = 1 << 20  # bytes


class Metrics:
    """Metrics open for appending; made if missing, a damaged tail cut."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            seam.write_file(path, b"")
        whole = sum(len(line) for line, _ in _rows(path))
        if whole < path.stat().st_size:
            seam.cut_file(path, whole)
        with seam.told(path):
            self._file = seam.disk.extend(path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row as one whole line, seen by readers at once. Raises `ZofoError` when the disk refuses.

        Floats are exact; non-finite ones become the strings "nan", "inf", "-inf".
        """
        line = f"{json.dumps(plain(dict(row)), ensure_ascii=False, allow_nan=False)}\n".encode()
        with seam.told(self.path, len(line)):
            seam.disk.write(self._file, line)

    def sync(self) -> None:
        """Wait until all rows are on the disk (before a checkpoint is published)."""
        with seam.told(self.path):
            seam.disk.fsync(self._file)

    def close(self) -> None:
        """Close the file (twice does no harm); does not sync."""
        file, self._file = self._file, -1
        if file >= 0:
            with seam.told(self.path):
                seam.disk.close(file)


def _lines(path: Path) -> Iterator[bytes]:
    """Yield whole lines, with their ends; stop at a torn or endless one."""
    with path.open("rb") as file:
        while (line := file.readline(MAX_LINE)).endswith(b"\n"):
            yield line


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _rows(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Lines and their rows, without a damaged tail. Raises `Corrupt` when a good line follows a bad one."""
    if not path.is_file():
        raise BadInput(f"read {path}", "no such file", "name a run that has begun")
    found: list[tuple[bytes, dict[str, Any]]] = []
    bad = 0
    for number, line in enumerate(_lines(path), 1):
        row = _row(line)
        if row is None:
            bad = bad or number
        elif bad:
            raise Corrupt(f"read {path}", f"line {bad} is damaged", "restore the file, or delete that line")
        else:
            found.append((line, row))
    return found


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read all rows, in order; a torn last line is left out. Raises `BadInput` (missing) or `Corrupt`."""
    return [row for _, row in _rows(path)]


def cut_metrics(path: Path, length: int) -> str | None:
    """Cut the rows back to their first `length` bytes; returns a sentence when fewer are there (rows were lost)."""
    size = path.stat().st_size if path.exists() else 0
    if size > length:
        seam.cut_file(path, length)
    return f"{path.name} has {size} bytes where {length} are needed: some rows are lost" if size < length else None
