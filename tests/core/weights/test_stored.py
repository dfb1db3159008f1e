"""Leaves in a store and leaves in memory are gone over alike, and placeholders take no memory and no silent use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zofo.core import noise
from zofo.core.weights import leaves as tree
from zofo.core.weights import store as stores
from zofo.core.weights import stored as held
from zofo.core.weights.leaves import Leaves
from zofo.core.weights.store import Store
from zofo.core.weights.stored import StoredLeaf, changing, placeholder, reading, stored

Bits = Callable[[Tensor], bytes]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 13 elements."""
    monkeypatch.setattr(StoredLeaf, "cut", lambda self, size=13: stores.cut(self.name, self.numel, size))


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(9, 7), nn.LayerNorm(7), nn.Linear(7, 5))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Leaves, Leaves]]:
    """The leaves of a network in memory, and of its twin whose matrices are in a store."""
    plain = tree.find(net())
    large = [leaf for leaf in plain if leaf.numel > 20]
    with Store.create(tmp_path, ((leaf.name, leaf.shape, [leaf.data]) for leaf in large)) as store:
        twin = net()
        for module in (twin[0], twin[2]):
            module.weight = placeholder(module.weight.shape, torch.float32, torch.device("cpu"))
        yield plain, stored(tree.find(twin), store)


def test_the_leaves_are_the_same_by_name_id_shape_and_number(pair: tuple[Leaves, Leaves]) -> None:
    plain, streamed = pair
    for a, b in zip(plain, streamed, strict=True):
        assert (a.name, a.tid, a.shape, a.dtype, a.numel) == (b.name, b.tid, b.shape, b.dtype, b.numel)
    assert [isinstance(leaf, StoredLeaf) for leaf in streamed] == [True, False, False, False, True, False]
    assert plain.count == streamed.count
    assert plain.direction("sphere", 3) == streamed.direction("sphere", 3)


def gathered(leaves: Leaves) -> dict[str, Tensor]:
    """Leaves put together from their parts."""
    found: dict[str, list[Tensor]] = {leaf.name: [] for leaf in leaves}
    for leaf, start, part in reading(leaves):
        assert start == sum(p.numel() for p in found[leaf.name])
        found[leaf.name].append(part.clone())
    return {leaf.name: torch.cat(found[leaf.name]).view(leaf.shape) for leaf in leaves}


def test_reading_gives_every_element_in_order(pair: tuple[Leaves, Leaves], bits: Bits) -> None:
    plain, _ = pair
    want = tree.snapshot(plain)
    for leaves in pair:
        found = gathered(leaves)
        assert list(found) == list(want) and all(bits(found[name]) == bits(want[name]) for name in want)


@pytest.mark.parametrize("law", noise.LAWS)
def test_changing_both_by_parts_gives_the_bits_of_a_whole_move(pair: tuple[Leaves, Leaves], law: noise.Law) -> None:
    """What `move` does: shrink, then add a z, a part at a time."""
    plain, _ = pair
    want = tree.snapshot(plain)
    for leaf in plain:
        noise.perturb(want[leaf.name].mul_(0.75), want[leaf.name], plain.direction(law, 5), 0.1, leaf.tid)
    for leaves in pair:
        for leaf, start, part in changing(leaves):
            z, width = leaves.direction(law, 5), noise.columns(leaf.param)
            noise.perturb(part.mul_(0.75), part, z, 0.1, leaf.tid, start, width=width)
        found = gathered(leaves)
        assert all(torch.equal(found[name], want[name]) for name in want)


def test_a_leaf_that_is_not_contiguous_is_changed_too() -> None:
    model = nn.Linear(6, 4)
    model.weight = nn.Parameter(torch.arange(24.0).view(6, 4).t())
    for _, _, part in changing(tree.find(model)):
        part.copy_(torch.arange(float(part.numel())))
    assert torch.equal(model.weight.detach(), torch.arange(24.0).view(4, 6)) and not model.weight.is_contiguous()
    for _, _, part in reading(tree.find(model)):
        part.zero_() if part.numel() == 24 else None
    assert model.weight.any(), "a copy was read"


def test_a_caller_that_stops_leaves_no_thread_behind(pair: tuple[Leaves, Leaves]) -> None:
    import threading

    parts = reading(pair[1])
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("zofo-store")]


def test_a_stored_leaf_has_no_data(pair: tuple[Leaves, Leaves]) -> None:
    leaf = pair[1].items[0]
    with pytest.raises(RuntimeError, match=r"0\.weight is not in memory"):
        _ = leaf.data


def test_leaves_of_two_stores_are_refused(pair: tuple[Leaves, Leaves], tmp_path: Path) -> None:
    first = pair[1].items[0]
    with Store.create(tmp_path, [(first.name, first.shape, [torch.zeros(first.shape)])]) as other:
        twin = stored(Leaves((first,)), other)
        with pytest.raises(ValueError, match="more than one store"):
            list(reading([*pair[1], *twin]))


class TestPlaceholder:
    def test_has_a_shape_and_no_memory(self) -> None:
        made = placeholder(torch.Size([1 << 20, 1 << 20]), torch.float32, torch.device("cpu"))
        assert made.shape == (1 << 20, 1 << 20) and made.untyped_storage().nbytes() == 4
        assert not made.requires_grad and made.device.type == "cpu"

    def test_cannot_be_used_unnoticed(self) -> None:
        linear = nn.Linear(3, 2, bias=False)
        linear.weight = placeholder(torch.Size([2, 3]), torch.float32, torch.device("cpu"))
        assert linear(torch.ones(1, 3)).isnan().all()
        with pytest.raises(RuntimeError, match="single memory location"):
            linear.weight.data.add_(1.0)

    def test_pieces_are_a_page_of_rows_by_default(self) -> None:
        assert held.PIECE == stores.PIECE == 1 << 20
