"""Whatever is broken in a model's files is one line that says so; what is no fault of theirs is not."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from zofo import cache, models, sources, streamed
from zofo.config import ModelConfig
from zofo.errors import BadInput, ZofoError
from zofo.run.signals import Interrupted
from zofo.sources import Source

CPU = ModelConfig(device="cpu")


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, and no hub."""
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def source(folder: Path) -> Source:
    """The source of a folder."""
    return sources.find(str(folder))


def set_to(**values: Any) -> Callable[[Path], object]:
    """Set keys of a folder's configuration."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def hold(name: str, text: str) -> Callable[[Path], object]:
    """Write a file of a folder."""
    return lambda folder: (folder / name).write_text(text)


def index(text: str) -> Callable[[Path], object]:
    """Make a folder's one file of weights a shard, and write the index."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(text)

    return change


BROKEN: dict[str, tuple[Callable[[Path], object], str, str]] = {  # how, who cannot do with it, what is said
    "a hidden size in words": (set_to(hidden_size="x"), "config tokenizer", "'hidden_size' expected int, got str"),
    "heads that do not fit": (set_to(num_attention_heads=3), "config tokenizer", "not a multiple of the number of att"),
    "no heads": (set_to(num_attention_heads=0), "config tokenizer", "ZeroDivisionError: integer modulo by zero"),
    "no heads of keys": (set_to(num_key_value_heads=0), "model", "ZeroDivisionError"),
    "no words": (set_to(vocab_size=0), "model", "IndexError"),
    "another shape": (set_to(num_key_value_heads=4), "weights outside", "other shapes than config.json says|of its shape"),
    "a tokenizer's list": (hold("tokenizer_config.json", "[]"), "tokenizer", "tokenizer_config.json holds no JSON ob"),
    "half a tokenizer": (hold("tokenizer.json", '{"a":'), "tokenizer", "tokenizer.json is not JSON"),
    "generation's list": (hold("generation_config.json", "[]"), "weights outside", "generation_config.json holds no J"),
    "an index that is a list": (index("[]"), "weights outside", "model.safetensors.index.json"),
    "an index of nothing": (index("{}"), "weights outside", "index.json|weight_map"),
    "an index to nowhere": (index('{"weight_map": {"a": "b.safetensors"}, "metadata": {}}'), "weights outside", "b.safet"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "weights outside", "no safetensors|no weights"),
    "half the weights": (lambda folder: os.truncate(folder / "model.safetensors", 5000), "weights outside", "whole|not fully"),
}  # fmt: skip
READERS: dict[str, tuple[str, Callable[[Source, Path], object]]] = {
    "load_tokenizer": ("tokenizer", lambda found, _: models.load_tokenizer(found)),
    "positions": ("config", lambda found, _: models.positions(found)),
    "skeleton": ("config model", lambda found, _: models.skeleton(found)),
    "load": ("config model weights", lambda found, _: models.load(found, CPU)),
    "streamed": ("config model outside", lambda found, place: streamed.load(found, CPU, place)),
}


def raised(error: BaseException) -> None:
    """Raise an error."""
    raise error


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("how", BROKEN)
def test_a_folder_is_one_line(how: str, reader: str, folder: str, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "broken"))
    (change, who, text), (needs, read) = BROKEN[how], READERS[reader]
    change(place)
    found = source(place)
    if not set(who.split()) & set(needs.split()):
        read(found, tmp_path)
        return
    with pytest.raises(BadInput, match=text) as caught:
        read(found, tmp_path)
    assert caught.value.status == 2 and "\n" not in str(caught.value) and "hub" not in str(caught.value)
    assert str(place) in caught.value.asked


@pytest.mark.parametrize("size", [0, 3, 10, 60])
def test_a_gguf_file_that_is_cut_is_one_line(size: int, tmp_path: Path) -> None:
    """struct.error, of which nobody thinks."""
    (tmp_path / "cut.gguf").write_bytes((b"GGUF" + bytes([3, 0, 0, 0, 9, 0, 0, 0]) + bytes(60))[:size])
    with pytest.raises(BadInput, match=r"its files are broken, or .*; mend or fetch them again$"):
        models.load_tokenizer(source(tmp_path / "cut.gguf"))
    made = cache.place() / "models"
    (made / "cut-0123").mkdir(parents=True)
    with pytest.raises(BadInput, match=f"again, and delete what was made of them in {made}$"):
        models.load_tokenizer(source(tmp_path / "cut.gguf"))


@pytest.mark.parametrize(
    "fault",
    [
        lambda: torch.empty(1 << 50),
        lambda: raised(MemoryError()),
        lambda: raised(torch.OutOfMemoryError("CUDA out of memory.")),
        lambda: raised(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))),
        lambda: raised(KeyboardInterrupt()),
        lambda: raised(Interrupted(15)),
    ],
)
def test_what_is_no_fault_of_the_files_stays_what_it_is(
    fault: Callable[[], object], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[BaseException] = []

    def fail(*_: Any, **__: Any) -> None:
        try:
            fault()
        except BaseException as error:
            seen.append(error)
            raise

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(BaseException) as caught:
        models.load(source(Path(folder)), CPU)
    assert caught.value is seen[0] and not isinstance(caught.value, ZofoError)


def test_a_full_disk_and_a_missing_library_are_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Source("a/b", "hub", "a/b")
    monkeypatch.setattr(sources, "had", lambda found: found)
    for error in (OSError(errno.ENOSPC, "x"), RuntimeError("x (os error 28)")):
        monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, e=error, **__: raised(e))
        with pytest.raises(ZofoError, match=r"the disk is full .*; make room, then give the command again") as caught:
            models.load_tokenizer(there)
        assert caught.value.status == 1
    gone = ImportError("it needs sentencepiece")
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: raised(gone))
    with pytest.raises(BadInput, match="it needs sentencepiece; install what it names"):
        models.load_tokenizer(there)
