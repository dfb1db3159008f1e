"""A model with weights outside memory stands at theta by its hooks, and probes as one in memory does, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zofo.core.noise import LAWS, Law
from zofo.core.probe import Point, affine
from zofo.core.probe import stand as stands
from zofo.core.probe.hooks import Hooks, for_life
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.core.weights import move
from zofo.core.weights.fetch import Fetcher
from zofo.core.weights.leaves import Leaves
from zofo.core.weights.store import Store, cut
from zofo.core.weights.stored import StoredLeaf, placeholder, reading, stored

Tiny = Callable[..., nn.Module]
Outside = Callable[..., tuple[nn.Module, Hooks]]
KEY, EPS = 7, 0.01
POINTS = 3


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and tiles that no matrix of these models is a multiple of."""
    monkeypatch.setattr(stands, "cut", lambda name, n: cut(name, n, 100))
    monkeypatch.setattr(affine, "TILE", 500)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    """`outside(model, keep)`: a twin whose leaves of more than `keep` elements are in a store, and its hooks."""
    with ExitStack() as stack:

        def make(model: nn.Module, keep: int = 0) -> tuple[nn.Module, Hooks]:
            twin = copy.deepcopy(model)
            leaves = tree.find(twin)
            large = [leaf for leaf in leaves if leaf.numel > keep]
            store = stack.enter_context(
                Store.create(tmp_path, ((leaf.name, leaf.shape, [leaf.data]) for leaf in large), large[0].dtype)
            )
            for leaf in large:
                empty = placeholder(leaf.shape, leaf.dtype, leaf.param.device)
                for module, attr in leaf.owners:
                    module._parameters[attr] = empty
            held = stored(tree.find(twin), store)
            return twin, for_life(twin, held, stack.enter_context(Fetcher(store)))

        yield make


class Whole:
    """All logits, at one point or at several together."""

    def __init__(self, model: nn.Module, ids: Tensor) -> None:
        self.model, self.ids = model, ids

    def __call__(self) -> Tensor:
        return self.logits(self.ids).reshape(-1)

    def stacked(self, n: int) -> Tensor:
        return self.logits(self.ids.repeat(n, 1)).reshape(n, -1)

    def logits(self, ids: Tensor) -> Tensor:
        out = self.model(ids, use_cache=False).logits
        assert isinstance(out, Tensor)
        return out


def probed(model: nn.Module, leaves: Leaves, ids: Tensor, law: Law, **options: Any) -> Tensor:
    """Logits at theta + eps z, theta - eps z and theta."""
    z = leaves.direction(law, KEY)
    return Scratch(model, leaves, **options)(Whole(model, ids), [Point(z, EPS), Point(z, -EPS), Point()])


def empty(hooks: Hooks) -> bool:
    """Whether every stored leaf is a placeholder in all its owners."""
    return all(
        module._parameters[attr] is leaf.param and bool(leaf.param.isnan().all())
        for leaf in hooks.stand.leaves
        if isinstance(leaf, StoredLeaf)
        for module, attr in leaf.owners
    )


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("keep", [0, 64])
def test_every_architecture_probes_to_the_same_bits(
    arch: str, keep: int, stack: bool, tiny: Tiny, rows: Tensor, outside: Outside
) -> None:
    model = tiny(arch)
    twin, hooks = outside(model, keep)
    want = probed(model, tree.find(model), rows, "gaussian", stack=stack)
    found = probed(twin, hooks.stand.leaves, rows, "gaussian", stack=stack, hooks=hooks)
    assert torch.equal(found, want) and empty(hooks)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("autocast", [False, True])
def test_every_law_and_half_tiles(law: Law, autocast: bool, tiny: Tiny, rows: Tensor, outside: Outside) -> None:
    model = tiny("llama-tied")
    twin, hooks = outside(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
        want = probed(model, tree.find(model), rows, law)
        assert torch.equal(probed(twin, hooks.stand.leaves, rows, law, hooks=hooks), want)


@torch.no_grad()
def test_without_a_probe_it_stands_at_theta(arch: str, tiny: Tiny, rows: Tensor, outside: Outside) -> None:
    model = tiny(arch)
    twin, hooks = outside(model)
    for _ in range(2):
        assert torch.equal(Whole(twin, rows)(), Whole(model, rows)())
    assert empty(hooks) and not hooks.stand.live


@torch.no_grad()
@pytest.mark.parametrize("law", LAWS)
def test_a_step_moves_the_store_as_it_moves_memory(law: Law, tiny: Tiny, rows: Tensor, outside: Outside) -> None:
    """What was read ahead before the step is not used after it."""
    model = tiny("qwen2")
    twin, hooks = outside(model, 64)
    for step in range(3):
        assert torch.equal(Whole(twin, rows)(), Whole(model, rows)())
        terms = ((step, 0.01), (step + 100, -0.02))
        for leaves in (tree.find(model), hooks.stand.leaves):
            move.replay(leaves, law, terms, 0.1)
    for (_, _, whole), leaf in zip(reading(tree.find(model)), hooks.stand.leaves, strict=True):
        assert torch.equal(torch.cat([part.clone() for _, _, part in reading([leaf])]), whole)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_it_stands_at_theta(
    error: type[BaseException], tiny: Tiny, rows: Tensor, outside: Outside
) -> None:
    model = tiny("llama")
    twin, hooks = outside(model)
    layer = twin.model.layers[1].mlp  # type: ignore[union-attr, index]

    def fail(*_: Any) -> None:
        raise error

    handle = layer.register_forward_pre_hook(fail)
    with pytest.raises(error):
        probed(twin, hooks.stand.leaves, rows, "gaussian", hooks=hooks)
    handle.remove()
    assert empty(hooks) and hooks.stand.at_theta
    with torch.no_grad():
        assert torch.equal(Whole(twin, rows)(), Whole(model, rows)())


def test_a_few_outputs_of_a_head(tiny: Tiny, outside: Outside) -> None:
    model = tiny("llama")
    twin, _ = outside(model)
    x, rows = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([5, 90, 2])
    head = twin.lm_head.forward  # type: ignore[union-attr, operator]
    with torch.no_grad():
        assert torch.equal(head.few(x, rows), x @ model.lm_head.weight[rows].T)  # type: ignore[index, union-attr]


def test_gradients_are_refused(tiny: Tiny, rows: Tensor, outside: Outside) -> None:
    twin, _ = outside(tiny("llama"))
    with pytest.raises(RuntimeError, match="gradients off"):
        twin(rows)


def test_what_comes_next_is_foreseen(tiny: Tiny, rows: Tensor, outside: Outside) -> None:
    """From the second pass on, every piece is read while the one before is used."""
    twin, hooks = outside(tiny("llama"), 64)
    fetcher = hooks.stand.fetcher
    assert fetcher is not None
    with torch.no_grad():
        Whole(twin, rows)()
        missed = fetcher.missed
        Whole(twin, rows)()
    assert missed > 10 and fetcher.missed - missed <= 1


def test_scratch_and_two_pieces_are_all_that_is_held(tiny: Tiny, rows: Tensor, outside: Outside) -> None:
    twin, hooks = outside(tiny("llama", vocab_size=5000, pad_token_id=0), 64)
    probed(twin, hooks.stand.leaves, rows, "gaussian", hooks=hooks)
    fetcher = hooks.stand.fetcher
    assert fetcher is not None and max(fetcher.used.numel(), fetcher.spare.numel()) <= 100
    assert sum(buffer.numel() for buffer in hooks.stand.pool.free) <= 5000 * 32 + 2 * 500, "the head at theta"
