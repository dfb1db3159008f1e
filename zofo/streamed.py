"""A model whose weights stay on disk: built without them, its large leaves in a store, its small ones in memory.

The files are copied tensor by tensor, by pieces, and converted to the store's type; a tied tensor is copied once.
In the model stand placeholders (`zofo.core.weights.stored`): a module computes only where something gives it its
weights (`standing`). `zofo.models.load` is for models that fit.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from zofo import models, tensorfile, theta0
from zofo.config import ModelConfig
from zofo.core.probe.hooks import Hooks, for_life
from zofo.core.probe.readers import surveyed
from zofo.core.weights import leaves as tree
from zofo.core.weights.fetch import Fetcher
from zofo.core.weights.leaves import Leaf, Leaves
from zofo.core.weights.store import ALIGN, Named, Store
from zofo.core.weights.stored import placeholder, stored
from zofo.errors import BadInput, ZofoError
from zofo.sources import Source
from zofo.tensorfile import Entry, Flat

KEEP = 1 << 16  # elements; leaves up to this size (norms, biases) stay in memory
WHOLE = "leave out --memory-cap"


def load(
    source: Source, config: ModelConfig, folder: Path, keep: int = KEEP, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, Leaves, Store]:
    """Make a causal model in eval mode, frozen, with its large leaves in a store; the model, all its leaves, the store.

    Args: folder, where the store's nameless file is (a disk, not a file system in memory); keep, leaves of at most so
    many elements are ordinary ones. Only safetensors are read; no code of the model's is run.
    Raises: BadInput when the files do not hold every weight under the model's own names; ZofoError without room.
    Cost: the weights once on disk, written once; memory for the small leaves, the buffers and two pieces.
    """
    target = models.device(config)
    with models.reachable(source):
        place = models.resolve(source)
        bare = empty(source, place)
    model = placed(bare, keep, target, dtype)
    leaves = tree.find(model)
    with models.legible(source):
        held = found(source, place, model, leaves)
    large = [leaf for leaf in leaves if leaf.numel > keep]
    fill_small([(leaf.name, leaf.data) for leaf in leaves if leaf.numel <= keep], held)
    fill_small([(name, buffer) for name, buffer in model.named_buffers() if name in held], held)
    store = working_copy(large, held, folder, dtype)
    if config.activation_checkpointing:
        models.recompute(model)
    return model, stored(leaves, store), store


def standing(model: nn.Module, leaves: Leaves, store: Store) -> Hooks:
    """Make a model of `load` compute, without gradients: its modules get their weights from the store, read ahead.

    Cost a forward pass: the store read once; memory for the largest module's weights and two pieces.
    """
    return for_life(model, leaves, Fetcher(store))


def stood(model: nn.Module, leaves: Leaves, store: Store) -> tuple[Leaves, Hooks]:
    """As `standing`; its weights are given to the modules around their own that read them too. Returns the leaves with these. Cost: a pass over a few tokens more."""
    hooks = standing(model, leaves, store)
    found = surveyed(model, leaves)
    if sum(len(leaf.owners) for leaf in found) == sum(len(leaf.owners) for leaf in leaves):
        return leaves, hooks
    hooks.end()
    return found, standing(model, found, store)


def empty(source: Source, place: str) -> nn.Module:
    """A model whose parameters are on the meta device (tied ones one object) and whose buffers are real."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    models.refuse(source, config)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.tie_weights()  # every registration within the block above made a new parameter
    generates(model, place)
    models.unscaled(model)
    return cast(nn.Module, model.eval().requires_grad_(False))


def generates(model: Any, place: str) -> None:
    """Take up a model's generation settings as `from_pretrained` does: from their own file, else from its configuration."""
    from transformers import GenerationConfig

    places: dict[str, dict[str, Any]] = {"config.json": {"_from_model_config": True}, "generation_config.json": {}}
    for name, more in places.items():
        with contextlib.suppress(OSError):
            model.generation_config = GenerationConfig.from_pretrained(place, config_file_name=name, **more)


def placed(model: nn.Module, keep: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Put memory in the place of small meta parameters and placeholders in that of large ones; move the buffers."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for attr, param in module._parameters.items():
            if param is None or param.device.type != "meta":
                continue
            if param not in made:
                kind = dtype if param.is_floating_point() else param.dtype
                small = param.numel() <= keep
                made[param] = room(param, kind, device) if small else placeholder(param.shape, kind, device)
            module._parameters[attr] = made[param]
        for attr, buffer in module._buffers.items():
            module._buffers[attr] = None if buffer is None else buffer.to(device)
    return model


def room(param: nn.Parameter, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """An ordinary frozen parameter, not yet filled."""
    return nn.Parameter(torch.empty(param.shape, dtype=dtype, device=device), requires_grad=False)


def found(source: Source, place: str, model: nn.Module, leaves: Leaves) -> dict[str, Entry]:
    """Where every leaf, and every buffer that is saved, stands in a model's files."""
    files = theta0.own_files(place) or ([] if Path(place).is_dir() else downloaded(place))
    if not files:
        raise BadInput(f"--model {source.name}", "it has no safetensors files", "mend it, or fetch it again")
    there = {name: entry for path in files for name, entry in tensorfile.entries(path).items()}
    prefix, found = str(getattr(model, "base_model_prefix", "")), dict[str, Entry]()
    for name, tensor in [*((leaf.name, leaf.param) for leaf in leaves), *model.named_buffers()]:
        if (entry := entry_of(name, tensor, there, prefix)) is not None:
            found[name] = entry
    missing = [leaf.name for leaf in leaves if leaf.name not in found]
    if missing or len(leaves) != len(list(model.parameters())):
        what = (
            f"its safetensors files hold no {missing[0]} of its shape" if missing else "some weights are whole numbers"
        )
        raise BadInput(f"--model {source.name}", what, WHOLE)
    refuse_parted(source, model, {name: entry_of(name, p, there, prefix) for name, p in every(model)})
    return found


def entry_of(name: str, tensor: Tensor, there: Mapping[str, Entry], prefix: str) -> Entry | None:
    """Where a tensor stands in the files, by one of the spellings of its name, in its shape."""
    return next((there[n] for n in theta0.spelt(name, prefix) if n in there and there[n].shape == tensor.shape), None)


def every(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """All parameters by all their names: tied ones have several."""
    return model.named_parameters(remove_duplicate=False)


def refuse_parted(source: Source, model: nn.Module, by_name: Mapping[str, Entry | None]) -> None:
    """Raise BadInput where the files hold a tied tensor twice, and not alike: read into memory, it would come as two. Cost: such tensors are read."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, param in every(model):
        names.setdefault(param, []).append(name)
    for same in names.values():
        held = [(name, entry) for name in same if (entry := by_name[name]) is not None]
        for name, entry in held[1:]:
            first, own = held[0]
            if entry != own and not alike(own, entry):
                what = f"its files hold {first} and {name} apart, which its configuration ties"
                raise BadInput(f"--model {source.name}", what, WHOLE)


def alike(a: Entry, b: Entry) -> bool:
    """Whether two tensors of one shape in files have the same numbers. Cost: both are read; memory: two pieces."""
    return a.dtype == b.dtype and all(
        torch.equal(x, y) for x, y in zip(tensorfile.pieces(a), tensorfile.pieces(b), strict=True)
    )


def downloaded(place: str) -> list[Path]:
    """The safetensors files of a hub model, brought into the hub's cache."""
    from huggingface_hub import snapshot_download

    return theta0.read_by_transformers(Path(snapshot_download(place, allow_patterns=["*.safetensors", "*.json"])))


@torch.no_grad()
def fill_small(tensors: Iterable[tuple[str, Tensor]], held: Mapping[str, Entry]) -> None:
    """Read small tensors from the files, in place."""
    for name, tensor in tensors:
        tensor.copy_(tensorfile.whole(held[name]))


def working_copy(leaves: Iterable[Leaf], held: Mapping[str, Entry], folder: Path, dtype: torch.dtype) -> Store:
    """Copy leaves from the files to a new store. Raises `ZofoError` when the disk has no room for them."""
    leaves = list(leaves)
    need = sum(leaf.numel * dtype.itemsize + ALIGN for leaf in leaves)
    named: Iterator[Named] = ((leaf.name, leaf.shape, tensorfile.pieces(held[leaf.name])) for leaf in leaves)
    try:
        free = shutil.disk_usage(folder).free
        if free < need:
            raise OSError(f"{need} bytes needed, {free} free")
        return Store.create(folder, named, dtype)
    except OSError as error:
        asked = f"a working copy of the weights in {folder}"
        raise ZofoError(asked, str(error), f"make room, or {WHOLE}") from error


def save(model: nn.Module, leaves: Leaves, out: Path) -> None:
    """Write a model to a new folder as `save_pretrained` does (one file of weights), by pieces."""
    out.mkdir(parents=True)
    made = cast(Any, model)
    made.config.dtype = leaves.items[0].dtype
    made.config.architectures = [type(model).__name__]
    made.config.save_pretrained(out)
    made.generation_config.save_pretrained(out)
    kept = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    also = {name: Flat(b.dtype, b.shape, lambda b=b: [b.reshape(-1)]) for name, b in buffers.items()}  # type: ignore[misc]
    tensorfile.write(out / "model.safetensors", tensorfile.flats(leaves) | also)
