"""zofo: fine-tune all the weights of a language model with forward passes, an adapter beside it by backpropagation.

`train`, `resume`, `evaluate`, `predict`, `generate`, `adapt` and `export` do what the commands of these names do (`evaluate`: `zofo eval`), `load` gives what came of a run;
`ZO` is the zeroth-order optimizer for any PyTorch loop, `Bilevel` the bilevel solver for anybody's loop. `zofo.core` holds the parts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zofo.adapting.run import adapt
    from zofo.begin import resume, train
    from zofo.core.optim import ZO
    from zofo.errors import BadInput, NotFinite, ZofoError
    from zofo.evaluating.run import evaluate
    from zofo.exporting import export
    from zofo.generating import generate
    from zofo.loading import load
    from zofo.methods.solver import Bilevel
    from zofo.predicting import predict

__version__ = "0.1.0"
__all__ = [
    "ZO",
    "BadInput",
    "Bilevel",
    "NotFinite",
    "ZofoError",
    "__version__",
    "adapt",
    "evaluate",
    "export",
    "generate",
    "load",
    "predict",
    "resume",
    "train",
]
PLACES = {
    "ZO": "zofo.core.optim",
    "Bilevel": "zofo.methods.solver",
    "train": "zofo.begin",
    "resume": "zofo.begin",
    "adapt": "zofo.adapting.run",
    "evaluate": "zofo.evaluating.run",
    "load": "zofo.loading",
    "predict": "zofo.predicting",
    "generate": "zofo.generating",
    "export": "zofo.exporting",
    "ZofoError": "zofo.errors",
    "BadInput": "zofo.errors",
    "NotFinite": "zofo.errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for (so that `zofo --help` need not import torch)."""
    if name not in PLACES:
        raise AttributeError(f"module 'zofo' has no attribute {name!r}")
    return getattr(importlib.import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
