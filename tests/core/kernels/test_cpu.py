"""The compiled kernels give the reference's bits, wherever a span begins or ends and however many threads share it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from zofo.core import noise
from zofo.core.kernels import cpu, reference, team
from zofo.core.noise import LAWS, Direction, Law

EVEN = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WORD = st.integers(0, 2**64 - 1)
HALF = (torch.bfloat16, torch.float16)
PAIRS = [(torch.float32, half) for half in HALF] + [(half, half) for half in HALF]
START = st.one_of(st.integers(0, 700), st.integers(2**31 - 200, 2**31 + 200), st.integers(2**38, 2**38 + 300))


def weights(n: int) -> Tensor:
    """n weights of ordinary sizes."""
    return torch.randn(n, generator=torch.Generator().manual_seed(n))


def slow(w: Tensor, z: Direction, a: float, tid: int, start: int = 0, width: int = 0) -> Tensor:
    """w + a z as the design states it: fp32(a scale) z rounded to fp32, then one add; fp32."""
    index = torch.arange(start, start + w.numel())
    scaled = reference.scaled(z.law, z.key, tid, index, a * z.scale, torch.float32, width)
    return w.float() + scaled.view(w.shape)


@EVEN
@given(
    law=st.sampled_from([*LAWS, "low-rank-1", "low-rank-5", "low-rank-32"]),
    n=st.integers(1, 700),
    start=START,
    key=WORD,
    tid=WORD,
    a=st.floats(-2, 2, width=32),
    width=st.sampled_from([0, 1, 7, 64, 1000]),
)
@example(law="gaussian", n=1, start=7, key=2**64 - 1, tid=2**64 - 1, a=1e-3, width=0)
@example(law="rademacher", n=129, start=127, key=0, tid=0, a=-1e-3, width=0)
@example(law="low-rank-8", n=700, start=3 * 64 + 5, key=2**64 - 1, tid=1, a=-1e-3, width=64)
def test_equals_the_reference_at_any_size_and_offset(
    law: Law, n: int, start: int, key: int, tid: int, a: float, width: int
) -> None:
    z, w = Direction(law, key, 0.987654321 if law == "sphere" else 1.0), weights(n)
    want = slow(w, z, a, tid, start, width)
    out, minus = torch.full((n,), float("nan")), torch.full((n,), float("nan"))
    assert noise.perturb(out, w, z, a, tid, start, width=width, minus=minus) is out
    assert torch.equal(out, want)
    assert torch.equal(minus, slow(w, z, -a, tid, start, width)), "the other sign"
    assert torch.equal(w, weights(n)), "out of place leaves w alone"
    assert torch.equal(noise.perturb(w, w, z, a, tid, start, width=width), want), "in place gives the same bits"


@EVEN
@given(
    law=st.sampled_from(LAWS),
    kinds=st.sampled_from(PAIRS),
    n=st.integers(1, 700),
    start=START,
    size=st.sampled_from([1e-9, 1e-6, 3e-5, 1.0, 3e4, 3e38]),
)
def test_half_types_are_rounded_once_to_nearest(
    law: Law, kinds: tuple[torch.dtype, torch.dtype], n: int, start: int, size: float
) -> None:
    """Ordinary sizes, those where fp16 is subnormal, and those that overflow."""
    z, w = Direction(law, 5), (weights(n) * size).to(kinds[0])
    a = size / 3
    out, minus = torch.zeros(n, dtype=kinds[1]), torch.zeros(n, dtype=kinds[1])
    noise.perturb(out, w, z, a, 6, start, width=16, minus=minus)
    assert same(out, slow(w, z, a, 6, start, 16).to(kinds[1]))
    assert same(minus, slow(w, z, -a, 6, start, 16).to(kinds[1]))
    if kinds[0] == kinds[1]:
        assert same(noise.perturb(w, w, z, a, 6, start, width=16), out)


@EVEN
@given(
    law=st.sampled_from(LAWS),
    kind=st.sampled_from([torch.bfloat16, torch.float16]),
    n=st.integers(1, 700),
    start=START,
    size=st.sampled_from([1e-9, 1e-6, 3e-5, 1.0, 3e4, 3e38]),
    key=WORD,
)
def test_stochastic_rounding_equals_the_references(
    law: Law, kind: torch.dtype, n: int, start: int, size: float, key: int
) -> None:
    z, w, index = Direction(law, 5), (weights(n) * size).to(kind), torch.arange(start, start + n)
    exact = slow(w, z, size / 300, 6, start, 16)
    want = reference.stochastic(exact, reference.halves(key, 6, index), kind)
    assert same(noise.perturb(w, w, z, size / 300, 6, start, width=16, rounding=key), want)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal bits (any NaN equals any other)."""
    return torch.equal(a.nan_to_num(nan=0.125), b.nan_to_num(nan=0.125)) and torch.equal(a.isnan(), b.isnan())


@EVEN
@given(start=START, n=st.integers(0, 700), key=WORD, tid=WORD)
def test_the_norm_equals_the_references_sum(start: int, n: int, key: int, tid: int) -> None:
    table = reference.squares().numpy()
    assert cpu.sum_of_squares(key, tid, start, start + n, table) == reference.sum_of_squares(key, tid, start, start + n)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [cpu.SMALL + 1, 3 * cpu.SMALL + 1, 4 * cpu.SMALL + 77])
@pytest.mark.parametrize("openmp", [True, False], ids=["openmp", "pool"])
def test_the_bits_do_not_depend_on_threads(
    law: Law, n: int, openmp: bool, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if openmp and team.LIBRARY is None:
        pytest.skip("torch brings no libgomp here")
    if not openmp:
        monkeypatch.setattr(team, "LIBRARY", None)
        monkeypatch.setattr(cpu, "share", lambda: None)  # the real one remembers what it found
        monkeypatch.setattr(team, "WORTH", 0)
    z, w = Direction(law, 42), weights(n)
    want = slow(w, z, 1e-3, 7, 5, 64)
    for count in (1, 2, 4):
        threads(count)
        assert torch.equal(noise.perturb(torch.empty_like(w), w, z, 1e-3, 7, 5, width=64), want), f"{count} threads"


@pytest.mark.parametrize("openmp", [True, False], ids=["openmp", "pool"])
def test_every_thread_does_its_share(
    openmp: bool, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the caller alone at work a large job goes by `span` from 0; with a team, it is handed over whole."""
    if openmp and team.LIBRARY is None:
        pytest.skip("torch brings no libgomp here")
    if not openmp:
        monkeypatch.setattr(team, "LIBRARY", None)
        monkeypatch.setattr(cpu, "share", lambda: None)  # the real one remembers what it found
    threads(2)
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(cpu, "span", lambda job, low, high: calls.append((low, high)))
    noise.perturb(torch.empty(3 << 20), torch.empty(3 << 20), Direction("rademacher", 1), 1.0, 1)
    assert sorted(calls) == ([] if openmp else [(0, 3 << 19), (3 << 19, 3 << 20)])


def test_an_error_in_a_worker_is_not_lost() -> None:
    def span(job: np.ndarray, low: int, high: int) -> None:  # type: ignore[type-arg]
        if low:
            raise KeyError("second span")

    with pytest.raises(KeyError):
        team.pooled(span, np.array([2 * team.WORTH]), 2)


def test_signs_are_the_bits_of_a_byte() -> None:
    table = cpu.sign_rows()
    assert table.shape == (256, 8)
    assert table[0b00000101].tolist() == [1, -1, 1, -1, -1, -1, -1, -1]
    assert set(np.unique(table).tolist()) == {-1.0, 1.0}
