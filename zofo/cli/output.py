"""Tables and lines on standard output: rich on a terminal, plain tab-separated otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from zofo.errors import BadInput
from zofo.picture import FORMATS
from zofo.run import outfile


def plain(text: object) -> str:
    """Text in one line without control signs (line breaks and tabs become a space), fit for a line of output."""
    words = " ".join(str(text).split())
    return "".join(sign if sign.isprintable() else "?" for sign in words)


def refuse_no_picture(option: str, path: str | None) -> None:
    """Raise BadInput where a picture that an option names cannot be written at the end, or is of no known format."""
    outfile.refuse(option, path)
    if path is not None and Path(path).suffix.lower() not in FORMATS:
        raise BadInput(f"{option} {path}", "no format of pictures", f"end its name in {', '.join(FORMATS)}")


def line(text: str = "") -> None:
    """Write a line."""
    sys.stdout.write(f"{text}\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], header: bool = True) -> None:
    """Write a table; when standard output is not a terminal, tab-separated lines (`header`: with the column names)."""
    cells = [[plain(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        return pretty(columns, cells)
    for row in [list(columns), *cells] if header else cells:
        line("\t".join(row))
    return None


def pretty(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Draw a table on a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)
