"""Models: load one in fp32 without running anybody's code, and read its base weights back.

`zofo.sources` says where a model is. A GGUF file is dequantised once and kept as safetensors in
zofo's cache.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from zofo import cache, sources, suited, tensorfile, unread
from zofo.config import ModelConfig
from zofo.core.weights.leaves import Leaves
from zofo.core.weights.store import PIECE, raw
from zofo.core.weights.stored import Part, changing, reading
from zofo.errors import BadInput, ZofoError
from zofo.sources import Source
from zofo.tensorfile import Entry


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
        place = own_files(resolve(source))
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
