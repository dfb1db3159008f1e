"""Models: load one in fp32 without running anybody's code.

`zofo.sources` says where a model is. A GGUF file is dequantised once and kept as safetensors in
zofo's cache.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from zofo import cache, sources, suited, unread
from zofo.config import ModelConfig
from zofo.errors import BadInput, ZofoError
from zofo.sources import Source


def resolve(source: Source) -> str:
    """The folder or hub id that transformers loads from: a GGUF file is converted once into the cache."""
    return str(converted(Path(source.place))) if source.kind == "gguf" else source.place


def converted(gguf: Path) -> Path:
    """Dequantise a GGUF file into a safetensors folder of the cache, unless it is there. Raises: ZofoError where the disk has no room. Cost: some 20 s, once."""
    target = cache.place() / "models" / f"{gguf.stem}-{sha256(gguf)[:16]}"
    cache.sweep("models")
    if target.is_dir():
        return target
    cache.folder("models")
    with quiet():
        model, tokenizer = dequantised(gguf)
        with cache.new(target, sum(p.nbytes for p in model.parameters())) as work:
            model.save_pretrained(work)
            tokenizer.save_pretrained(work)
    return target


def dequantised(gguf: Path) -> tuple[Any, Any]:
    """A GGUF file's model, its weights plain fp32, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, trust_remote_code=False)
    del model.config.quantization_config  # the file was quantised; these weights are plain
    cast(Any, model).hf_quantizer, cast(Any, model).is_quantized = None, False
    return model, AutoTokenizer.from_pretrained(**place, trust_remote_code=False)


def sha256(path: Path) -> str:
    """A file's SHA-256. Cost: reads it, once as long as its size and time stay."""
    found = path.stat()
    return _sha256(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and remarks for a block (errors still raise)."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def reachable(source: Source) -> Iterator[None]:
    """As `legible`; of a hub model that is not here, the hub is asked first."""
    sources.had(source)
    with legible(source):
        yield


@contextlib.contextmanager
def legible(source: Source) -> Iterator[None]:
    """Turn whatever a missing, broken or unsafe model makes transformers raise in a block into one line.

    What is no fault of the model's is raised as it is, or as what it is: memory that is used up, a disk that is full.
    """
    try:
        with quiet():
            yield
    except ZofoError:
        raise
    except Exception as error:
        if unread.used_up(error):
            raise
        raise unread.line(source, error) from None


def load_tokenizer(source: Source) -> Any:
    """Load a model's tokenizer (no model weights are read, but a GGUF file is converted first)."""
    from transformers import AutoTokenizer

    suited.refuse_wordless(source)
    with reachable(source):
        return AutoTokenizer.from_pretrained(resolve(source), trust_remote_code=False)


def skeleton(source: Source) -> nn.Module:
    """The model without weights (meta device), for sizes. Cost: none worth counting."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with reachable(source):
        config = AutoConfig.from_pretrained(resolve(source), trust_remote_code=False)
        refuse(source, config)
        with torch.device("meta"):
            return cast(nn.Module, AutoModelForCausalLM.from_config(config, trust_remote_code=False))


def positions(source: Source) -> int | None:
    """How many tokens a model can read, where its configuration says."""
    from transformers import AutoConfig

    with reachable(source):
        config = AutoConfig.from_pretrained(resolve(source), trust_remote_code=False)
        refuse(source, config)
        return int(getattr(config, "max_position_embeddings", None) or 0) or None  # 0: it does not say


def vocabulary(source: Source) -> int | None:
    """How many tokens a model embeds, where its configuration says."""
    from transformers import AutoConfig

    with reachable(source):
        whole = AutoConfig.from_pretrained(resolve(source), trust_remote_code=False)
    found = getattr(whole.get_text_config(), "vocab_size", None)
    return int(found) if found else None


def refuse(source: Source, config: Any) -> None:
    """Raise when a configuration names code to run, is of no causal model, or names weights that are no floating-point numbers, which nothing here could move."""
    if getattr(config, "auto_map", None):
        raise BadInput(f"--model {source.name}", "the model brings code of its own (auto_map)", "use another model")
    if getattr(config, "quantization_config", None) is not None:
        raise BadInput(
            f"--model {source.name}", "its files hold quantised weights", "take the model that was quantised"
        )
    suited.refuse_other_kinds(source, config)
    suited.refuse_adapted(source)


def device(config: ModelConfig) -> torch.device:
    """The device asked for; `auto` takes cuda where it is there, else cpu. Raises `BadInput` where it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if config.device == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    if not there[config.device]:
        raise BadInput(f"--model.device {config.device}", "this machine has none that torch can use", "use cpu")
    return torch.device(config.device)


def load(source: Source, config: ModelConfig) -> nn.Module:
    """Load a causal model in fp32 (its matrices in a half type where `weights` says so), frozen, in eval mode.

    Only safetensors are read; no code of the model's is run. Raises `BadInput` when it cannot be had.
    Cost: the weights once (4 bytes each).
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    target = device(config)
    suited.refuse_pickled(source)
    with reachable(source):
        place = resolve(source)
        refuse(source, AutoConfig.from_pretrained(place, trust_remote_code=False))
        model, told = cast(Any, AutoModelForCausalLM).from_pretrained(
            place, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        if missing := sorted(told["missing_keys"]):
            found = (
                f"its files hold no {missing[0]} ({len(missing)} weights are missing), which would be drawn at random"
            )
            raise BadInput(f"--model {source.name}", found, "save it whole, from its causal language model")
    if getattr(model, "_hf_peft_config_loaded", False):  # one of the hub's
        suited.refuse_adapter(source.name)
    unscaled(model)
    halved(model, config.weights)
    model = cast(Any, model).to(target).eval().requires_grad_(False)
    if config.activation_checkpointing:
        recompute(model)
    return cast(nn.Module, model)


def unscaled(model: Any) -> None:
    """Keep an RWKV from dividing its weights by powers of two, in place, when it is first run (for fp16's sake; it computes the same without)."""
    if getattr(model.config, "rescale_every", 0):
        model.config.rescale_every = 0


def halved(model: nn.Module, weights: str) -> None:
    """Round a model's matrices to a half type, in place; vectors (norms, biases) stay fp32, which they need."""
    if weights != "fp32":
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data = parameter.data.to({"bf16": torch.bfloat16, "fp16": torch.float16}[weights])


def recompute(model: Any) -> None:
    """Turn activation checkpointing on (transformers renamed the call). Raises `BadInput` where the model has none."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise BadInput("--model.activation_checkpointing", str(error), "leave it out") from None
