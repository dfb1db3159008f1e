"""`zofo.load`: a run or a model ready to use in somebody's program, as `zofo generate` takes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zofo import models, named, saved
from zofo.adapting import folder, use
from zofo.config import build
from zofo.errors import BadInput
from zofo.guest import guest, refuse_checkpoint, spoken
from zofo.named import Found

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@guest()
def load(
    target: str | Path,
    *,
    which: str = "best",
    slot: str | None = None,
    adapter: str | Path | None = None,
    dtype: str | None = None,
    device: str = "auto",
    dir: str | Path = "runs",
) -> tuple[nn.Module, Any]:
    """A run's model with its trained theta and the adapter in use, or a model as it is; and its tokenizer.

    Args: target, a run (name or path) or a model; which, "best" (by validation) or "last" checkpoint; slot, another adapter than
    validation chose ("p", "s"; of tasks with their own, TASK or TASK/s); adapter, a folder that `zofo adapt` saved, instead; dtype, "fp32", "bf16" or
    "fp16", of all the weights, rounded to nearest (None: as they are stored: fp32, but of a run with `--model.weights` its own); device, "auto" (a run's own), "cpu", "cuda" or "mps"; dir, where
    runs are. The weights are in memory, whatever `--memory-cap` a run was trained under. Returns: the model in eval mode (with an adapter: peft's, the base's weights frozen), computing as its weights are held;
    a transformers tokenizer. Raises: BadInput. Cost: see `saved.open_run`; with `adapter` one more read of the weights, for the base's fingerprint.
    """
    refuse_checkpoint("load", which)
    if dtype is not None and dtype not in DTYPES:
        raise BadInput(f"load(dtype={dtype!r})", "unknown", f"choose one of: {', '.join(DTYPES)}")
    refuse_device(device)
    found = named.find(str(target), str(dir))
    named.refuse_which(found, which)
    model, tokenizer = opened(found, which, slot, str(adapter) if adapter is not None else None, warned, device)
    if dtype is not None:
        # not buffers: rotary frequencies in a half type are off by radians at long positions
        for parameter in model.parameters():
            parameter.data = parameter.data.to(DTYPES[dtype])
    return model, tokenizer


def refuse_device(device: str) -> None:
    """Raise BadInput for a device that is none, or that this machine has not."""
    try:
        models.device(build({"model.device": device}).model)
    except BadInput as error:
        do = "choose one of: auto, cpu, cuda, mps" if device not in ("cuda", "mps") else error.do
        raise BadInput(f"load(device={device!r})", error.found, do) from None


def opened(
    found: Found, which: str, slot: str | None, adapter: str | None, say: Callable[[str], None], device: str = "auto"
) -> tuple[nn.Module, Any]:
    """The model and tokenizer of what was found; device, "auto" for a run's own. Raises: BadInput."""
    where = {} if device == "auto" else {"model.device": device}
    named.refuse_slot(found, slot, adapter)
    if adapter is not None:
        used = use.opened(found, folder.find(adapter), where, which, say)
        return used.slots.model.eval(), used.tokenizer
    if found.run is not None:
        held = saved.open_run(found.run, which, slot, say, whole=True, device=device)
        return held.model.eval(), held.tokenizer
    model = models.load(found.source, build({"model.name": found.source.name, **where}).model)
    return model.eval(), models.load_tokenizer(found.source)


def warned(note: str) -> None:
    """Pass a note on as a warning, options as Python has them."""
    warnings.warn(spoken(note), stacklevel=2)
