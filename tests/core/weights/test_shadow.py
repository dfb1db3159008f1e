"""The shadow: single-owner matrices in a half type, with the bits of autocast's own casts, and everything put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zofo.adapters.slots import Slots, attach
from zofo.config import AdapterConfig
from zofo.core.seedgrad import SeedGrad
from zofo.core.weights import leaves as tree
from zofo.core.weights import move
from zofo.core.weights.shadow import Shadow, casts

Tiny = Callable[..., nn.Module]
BLOCK = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
LLAMA = {f"model.layers.{i}.{name}.weight" for i in (0, 1) for name in BLOCK}
GPT2 = {f"transformer.h.{i}.{name}.weight" for i in (0, 1) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}  # fmt: skip
CAST = {"llama": LLAMA | {"lm_head.weight"}, "llama-tied": LLAMA, "qwen2": LLAMA, "gpt2": GPT2}


def logits(model: nn.Module, rows: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """What the model puts out, computed in a half type."""
    with torch.autocast("cpu", dtype, cache_enabled=False):
        out: Tensor = model(input_ids=rows, use_cache=False).logits
    return out[:, -rows.shape[1] :]


def gradient(slots: Slots, rows: Tensor, slot: str) -> list[Tensor]:
    """The gradient of a slot's parameters."""
    slots.use(slot)
    loss = logits(slots.model, rows).float().log_softmax(-1)[:, :, 5].mean()
    return list(torch.autograd.grad(loss, slots.list(slot)))


@contextmanager
def in_place(shadow: Shadow) -> Iterator[None]:
    """`shown`, and what is shown is of the half type."""
    with shadow.shown():
        assert shadow.leaves and all(leaf.owners[0][0].weight.dtype == shadow.dtype for leaf in shadow.leaves)
        yield


class TestCasts:
    """Which leaves have a twin."""

    @pytest.mark.parametrize("arch", sorted(CAST))
    def test_the_matrices_of_linear_layers_but_no_tied_one(self, arch: str, tiny: Tiny) -> None:
        """No embedding, no norm, no bias; a tied head is read by its embedding too."""
        found = Shadow(tree.find(tiny(arch)), torch.bfloat16).leaves
        assert {leaf.name for leaf in found} == CAST[arch]

    def test_a_module_may_be_left_out(self, tiny: Tiny) -> None:
        """The output head, which is computed in fp32."""
        model = tiny("llama")
        found = Shadow(tree.find(model), torch.bfloat16, without=model.lm_head).leaves
        assert {leaf.name for leaf in found} == LLAMA

    def test_the_same_leaves_inside_a_peft_model(self, tiny: Tiny) -> None:
        slots = attach(tiny("gpt2").requires_grad_(False), AdapterConfig(r=2), ("p", "s"), 0)
        own = {id(p) for slot in "ps" for p in slots.list(slot)}
        leaves = tree.find(slots.model, keep=lambda p: id(p) not in own)
        assert {leaf.name for leaf in Shadow(leaves, torch.bfloat16).leaves} == CAST["gpt2"]

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_no_leaf_of_another_type_than_fp32(self, dtype: torch.dtype, tiny: Tiny) -> None:
        assert not any(casts(leaf) for leaf in tree.find(tiny("llama").to(dtype)))

    def test_no_subclass_of_a_linear_layer(self) -> None:
        class Own(nn.Linear):
            """May do anything with its weight."""

        assert not any(casts(leaf) for leaf in tree.find(Own(3, 2)))
        assert [leaf.name for leaf in tree.find(nn.Linear(3, 2)) if casts(leaf)] == ["weight"]


class TestBits:
    """A pass through the shadow has the bits of a pass that casts for itself."""

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_of_forward_passes_on_every_architecture(
        self, arch: str, dtype: torch.dtype, tiny: Tiny, rows: Tensor, watch: type
    ) -> None:
        model = tiny(arch).requires_grad_(False)
        seen, want = watch(model), logits(model, rows, dtype)
        with in_place(Shadow(tree.find(model), dtype)):
            assert torch.equal(logits(model, rows, dtype), want)
        seen.check()

    @pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
    @pytest.mark.parametrize("arch", ["gpt2", "llama"])
    def test_of_an_adapters_gradient(self, arch: str, kind: str, tiny: Tiny, rows: Tensor, watch: type) -> None:
        model = tiny(arch).requires_grad_(False)
        shadow = Shadow(tree.find(model), torch.bfloat16)
        slots = attach(model, AdapterConfig(kind=kind, r=2), ("p", "s"), 0)  # type: ignore[arg-type]
        with torch.no_grad():
            for param in slots.list("p"):
                param.add_(0.05)
        seen, want = watch(slots.model), {slot: gradient(slots, rows, slot) for slot in "ps"}
        with in_place(shadow):
            for slot in "ps":
                assert all(torch.equal(g, w) for g, w in zip(gradient(slots, rows, slot), want[slot], strict=True))
        assert any(not torch.equal(p, s) for p, s in zip(want["p"], want["s"], strict=True))
        assert all(leaf.param.grad is None and not leaf.param.requires_grad for leaf in shadow.leaves)
        seen.check()

    @pytest.mark.parametrize("still", [False, True])
    def test_after_theta_has_moved(self, still: bool, tiny: Tiny, rows: Tensor) -> None:
        """The twins are written anew in the same memory; where theta was said to stand `still`, they are not."""
        model = tiny("llama").requires_grad_(False)
        leaves, before = tree.find(model), logits(model, rows)
        shadow = Shadow(leaves, torch.bfloat16, still)
        assert not shadow.twins, "no memory before the first use"
        with in_place(shadow):
            places = [twin.data_ptr() for twin in shadow.twins]
        written = [twin.detach().clone() for twin in shadow.twins]
        move.apply(leaves, SeedGrad("gaussian", ((1, 0.5),)), lr=0.1)
        want = logits(model, rows)
        assert not torch.equal(want, before)
        with in_place(shadow):
            assert torch.equal(logits(model, rows), want) != still
        assert [twin.data_ptr() for twin in shadow.twins] == places
        assert all(torch.equal(a, b) for a, b in zip(shadow.twins, written, strict=True)) == still

    def test_of_another_twin_for_every_leaf(self, tiny: Tiny) -> None:
        """2 bytes a number of the matrices: twins are leaves cast to nearest, and share no memory."""
        shadow = Shadow(tree.find(tiny("llama")), torch.float16)
        shadow.refresh()
        for twin, leaf in zip(shadow.twins, shadow.leaves, strict=True):
            assert torch.equal(twin, leaf.data.to(torch.float16)) and not twin.requires_grad
        size = sum(twin.numel() * twin.element_size() for twin in shadow.twins)
        assert size == 2 * sum(leaf.param.numel() for leaf in shadow.leaves)
        assert len({twin.data_ptr() for twin in shadow.twins}) == len(shadow.leaves)


class Stop(TorchDispatchMode):
    """Raise an error at tensor operation number n; count them."""

    def __init__(self, n: int, error: type[BaseException]) -> None:
        super().__init__()
        self.n, self.error, self.count = n, error, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += 1
        if self.count == self.n:
            raise self.error
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_everything_is_back_after_an_error_at_any_operation(
    error: type[BaseException], tiny: Tiny, rows: Tensor, watch: type
) -> None:
    """While the twins are made, while they are written anew, and in the block: no weight is lost, a later use is right."""
    model = tiny("gpt2").requires_grad_(False)
    leaves, seen = tree.find(model), watch(model)
    want = logits(model, rows)
    shadow = Shadow(leaves, torch.bfloat16)
    for used in (False, True):  # the first use makes the twins
        count, tried = Stop(-1, error), shadow if used else Shadow(leaves, torch.bfloat16)
        with count, tried.shown():
            logits(model, rows)
        made = len(shadow.leaves)
        assert count.count > 10 * made
        for n in (*range(1, made + 3), *range(made + 3, count.count, 7)):
            tried = shadow if used else Shadow(leaves, torch.bfloat16)
            with pytest.raises(error), Stop(n, error), tried.shown():
                logits(model, rows)
            seen.check()
            with in_place(tried):
                assert torch.equal(logits(model, rows), want)
        shadow.refresh()


def test_what_moved_between_two_uses_is_seen_though_the_first_was_stopped(tiny: Tiny, rows: Tensor) -> None:
    """A refresh that was interrupted halfway leaves no old twin behind."""
    model = tiny("llama").requires_grad_(False)
    leaves = tree.find(model)
    shadow = Shadow(leaves, torch.bfloat16)
    shadow.refresh()
    move.apply(leaves, SeedGrad("gaussian", ((1, 0.5),)), lr=0.1)
    with pytest.raises(KeyboardInterrupt), Stop(5, KeyboardInterrupt):
        shadow.refresh()
    want = logits(model, rows)
    with in_place(shadow):
        assert torch.equal(logits(model, rows), want)
