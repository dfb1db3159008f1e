"""An adapter as peft's files: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from zofo.adapters.slots import Slots
from zofo.errors import BadInput

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def write(slots: Slots, slot: str, folder: Path) -> None:
    """Write a slot so that `PeftModel.from_pretrained(base, folder)` reads it. Not atomic: into a folder no reader looks at."""
    cast(Any, slots.model).save_pretrained(folder, selected_adapters=[slot], save_embedding_layers=False)
    inner = folder / slot
    (folder / "README.md").unlink(missing_ok=True)  # peft's own, which names the untrained base
    for path in inner.iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(inner)
    unnamed(folder / CONFIG)


def unnamed(path: Path) -> None:
    """Take the base's name out of an adapter's configuration: peft would put the adapter on the untrained base by it."""
    held = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(held | {"base_model_name_or_path": None}, indent=2), encoding="utf-8")


def read(slots: Slots, slot: str, folder: Path) -> None:
    """Read a slot back. Raises: BadInput where the file is missing, broken, or another adapter's."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    asked = f"adapter {folder}"
    try:
        tensors = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise BadInput(asked, f"{TENSORS} cannot be read ({str(error)[:120]})", "write it anew") from None
    slots.load(slot, named(slots, slot, tensors))


def named(slots: Slots, slot: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the slot's own names (peft calls the one of a prefix or prompt `prompt_embeddings`)."""
    own = list(slots.params[slot])
    return (
        {own[0]: tensors["prompt_embeddings"]} if set(tensors) == {"prompt_embeddings"} and len(own) == 1 else tensors
    )


def size(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
