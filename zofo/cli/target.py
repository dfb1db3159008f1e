"""What RUN, RUN|MODEL and options about them mean on the command line."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from zofo.named import Found, find

__all__ = ["Adapter", "Dir", "Found", "Run", "Slot", "Target", "Which", "find"]

Run = Annotated[str, Parameter(name="RUN", help="name of a run (a folder in --dir), or its path")]
Target = Annotated[str, Parameter(name="RUN|MODEL", help="a run (name or path), or a model (as --model takes it)")]
Dir = Annotated[str, Parameter(name="--dir", metavar="FOLDER", help="folder that holds runs")]
Which = Annotated[Literal["best", "last"], Parameter(help="which checkpoint of the run")]
Slot = Annotated[
    str | None,
    Parameter(help="which adapter of the run: p or s; where each training task has its own: TASK, or TASK/s"),
]
Adapter = Annotated[
    str | None,
    Parameter(name="--adapter", metavar="FOLDER", help="an adapter that `zofo adapt` saved, on the base it fits"),
]
