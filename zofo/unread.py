"""What to say of a model that transformers cannot read, by what it raises."""

from __future__ import annotations

import glob
import json
from pathlib import Path

import torch
from safetensors import SafetensorError

from zofo import cache
from zofo.errors import BadInput, ZofoError
from zofo.run import seam
from zofo.sources import Source

SPOKEN = (OSError, ValueError, RuntimeError, ImportError, SafetensorError)
"""Errors whose texts say by themselves what the matter is."""
OBJECTS = (
    "config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
"""Files of a model's folder that hold a JSON object each."""


def used_up(error: Exception) -> bool:
    """Whether memory, or a device's, is used up (torch says so on a CPU by a RuntimeError)."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text or "out of memory" in text
    )


def line(source: Source, error: Exception) -> ZofoError:
    """The one line about a model that cannot be had, or about the disk, where that is full."""
    known = error if isinstance(error, OSError) else seam.of_system(error)
    if known is not None and known.errno in seam.FULL:
        return seam.failure(hub_cache(), 0, known, cache.AGAIN)
    asked, text = f"--model {source.name}", odd(Path(source.place)) or said(error)
    if isinstance(error, ImportError):
        return BadInput(asked, said(error), "install what it names")
    if source.kind == "hub":
        return BadInput(asked, text, "is it a hub id, and can the hub be reached? else name a folder or .gguf file")
    found = f"its files are broken, or of a kind that transformers does not know ({text})"
    made = cache.place() / "models"
    also = source.kind == "gguf" and any(made.glob(f"{glob.escape(Path(source.place).stem)}-*"))
    more = f", and delete what was made of them in {made}" if also else ""
    return BadInput(asked, found, f"mend or fetch them again{more}")


def odd(folder: Path) -> str:
    """The first JSON file of a model's folder that is broken, in words; empty where there is none."""
    for path in (folder / name for name in OBJECTS):
        if path.is_file():
            try:
                held = json.loads(path.read_bytes())
            except ValueError as error:
                return f"{path.name} is not JSON: {error}"[:200]
            if not isinstance(held, dict):
                return f"{path.name} holds no JSON object"
    return ""


def said(error: Exception) -> str:
    """An error's text on one line, its kind before it where the text alone says little."""
    text = " ".join(str(error).split())[:200]
    if "ignore_mismatched_sizes" in text:
        return "weights in them have other shapes than config.json says"
    return text if isinstance(error, SPOKEN) or "Error" in text else f"{type(error).__name__}: {text}"


def hub_cache() -> Path:
    """Where hub models are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
