"""What a run needs in memory, before it has run: what stands, and what its passes hold at their peak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from zofo.config import Config
from zofo.core.probe.affine import TILE
from zofo.memory import dry
from zofo.memory.work import Work
from zofo.methods.table import METHODS, moves_theta
from zofo.models import recompute

UNKNOWN = -1
"""Stands for a size that is not estimated."""

WIDTH = 4  # bytes of an fp32 number
PASSES = {
    "learning": "an adapter's forward and backward pass",
    "probing": "a forward pass of the zeroth-order level",
    "moving": "the zeroth-order update",
    "scoring": "scoring validation and test rows",
}
WHEN = {"before": "before training and ever after", "steps": "from the first step on"} | PASSES
"""The times that a size may belong to, in words."""


@dataclass(frozen=True)
class Size:
    """Bytes of something that a run holds (or `UNKNOWN`), and when.

    when: a key of `WHEN`. Of the `PASSES` the largest counts, since they come one after another.
    """

    name: str
    bytes: int
    when: str


def estimate(config: Config, skeleton: nn.Module, work: Work, adapter_count: int | None = None) -> list[Size]:
    """List what a run holds, in bytes that torch allocates; everything is fp32, and bf16 only where it is computed in.

    Not in it: Python and its libraries, what numba and BLAS keep for themselves, and what malloc adds on a CPU
    (measured there: 30 to 50 % of the activations; nothing with MALLOC_MMAP_THRESHOLD_=65536, which costs time).
    Args: skeleton, the base model on the meta device, which is used up: it gets adapters and fake weights;
    work, its largest batches; adapter_count, numbers in one adapter (reckoned from the model's shapes when None).
    Cost: a second or two; no tensor of the model's size is allocated.
    """
    rows, tokens = work.shape
    found = [*standing(config, skeleton, rows * tokens, adapter_count), *passes(config, skeleton, work, adapter_count)]
    return [size for size in found if size.bytes]


def standing(config: Config, skeleton: nn.Module, ids: int, adapter_count: int | None = None) -> list[Size]:
    """What stands beside the passes: known from the shapes, and from how many token ids a batch has."""
    m, row, held = config.method, METHODS[config.method.name], slots(config)
    theta, adapter = count(skeleton), adapter_of(config, skeleton, adapter_count)
    tuned = theta if moves_theta(config) else adapter if row.zeroth else 0
    moments = adapter * held * (2 if m.optimizer == "adam" else 0) if row.learners else 0
    return [
        Size("weights (fp32)", theta * WIDTH, "before"),
        Size(f"adapters ({held})", adapter * held * WIDTH, "before"),
        Size("moments of what zeroth order moves (rule adam)", tuned * WIDTH * 2 * (m.rule == "adam"), "before"),
        Size(f"optimizer of the adapters ({m.optimizer})", moments * WIDTH, "steps"),
        Size("copies that a failed step goes back to", (adapter * held + moments) * WIDTH * row.learners, "steps"),
        Size("scratch for probing", scratch(config, skeleton, ids) if moves_theta(config) else 0, "steps"),
    ]


def passes(config: Config, skeleton: nn.Module, work: Work, adapter_count: int | None = None) -> list[Size]:
    """What each kind of pass holds at its peak; `UNKNOWN` where a model cannot be run without its weights."""
    m, row = config.method, METHODS[config.method.name]
    adapter, largest = adapter_of(config, skeleton, adapter_count), max(p.numel() for p in skeleton.parameters())
    kept = {name: tokens * cached(skeleton) * width(config) for name, tokens in (work.written or {}).items()}
    exact = moves_theta(config) and m.probe == "scratch"
    if config.model.activation_checkpointing:
        recompute(skeleton)
    try:
        made = dry.hollow(skeleton, config, METHODS[m.name].load().slots(m))
        found = learning(config, made, work, adapter) if row.learners else []
        found += told("probing", dry.forward(made, work.loss, work.batch, exact)) if row.zeroth else []
        found += told("scoring", dry.forward(made, work.score, work.rows)) if work.score else []
    except Exception:  # whatever an architecture's own code does with numbers that are not there
        found = [
            Size("activations and logits", UNKNOWN, name)
            for name in ("learning", "probing")
            if row.learners or name == "probing"
        ]
    found += [Size("keys and values of answers that are written", size, name) for name, size in kept.items()]
    moved = largest if moves_theta(config) else adapter
    return [*found, Size("the largest tensor's update (rule adam)", 4 * moved * WIDTH * (m.rule == "adam"), "moving")]


def learning(config: Config, made: dry.Hollow, work: Work, adapter: int) -> list[Size]:
    """A lower-level step's pass: backpropagation, or two points of the adapter from a copy of it."""
    if config.method.lower == "first-order":
        return told("learning", dry.backward(made, work.loss, work.batch))
    copies = Size("a copy of the adapter and its gradient", 2 * adapter * WIDTH, "learning")
    return [copies, *told("learning", dry.forward(made, work.loss, work.batch))]


def told(when: str, parts: dry.Parts) -> list[Size]:
    """A pass's parts, the layers' first; those below a thousandth are left out."""
    least = sum(parts.values()) / 1000
    names = (dry.LAYERS, dry.COPIES, dry.HEAD, dry.SLOPES)
    return [Size(name, parts[name], when) for name in names if parts.get(name, 0) > least]


def total(sizes: Sequence[Size], steps_only: bool = False, above: bool = False) -> int:
    """Bytes that stand together at the most: everything that stays, and the largest pass (what is unknown: left out).

    steps_only, without the passes of scoring; above, without what stands before training.
    """
    sums = dict.fromkeys(("before", "steps", *PASSES), 0)
    for size in sizes:
        sums[size.when] += max(0, size.bytes)
    most = max(sums[name] for name in PASSES if not (steps_only and name == "scoring"))
    return sums["steps"] + most + (0 if above else sums["before"])


def whole(sizes: Sequence[Size]) -> bool:
    """Whether everything is estimated."""
    return all(size.bytes != UNKNOWN for size in sizes)


def width(config: Config) -> int:
    """Bytes of a number that is computed."""
    return 2 if config.model.dtype == "bf16" else WIDTH


def count(model: nn.Module) -> int:
    """Numbers in a model's parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def slots(config: Config) -> int:
    """How many adapters a run has."""
    return len(METHODS[config.method.name].load().slots(config.method))


def scratch(config: Config, skeleton: nn.Module, ids: int) -> int:
    """Bytes of the largest piece of perturbed weights: a module's, a tile of a large one, an embedding's used rows."""
    if config.method.probe == "inplace":
        return 0
    return max((piece(module, ids, TILE) for module in skeleton.modules()), default=0) * WIDTH


def piece(module: nn.Module, rows: int, tile: int) -> int:
    """Numbers of a module that stand in scratch together (at most, for an embedding: `rows` rows are in use)."""
    own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    if type(module) is nn.Embedding:
        return min(module.num_embeddings, rows) * module.embedding_dim
    if type(module) is nn.Linear and module.weight.numel() > tile:
        bias = 0 if module.bias is None else module.bias.numel()
        return max(1, tile // module.in_features) * module.in_features + bias
    return own


def adapter_of(config: Config, skeleton: nn.Module, known: int | None = None) -> int:
    """Numbers in one of the run's adapters (0 where it has none)."""
    return 0 if not slots(config) else adapter_numbers(config, skeleton) if known is None else known


def cached(skeleton: nn.Module) -> int:
    """Numbers that a model keeps of each token: keys and values of all layers."""
    shape: Any = getattr(skeleton, "config", None)
    heads, hidden = (int(getattr(shape, name, 0) or 0) for name in ("num_attention_heads", "hidden_size"))
    each = int(getattr(shape, "head_dim", 0) or 0) or (hidden // heads if heads else 0)
    keys = int(getattr(shape, "num_key_value_heads", 0) or heads)
    return 2 * int(getattr(shape, "num_hidden_layers", 0) or 0) * keys * each


def adapter_numbers(config: Config, skeleton: nn.Module) -> int:
    """Numbers in one adapter, from the model's shapes (0 where they do not say)."""
    if config.adapter.kind == "lora":
        return sum(config.adapter.r * sum(pair) for pair in lora_shapes(config, skeleton))
    if config.adapter.kind == "prompt":
        return (config.adapter.tokens or 10) * int(getattr(getattr(skeleton, "config", None), "hidden_size", 0) or 0)
    return (config.adapter.tokens or 5) * cached(skeleton)


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
