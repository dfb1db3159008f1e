"""Slots: the named adapters p and s on one base model, over peft.

peft keeps both copies in one model and switches between them. Here a slot is used by name, its
parameters are read and written by names without the slot in them, and p and s start from streams
of the run's seed (or from equal values).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from zofo.adapters.targets import named, refuse_experts, refuse_targets, where
from zofo.config import AdapterConfig
from zofo.core import streams
from zofo.core.weights.head import output_head
from zofo.errors import BadInput, nearest
from zofo.kept import arguments, keeps_keys

TOKENS = {"prefix": 5, "prompt": 10}  # virtual tokens where the configuration says 0 (the papers' numbers)


@dataclass(frozen=True, repr=False)  # thousands of numbers
class Slots:
    """A peft model and, for each slot, its parameters by name (the slot's own name taken out)."""

    model: PeftModel
    params: dict[str, dict[str, nn.Parameter]]

    def use(self, slot: str) -> None:
        """Make a slot the active adapter. Raises: BadInput for one that there is not. Cost: a walk over the modules."""
        if slot not in self.params:
            raise BadInput(f"slot {slot!r}", "there is no such adapter", nearest(slot, self.params))
        if self.model.active_adapter != slot:
            self.model.set_adapter(slot)

    @property
    def by_row(self) -> bool:
        """Whether rows of one batch can go through different slots: LoRA (peft ignores the wish for others, and of an MPT), and not on the output head.

        To the head go the wanted positions of all rows, which peft would take for rows.
        """
        if getattr(getattr(self.model.get_base_model(), "config", None), "model_type", "") == "mpt":
            return False
        kinds = {str(getattr(c.peft_type, "value", c.peft_type)) for c in self.model.peft_config.values()}
        head = output_head(self.model.get_base_model())
        return kinds == {"LORA"} and not hasattr(head, "lora_A")

    @contextmanager
    def rows(self, names: Sequence[str]) -> Iterator[None]:
        """Run a block in which row i of every batch goes through slot names[i] (eval mode, LoRA)."""

        def hook(module: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**options, "adapter_names": list(names)}

        handle = self.model.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield
        except BaseException:
            unnamed(self.model)
            raise
        finally:
            handle.remove()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Run a block with the base model alone."""
        with self.model.disable_adapter():
            yield

    def list(self, slot: str) -> list[nn.Parameter]:
        """A slot's parameters, in a fixed order."""
        return list(self.params[slot].values())

    def tensors(self, slot: str) -> dict[str, Tensor]:
        """A copy of a slot's parameters by name."""
        return {name: p.detach().clone() for name, p in self.params[slot].items()}

    @torch.no_grad()
    def load(self, slot: str, tensors: Mapping[str, Tensor]) -> None:
        """Write values into a slot. Raises `BadInput` when the names or shapes are not this adapter's."""
        own = self.params[slot]
        wrong = sorted(set(own) ^ set(tensors)) or [n for n in own if own[n].shape != tensors[n].shape]
        if wrong:
            raise BadInput(
                f"adapter {slot}", f"tensor {wrong[0]} does not fit this model and adapter", "use the run's own"
            )
        for name, param in own.items():
            param.copy_(tensors[name])
        torch.clear_autocast_cache()  # an autocast block around the caller holds half copies of the old values

    def copy(self, source: str, target: str) -> None:
        """target <- source."""
        self.load(target, self.params[source])


def unnamed(model: nn.Module) -> None:
    """Take off a model what peft leaves on it of a pass through several adapters that did not end: hooks that go on naming rows' adapters."""
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if "adapter_names" in getattr(hook, "keywords", {}):
                del module._forward_pre_hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)


def peft_config(config: AdapterConfig, model: nn.Module) -> PeftConfig:
    """Translate our options into peft's (which looks for the number of heads under some names alone; a prompt has no use for it)."""
    tokens = config.tokens or TOKENS.get(config.kind, 0)
    heads = getattr(getattr(model, "config", None), "num_attention_heads", None)
    if config.kind == "prefix":
        return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens, num_attention_heads=heads)
    if config.kind == "prompt":
        return PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=tokens, prompt_tuning_init="SAMPLE_VOCAB",
            num_attention_heads=heads or 1,
        )  # fmt: skip
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=cast(int, config.alpha),
        lora_dropout=config.dropout,
        fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in model.modules()),
        **cast(Any, where(config, model)),
    )


def refuse_adapted(model: nn.Module) -> None:
    """Raise BadInput for a model that has adapters of peft's: theirs would be taken for weights of the base."""
    if isinstance(model, PeftModel) or any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise BadInput("adapter", "the model has adapters already", "load it anew, or take them off (peft: `unload`)")


def refuse_kinds(config: LoraConfig) -> None:
    """Raise BadInput for kinds of LoRA that train or read the base's weights beside its modules, or begin by changing them."""
    if config.modules_to_save:
        found = "it trains copies of whole modules, and a slot holds LoRA alone"
        do = "leave it out (theta moves these weights), or use plain LoRA on them"
        raise BadInput(f"adapter: modules_to_save {list(config.modules_to_save)}", found, do)
    if config.use_dora:
        raise BadInput("adapter: use_dora", "it reads weights of the base outside their modules", "use plain LoRA")
    if config.init_lora_weights not in (True, False, "gaussian", "orthogonal"):
        found = "it begins by changing the base, which two adapters share"
        raise BadInput(f"adapter: init_lora_weights {config.init_lora_weights!r}", found, "use True or 'gaussian'")


def refuse_virtual(model: nn.Module, kind: str) -> None:
    """Raise BadInput for virtual tokens on a model that cannot have them: keys and values where it keeps other states, or
    words that it looks up a second time (a table for each layer)."""
    again = getattr(getattr(model, "config", None), "hidden_size_per_layer_input", 0)
    if kind == "PREFIX_TUNING" and not ("past_key_values" in arguments(model) and keeps_keys(model)):
        found = "the model has layers that keep no keys and values of what they read"
        raise BadInput("adapter: prefix", found, "use LoRA")
    if kind == "PROMPT_TUNING" and again:
        found = "the model looks its words up in every layer, and virtual tokens are none"
        raise BadInput("adapter: prompt", found, "use LoRA")


@contextmanager
def silent() -> Iterator[None]:
    """A block without peft's warnings of what is meant, or refused after it (patterns of experts)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        warnings.filterwarnings("ignore", message="Adapter name .* should not be contained in the prefix")
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def attach(
    model: nn.Module, config: AdapterConfig | PeftConfig, names: Sequence[str], seed: int, shared: bool = True
) -> Slots:
    """Put adapters on a model (in place) and return them as slots.

    Args: config, ours or a peft configuration of LoRA, prefix or prompt tuning; names, the slots, ("p",) or
    ("p", "s"); seed, the run's; shared, all start from the first one's values (else from streams of their own).
    A prefix starts from keys and values of real tokens, a prompt from real token embeddings.
    Raises: BadInput when peft does not know where to put the adapter, or it trains more than a slot holds. Cost: the adapters; a prefix
    also one forward pass over its few tokens.
    """
    refuse_adapted(model)
    if isinstance(config, AdapterConfig) and config.kind == "lora":
        refuse_targets(model, config)
    elif isinstance(config, LoraConfig):
        refuse_kinds(config)
    chosen = config if isinstance(config, PeftConfig) else peft_config(config, model)
    refuse_virtual(model, str(getattr(chosen.peft_type, "value", chosen.peft_type)))
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    try:
        with silent():
            with streams.seeded(seed, "adapter", 0):
                peft = cast(PeftModel, get_peft_model(cast(Any, model), chosen, adapter_name=names[0]))
            for i, name in enumerate(names[1:], 1):
                with streams.seeded(seed, "adapter", 0 if shared else i):
                    peft.add_adapter(name, chosen)
    except (ValueError, KeyError, AttributeError) as error:
        text = " ".join(str(error).split())[:200]
        where = "arget" in text  # target modules
        do = named(model) if where else "see peft's configuration (task_type CAUSAL_LM)"
        raise BadInput("adapter", text if where else f"peft: {type(error).__name__}: {text}", do) from None
    peft.to(device)
    slots = Slots(peft, {name: parameters(peft, name, dtype) for name in names})
    try:
        refuse_others(slots, chosen)
        if isinstance(config, AdapterConfig):
            refuse_experts(peft, config)
        for i, name in enumerate(names):
            if chosen.peft_type == "PREFIX_TUNING" and device.type != "meta":  # a skeleton has no keys and values
                start_prefix(slots, name, seed, 0 if shared else i)
            if shared and i:
                slots.copy(names[0], name)
        slots.use(names[0])
    except BaseException:
        detach(slots)
        raise
    return slots


def detach(slots: Slots) -> nn.Module:
    """Take the adapters off again and return the base, its weights those that it had. The slots are no more."""
    peft = cast(Any, slots.model)
    learned = any(config.is_prompt_learning for config in slots.model.peft_config.values())
    return cast(nn.Module, peft.get_base_model() if learned else peft.unload())


def refuse_others(slots: Slots, config: PeftConfig) -> None:
    """Raise when an adapter trains something that is not in its slot (other families, `modules_to_save`, a projection)."""
    held = {id(param) for own in slots.params.values() for param in own.values()}
    other = [name for name, p in slots.model.named_parameters() if p.requires_grad and id(p) not in held]
    projected = getattr(config, "prefix_projection", False)
    if other or projected or not all(slots.params.values()):
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        found = (
            f"{kind} with a projection" if projected else f"{kind} trains {other[0] if other else 'nothing in a slot'}"
        )
        raise BadInput("adapter", found, "use plain LoRA, prefix tuning or prompt tuning")


@contextmanager
def learning(model: nn.Module, dropout: bool) -> Iterator[None]:
    """Run a block in eval mode but for what a backward pass asks for: recomputed activations, and the adapters' dropout.

    Only those modules are put in train mode, and a layer's own rates (OPT keeps them as numbers) are 0 meanwhile, so
    the base's dropout stays off.
    """
    model.eval()
    wanted = [
        module
        for name, module in model.named_modules()
        if getattr(module, "gradient_checkpointing", False) or (dropout and ".lora_dropout." in name)
    ]
    rates = [(m, k, v) for m in wanted for k, v in vars(m).items() if "dropout" in k and isinstance(v, float)]
    try:
        for module in wanted:
            module.training = True
        for module, key, _ in rates:
            setattr(module, key, 0.0)
        yield
    finally:
        for module in wanted:
            module.training = False
        for module, key, value in rates:
            setattr(module, key, value)


def parameters(peft: PeftModel, slot: str, dtype: torch.dtype) -> dict[str, nn.Parameter]:
    """A slot's parameters by name; an fp64 base gets fp64 adapters."""
    found = {}
    for name, param in peft.named_parameters():
        own = re.sub(rf"((?:^|\.)lora_\w+|^prompt_encoder)\.{re.escape(slot)}(?=\.|$)", r"\1", name, count=1)
        if own != name:  # behind peft's own word: the model may have a module of the slot's name
            if dtype == torch.float64:
                param.data = param.data.double()
            found[own] = param
    return found


@torch.no_grad()
def start_prefix(slots: Slots, slot: str, seed: int, stream: int) -> None:
    """Set a prefix to the keys and values that the base model computes for random real tokens (as MeZO does)."""
    peft, (param,) = slots.model, slots.list(slot)
    base, tokens = cast(Any, peft.get_base_model()), param.shape[0]
    embedding = cast(nn.Embedding, base.get_input_embeddings())
    drawn = streams.generator(seed, "prefix", stream).integers(0, embedding.num_embeddings, tokens)
    ids, held = torch.from_numpy(drawn)[None].to(param.device), embedding.weight.dtype
    half = held in (torch.bfloat16, torch.float16)  # matrices of a half type are computed with in it, vectors are fp32
    with slots.off(), torch.autocast(param.device.type, held if half else None, enabled=half):
        cache = getattr(base(input_ids=ids, use_cache=True), "past_key_values", None)
    pairs = [(layer.keys, layer.values) for layer in getattr(cache, "layers", ())]
    alike = all(k is not None and k.shape == v.shape for k, v in pairs)
    if pairs and alike and len({k.shape for k, _ in pairs}) > 1:
        return  # models with uneven layers keep peft's own start
    layers = [torch.cat(pair) for pair in pairs] if alike else []  # each (2, heads, tokens, width)
    start = torch.stack(layers).permute(3, 0, 1, 2, 4).reshape(tokens, -1) if layers else param[:0]
    if start.shape != param.shape:
        found = "the keys and values of the model have another shape than those that peft makes"
        raise BadInput("adapter: prefix", found, "use LoRA")
    param.copy_(start)
