"""theta_0: which base it is, read from the model's own files or a copy, how far theta is from it, and back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from zofo import models, sources, tensorfile, theta0
from zofo.config import ModelConfig
from zofo.core.seedgrad import SeedGrad
from zofo.core.weights import leaves as tree
from zofo.core.weights import move
from zofo.errors import ZofoError
from zofo.sources import Source
from zofo.theta0 import Base

Tiny = Callable[..., nn.Module]
pytestmark = pytest.mark.usefixtures("no_network", "cache")


def source(folder: Path) -> Source:
    """The source of a folder."""
    return sources.find(str(folder))


def rename(folder: Path, change: Callable[[str], str]) -> None:
    """Rename every tensor of a folder's file."""
    tensors = load_file(folder / "model.safetensors")
    save_file({change(key): tensor for key, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


class TestFingerprint:
    """Which base this is: names, shapes and every bit."""

    def test_changes_with_one_bit(self, tiny: Tiny) -> None:
        model = tiny("llama")
        before = theta0.fingerprint(tree.find(model))
        assert before == theta0.fingerprint(tree.find(tiny("llama")))
        words = model.model.norm.weight.data.view(torch.int32)
        words[3] ^= 1
        assert theta0.fingerprint(tree.find(model)) != before
        words[3] ^= 1
        assert theta0.fingerprint(tree.find(model)) == before

    def test_changes_with_the_sign_of_zero_a_name_a_shape_and_a_type(self) -> None:
        prints = []
        for name, tensor in (
            ("a", torch.zeros(4)), ("a", -torch.zeros(4)), ("b", torch.zeros(4)), ("a", torch.zeros(2, 2)),
            ("a", torch.zeros(8, dtype=torch.bfloat16)),
        ):  # fmt: skip
            module = nn.Module()
            module.register_parameter(name, nn.Parameter(tensor))
            prints.append(theta0.fingerprint(tree.find(module)))
        assert len(set(prints)) == 5

    def test_another_base_is_refused(self) -> None:
        theta0.same_base("a" * 64, "a" * 64, "m")
        with pytest.raises(ZofoError, match="SHA-256"):
            theta0.same_base("a" * 64, "b" * 64, "m")


def base_of(folder: Path, weights: Any = "fp32") -> tuple[nn.Module, tree.Leaves, Base]:
    """A folder's model, its leaves, and its base."""
    model = models.load(source(folder), ModelConfig(device="cpu", weights=weights))
    leaves = tree.find(model)
    return model, leaves, Base(source(folder), model, leaves, theta0.fingerprint(leaves))


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
        assert theta0.moved(leaves, base) == 0 and not cache.exists()

    def test_reads_a_model_in_shards(self, save: Callable[..., Path], cache: Path) -> None:
        folder = save("llama", max_shard_size="20KB")
        assert len(list(folder.glob("*.safetensors"))) > 1
        _, leaves, base = base_of(folder)
        assert theta0.moved(leaves, base) == 0 and not cache.exists()

    def test_is_not_misled_by_other_files_beside(self, save: Callable[..., Path]) -> None:
        """Only the files that transformers loads are the base: a folder may hold other weights under the same names."""
        folder = save("llama")
        wrong = {key: tensor + 1 for key, tensor in load_file(folder / "model.safetensors").items()}
        for name in ("z-other.safetensors", "a-other.safetensors"):
            save_file(wrong, folder / name)
        _, leaves, base = base_of(folder)
        assert theta0.moved(leaves, base) == 0

    def test_makes_a_copy_where_the_files_do_not_serve(
        self, save: Callable[..., Path], tiny: Tiny, cache: Path
    ) -> None:
        folder = save("llama")
        _, leaves, _ = base_of(folder)
        rename(folder, lambda key: key.replace("q_proj", "query"))
        model, digest = tiny("llama"), theta0.fingerprint(leaves)
        base = Base(source(folder), model, tree.find(model), digest)
        assert [path.name for path in (cache / "bases").iterdir()] == [f"{digest}.safetensors"]
        move.apply(tree.find(model), SeedGrad("gaussian", ((1, 1.0),)), lr=0.1)
        assert all(torch.equal(base.tensor(leaf.name), leaf.data) for leaf in leaves)

    def test_a_tensor_of_another_shape_does_not_serve(self, save: Callable[..., Path], tiny: Tiny) -> None:
        folder = save("llama")
        leaves = tree.find(tiny("llama"))
        files = theta0.own_files(str(folder))
        assert theta0.located(files, leaves, "model") is not None
        tensors = load_file(folder / "model.safetensors")
        save_file(tensors | {"model.norm.weight": torch.ones(31)}, folder / "model.safetensors")
        assert theta0.located(files, leaves, "model") is None
        assert theta0.located([], leaves, "model") is None

    def test_a_hub_model_without_files_gets_a_copy(self, tiny: Tiny, cache: Path) -> None:
        model = tiny("llama")
        leaves = tree.find(model)
        digest = theta0.fingerprint(leaves)
        base = Base(Source("nobody/none", "hub", "nobody/none"), model, leaves, digest)
        assert theta0.moved(leaves, base) == 0
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
        theta0.reset(leaves, base)
        assert all(torch.equal(leaf.data, before[leaf.name]) for leaf in leaves)
        assert copy.read_bytes() == whole and list((cache / "bases").iterdir()) == [copy]

    def test_a_broken_one_is_told_where_the_weights_have_moved(self, save: Callable[..., Path], cache: Path) -> None:
        folder = save("gpt-neox")
        model, leaves, _ = base_of(folder)
        digest = theta0.fingerprint(leaves)
        move.apply(leaves, SeedGrad("gaussian", ((1, 1.0),)), lr=0.1)
        Base(source(folder), model, leaves, digest)  # a whole one serves wherever they are
        (copy,) = (cache / "bases").iterdir()
        flip(copy)
        with pytest.raises(ZofoError, match=f"the copy of the base, {copy}: .*broken.*; delete it"):
            Base(source(folder), model, leaves, digest)

    def test_what_the_disk_gives_back_otherwise_is_told(
        self, save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = tensorfile.write
        monkeypatch.setattr(tensorfile, "write", lambda path, tensors: (write(path, tensors), flip(path)))
        with pytest.raises(ZofoError, match="what is read back is not what was written; check the disk"):
            base_of(save("gpt-neox"))

    def test_it_is_read_once_a_process_and_again_when_it_changes(
        self, save: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, read, pieces = save("gpt-neox"), list[str](), tensorfile.pieces
        base_of(folder)
        monkeypatch.setattr(tensorfile, "pieces", lambda held: read.append(held.path.name) or pieces(held))
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
        assert theta0.moved(leaves, base) == pytest.approx(0.125 * leaves.count**0.5 / norm, rel=1e-5)

    def test_half_precision_files(self, save: Callable[..., Path]) -> None:
        _, leaves, base = base_of(save("llama", lambda model: model.to(torch.bfloat16)))
        assert base.tensor(leaves.items[0].name).dtype == torch.bfloat16
        assert theta0.moved(leaves, base) == 0


@pytest.mark.parametrize("weights", ["bf16", "fp16"])
class TestHalfPrecisionWeights:
    """theta_0 in a half type is read from the same files, rounded as it was when it was loaded."""

    def test_are_another_base_than_fp32s(self, weights: str, save: Callable[..., Path]) -> None:
        folder = save("llama-tied")
        prints = {theta0.fingerprint(base_of(folder, held)[1]) for held in ("fp32", weights, weights)}
        assert len(prints) == 2

    @pytest.mark.parametrize("name", ["llama", "gpt2", "gpt-neox"])
    def test_come_back_to_the_bit_after_a_move(self, weights: str, name: str, save: Callable[..., Path]) -> None:
        _, leaves, base = base_of(save(name), weights)
        before = tree.snapshot(leaves)
        assert theta0.moved(leaves, base) == 0
        move.apply(leaves, SeedGrad("gaussian", ((1, 1.0),)), lr=0.1)
        assert theta0.moved(leaves, base) > 0
        theta0.reset(leaves, base)
        assert all(torch.equal(leaf.data, before[leaf.name]) for leaf in leaves)
        assert {leaf.data.dtype for leaf in leaves} == {before[leaf.name].dtype for leaf in leaves}
        assert theta0.moved(leaves, base) == 0

    def test_a_known_movement(self, weights: str, save: Callable[..., Path]) -> None:
        """Rademacher's z moves every weight by a = 1/8, rounded to one neighbour or the other."""
        _, leaves, base = base_of(save("llama-tied"), weights)
        norm = sum(float(leaf.data.double().square().sum()) for leaf in leaves) ** 0.5
        move.replay(leaves, "rademacher", ((1, 0.125),))
        assert theta0.moved(leaves, base) == pytest.approx(0.125 * leaves.count**0.5 / norm, rel=2e-3)
