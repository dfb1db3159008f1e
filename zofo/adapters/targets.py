"""Which modules LoRA goes to: by name, in the last layers alone, or to every linear layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from zofo.config import ALL_LINEAR, AdapterConfig
from zofo.core.probe.readers import bypassed
from zofo.core.weights.head import output_head
from zofo.errors import BadInput, nearest

LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")
"""The number of a module's layer, as peft reads it of a name."""


USUAL = (
    ("q_proj", "v_proj"), ("query", "value"), ("q_b_proj", "kv_b_proj"), ("q_proj", "kv_b_proj"), ("query_key_value",),
    ("qkv_proj",), ("Wqkv",), ("c_attn",), ("att_proj",), ("Wq", "Wv"), ("q_proj", "kv_proj"), ("in_proj", "x_proj"), ("in_proj",),
)  # fmt: skip
"""What models call the layers that make queries and values (of state space models: what goes into the state), first found."""


def where(config: AdapterConfig, model: nn.Module) -> dict[str, Any]:
    """peft's options that say where LoRA goes. Raises: BadInput for more layers than there are."""
    layers = last_layers(model, config.last)
    if config.targets != (ALL_LINEAR,):
        names = list(config.targets) or usual(model)
        refuse_bypassed(model, names)
        apart = [name for name in unread(model) if any(f".{name}".endswith(f".{target}") for target in names)]
        return {"target_modules": names, "layers_to_transform": layers or None, "exclude_modules": apart or None}
    idle = bypassed(model)
    names = [name for name in linear(model) if model.get_submodule(name) not in idle]
    # by full names, which peft takes in whatever layer they are
    return {"target_modules": [name for name in names if not layers or layer_of(name) in layers]}


def usual(model: nn.Module) -> list[str]:
    """Where LoRA goes where nobody says: the layers that peft knows of this kind of model, else its queries' and values'. Raises: BadInput where it has none that are called so."""
    ends, kind = last_names(model), getattr(getattr(model, "config", None), "model_type", "")
    known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind)
    for names in ([known] if isinstance(known, list) else []) + [list(names) for names in USUAL]:
        if ends.issuperset(names) or (names is known and ends.intersection(names)):
            return list(names)
    raise BadInput("adapter", f"of a {kind} model it is not known which layers LoRA goes on", named(model))


def named(model: nn.Module) -> str:
    """What to do: name modules, and which there are."""
    return f"name the modules with --adapter.targets (there are: {', '.join(sorted(last_names(model)))})"


def last_names(model: nn.Module) -> set[str]:
    """What a model's linear layers are called, without where they are."""
    return {name.rpartition(".")[2] for name in linear(model, head=True)} - {""}


def linear(model: nn.Module, head: bool = False) -> list[str]:
    """Full names of a model's linear layers; without its output head, as peft's `all-linear` means them, or with it.

    A router of experts, which gives its choice too, is none, nor are layers that no text goes through.
    """
    top, apart = output_head(model), set(unread(model))
    found = [(name, module) for name, module in model.named_modules() if multiplies(module) and name not in apart]
    return [name for name, module in found if head or module is not top]


def unread(model: nn.Module) -> list[str]:
    """Full names of the linear layers that no text goes through: of a model that sees pictures too, those beside its decoder and head."""
    config, find = getattr(model, "config", None), getattr(model, "get_decoder", None)
    if find is None or not hasattr(config, "get_text_config") or config.get_text_config() is config:  # type: ignore[union-attr]
        return []
    inside = {*find().modules(), output_head(model)}
    return [name for name, module in model.named_modules() if multiplies(module) and module not in inside]


def multiplies(module: nn.Module) -> bool:
    """Whether a module is a linear layer."""
    name = type(module).__name__
    return name == "Conv1D" or (isinstance(module, nn.Linear) and not name.endswith("Router"))


def refuse_experts(model: nn.Module, config: AdapterConfig) -> None:
    """Raise BadInput where peft has put LoRA on the experts of a mixture instead of the layers that were named as experts once were."""
    wrapped = [module for module in model.modules() if type(module).__name__ == "ParamWrapper"]
    if wrapped:
        found = "peft puts it on the parameters of the mixture's experts instead of linear layers that are called so"
        do = "name other modules, such as attention's: --adapter.targets q_proj,k_proj,v_proj,o_proj"
        raise BadInput(f"--adapter.targets {' '.join(config.targets)}", found, do)


def layer_of(name: str) -> int | None:
    """The number of the layer that a module stands in."""
    found = LAYER.match(name)
    return int(found[1]) if found else None


def refuse_bypassed(model: nn.Module, targets: Sequence[str]) -> None:
    """Raise BadInput for a target that does not run: the module around it reads its weight, and LoRA on it would do nothing."""
    idle = bypassed(model)
    names = [name for name, module in model.named_modules() if module in idle]
    for target in targets:
        if found := next((name for name in names if f".{name}".endswith(f".{target}")), None):
            what = f"the layer around {found} reads its weight and does not run it, so that LoRA on it does nothing"
            raise BadInput(f"--adapter.targets {' '.join(targets)}", what, "name other modules, or all-linear")


def refuse_targets(model: nn.Module, config: AdapterConfig) -> None:
    """Raise BadInput for a target that is no module's name: peft passes over it where another one fits."""
    names = [name for name, _ in model.named_modules()]
    for target in config.targets:
        if target != ALL_LINEAR and not any(f".{name}".endswith(f".{target}") for name in names):
            asked, there = f"--adapter.targets {' '.join(config.targets)}", {ALL_LINEAR, *last_names(model)}
            raise BadInput(asked, f"the model has no module '{target}'", nearest(target, there))


def last_layers(model: nn.Module, last: int) -> list[int]:
    """The numbers of a model's last so many layers (0: none). Raises: BadInput where it has fewer, or does not say."""
    count = getattr(getattr(model, "config", None), "num_hidden_layers", 0) or 0
    if last > count:
        raise BadInput(f"--adapter.last {last}", f"the model has {count} layers", "take fewer, or 0 for all")
    return list(range(count - last, count)) if last else []
