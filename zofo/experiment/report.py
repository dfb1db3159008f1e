"""What an experiment leaves for readers: table.json, table.md and the plots."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zofo.experiment import plots, text
from zofo.experiment.cells import Cell
from zofo.experiment.grid import Grid
from zofo.experiment.lines import lines
from zofo.experiment.store import Store
from zofo.experiment.table import tabulate
from zofo.run import seam
from zofo.run.jsonfile import write_json


def write(grid: Grid, store: Store, cells: Iterable[Cell]) -> dict[str, Any]:
    """Make tables and plots of what is there; returns what table.json holds."""
    cells = list(cells)
    seam.make_folder(store.path)
    found = tabulate(grid, store, cells)
    write_json(store.path / "table.json", found)
    seam.write_file(store.path / "table.md", text.document(found, store.path.name).encode())
    plots.draw(store.path, found, lines(grid, store, cells))
    return found
