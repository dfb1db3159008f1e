"""Models: loaded without a network or code of their own, and their base weights read back from disk."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import RwkvConfig, RwkvForCausalLM

from zofo import models, sources
from zofo.config import ModelConfig
from zofo.core.seedgrad import SeedGrad
from zofo.core.weights import leaves as tree
from zofo.core.weights import move
from zofo.errors import BadInput, ZofoError
from zofo.models import Base
from zofo.sources import Source

Tiny = Callable[..., nn.Module]
CPU = ModelConfig(device="cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Nothing here may reach a network: an attempt is noted and fails."""
    tried: list[Any] = []

    def connect(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tried


@pytest.fixture
def save(tmp_path: Path, tiny: Tiny) -> Callable[..., Path]:
    """Save a tiny model: `save("gpt2")` -> folder."""

    def make(name: str, edit: Callable[[nn.Module], Any] = lambda model: model, **options: Any) -> Path:
        model = tiny(name)
        edit(model)
        with models.quiet():
            model.save_pretrained(tmp_path / name, **options)
        return tmp_path / name

    return make


def source(folder: Path) -> Source:
    """The source of a folder."""
    return sources.find(str(folder))


def rename(folder: Path, change: Callable[[str], str]) -> None:
    """Rename every tensor of a folder's file."""
    tensors = load_file(folder / "model.safetensors")
    save_file({change(key): tensor for key, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


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


class TestFingerprint:
    """Which base this is: names, shapes and every bit."""

    def test_changes_with_one_bit(self, tiny: Tiny) -> None:
        model = tiny("llama")
        before = models.fingerprint(tree.find(model))
        assert before == models.fingerprint(tree.find(tiny("llama")))
        words = model.model.norm.weight.data.view(torch.int32)
        words[3] ^= 1
        assert models.fingerprint(tree.find(model)) != before
        words[3] ^= 1
        assert models.fingerprint(tree.find(model)) == before

    def test_changes_with_the_sign_of_zero_a_name_a_shape_and_a_type(self) -> None:
        prints = []
        for name, tensor in (
            ("a", torch.zeros(4)), ("a", -torch.zeros(4)), ("b", torch.zeros(4)), ("a", torch.zeros(2, 2)),
            ("a", torch.zeros(8, dtype=torch.bfloat16)),
        ):  # fmt: skip
            module = nn.Module()
            module.register_parameter(name, nn.Parameter(tensor))
            prints.append(models.fingerprint(tree.find(module)))
        assert len(set(prints)) == 5

    def test_another_base_is_refused(self) -> None:
        models.same_base("a" * 64, "a" * 64, "m")
        with pytest.raises(ZofoError, match="SHA-256"):
            models.same_base("a" * 64, "b" * 64, "m")


def base_of(folder: Path, weights: Any = "fp32") -> tuple[nn.Module, tree.Leaves, Base]:
    """A folder's model, its leaves, and its base."""
    model = models.load(source(folder), ModelConfig(device="cpu", weights=weights))
    leaves = tree.find(model)
    return model, leaves, Base(source(folder), model, leaves, models.fingerprint(leaves))


class TestBase:
    """theta_0, from the model's own files where they serve, else from a copy."""

    def test_reads_theta_0_after_the_model_has_moved(self, arch: str, save: Callable[..., Path], cache: Path) -> None:
        _model, leaves, base = base_of(save(arch))
        before = tree.snapshot(leaves)
        move.apply(leaves, SeedGrad("gaussian", ((1, 1.0),)), lr=0.1)
        for leaf in leaves:
            assert torch.equal(base.tensor(leaf.name), before[leaf.name])
        # transformers writes gpt-neox's lm_head as embed_out, and mixtral's experts one by one: there a copy serves
        assert cache.exists() == (arch in ("gpt-neox", "mixtral")), "elsewhere the model's own files do: no copy"

    @pytest.mark.parametrize("prefixed", [True, False])
    def test_reads_files_with_and_without_the_models_prefix(
        self, prefixed: bool, save: Callable[..., Path], cache: Path
    ) -> None:
        """GPT-2's file on the hub says `h.0...`, a saved one `transformer.h.0...`."""
        folder = save("gpt2")
        if not prefixed:
            rename(folder, lambda key: key.removeprefix("transformer."))
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            assert all(key.startswith("transformer.") == prefixed for key in file.keys())  # noqa: SIM118
        _, leaves, base = base_of(folder)
        assert all(torch.equal(base.tensor(leaf.name), leaf.data) for leaf in leaves)
        assert models.moved(leaves, base) == 0 and not cache.exists()

    def test_reads_a_model_in_shards(self, save: Callable[..., Path], cache: Path) -> None:
        folder = save("llama", max_shard_size="20KB")
        assert len(list(folder.glob("*.safetensors"))) > 1
        _, leaves, base = base_of(folder)
        assert models.moved(leaves, base) == 0 and not cache.exists()

    def test_is_not_misled_by_other_files_beside(self, save: Callable[..., Path]) -> None:
        """Only the files that transformers loads are the base: a folder may hold other weights under the same names."""
        folder = save("llama")
        wrong = {key: tensor + 1 for key, tensor in load_file(folder / "model.safetensors").items()}
        for name in ("z-other.safetensors", "a-other.safetensors"):
            save_file(wrong, folder / name)
        _, leaves, base = base_of(folder)
        assert models.moved(leaves, base) == 0

    def test_makes_a_copy_where_the_files_do_not_serve(
        self, save: Callable[..., Path], tiny: Tiny, cache: Path
    ) -> None:
        folder = save("llama")
        _, leaves, _ = base_of(folder)
        rename(folder, lambda key: key.replace("q_proj", "query"))
        model, digest = tiny("llama"), models.fingerprint(leaves)
        base = Base(source(folder), model, tree.find(model), digest)
        assert [path.name for path in (cache / "bases").iterdir()] == [f"{digest}.safetensors"]
        move.apply(tree.find(model), SeedGrad("gaussian", ((1, 1.0),)), lr=0.1)
        assert all(torch.equal(base.tensor(leaf.name), leaf.data) for leaf in leaves)

    def test_a_tensor_of_another_shape_does_not_serve(self, save: Callable[..., Path], tiny: Tiny) -> None:
        folder = save("llama")
        leaves = tree.find(tiny("llama"))
        files = models.own_files(str(folder))
        assert models.located(files, leaves, "model") is not None
        tensors = load_file(folder / "model.safetensors")
        save_file(tensors | {"model.norm.weight": torch.ones(31)}, folder / "model.safetensors")
        assert models.located(files, leaves, "model") is None
        assert models.located([], leaves, "model") is None

    def test_a_hub_model_without_files_gets_a_copy(self, tiny: Tiny, cache: Path) -> None:
        model = tiny("llama")
        leaves = tree.find(model)
        digest = models.fingerprint(leaves)
        base = Base(Source("nobody/none", "hub", "nobody/none"), model, leaves, digest)
        assert models.moved(leaves, base) == 0
        assert (cache / "bases" / f"{digest}.safetensors").is_file()


def flip(path: Path) -> None:
    """Flip a bit of a file's last byte."""
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)


def renamed(path: Path) -> None:
    """Give a tensor another name."""
    held = load_file(path)
    held["other"] = held.pop("embed_out.weight" if "embed_out.weight" in held else "lm_head.weight")
    save_file(held, path)


BREAKS: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 5),
    "cut in its header": lambda path: os.truncate(path, 30),
    "empty": lambda path: path.write_bytes(b""),
    "a name": renamed,
    "a shape": lambda path: save_file({key: t.reshape(-1) for key, t in load_file(path).items()}, path),
}


class TestCopy:
    """The cache's copy of a base is checked when it is opened, and made anew where it is not what it was."""

    @pytest.mark.parametrize("weights", ["fp32", "bf16"])
    @pytest.mark.parametrize("how", BREAKS)
    def test_a_broken_one_is_written_anew(self, how: str, weights: str, save: Callable[..., Path], cache: Path) -> None:
        folder = save("gpt-neox")
        base_of(folder, weights)
        (copy,) = (cache / "bases").iterdir()
        whole = copy.read_bytes()
        BREAKS[how](copy)
        assert copy.read_bytes() != whole
        _, leaves, base = base_of(folder, weights)
        before = tree.snapshot(leaves)
        move.apply(leaves, SeedGrad("gaussian", ((1, 1.0),)), lr=0.1)
        models.reset(leaves, base)
        assert all(torch.equal(leaf.data, before[leaf.name]) for leaf in leaves)
        assert copy.read_bytes() == whole and list((cache / "bases").iterdir()) == [copy]

    def test_a_broken_one_is_told_where_the_weights_have_moved(self, save: Callable[..., Path], cache: Path) -> None:
        folder = save("gpt-neox")
        model, leaves, _ = base_of(folder)
        digest = models.fingerprint(leaves)
        move.apply(leaves, SeedGrad("gaussian", ((1, 1.0),)), lr=0.1)
        Base(source(folder), model, leaves, digest)  # a whole one serves wherever they are
        (copy,) = (cache / "bases").iterdir()
        flip(copy)
        with pytest.raises(ZofoError, match=f"the copy of the base, {copy}: .*broken.*; delete it"):
            Base(source(folder), model, leaves, digest)

    def test_what_the_disk_gives_back_otherwise_is_told(
        self, save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = models.tensorfile.write
        monkeypatch.setattr(models.tensorfile, "write", lambda path, tensors: (write(path, tensors), flip(path)))
        with pytest.raises(ZofoError, match="what is read back is not what was written; check the disk"):
            base_of(save("gpt-neox"))

    def test_it_is_read_once_a_process_and_again_when_it_changes(
        self, save: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, read, pieces = save("gpt-neox"), list[str](), models.tensorfile.pieces
        base_of(folder)
        monkeypatch.setattr(models.tensorfile, "pieces", lambda held: read.append(held.path.name) or pieces(held))
        for _ in range(3):
            base_of(folder)
        assert not read, "it was read when it was written"
        (copy,) = (cache / "bases").iterdir()
        os.utime(copy, ns=(1, 1))
        base_of(folder)
        assert set(read) == {copy.name}


class TestMoved:
    """|theta - theta_0| / |theta_0|."""

    def test_a_known_movement(self, save: Callable[..., Path]) -> None:
        """Rademacher's z moves every weight by a: |a z| = a sqrt(d)."""
        _, leaves, base = base_of(save("llama-tied"))
        norm = sum(float(leaf.data.double().square().sum()) for leaf in leaves) ** 0.5
        move.replay(leaves, "rademacher", ((1, 0.125),))
        assert models.moved(leaves, base) == pytest.approx(0.125 * leaves.count**0.5 / norm, rel=1e-5)

    def test_half_precision_files(self, save: Callable[..., Path]) -> None:
        _, leaves, base = base_of(save("llama", lambda model: model.to(torch.bfloat16)))
        assert base.tensor(leaves.items[0].name).dtype == torch.bfloat16
        assert models.moved(leaves, base) == 0


@pytest.mark.parametrize("weights", ["bf16", "fp16"])
class TestHalfPrecisionWeights:
    """theta_0 in a half type is read from the same files, rounded as it was when it was loaded."""

    def test_are_another_base_than_fp32s(self, weights: str, save: Callable[..., Path]) -> None:
        folder = save("llama-tied")
        prints = {models.fingerprint(base_of(folder, held)[1]) for held in ("fp32", weights, weights)}
        assert len(prints) == 2

    @pytest.mark.parametrize("name", ["llama", "gpt2", "gpt-neox"])
    def test_come_back_to_the_bit_after_a_move(self, weights: str, name: str, save: Callable[..., Path]) -> None:
        _, leaves, base = base_of(save(name), weights)
        before = tree.snapshot(leaves)
        assert models.moved(leaves, base) == 0
        move.apply(leaves, SeedGrad("gaussian", ((1, 1.0),)), lr=0.1)
        assert models.moved(leaves, base) > 0
        models.reset(leaves, base)
        assert all(torch.equal(leaf.data, before[leaf.name]) for leaf in leaves)
        assert {leaf.data.dtype for leaf in leaves} == {before[leaf.name].dtype for leaf in leaves}
        assert models.moved(leaves, base) == 0

    def test_a_known_movement(self, weights: str, save: Callable[..., Path]) -> None:
        """Rademacher's z moves every weight by a = 1/8, rounded to one neighbour or the other."""
        _, leaves, base = base_of(save("llama-tied"), weights)
        norm = sum(float(leaf.data.double().square().sum()) for leaf in leaves) ** 0.5
        move.replay(leaves, "rademacher", ((1, 0.125),))
        assert models.moved(leaves, base) == pytest.approx(0.125 * leaves.count**0.5 / norm, rel=2e-3)


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
