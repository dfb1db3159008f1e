"""`zofo bench large`: a model larger than `--memory-cap` trained with the cap and without, in a process each.

The model is a randomly initialised Llama, written to disk piece by piece, never in memory.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zofo import begin, cap, sources, tensorfile
from zofo.config import size_of
from zofo.core import streams
from zofo.core.weights.store import PIECE
from zofo.errors import BadInput
from zofo.layers import resolve
from zofo.run import checkpoint, seam
from zofo.run.folder import RunFolder
from zofo.run.metrics import read_metrics
from zofo.tensorfile import Flat

LLAMA_1B: Mapping[str, Any] = {
    "hidden_size": 2048, "num_hidden_layers": 22, "intermediate_size": 5632, "num_attention_heads": 32,
    "num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    "bos_token_id": None, "eos_token_id": 0,
}  # fmt: skip
"""TinyLlama's shape (Zhang et al. 2024, arXiv 2401.02385): 1.1 billion weights, 4.4 GB in fp32."""

OPTIONS: Mapping[str, Any] = {
    "method.name": "mezo", "method.stack": "off", "model.dtype": "fp32", "data.task": "reviews", "data.train_rows": 12, "data.validation_rows": 2, "data.test_rows": 2,
    "data.batch": 2, "data.max_length": 32, "run.eval_every": 0, "run.save_every": 1000,
}  # fmt: skip
"""A run that is short, but for the weights: two rows of 32 tokens a step, two rows to validate and to test on."""


def main(folder: Path, limit: str = "2GB", steps: int = 2) -> dict[str, Any]:
    """Train a model with and without a cap, and say whether the bits are equal, the peaks and the times.

    Args: folder, a model, or where to make one of 1.1 billion weights (4.4 GB). Cost: 2 (steps + 5) passes over the
    weights; disk for three more copies of them, beside the folder and in zofo's cache, for as long as it runs.
    """
    if not size_of(limit):
        raise BadInput(f"--cap {limit!r}", "no cap", "give one that the model does not fit under, such as 2GB")
    if not folder.exists():
        made_whole(folder)
    refuse_fitting(folder, limit)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="zofo-bench-") as work:
        plain, capped = (alone(folder, Path(work), name, steps) for name in ("", limit))
    same = {key: plain.pop(key) == capped.pop(key) for key in ("journal", "theta", "numbers")}
    return {
        "model": folder.name,
        "cap": limit,
        "steps": steps,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "equal": same,
        "results": {"no cap": plain, f"cap {limit}": capped},
    }


def made_whole(folder: Path) -> None:
    """`make`, under another name until it is whole: one that was stopped is no model."""
    work = seam.beside(folder)
    try:
        make(work)
        seam.disk.rename(work, folder)
    except BaseException:
        seam.discard(work)
        raise


def refuse_fitting(folder: Path, limit: str) -> None:
    """Raise BadInput for a cap that the model fits under: both runs would have the weights in memory."""
    settings, _ = resolve({**OPTIONS, "model.name": str(folder), "run.memory_cap": limit})
    if not cap.streams(settings, sources.find(str(folder))):
        raise BadInput(f"--cap {limit}", "the model fits under it: nothing would stay on disk", "give a smaller one")


def alone(folder: Path, work: Path, limit: str, steps: int) -> dict[str, Any]:
    """`trained` in a new process, whose peak of memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(trained, folder, work, limit, steps).result()


def trained(folder: Path, work: Path, limit: str, steps: int) -> dict[str, Any]:
    """A run: its peak, times and losses, and what must not depend on the cap (journal, theta, every number of the metrics)."""
    run, began = RunFolder(work / (f"cap-{limit}" if limit else "plain")), time.perf_counter()
    flags = {"model.name": str(folder), "run.dir": str(work), "run.name": run.name, "run.steps": steps}
    begin.start(*resolve({**OPTIONS, **flags, "run.memory_cap": limit}))
    rows = read_metrics(run.metrics)
    taken = [row for row in rows if row["kind"] == "step"]
    return {
        "peak_mb": round(cap.highest() / 1e6),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time(),
        "step_seconds": taken[-1]["time"]["train"] / len(taken),
        "losses": [row["A"] for row in taken],
        "threads": torch.get_num_threads(),
        "journal": run.journal.read_bytes(),
        "theta": checkpoint.read(run.checkpoints / checkpoint.BEST).manifest.files["theta.safetensors"],
        "numbers": [{k: v for k, v in row.items() if k not in ("time", "memory")} for row in rows],
    }


def make(
    folder: Path,
    shape: Mapping[str, Any] = LLAMA_1B,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    std: float = 0.02,
    shard: int = 1 << 30,
) -> int:
    """Write a random Llama with a byte-level tokenizer to a new folder, and return how many weights it has.

    Args: shape, of `LlamaConfig`; std, of the normal weights (norms are 1); shard, bytes a file at most (one tensor
    at least). The bits depend on shape, dtype, seed and std alone. Memory: a few MiB. Disk: the weights.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder.mkdir(parents=True)
    config = LlamaConfig(**shape, dtype=dtype)
    with torch.device("meta"):
        skeleton: nn.Module = AutoModelForCausalLM.from_config(config)
    tensors = {
        name: Flat(dtype, p.shape, partial(drawn, name, p.shape, dtype, seed, std))
        for name, p in skeleton.named_parameters()
    }
    config.architectures = [type(skeleton).__name__]
    config.save_pretrained(folder)
    tokenizer(folder)
    write_shards(folder, tensors, shard)
    return sum(held.shape.numel() for held in tensors.values())


def drawn(name: str, shape: torch.Size, dtype: torch.dtype, seed: int, std: float) -> Iterator[Tensor]:
    """A tensor's weights by pieces: ones for a vector (a norm), else normal numbers times `std`."""
    generator = streams.generator(seed, f"weights of {name}")
    for at in range(0, shape.numel(), PIECE):
        n = min(PIECE, shape.numel() - at)
        ones = len(shape) == 1
        values = np.ones(n, np.float32) if ones else generator.standard_normal(n, np.float32) * np.float32(std)
        yield torch.from_numpy(values).to(dtype)


def write_shards(folder: Path, tensors: Mapping[str, Flat], most: int) -> None:
    """Write tensors as `save_pretrained` does: files of at most `most` bytes, and the index that names them."""
    shards = divided(tensors, most)
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for file, held in zip(names, shards, strict=True):
        tensorfile.write(folder / file, held)
    index = {
        "metadata": {"total_size": sum(held.nbytes for held in tensors.values())},
        "weight_map": {name: file for file, held in zip(names, shards, strict=True) for name in held},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def divided(tensors: Mapping[str, Flat], most: int) -> list[dict[str, Flat]]:
    """Tensors in their order, in groups of at most `most` bytes."""
    shards: list[dict[str, Flat]] = [{}]
    for name, held in tensors.items():
        if shards[-1] and sum(other.nbytes for other in shards[-1].values()) + held.nbytes > most:
            shards.append({})
        shards[-1][name] = held
    return shards


def tokenizer(folder: Path) -> None:
    """Write a tokenizer whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
