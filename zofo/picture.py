"""A drawn figure as a file, written whole or not at all: PNG, or PDF or SVG for a paper. matplotlib is imported here, when needed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNDATED: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
"""Formats by a file's ending, and what keeps the time of day out of them: the same figures give the same bytes."""
FORMATS = tuple(f".{kind}" for kind in UNDATED)


def sheet(wide: float, high: float, dpi: int = 110) -> Figure:
    """An empty figure, inches wide and high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide, high), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_bytes(figure: Figure, kind: str = "png") -> bytes:
    """A figure in one of the formats."""
    from matplotlib import rc_context

    held = io.BytesIO()
    with rc_context({"svg.hashsalt": "zofo"}):
        figure.savefig(held, format=kind, metadata=UNDATED[kind])
    return held.getvalue()


def write(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file's ending, one of `FORMATS`."""
    from zofo.run.seam import write_file

    write_file(path, as_bytes(figure, path.suffix.lower().removeprefix(".")))
