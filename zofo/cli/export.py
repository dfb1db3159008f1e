"""`zofo export`: a run as a model that transformers and peft load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zofo.cli.output import line
from zofo.cli.target import Dir, Run, Slot, Which
from zofo.run import folder


def export(
    run: Run,
    /,
    *,
    out: Annotated[str, Parameter(metavar="FOLDER", help="new folder to write")],
    merge: Annotated[
        bool | None,
        Parameter(help="plain weights, or weights with the adapter beside them (default: plain where it can be)"),
    ] = None,
    slot: Slot = None,
    which: Which = "best",
    dir: Dir = "runs",
) -> int:
    """Write a run's weights and adapter as plain transformers and peft files."""
    found = folder.find(run, dir)
    from zofo.exporting import exported

    line(f"exported to {exported(found, Path(out), merge, slot, which)}")
    return 0
