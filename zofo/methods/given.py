"""What users of `zofo.Bilevel` give it: a model, an adapter's configuration, options, and a loss; refused in words of Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn

from zofo.config import AdapterConfig, Config, MethodConfig, build
from zofo.errors import BadInput
from zofo.methods.check import check
from zofo.methods.table import LEARNER, METHODS, SKETCH, ZEROTH

OTHERWISE = {
    "probe_dtype": "your loss says how it is computed, a point at a time",
    "stack": "your loss says how it is computed, a point at a time",
    "inference_adapter": "you choose the adapter, with `solver.slots.use`",
    "accumulate_lower": "a list of batches says how many there are",
    "accumulate_upper": "a list of batches says how many there are",
}
"""Options of a run that are said in another way here."""


FLAG = re.compile(r"--method\.(\w+)(?: ([^\s,;()]+))?")
"""An option of the method as the command line writes it, with a value."""


def refuse_kind(model: Any, adapter: Any) -> None:
    """Raise BadInput for what is no module, or no configuration of an adapter."""
    if not isinstance(model, nn.Module):
        found = f"a {type(model).__name__} is no module"
        raise BadInput("Bilevel(model)", found, "give a torch module; `zofo.load` loads one by its name")
    if not isinstance(adapter, PeftConfig | AdapterConfig):
        found = f"a {type(adapter).__name__} is no configuration of an adapter"
        do = "give one of peft's, LoraConfig(task_type='CAUSAL_LM', r=8), or zofo.config.AdapterConfig(r=8)"
        raise BadInput("Bilevel(adapter)", found, do)


def checked(options: dict[str, Any], steps: int | None) -> MethodConfig:
    """The method's options, validated as `zofo train` does. Raises: BadInput, in words of Python."""
    refuse_names(options)
    try:
        config = build({f"method.{name}": value for name, value in options.items()})
        check(config, [f"method.{name}" for name in options])
    except BadInput as error:
        raise BadInput(f"Bilevel({spoken(error.asked)})", spoken(error.found), advice(error.do)) from None
    moving = [
        name for name in ("schedule", "schedule_theta", "lam_schedule") if getattr(config.method, name) != "constant"
    ]
    if moving and steps is None:
        raise BadInput(f"Bilevel({moving[0]}=...)", "a schedule needs the number of iterations", "give steps=N")
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise BadInput(f"Bilevel(steps={steps!r})", "no number of iterations", "give a whole number from 1")
    return config.method


def refuse_names(options: Mapping[str, Any]) -> None:
    """Raise BadInput for an option that the solver has not, or that is said in another way here."""
    if "name" in options:
        raise BadInput(f"Bilevel(name={options['name']!r})", "this is the bilevel solver", "leave `name` out")
    if "objective" in options:
        raise BadInput("Bilevel(objective=...)", "the objective is the loss that you give", "leave it out")
    for name, found in OTHERWISE.items():
        if name in options:
            raise BadInput(f"Bilevel({name}=...)", found, "leave it out")
    for name in options:
        if name not in MethodConfig.model_fields:
            raise BadInput(f"Bilevel({name}=...)", "no such option", near(name))


def near(name: str) -> str:
    """A hint for a name that is no option: those that begin with it, else the nearest ones."""
    own = METHODS["bilevel"].options(Config()) | LEARNER | ZEROTH | SKETCH | {"lower_eps", "lam_start"}
    known = sorted(own - OTHERWISE.keys())
    close = [k for k in known if k.startswith(f"{name}_")] or get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"choose of: {', '.join(known)}"


def spoken(text: str) -> str:
    """A text with options as Python writes them: `lam=-1` for `--method.lam -1`."""
    return FLAG.sub(lambda found: f"{found[1]}={found[2] or '...'}", text)


def advice(do: str) -> str:
    """What to do, with options as Python writes them, and the page that lists them for the command line's help."""
    return "see docs/methods.md, or `zofo train --help`" if do.startswith("see `zofo") else spoken(do)


def loss_of(loss: Callable[[nn.Module, Any], Any], probed: set[torch.dtype], model: nn.Module, batch: Any) -> Tensor:
    """The user's loss of a batch; its type is put among those `probed` where no gradient is wanted. Raises: BadInput where it is no tensor, not one a row, or one that no gradient can come from where one is wanted."""
    value = loss(model, batch)
    if not isinstance(value, Tensor):
        found = f"it returned a value of type {type(value).__name__}, not a tensor"
        raise BadInput(
            "Bilevel(loss=...)",
            found,
            "return the losses, a row each, or their mean (return out.loss; micro-batches then of one size)",
        )
    refuse_shape(value.shape, batch)
    if not torch.is_grad_enabled():
        probed.add(value.dtype)
    if torch.is_grad_enabled() and not value.requires_grad:
        found = "it returned a tensor without a gradient, and the adapter learns by backpropagation"
        do = "compute it of the model that is given, without torch.no_grad, detach, item or disable_adapter"
        raise BadInput("Bilevel(loss=...)", found, do)
    return value


def refuse_shape(shape: torch.Size, batch: Any) -> None:
    """Raise BadInput for losses that are not one a row: of tokens, padding counts in their mean. One for each so many rows (pairs, choices) is."""
    if len(shape) > 1:
        found = f"it returned a tensor of shape {tuple(shape)}"
    elif len(shape) == 1 and shape[0] != 1 and (n := rows(batch)) and not fits(shape[0], n, batch):
        found = f"it returned {shape[0]} losses, and the batch has {n} row{'' if n == 1 else 's'}"
    else:
        return
    do = "return the losses, a row each, shape (rows,), or their mean (a row's own mean leaves out what is masked)"
    raise BadInput("Bilevel(loss=...)", found, do)


def fits(losses: int, rows: int, batch: Any) -> bool:
    """Whether losses are one for each row, or so many rows, or one for each part of a tuple, or each row of its parts together."""
    parts = len(batch) if isinstance(batch, (tuple, list)) else 1
    return losses > 0 and (rows % losses == 0 or losses in (parts, parts * rows))


def rows(batch: Any) -> int | None:
    """How many rows a batch certainly has: texts, or the tensors of it, all as long, of which one has a row in each; else None."""
    if isinstance(batch, (tuple, list)) and batch and all(isinstance(row, str) for row in batch):
        return len(batch)
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else [batch]
    tensors = [part for part in parts if isinstance(part, Tensor) and part.dim()]
    lengths = {len(part) for part in tensors}
    return lengths.pop() if len(lengths) == 1 and any(part.dim() > 1 for part in tensors) else None
