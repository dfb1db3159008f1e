"""theta_0, the base's weights: which base it is, where it stands on disk, how far theta has moved from it, and back to it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from zofo import cache, models, tensorfile
from zofo.core.weights.leaves import Leaves
from zofo.core.weights.store import PIECE, raw
from zofo.core.weights.stored import Part, changing, reading
from zofo.errors import BadInput, ZofoError
from zofo.sources import Source
from zofo.tensorfile import Entry


def fingerprint(leaves: Leaves, dtype: torch.dtype | None = None) -> str:
    """SHA-256 over the names, shapes and bytes of all leaves: which base this is. `dtype`: as it were, read in that type. Cost: one read of the weights."""
    digest = hashlib.sha256()
    for leaf, start, part in reading(leaves):
        if start == 0:
            digest.update(title(leaf.name, leaf.shape, dtype or leaf.dtype))
        digest.update(raw(part.cpu().to(dtype or leaf.dtype)))
    return digest.hexdigest()


def title(name: str, shape: torch.Size, dtype: torch.dtype) -> bytes:
    """What a fingerprint takes up of a tensor before its bytes."""
    return f"{name}{tuple(shape)}{dtype}".encode()


def stands(path: Path, names: Iterable[str]) -> str:
    """The fingerprint of tensors in a file, by their names in that order; empty where they are not all there, whole. Cost: reads them, once as long as the file's size and time stay."""
    try:
        found = path.stat()
        return _stands(path, found.st_size, found.st_mtime_ns, tuple(names))
    except (OSError, BadInput, KeyError):
        return ""


@functools.lru_cache(maxsize=8)
def _stands(path: Path, size: int, changed: int, names: tuple[str, ...]) -> str:
    digest, there = hashlib.sha256(), tensorfile.entries(path)
    for name in names:
        digest.update(title(name, there[name].shape, there[name].dtype))
        for part in tensorfile.pieces(there[name]):
            digest.update(raw(part))
    return digest.hexdigest()


class Base:
    """theta_0 on disk, read by pieces: the model's own safetensors files, or a copy in the cache.

    The files serve when every leaf stands in them under its name (with or without the model's prefix)
    and shape; else `fingerprint` names a copy that is written once, from the freshly loaded model, and checked by it
    whenever it is opened. Raises: ZofoError where the copy is broken and the model has moved. Cost: reads a copy, once a process.
    """

    def __init__(self, source: Source, model: nn.Module, leaves: Leaves, digest: str) -> None:
        place = own_files(models.resolve(source))
        places = located(place, leaves, str(getattr(model, "base_model_prefix", "")))
        self.places = tensorfile.entries(copied(leaves, digest)) if places is None else places

    def tensor(self, name: str) -> Tensor:
        """One leaf of theta_0, in the file's type. Cost: that tensor's memory."""
        return tensorfile.whole(self.places[name])


def own_files(place: str) -> list[Path]:
    """The safetensors files of a folder or of a hub model's snapshot in the hub's cache."""
    if Path(place).is_dir():
        return read_by_transformers(Path(place))
    from huggingface_hub import snapshot_download

    with contextlib.suppress(Exception):  # not there as files: a copy is written instead
        return read_by_transformers(Path(snapshot_download(place, local_files_only=True)))
    return []


def read_by_transformers(folder: Path) -> list[Path]:
    """The safetensors files that `from_pretrained` reads: one, or those that the index names (others may lie about). Raises: BadInput for an index that names none."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    try:
        return sorted({folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        do = "mend it, or fetch it again"
        raise BadInput(str(index), "it is broken: it does not say which file holds which weight", do) from None


def located(files: list[Path], leaves: Leaves, prefix: str) -> dict[str, Entry] | None:
    """Where each leaf stands in some files, or None when one does not stand there in its shape, or in a type of torch's."""
    there: dict[str, Entry] = {}
    for path in files:
        try:
            there |= tensorfile.entries(path)
        except BadInput:
            return None
    found = {}
    for leaf in leaves:
        key = next((n for n in spelt(leaf.name, prefix) if n in there and there[n].shape == leaf.shape), None)
        if key is None:
            return None
        found[leaf.name] = there[key]
    return found


def spelt(name: str, prefix: str) -> tuple[str, str, str]:
    """How files may spell a tensor's name: as it is, without the model's prefix, with it."""
    return name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"


def copied(leaves: Leaves, digest: str) -> Path:
    """The cache's copy of the base of that fingerprint, written from the leaves, where they stand at it, unless it is there and whole.

    Raises: ZofoError where it is not whole and the leaves stand elsewhere, or what was written is not read back.
    Cost: reads the file, once a process; when it is written, the weights on disk.
    """
    path, names = cache.place() / "bases" / f"{digest}.safetensors", [leaf.name for leaf in leaves]
    if stands(path, names) == digest:
        return path
    asked = f"the copy of the base, {path}"
    if fingerprint(leaves) != digest:
        raise ZofoError(asked, "it is missing or broken, and the weights in memory have moved", "delete it, begin anew")
    cache.folder("bases")
    with cache.new(path, sum(leaf.numel * leaf.dtype.itemsize for leaf in leaves)) as work:
        tensorfile.write(work, tensorfile.flats(leaves))
    if stands(path, names) != digest:
        raise ZofoError(asked, "what is read back is not what was written", "check the disk, and delete the file")
    return path


def moved(leaves: Leaves, base: Base) -> float:
    """|theta - theta_0| / |theta_0|, piece by piece from disk, summed in fp64. Cost: a few pieces' memory."""
    change = norm = 0.0
    for now, before in beside(reading(leaves), base.places):
        before = before.to(now.dtype)
        change += float((now.cpu() - before).double().square_().sum())
        norm += float(before.double().square_().sum())
    return math.sqrt(change / norm)


def reset(leaves: Leaves, base: Base) -> None:
    """theta <- theta_0, piece by piece from disk. Cost: a few pieces' memory."""
    take(leaves, base.places)


@torch.no_grad()
def take(leaves: Leaves, places: Mapping[str, Entry]) -> None:
    """Read every leaf from files, piece by piece, in place, converted to its type. Cost: a few pieces' memory."""
    for now, there in beside(changing(leaves), places):
        now.copy_(there)


def beside(parts: Iterable[Part], places: Mapping[str, Entry]) -> Iterator[tuple[Tensor, Tensor]]:
    """The elements of whole leaves, piece by piece, each with the same ones as they stand in files.

    The pieces are the same wherever the leaves are, so that sums over them are too.
    """
    there: Iterator[Tensor] = iter(())
    for leaf, start, part in parts:
        if start == 0:
            there = tensorfile.pieces(places[leaf.name])
        yield from zip(part.split(PIECE), there, strict=False)


def same_base(found: str, wanted: str, name: str) -> None:
    """Raise when the base model is not the one that a run was made on."""
    if found != wanted:
        raise ZofoError(
            f"base model {name}",
            f"its weights have SHA-256 {found[:12]}, the run was made on {wanted[:12]}",
            "bring back the base",
        )
