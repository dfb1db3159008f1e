"""What a run needs in memory, as far as it is known without running: sizes of weights, states and scratch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from zofo.config import Config
from zofo.methods.table import METHODS, moves_theta

UNKNOWN = -1
"""Stands for a size that is not estimated."""

WIDTH = 4  # bytes of an fp32 number


def sizes(config: Config, skeleton: nn.Module, adapter_count: int | None = None) -> list[tuple[str, int]]:
    """List what a run keeps in memory, in bytes (`UNKNOWN` for what is not estimated yet).

    Args: skeleton, the base model, on the meta device or loaded; adapter_count, numbers in one adapter
    (reckoned from the model's shapes when None). Everything is fp32; with dtype bf16 the weights stay
    fp32 too. Cost: a walk over the modules; no tensor is allocated.
    """
    m, theta = config.method, count(skeleton)
    row, held = METHODS[m.name], slots(config)
    adapter = 0 if not held else adapter_count if adapter_count is not None else adapter_numbers(config, skeleton)
    tuned = theta if moves_theta(config) else adapter if row.zeroth else 0
    learned = adapter * held if row.learners else 0
    found = [
        ("weights (fp32)", theta * WIDTH),
        (f"adapters ({held})", adapter * held * WIDTH),
        (f"optimizer of the adapters ({m.optimizer})", learned * WIDTH * (2 if m.optimizer == "adam" else 0)),
        ("gradients of an adapter, and their clipped copy", adapter * WIDTH * 2 if learned else 0),
        ("moments of what zeroth order moves (rule adam)", tuned * WIDTH * (2 if m.rule == "adam" else 0)),
        ("scratch for probing", scratch(config, skeleton) if moves_theta(config) else 0),
        ("logits and log-probabilities at answer positions", logits(config, skeleton)),
        ("activations", UNKNOWN),
    ]
    return [(name, size) for name, size in found if size]


def count(model: nn.Module) -> int:
    """Numbers in a model's parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def slots(config: Config) -> int:
    """How many adapters a run has."""
    return len(METHODS[config.method.name].load().slots(config.method))


def scratch(config: Config, skeleton: nn.Module) -> int:
    """Bytes of the largest piece of perturbed weights: a module's, a tile of a large one, an embedding's used rows."""
    from zofo.core.probe.affine import TILE

    if config.method.probe == "inplace":
        return 0
    rows = config.data.batch * config.data.max_length
    return max((piece(module, rows, TILE) for module in skeleton.modules()), default=0) * WIDTH


def piece(module: nn.Module, rows: int, tile: int) -> int:
    """Numbers of a module that stand in scratch together (at most, for an embedding: `rows` rows are in use)."""
    own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    if type(module) is nn.Embedding:
        return min(module.num_embeddings, rows) * module.embedding_dim
    if type(module) is nn.Linear and module.weight.numel() > tile:
        bias = 0 if module.bias is None else module.bias.numel()
        return max(1, tile // module.in_features) * module.in_features + bias
    return own


def logits(config: Config, skeleton: nn.Module) -> int:
    """Bytes of a batch's logits and log-probabilities, an answer being one token (more where answers are longer)."""
    vocabulary = int(getattr(getattr(skeleton, "config", None), "vocab_size", 0) or 0)
    return 2 * config.data.batch * vocabulary * WIDTH


def adapter_numbers(config: Config, skeleton: nn.Module) -> int:
    """Numbers in one adapter, from the model's shapes (0 where they do not say)."""
    shape: Any = getattr(skeleton, "config", None)
    if config.adapter.kind == "lora":
        return sum(config.adapter.r * sum(pair) for pair in lora_shapes(config, skeleton))
    hidden = int(getattr(shape, "hidden_size", 0) or 0)
    if config.adapter.kind == "prompt":
        return (config.adapter.tokens or 10) * hidden
    heads = int(getattr(shape, "num_attention_heads", 0) or 0)
    width = int(getattr(shape, "head_dim", 0) or 0) or (hidden // heads if heads else 0)
    keys = int(getattr(shape, "num_key_value_heads", 0) or heads)
    return (config.adapter.tokens or 5) * 2 * int(getattr(shape, "num_hidden_layers", 0) or 0) * keys * width


def lora_shapes(config: Config, skeleton: nn.Module) -> Iterator[tuple[int, int]]:
    """(inputs, outputs) of every module that LoRA adapts."""
    targets = set(config.adapter.targets) or default_targets(skeleton)
    for name, module in skeleton.named_modules():
        weight = getattr(module, "weight", None)
        if name.rsplit(".", 1)[-1] in targets and weight is not None and weight.dim() == 2:
            yield int(weight.shape[1]), int(weight.shape[0])


def default_targets(skeleton: nn.Module) -> set[str]:
    """The modules that peft adapts in this kind of model."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    return set(KNOWN.get(str(getattr(getattr(skeleton, "config", None), "model_type", "")), ()))
