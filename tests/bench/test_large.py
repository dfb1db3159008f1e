"""The recipe for a large model: a whole transformers folder, the same bits however it is cut, its size as told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from zofo.bench import large
from zofo.errors import BadInput

SMALL: dict[str, Any] = large.LLAMA_1B | {
    "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 300,
}  # fmt: skip


def loaded(folder: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_transformers_loads_it(tmp_path: Path) -> None:
    count = large.make(tmp_path / "m", SMALL, shard=40_000)
    model = loaded(tmp_path / "m")
    assert count == sum(p.numel() for p in model.parameters())
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 2
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    for name, param in model.named_parameters():
        if param.dim() == 1:
            assert (param == 1).all(), name
        else:
            std, mean = torch.std_mean(param.detach())
            assert abs(float(std) - 0.02) < 0.002 and abs(float(mean)) < 0.002, name


def test_the_bits_do_not_depend_on_the_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large.make(tmp_path / "one", SMALL)
    monkeypatch.setattr(large, "PIECE", 100)
    large.make(tmp_path / "other", SMALL, shard=1)
    one, other = loaded(tmp_path / "one"), loaded(tmp_path / "other")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    large.make(tmp_path / "third", SMALL, seed=1)
    assert not torch.equal(loaded(tmp_path / "third").lm_head.weight, one.lm_head.weight)


def test_files_keep_to_their_size_and_are_all_in_the_index(tmp_path: Path) -> None:
    large.make(tmp_path / "m", SMALL, dtype=torch.bfloat16, shard=20_000)
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    files = {path.name: path.stat().st_size for path in (tmp_path / "m").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == set(files)
    assert all(size <= 22_000 or list(index["weight_map"].values()).count(name) == 1 for name, size in files.items())
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"


def test_it_has_a_tokenizer_of_bytes(tmp_path: Path) -> None:
    large.make(tmp_path / "m", SMALL)
    made = AutoTokenizer.from_pretrained(tmp_path / "m")
    ids = made("déjà vu")["input_ids"]
    assert len(ids) == len("déjà vu".encode()) and made.decode(ids) == "déjà vu" and max(ids) < 300


def test_the_shape_is_1_1_billion_weights() -> None:
    from transformers import LlamaConfig

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**large.LLAMA_1B))
    assert sum(p.numel() for p in model.parameters()) == 1_100_048_384


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        large.make(tmp_path, SMALL)


@pytest.mark.parametrize("alone", [large.trained, pytest.param(large.alone, marks=pytest.mark.slow)])
def test_with_and_without_a_cap_the_bits_are_equal(
    bare: None, alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs, here or in processes of their own; one keeps its two largest matrices on disk (the others are small)."""
    monkeypatch.setattr(large, "alone", alone)
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    large.make(tmp_path / "m", SMALL | {"vocab_size": 3000})
    found = large.main(tmp_path / "m", "1MB", steps=2)
    assert found["equal"] == {"journal": True, "theta": True, "numbers": True}
    plain, capped = found["results"].values()
    assert plain["losses"] == capped["losses"] and len(plain["losses"]) == 2
    assert plain["peak_mb"] > 100 and capped["peak_mb"] > 100
    assert {path.name for path in tmp_path.iterdir()} == {"m", "cache"}, "the runs are gone"
    assert (tmp_path / "cache" / "work").is_dir(), "one was capped"
    json.dumps(found)


@pytest.mark.parametrize(("limit", "told"), [("", "no cap"), ("1TB", "the model fits under it")])
def test_a_cap_that_caps_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, told: str
) -> None:
    """Both runs would have the weights in memory, and equal bits would say nothing."""
    large.make(tmp_path / "m", SMALL)
    monkeypatch.setattr(large, "alone", None)
    with pytest.raises(BadInput, match=f"--cap .*: {told}"):
        large.main(tmp_path / "m", limit)


def test_a_model_that_was_not_written_whole_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(large, "LLAMA_1B", SMALL)
    monkeypatch.setattr(large, "write_shards", stopped)
    with pytest.raises(KeyboardInterrupt):
        large.main(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
