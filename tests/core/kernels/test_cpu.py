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
from zofo.core.kernels import cpu, reference
from zofo.core.noise import LAWS, Direction, Law

EVEN = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WORD = st.integers(0, 2**64 - 1)
START = st.one_of(st.integers(0, 700), st.integers(2**31 - 200, 2**31 + 200), st.integers(2**38, 2**38 + 300))


def weights(n: int) -> Tensor:
    """n weights of ordinary sizes."""
    return torch.randn(n, generator=torch.Generator().manual_seed(n))


def slow(w: Tensor, z: Direction, a: float, tid: int, start: int = 0) -> Tensor:
    """w + a z as the design states it: fp32(a scale) z rounded to fp32, then one add."""
    index = torch.arange(start, start + w.numel())
    step = reference.scaled(z.law, z.key, tid, index, a * z.scale, torch.float32) if w.numel() else w.new_zeros(0)
    return w + step.view(w.shape)


@EVEN
@given(law=st.sampled_from(LAWS), n=st.integers(1, 700), start=START, key=WORD, tid=WORD, a=st.floats(-2, 2, width=32))
@example(law="gaussian", n=1, start=7, key=2**64 - 1, tid=2**64 - 1, a=1e-3)
@example(law="rademacher", n=129, start=127, key=0, tid=0, a=-1e-3)
def test_equals_the_reference_at_any_size_and_offset(
    law: Law, n: int, start: int, key: int, tid: int, a: float
) -> None:
    z, w = Direction(law, key, 0.987654321 if law == "sphere" else 1.0), weights(n)
    want = slow(w, z, a, tid, start)
    out = torch.full((n,), float("nan"))
    assert noise.perturb(out, w, z, a, tid, start) is out
    assert torch.equal(out, want)
    assert torch.equal(w, weights(n)), "out of place leaves w alone"
    assert torch.equal(noise.perturb(w, w, z, a, tid, start), want), "in place gives the same bits"


@EVEN
@given(start=START, n=st.integers(0, 700), key=WORD, tid=WORD)
def test_the_norm_equals_the_references_sum(start: int, n: int, key: int, tid: int) -> None:
    table = reference.squares().numpy()
    assert cpu.sum_of_squares(key, tid, start, start + n, table) == reference.sum_of_squares(key, tid, start, start + n)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [cpu.SPAN, 3 * cpu.SPAN + 1, 4 * cpu.SPAN + 77])
def test_the_bits_do_not_depend_on_threads(law: Law, n: int, threads: Callable[[int], None]) -> None:
    z, w = Direction(law, 42), weights(n)
    want = slow(w, z, 1e-3, 7, 5)
    for count in (1, 2, 4):
        threads(count)
        assert torch.equal(noise.perturb(torch.empty_like(w), w, z, 1e-3, 7, 5), want), f"{count} threads"


@EVEN
@given(
    law=st.sampled_from(LAWS),
    n=st.integers(1, 2000),
    span=st.integers(1, 300),
    count=st.sampled_from([1, 2, 4]),
    start=START,
)
def test_the_bits_do_not_depend_on_the_cut(
    law: Law, n: int, span: int, count: int, start: int, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads(count)
    z, w = Direction(law, 3), weights(n)
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "SPAN", span)
        assert torch.equal(noise.perturb(torch.empty_like(w), w, z, 0.5, 9, start), slow(w, z, 0.5, 9, start))


def test_an_error_in_a_worker_is_not_lost(threads: Callable[[int], None]) -> None:
    threads(2)

    def work(begin: int, end: int) -> None:
        if begin:
            raise KeyError("second span")

    with pytest.raises(KeyError):
        cpu.spans(2 * cpu.SPAN, work)


def test_signs_are_the_bits_of_a_byte() -> None:
    table = cpu.sign_table()
    assert table.shape == (256, 8)
    assert table[0b00000101].tolist() == [1, -1, 1, -1, -1, -1, -1, -1]
    assert set(np.unique(table).tolist()) == {-1.0, 1.0}
