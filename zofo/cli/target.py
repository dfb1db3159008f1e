"""What RUN and RUN|MODEL mean on the command line."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from zofo.named import Found, find, refuse_slot, refuse_which

__all__ = ["Dir", "Found", "Run", "Target", "find", "refuse_slot", "refuse_which"]

Run = Annotated[str, Parameter(name="RUN", help="name of a run (a folder in --dir), or its path")]
Target = Annotated[str, Parameter(name="RUN|MODEL", help="a run (name or path), or a model (as --model takes it)")]
Dir = Annotated[str, Parameter(name="--dir", metavar="FOLDER", help="folder that holds runs")]
