"""z has the law it claims, is one function of (key; tensor, index), and is rounded as the design fixes it."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from zofo.adapters.slots import attach
from zofo.config import AdapterConfig
from zofo.core import noise
from zofo.core.kernels import cpu, reference
from zofo.core.noise import LAWS, Direction, Law
from zofo.core.probe import Point
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree

N = 1 << 20
FIFTH = 0x11DD64029B8C020E
SIGMAS = 5  # the draws are fixed, so these tests cannot fail now and then


@functools.lru_cache(maxsize=8)
def sample(law: Law, key: int = 1, tid: int = 2, n: int = N) -> Tensor:
    """n elements of z."""
    return noise.draw(noise.direction(law, key, ((tid, n),)), tid, n)


@pytest.mark.parametrize("law", LAWS)
def test_moments(law: Law) -> None:
    z = sample(law)
    signs = law in ("rademacher", "low-rank-8")  # a vector's low-rank z is Rademacher
    fourth = 1 if signs else 3
    assert abs(float(z.mean())) < SIGMAS / math.sqrt(N)
    assert abs(float((z**3).mean())) < SIGMAS * math.sqrt(15 / N)
    variance = float((z**2).mean())
    assert abs(variance - 1) <= (SIGMAS * math.sqrt(2 / N) if law == "gaussian" else 1e-6)
    assert abs(float((z**4).mean()) - fourth) <= (1e-9 if signs else SIGMAS * math.sqrt(96 / N))


def test_rademacher_is_plus_or_minus_one() -> None:
    assert set(sample("rademacher", n=4096).unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    "other", [(2, 2, 0), (1, 3, 0), (1 + (1 << 32), 2, 0), (1, 2 + (1 << 32), 0), (1, 2, 1), (1, 2, 8), (1, 2, 128)]
)
def test_keys_tensors_and_elements_are_independent(law: Law, other: tuple[int, int, int]) -> None:
    """Correlation of z, and of its sizes, with that of another key, another tensor, or shifted elements."""
    key, tid, shift = other
    a, b = sample(law), sample(law, key, tid)
    a, b = (a[shift:], b[: N - shift]) if shift else (a, b)
    assert abs(float((a * b).mean())) < SIGMAS / math.sqrt(N)
    if law not in ("rademacher", "low-rank-8"):
        assert abs(float(((a**2 - 1) * (b**2 - 1)).mean())) < SIGMAS * 2 / math.sqrt(N)


@pytest.mark.parametrize("sizes", [(100,), (1000, 1), (257, 4096, 33)])
def test_a_sphere_has_the_norm_root_d(sizes: tuple[int, ...]) -> None:
    tensors = [(noise.tensor_id(f"t{i}"), n) for i, n in enumerate(sizes)]
    for key in range(5):
        z = noise.direction("sphere", key, tensors)
        norm = math.sqrt(sum(float((noise.draw(z, tid, n) ** 2).sum()) for tid, n in tensors))
        assert norm == pytest.approx(math.sqrt(sum(sizes)), rel=1e-6)


def test_a_spheres_norm_does_not_depend_on_the_order_of_tensors() -> None:
    tensors = [(noise.tensor_id(f"t{i}"), 1000 + 37 * i) for i in range(12)]
    scales = {
        noise.direction("sphere", 3, order).scale for order in (tensors, tensors[::-1], tensors[5:] + tensors[:5])
    }
    assert len(scales) == 1


def test_a_sphere_of_one_element_is_finite_for_every_key() -> None:
    """One z in two thousand is so small that its square is 0 in fixed point: still a finite direction."""
    for key in range(5000):
        assert math.isfinite(noise.direction("sphere", key, ((5, 1),)).scale)


def test_only_the_sphere_is_scaled() -> None:
    assert noise.direction("gaussian", 1, iter(())) == Direction("gaussian", 1, 1.0)
    assert noise.direction("rademacher", 1, iter(())).scale == 1.0


def test_a_tensors_id_is_a_hash_of_its_name() -> None:
    """Fixed for ever: journals depend on it."""
    assert noise.tensor_id("model.embed_tokens.weight") == 0xF64261A496B5D16A
    assert noise.tensor_id("a") != noise.tensor_id("b")


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_are_rounded_once(law: Law, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp64: a z and the sum in fp64. Half types: a z in fp32, the sum in fp32, one rounding to the type."""
    monkeypatch.setattr(noise, "CHUNK", 100)
    w = torch.randn(333, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    z, a, tid, start = noise.direction(law, 5, ((6, 999),)), 0.0123, 6, 13
    unit = noise.draw(Direction(law, 5), tid, 333, torch.float64, start)
    if dtype == torch.float64:
        want = w + unit * (a * z.scale)
    else:
        step = unit.float() * torch.tensor(a * z.scale, dtype=torch.float32)
        want = (w.float() + step).to(dtype)
    before = w.clone()
    assert torch.equal(noise.perturb(torch.empty_like(w), w, z, a, tid, start), want)
    assert torch.equal(w, before)
    assert torch.equal(noise.perturb(w, w, z, a, tid, start), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("law", LAWS)
def test_rows_and_tiles_are_pieces_of_the_whole(law: Law, dtype: torch.dtype) -> None:
    w = torch.randn(41, 13, generator=torch.Generator().manual_seed(1)).to(dtype)
    z = noise.direction(law, 8, ((9, w.numel()),))
    whole = noise.perturb(torch.empty_like(w), w, z, 0.01, 9)
    rows = torch.tensor([0, 3, 3, 40, 17])
    assert torch.equal(noise.perturb_rows(w.new_empty(5, 13), w, rows, z, 0.01, 9), whole[rows])
    tile = noise.perturb(w.new_empty(9, 13), w[20:29], z, 0.01, 9, 20 * 13)
    assert torch.equal(tile, whole[20:29])


@pytest.mark.parametrize("rank", [1, 2, 8, 32])
def test_low_rank_noise_is_a_product_of_signs(rank: int) -> None:
    """z = U V^T / sqrt(r), its matrix rank at most r, and `factors` are U and V."""
    z, rows, width = Direction(f"low-rank-{rank}", 3), 40, 56
    whole = noise.draw(z, 11, rows * width, width=width).view(rows, width)
    u, v = noise.factors(z, 11, rows, width, torch.zeros(1, dtype=torch.float64))
    assert u.shape == (rows, rank) and v.shape == (width, rank)
    assert set(u.unique().tolist()) == set(v.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(whole, (u @ v.T) / math.sqrt(rank)) or torch.allclose(
        whole, (u @ v.T) / math.sqrt(rank), rtol=1e-15
    )
    assert int(torch.linalg.matrix_rank(whole)) == min(rank, rows)


def test_low_rank_noise_is_white() -> None:
    """E z = 0, E z_i z_j = 1 where i = j, else 0: over 4,000 keys, all pairs of a matrix of 12 x 5."""
    zero = torch.zeros(12, 5)
    zs = [Direction("low-rank-2", key) for key in range(4000)]
    draws = torch.stack([noise.perturb(torch.empty(12, 5), zero, z, 1.0, 1).double().view(60) for z in zs])
    assert float(draws.mean(0).abs().max()) < SIGMAS / math.sqrt(4000)
    second = draws.T @ draws / 4000
    assert float((second - torch.eye(60)).abs().max()) < SIGMAS * math.sqrt(3 / 4000)


@pytest.mark.parametrize("law", ["low-rank-0", "low-rank-33", "low-rank-", "low-rank-08", "lowrank", "uniform"])
def test_other_laws_are_unknown(law: str) -> None:
    assert not noise.known(law)


@pytest.mark.parametrize("law", [*LAWS, "low-rank-1", "low-rank-32"])
def test_laws_are_known(law: str) -> None:
    assert noise.known(law)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("share", [0.5, 0.1, 1e-3])
def test_stochastic_rounding_keeps_the_mean_and_has_its_variance(dtype: torch.dtype, share: float) -> None:
    """A step of `share` of a unit in the last place u moves weights by share u on average, with variance share (1 - share) u^2."""
    n, w = 1 << 20, torch.ones(1 << 20, dtype=dtype)
    unit = torch.finfo(dtype).eps
    step = Direction("rademacher", 4)
    signs = noise.draw(step, 9, n)
    noise.perturb(w, w, step, share * unit, 9, rounding=77)
    moved = (w.double() - 1) * signs
    up = signs > 0  # below 1 the spacing is half as wide
    for side, u in ((up, unit), (~up, unit / 2)):
        p = share * unit / u
        p -= math.floor(p)
        sd = u * math.sqrt(p * (1 - p))
        count = int(side.sum())
        assert (
            abs(float(moved[side].mean()) - share * unit) < SIGMAS * max(sd, u / 65536) / math.sqrt(count) + u / 65536
        )
        assert abs(float(moved[side].std()) - sd) < 0.02 * sd + 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_steps_move_weights_that_nearest_rounding_leaves(dtype: torch.dtype) -> None:
    """1,000 steps of a hundredth of a unit: lost altogether to nearest, ten units on average stochastically."""
    z, unit = Direction("rademacher", 4), torch.finfo(dtype).eps
    nearest, chance = torch.ones(4096, dtype=dtype), torch.ones(4096, dtype=dtype)
    signs = noise.draw(z, 9, 4096)
    for step in range(1000):
        noise.perturb(nearest, nearest, z, unit / 100, 9)
        noise.perturb(chance, chance, z, unit / 100, 9, rounding=noise.rounding_key(step))
    assert torch.equal(nearest, torch.ones(4096, dtype=dtype))
    assert abs(float(((chance.double() - 1) * signs).mean()) - 10 * unit) < 0.3 * unit


def test_rounding_has_a_key_of_its_own() -> None:
    keys = {noise.rounding_key(key) for key in range(1000)}
    assert len(keys) == 1000 and not keys & set(range(1000))
    assert noise.rounding_key(5) == FIFTH, "a journal replays with it"


def test_draw_agrees_with_perturb() -> None:
    """What tests and Adam draw is what is added to the weights."""
    for law in LAWS:
        z = noise.direction(law, 4, ((3, 500),))
        added = noise.perturb(torch.zeros(500), torch.zeros(500), z, 1.0, 3)
        assert torch.allclose(added, noise.draw(z, 3, 500, torch.float32), rtol=1e-6, atol=0)


def test_the_scaled_table_is_rounded_from_the_exact_product() -> None:
    a = 1.2345e-3
    exact = reference.table().double() * float(torch.tensor(a, dtype=torch.float32))
    assert torch.equal(torch.from_numpy(noise.scaled_table(cpu.QUANTILES, float(torch.tensor(a)))), exact.float())


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("a", [-0.0, 0.0])
def test_the_sign_of_a_step_of_zero_does_not_depend_on_what_went_before(law: Law, a: float) -> None:
    """w = -0.0 shows it; -a goes first, whose table is kept under the same number; fp64 takes the reference's path."""
    w, z = torch.full((6, 50), -0.0), Direction(law, 5)
    noise.perturb(torch.empty_like(w), w, z, -a, 9)
    got = noise.perturb(torch.empty_like(w), w, z, a, 9)
    want = noise.perturb(torch.empty_like(w.double()), w.double(), z, a, 9)
    assert torch.equal(got.signbit(), want.signbit())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
@pytest.mark.parametrize("name", ["llama-tied", "gpt2"])
def test_one_z_for_the_plain_model_and_any_adapter(name: str, kind: str, tiny, rows: Tensor) -> None:  # type: ignore[no-untyped-def]
    """Same names, ids and noise; and with the adapter off the same perturbed outputs, bit for bit."""
    plain = tiny(name)
    targets = ("c_attn",) if name == "gpt2" else ("q_proj", "v_proj")
    config = AdapterConfig(kind=kind, targets=targets if kind == "lora" else ())
    slots = attach(tiny(name), config, ("p", "s"), seed=0)
    adapter = {id(p) for slot in slots.params.values() for p in slot.values()}
    here, there = tree.find(plain), tree.find(slots.model, keep=lambda p: id(p) not in adapter)
    assert [(leaf.name, leaf.tid, leaf.param.shape) for leaf in here] == [
        (leaf.name, leaf.tid, leaf.param.shape) for leaf in there
    ]
    z = there.direction("sphere", 77)
    assert z == here.direction("sphere", 77)

    def outputs(model: torch.nn.Module) -> Tensor:
        return model(input_ids=rows, use_cache=False).logits.reshape(-1)

    want = Scratch(plain, here)(lambda: outputs(plain), [Point(z, 0.01), Point(z, -0.01)])
    with slots.off():
        got = Scratch(slots.model, there)(lambda: outputs(slots.model), [Point(z, 0.01), Point(z, -0.01)])
    assert torch.equal(got, want)


def test_rows_are_counted_in_any_type_and_those_that_a_table_has_not_are_refused() -> None:
    """By the compiled kernel, which would read beyond the table, and by the reference."""
    for dtype in (torch.float32, torch.float64):
        w = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
        z, out = noise.direction("gaussian", 8, ((9, w.numel()),)), w.new_empty(3, 8)
        rows = torch.tensor([1, 0, 5])
        wanted = noise.perturb_rows(w.new_empty(3, 8), w, rows, z, 0.01, 9)
        assert torch.equal(noise.perturb_rows(out, w, rows.int(), z, 0.01, 9), wanted)
        for beyond in (6, -1):
            with pytest.raises(IndexError, match="of a table of 6"):
                noise.perturb_rows(out, w, torch.tensor([1, beyond, 2]), z, 0.01, 9)
