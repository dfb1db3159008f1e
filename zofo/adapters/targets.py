"""Which modules LoRA goes to: by name, in the last layers alone, or to every linear layer."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from zofo.config import ALL_LINEAR, AdapterConfig
from zofo.core.weights.head import output_head
from zofo.errors import BadInput, nearest

LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")
"""The number of a module's layer, as peft reads it of a name."""


def where(config: AdapterConfig, model: nn.Module) -> dict[str, Any]:
    """peft's options that say where LoRA goes. Raises: BadInput for more layers than there are."""
    layers = last_layers(model, config.last)
    if config.targets != (ALL_LINEAR,):
        return {"target_modules": list(config.targets) or None, "layers_to_transform": layers or None}
    names = linear(model)  # by full names, which peft takes in whatever layer they are
    return {"target_modules": [name for name in names if not layers or layer_of(name) in layers]}


def linear(model: nn.Module, head: bool = False) -> list[str]:
    """Full names of a model's linear layers; without its output head, as peft's `all-linear` means them, or with it."""
    top = output_head(model)
    kinds: tuple[type[nn.Module], ...] = (
        nn.Linear,
        *(type(m) for m in model.modules() if type(m).__name__ == "Conv1D"),
    )
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    return [name for name, module in found if head or module is not top]


def layer_of(name: str) -> int | None:
    """The number of the layer that a module stands in."""
    found = LAYER.match(name)
    return int(found[1]) if found else None


def refuse_targets(model: nn.Module, config: AdapterConfig) -> None:
    """Raise BadInput for a target that is no module's name: peft passes over it where another one fits."""
    names = [name for name, _ in model.named_modules()]
    for target in config.targets:
        if target != ALL_LINEAR and not any(f".{name}".endswith(f".{target}") for name in names):
            ends = {name.rpartition(".")[2] for name in linear(model, head=True)} - {""}
            asked = f"--adapter.targets {' '.join(config.targets)}"
            raise BadInput(asked, f"the model has no module '{target}'", nearest(target, {ALL_LINEAR, *ends}))


def last_layers(model: nn.Module, last: int) -> list[int]:
    """The numbers of a model's last so many layers (0: none). Raises: BadInput where it has fewer, or does not say."""
    count = getattr(getattr(model, "config", None), "num_hidden_layers", 0) or 0
    if last > count:
        raise BadInput(f"--adapter.last {last}", f"the model has {count} layers", "take fewer, or 0 for all")
    return list(range(count - last, count)) if last else []
