"""Leaves: canonical names, ties counted once with all their owners, and refusals by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from zofo.core import noise
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput


def test_leaves_are_the_models_parameters(arch: str, tiny: Callable[..., nn.Module]) -> None:
    """Names, order, identity and number are those of `named_parameters` (which counts ties once)."""
    model = tiny(arch)
    leaves = tree.find(model)
    assert [(leaf.name, id(leaf.param)) for leaf in leaves] == [(name, id(p)) for name, p in model.named_parameters()]
    assert leaves.count == sum(p.numel() for p in model.parameters())
    assert len(leaves) == len(leaves.items)
    for leaf in leaves:
        assert leaf.tid == noise.tensor_id(leaf.name)
        assert all(module._parameters[attr] is leaf.param for module, attr in leaf.owners)
        assert leaf.data.data_ptr() == leaf.param.data_ptr() and not leaf.data.requires_grad


def test_a_tied_head_is_one_leaf_with_two_owners(tiny: Callable[..., nn.Module]) -> None:
    model = tiny("llama-tied")
    (tied,) = [leaf for leaf in tree.find(model) if len(leaf.owners) > 1]
    assert tied.name == "model.embed_tokens.weight"
    assert {id(module) for module, _ in tied.owners} == {id(model.model.embed_tokens), id(model.lm_head)}
    assert all(len(leaf.owners) == 1 for leaf in tree.find(tiny("llama")))


def test_a_module_that_holds_one_parameter_twice_owns_it_twice() -> None:
    model = nn.Linear(3, 3)
    model.again = model.weight
    weight, _bias = tree.find(model)
    assert [attr for _, attr in weight.owners] == ["weight", "again"]


@pytest.mark.parametrize(
    ("name", "wrapped", "want"),
    [
        ("model.layers.0.q_proj.weight", False, "model.layers.0.q_proj.weight"),
        ("module.model.norm.weight", False, "model.norm.weight"),
        ("_orig_mod.module.model.norm.weight", False, "model.norm.weight"),
        ("model.layers.0._orig_mod.q_proj.base_layer.weight", False, "model.layers.0.q_proj.weight"),
        ("base_model.model.model.layers.0.q_proj.base_layer.weight", True, "model.layers.0.q_proj.weight"),
        ("base_model.model.lm_head.weight", True, "lm_head.weight"),
        ("model.base_layer_norm.weight", False, "model.base_layer_norm.weight"),
    ],
)
def test_canonical_takes_wrappers_off(name: str, wrapped: bool, want: str) -> None:
    assert tree.canonical(name, wrapped) == want


def test_wrapping_a_model_changes_no_name(tiny: Callable[..., nn.Module]) -> None:
    model = tiny("gpt2")
    names = [leaf.name for leaf in tree.find(model)]
    assert [leaf.name for leaf in tree.find(nn.DataParallel(model))] == names
    compiled = nn.Module()
    compiled._orig_mod = model  # as torch.compile names it
    assert [leaf.name for leaf in tree.find(compiled)] == names


def test_keep_chooses_and_whole_numbers_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    model.register_parameter("counts", nn.Parameter(torch.zeros(3, dtype=torch.long), requires_grad=False))
    assert [leaf.name for leaf in tree.find(model)] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert [leaf.name for leaf in tree.find(model, keep=lambda p: p.requires_grad)] == ["1.weight", "1.bias"]


def test_nothing_to_move_is_refused() -> None:
    with pytest.raises(BadInput, match="no floating-point parameter"):
        tree.find(nn.ReLU())


def test_weights_that_are_not_there_are_refused() -> None:
    with pytest.raises(BadInput, match=r"^weight: .*meta"):
        tree.find(nn.Linear(2, 2, device="meta"))


def test_colliding_ids_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "tensor_id", lambda name: 1)
    with pytest.raises(BadInput, match=r"bias: .*weight"):
        tree.find(nn.Linear(2, 2))


def test_positional_leaves_are_numbered() -> None:
    leaves = tree.positional(nn.Linear(2, 3).parameters())
    assert [leaf.name for leaf in leaves] == ["parameter.0", "parameter.1"]
    assert all(leaf.owners == () for leaf in leaves)


def test_a_direction_is_that_of_all_leaves() -> None:
    leaves = tree.find(nn.Linear(2, 3))
    tensors = [(leaf.tid, leaf.param.numel()) for leaf in leaves]
    assert leaves.direction("sphere", 4) == noise.direction("sphere", 4, tensors)


def test_a_snapshot_is_a_copy() -> None:
    model = nn.Linear(2, 3)
    taken = tree.snapshot(tree.find(model))
    with torch.no_grad():
        model.weight.add_(1)
    assert torch.equal(taken["weight"] + 1, model.weight)
