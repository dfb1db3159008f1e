"""Peak memory of a call: both measures see what comes and goes inside it, and only that."""

from __future__ import annotations

import pytest
import torch

from zofo.bench.peak import above, allocated, peak

BIG = 64 << 20  # bytes


def comes_and_goes() -> int:
    first = torch.ones(BIG // 4)
    second = first + 1
    del first
    return len(second)


def test_both_measures() -> None:
    comes_and_goes()
    found = peak(comes_and_goes)
    assert found.allocated == 2 * BIG
    assert 1.8 * BIG < found.resident < 2.6 * BIG and "resident" in found.by


def test_allocated_is_the_same_each_time_and_resident_is_above_what_stood() -> None:
    kept = torch.ones(BIG // 4)
    assert {allocated(lambda: kept * 2) for _ in range(3)} == {BIG}
    assert above(lambda: kept.add_(1))[0] < BIG / 2


def test_what_the_call_returns_is_still_there_when_it_is_measured() -> None:
    assert allocated(lambda: [torch.ones(1000) for _ in range(3)]) == 12000


def test_an_exception_passes() -> None:
    with pytest.raises(ZeroDivisionError):
        peak(lambda: 1 // 0)
