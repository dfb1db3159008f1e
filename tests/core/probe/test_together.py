"""Points evaluated together over stacked rows give what they give one by one, on every architecture, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from zofo.core.noise import LAWS, Law
from zofo.core.probe import Point, affine
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.scoring.batch import Batch, Encoded, choice_batch, lm_batch, merged
from zofo.scoring.objective import choice_losses, row_losses

Tiny = Callable[..., nn.Module]
EPS = 0.01
FAST = ("gpt2", "opt", "llama", "llama-tied", "qwen2", "mistral")  # must be stacked; the others may fall back
ROWS = [Encoded((5, 6, 7), ((8, 9), (10,)), 0), Encoded((11, 12), ((13,), (14,)), 1), Encoded((20, 21, 22, 23), ((8,), (9,)), 0)]  # fmt: skip
WORDS = [Encoded(e.context, ((8,), (9,)), e.label) for e in ROWS]


class Loss:
    """The mean loss of a batch, alone or stacked."""

    def __init__(self, model: nn.Module, batch: Batch, loss: Callable[..., Tensor] = row_losses, dtype: str = "fp32"):
        self.model, self.batch, self.loss, self.dtype, self.calls = model, batch, loss, dtype, 0

    def __call__(self) -> Tensor:
        return self.loss(self.model, self.batch, self.dtype).double().mean()

    def stacked(self, n: int) -> Tensor:
        self.calls += 1
        return self.loss(self.model, merged([self.batch] * n), self.dtype).double().view(n, -1).mean(1, keepdim=True)


def points(model: nn.Module, law: Law = "gaussian", q: int = 1) -> list[Point]:
    """theta +- eps z along q directions."""
    leaves = tree.find(model)
    return [Point(leaves.direction(law, key), a) for key in range(q) for a in (EPS, -EPS)]


def both(loss: Loss, where: list[Point]) -> tuple[Tensor, Tensor, Scratch]:
    """Values one by one, and together."""
    leaves = tree.find(loss.model)
    probe = Scratch(loss.model, leaves, stack=True)
    return Scratch(loss.model, leaves)(loss, where), probe(loss, where), probe


@pytest.mark.parametrize("tile", [200, affine.TILE])
def test_equal_on_every_architecture(
    arch: str, tile: int, tiny: Tiny, watch: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To rounding: a product of twice the rows may be summed in another order."""
    monkeypatch.setattr(affine, "TILE", tile)
    model = tiny(arch)
    seen, loss = watch(model), Loss(model, lm_batch(ROWS, range(3), 0))
    alone, together, probe = both(loss, points(model))
    seen.check()
    assert (probe.unstacked is None) == (loss.calls == 1)
    assert arch not in FAST or probe.unstacked is None, probe.unstacked
    assert torch.allclose(alone, together, rtol=2e-6, atol=0)
    assert float((together[0] - together[1]).abs()) > 1e-4


@pytest.mark.parametrize("arch", FAST)
@pytest.mark.parametrize("law", LAWS)
def test_equal_in_every_law_and_with_several_directions(arch: str, law: Law, tiny: Tiny) -> None:
    model = tiny(arch)
    loss = Loss(model, lm_batch(ROWS, range(3), 0))
    alone, together, probe = both(loss, [*points(model, law, q=2), Point()])
    assert probe.unstacked is None and loss.calls == 3
    assert torch.allclose(alone, together, rtol=2e-6, atol=0)


@pytest.mark.parametrize("arch", FAST)
def test_equal_for_choices_of_few_words(arch: str, tiny: Tiny) -> None:
    """A tied head computes the choices' words alone, perturbed, for each point with its own."""
    model = tiny(arch)
    loss = Loss(model, choice_batch(WORDS, range(3), 0), choice_losses)
    for law in LAWS:
        alone, together, probe = both(loss, points(model, law))
        assert probe.unstacked is None
        assert torch.allclose(alone, together, rtol=2e-6, atol=0)


@pytest.mark.parametrize("arch", FAST)
@pytest.mark.parametrize("law", LAWS)
def test_equal_in_bf16(arch: str, law: Law, tiny: Tiny) -> None:
    model = tiny(arch)
    loss = Loss(model, lm_batch(ROWS, range(3), 0), dtype="bf16")
    alone, together, probe = both(loss, points(model, law))
    assert probe.unstacked is None
    assert torch.allclose(alone, together, rtol=2e-2, atol=0)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "llama-tied", "opt"])
def test_scratch_in_the_computing_type_has_the_bits_of_a_cast(arch: str, tiny: Tiny, moved: Any) -> None:
    """A tile rounded once into bf16 is what autocast makes of weights that were really moved, in fp32."""
    model = tiny(arch)
    batch, z = lm_batch(ROWS, range(3), 0), tree.find(model).direction("gaussian", 0)
    fast = Scratch(model, tree.find(model))(Loss(model, batch, dtype="bf16"), [Point(z, EPS), Point(z, -EPS)])
    with torch.no_grad():
        want = [Loss(moved(model, "gaussian", (0, a)), batch, dtype="bf16")() for a in (EPS, -EPS)]
    assert torch.equal(fast[:, 0], torch.stack(want))


@pytest.mark.parametrize("n", [1, 5, 20, 30])
def test_no_trace_after_an_error(n: int, tiny: Tiny, watch: type) -> None:
    """An exception at operation n of a stacked pass leaves every weight, hook and forward as it was."""
    model = tiny("gpt2")
    seen, loss = watch(model), Loss(model, lm_batch(ROWS, range(3), 0))
    left = [n]

    def point(module: nn.Module, *args: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    handle = nn.modules.module.register_module_forward_hook(point)
    try:
        with pytest.raises(KeyboardInterrupt):
            Scratch(model, tree.find(model), stack=True)(loss, points(model))
    finally:
        handle.remove()
    seen.check()


def test_a_model_whose_rows_do_not_fall_into_shares_goes_one_by_one(watch: type) -> None:
    class Whole(nn.Module):
        """Reads all rows as one."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.LayerNorm(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.scale(x.reshape(1, -1)[:, :6])

    model, x = Whole(), torch.arange(6.0).view(2, 3)
    seen = watch(model)

    class Objective:
        def __call__(self) -> Tensor:
            return model(x).square().mean()

        def stacked(self, n: int) -> Tensor:
            return model(torch.cat([x] * n)).square().mean().expand(n, 1)

    probe = Scratch(model, tree.find(model), stack=True)
    where = points(model)
    want = Scratch(model, tree.find(model))(Objective(), where)
    for _ in range(2):
        assert torch.equal(probe(Objective(), where), want)
    assert probe.unstacked is not None
    seen.check()


def test_a_call_that_cannot_be_stacked_leaves_the_next_as_it_was() -> None:
    """Or a run resumed after such a call would evaluate otherwise than one that was never stopped."""

    class Sometimes(nn.Module):
        """Reads all rows as one where there are four."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.LayerNorm(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.scale(x.reshape(1, -1)[:, :3] if len(x) == 4 else x)

    model = Sometimes()
    where = points(model)

    class Objective:
        def __init__(self, rows: int) -> None:
            self.x, self.tried = torch.arange(3.0 * rows).view(rows, 3), 0

        def __call__(self) -> Tensor:
            return model(self.x).square().mean()

        def stacked(self, n: int) -> Tensor:
            self.tried += 1
            return model(torch.cat([self.x] * n)).square().view(n, -1).mean(1, keepdim=True)

    probe = Scratch(model, tree.find(model), stack=True)
    bad, good, alone = Objective(2), Objective(3), Objective(3)
    probe(bad, where)
    assert bad.tried == 1 and probe.unstacked is not None
    value = probe(good, where)
    assert torch.equal(value, Scratch(model, tree.find(model), stack=True)(alone, where))
    assert good.tried == alone.tried == len(where) // 2


def test_a_plain_closure_goes_one_by_one(tiny: Tiny, rows: Tensor) -> None:
    model = tiny("llama")
    probe = Scratch(model, tree.find(model), stack=True)
    where = points(model)
    want = Scratch(model, tree.find(model))(lambda: model(rows).logits.mean(), where)
    assert torch.equal(probe(lambda: model(rows).logits.mean(), where), want) and probe.unstacked is None


SHAPE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
OWN_ORDER: dict[str, Any] = {
    "tokens repeated for each expert": lambda: hf.Llama4TextConfig(
        **SHAPE, head_dim=8, intermediate_size_mlp=16, num_local_experts=4, interleave_moe_layer_step=1
    ),
    "a module with weights in one with weights": lambda: hf.Ernie4_5_MoeConfig(
        **SHAPE, moe_intermediate_size=8, moe_num_experts=4, moe_k=2, moe_layer_start_index=0
    ),
    "a head in one with weights": lambda: hf.BertConfig(**SHAPE | {"num_key_value_heads": None}, is_decoder=True),
}


@pytest.mark.parametrize("kind", OWN_ORDER)
def test_rows_in_an_order_of_their_own_are_not_taken_for_the_points(kind: str) -> None:
    """Their number falls into shares, and they are others' rows: the losses would be mixed of both points."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = hf.AutoModelForCausalLM.from_config(OWN_ORDER[kind]()).eval().requires_grad_(False)
    alone, together, probe = both(Loss(model, lm_batch([*ROWS, ROWS[0]], range(4), 0)), points(model))
    assert probe.unstacked is not None
    assert torch.equal(alone, together)
