"""Whether a model is one that zofo can use: causal, its weights not pickled, its tokenizer beside it. Told in one line, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zofo.errors import BadInput
from zofo.sources import Source

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZER = ("*token*", "vocab*", "merges.txt", "*.model", "*.tiktoken")
"""What a tokenizer's files are called, one of them at least."""


def refuse_other_kinds(source: Source, config: Any) -> None:
    """Raise BadInput for a configuration of no causal language model: encoders such as BERT see the words that are to be predicted."""
    from transformers import AutoModelForCausalLM

    known = getattr(AutoModelForCausalLM, "_model_mapping")  # noqa: B009
    if type(config) in known and not sees_both_ways(config):
        return
    named = (getattr(config, "architectures", None) or [getattr(config, "model_type", type(config).__name__)])[0]
    found = f"{named} is not a causal model (one that predicts each token from those before it)"
    raise BadInput(f"--model {source.name}", found, "take a causal one, such as a GPT, Llama or Qwen")


def sees_both_ways(config: Any) -> bool:
    """Whether a model that transformers has as a causal one too is an encoder as it is configured: of the masked kind, and no decoder."""
    from transformers.models.auto import modeling_auto as auto

    kind = getattr(config, "model_type", "")
    if kind == "xlnet":  # which predicts in any order, and in a plain pass sees all
        return bool(getattr(config, "attn_type", "bi") == "bi")
    masked = {*auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, "bert-generation"}
    decoders = set(auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)  # whose causal class is their decoder
    causal = getattr(config, "is_decoder", False) or getattr(config, "causal", False)  # XLM calls it causal
    return kind in masked - decoders and not causal


def refuse_pickled(source: Source) -> None:
    """Raise BadInput for a folder without safetensors, whose weights are pickled or not there at all."""
    folder = Path(source.place)
    if (
        source.kind != "folder"
        or any(folder.glob("*.safetensors"))
        or (folder / "model.safetensors.index.json").exists()
    ):
        return
    pickled = sorted(path.name for kind in PICKLED for path in folder.glob(kind))
    found = (
        f"its weights are pickled ({pickled[0]}), which can run code and is not read"
        if pickled
        else "it has no weights"
    )
    do = "save it again as safetensors: load it in transformers and call `save_pretrained`"
    raise BadInput(f"--model {source.name}", found, do if pickled else "bring model.safetensors to it")


def refuse_adapted(source: Source) -> None:
    """Raise BadInput for a folder with an adapter beside the model, which transformers would put on it: its weights would count as the model's."""
    if source.kind == "folder" and (Path(source.place) / "adapter_config.json").is_file():
        refuse_adapter(source.name)


def refuse_adapter(name: str) -> None:
    """Raise BadInput for a model that brings an adapter of peft's."""
    found = "a peft adapter lies beside its weights (adapter_config.json), which transformers would put on it"
    raise BadInput(f"--model {name}", found, "merge the two (peft's `merge_and_unload`), or take the adapter away")


def refuse_wordless(source: Source) -> None:
    """Raise BadInput for a folder without a tokenizer: transformers makes an empty one of some kinds of model."""
    folder = Path(source.place)
    if source.kind == "folder" and not any(path for kind in TOKENIZER for path in folder.glob(kind)):
        do = "save the model's own there: `AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)`"
        raise BadInput(f"--model {source.name}", "the folder has no tokenizer files", do)
