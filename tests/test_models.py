"""Models: loaded without a network or code of their own."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import RwkvConfig, RwkvForCausalLM

from zofo import models, sources
from zofo.config import ModelConfig
from zofo.errors import BadInput, ZofoError
from zofo.sources import Source

Tiny = Callable[..., nn.Module]
CPU = ModelConfig(device="cpu")
pytestmark = pytest.mark.usefixtures("no_network", "cache")


def source(folder: Path) -> Source:
    """The source of a folder."""
    return sources.find(str(folder))


def edit_json(path: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class TestLoad:
    """fp32, frozen, eval mode, safetensors only."""

    def test_a_folder(self, save: Callable[..., Path], tiny: Tiny) -> None:
        model = models.load(source(save("llama")), CPU)
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        want = dict(tiny("llama").named_parameters())
        assert all(torch.equal(p, want[name]) for name, p in model.named_parameters())

    def test_half_precision_files_come_up_in_fp32(self, save: Callable[..., Path]) -> None:
        model = models.load(source(save("qwen2", lambda m: m.to(torch.bfloat16))), CPU)
        assert {p.dtype for p in model.parameters()} == {torch.float32}

    @pytest.mark.parametrize("weights", ["bf16", "fp16"])
    def test_half_precision_weights_are_the_matrices_vectors_stay_fp32(
        self, arch: str, weights: Any, save: Callable[..., Path], tiny: Tiny
    ) -> None:
        """Rounded to nearest from fp32; tied ones stay tied; norms and biases are as they were."""
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}[weights]
        model = models.load(source(save(arch)), ModelConfig(device="cpu", weights=weights))
        want = dict(tiny(arch).named_parameters())
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        assert {p.dtype for p in model.parameters()} == {half, torch.float32}
        for name, p in model.named_parameters():
            assert p.dtype == (half if p.dim() > 1 else torch.float32)
            assert torch.equal(p, want[name].to(p.dtype))

    def test_a_skeleton_has_no_weights(self, save: Callable[..., Path], tiny: Tiny) -> None:
        skeleton = models.skeleton(source(save("gpt2")))
        assert {p.device.type for p in skeleton.parameters()} == {"meta"}
        want = [(name, p.shape) for name, p in tiny("gpt2").named_parameters()]
        assert [(name, p.shape) for name, p in skeleton.named_parameters()] == want

    def test_a_pickle_is_never_read(self, save: Callable[..., Path]) -> None:
        folder = save("llama")
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        with pytest.raises(BadInput, match="model"):
            models.load(source(folder), CPU)

    def test_a_broken_file_is_one_line(self, save: Callable[..., Path]) -> None:
        place = save("llama")
        weights = place / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(BadInput, match="--model "):
            models.load(sources.find(str(place)), ModelConfig(name=str(place)))

    def test_a_broken_gguf_file_is_one_line(self, tmp_path: Path, cache: Path) -> None:
        (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(60))
        source = sources.find(str(tmp_path / "broken.gguf"))
        for read in (lambda: models.load_tokenizer(source), lambda: models.load(source, ModelConfig(name=source.name))):
            with pytest.raises(BadInput, match=r"broken\.gguf"):
                read()

    def test_a_hub_model_that_cannot_be_had_is_one_line_and_nothing_is_asked_of_transformers(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"):
            monkeypatch.setattr(f"transformers.{name}.from_pretrained", None)
        for load in (models.load_tokenizer, lambda s: models.load(s, CPU), models.skeleton):
            with pytest.raises(BadInput, match="can the hub be reached") as caught:
                load(Source("nobody/no-such-model", "hub", "nobody/no-such-model"))
            assert "\n" not in str(caught.value)

    def test_a_model_that_brings_code_is_refused(self, save: Callable[..., Path]) -> None:
        folder = save("llama")
        edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Evil"})
        (folder / "modeling.py").write_text("raise SystemExit('code of the model was run')")
        with pytest.raises(BadInput, match="auto_map"):
            sources.find(str(folder))
        for load in (lambda s: models.load(s, CPU), models.skeleton):
            with pytest.raises(BadInput, match="auto_map"):
                load(Source(str(folder), "folder", str(folder)))

    def test_quantised_weights_are_refused(self, save: Callable[..., Path]) -> None:
        folder = save("llama")
        edit_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
        for load in (lambda s: models.load(s, CPU), models.skeleton):
            with pytest.raises(BadInput, match="hold quantised weights"):
                load(Source(str(folder), "folder", str(folder)))

    def test_weights_that_the_files_lack_are_not_drawn_at_random(self, save: Callable[..., Path]) -> None:
        folder = save("llama")
        held = load_file(folder / "model.safetensors")
        save_file({k: v for k, v in held.items() if k != "lm_head.weight"}, folder / "model.safetensors", {"format": "pt"})  # fmt: skip
        with pytest.raises(BadInput, match=r"hold no lm_head.weight \(1 weights are missing\)"):
            models.load(Source(str(folder), "folder", str(folder)), CPU)

    def test_a_device_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(BadInput, match="cuda"):
            models.device(ModelConfig(device="cuda"))
        assert models.device(CPU) == torch.device("cpu")


@pytest.fixture
def gguf(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF file whose model is the tiny one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def dequantised(path: Path) -> tuple[Any, Any]:
        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    monkeypatch.setattr(models, "dequantised", dequantised)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    return tmp_path / "m.gguf"


class TestConverted:
    """A GGUF file is converted once; what others did meanwhile stays, and a full disk is called so."""

    def test_it_is_in_the_cache_for_whoever_may_read_there(self, gguf: Path, folder: str, cache: Path) -> None:
        before = os.umask(0o022)
        try:
            found = models.converted(gguf)
        finally:
            os.umask(before)
        assert os.listdir(cache / "models") == [found.name]
        assert {p.name: oct(p.stat().st_mode & 0o777) for p in found.iterdir() if p.suffix == ".safetensors"} == {
            "model.safetensors": "0o644"
        }
        assert found.stat().st_mode & 0o777 == 0o755
        model = models.load(source(gguf), CPU)
        want = dict(models.load(source(Path(folder)), CPU).named_parameters())
        assert all(torch.equal(p, want[name]) for name, p in model.named_parameters())
        models.load_tokenizer(source(gguf))

    def test_of_two_first_starts_one_copy_stays(self, gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        slow = models.dequantised

        def while_another(path: Path) -> tuple[Any, Any]:
            monkeypatch.setattr(models, "dequantised", slow)
            (models.converted(path) / "first").write_text("")
            return slow(path)

        monkeypatch.setattr(models, "dequantised", while_another)
        found = models.converted(gguf)
        assert (found / "first").is_file() and os.listdir(cache / "models") == [found.name]

    @pytest.mark.parametrize("limit", [0, 100, 2000])
    def test_a_full_disk_is_called_so_and_nothing_is_left(self, gguf: Path, cache: Path, limit: int) -> None:
        """RLIMIT_FSIZE stands for the disk: a real failure in the middle of a file."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            for read in (models.load_tokenizer, models.skeleton, lambda s: models.load(s, CPU)):
                with pytest.raises(
                    ZofoError, match=r"write .*: the file is larger than the system allows .[1-9][0-9]* bytes needed"
                ) as caught:
                    read(source(gguf))
                assert caught.value.status == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert os.listdir(cache / "models") == []


def test_an_rwkv_keeps_its_weights_when_it_runs_and_says_so_where_it_is_saved(tmp_path: Path) -> None:
    """transformers divides those of its deeper layers by powers of two in place, at the first pass; saved, they would be divided twice."""
    place = tmp_path / "rwkv"
    made = RwkvForCausalLM(RwkvConfig(vocab_size=40, hidden_size=16, num_hidden_layers=3, rescale_every=2))
    made.save_pretrained(place)
    model: Any = models.load(sources.find(str(place)), ModelConfig(device="cpu"))
    before, ids = {name: p.clone() for name, p in model.named_parameters()}, torch.arange(8)[None]
    with torch.no_grad():
        found = model(input_ids=ids, use_cache=False).logits
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
        model.save_pretrained(tmp_path / "again")
        again = RwkvForCausalLM.from_pretrained(tmp_path / "again").eval()
        torch.testing.assert_close(found, made.eval()(input_ids=ids, use_cache=False).logits, rtol=0.01, atol=2e-3)
        torch.testing.assert_close(again(input_ids=ids, use_cache=False).logits, found)
