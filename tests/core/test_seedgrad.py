"""A SeedGrad is a value: keys and numbers."""

from __future__ import annotations

import dataclasses

import pytest

from zofo.core.seedgrad import SeedGrad

GRAD = SeedGrad("gaussian", ((3, 1.5), (4, -2.0)))


def test_scaled_keeps_keys_order_and_law() -> None:
    assert GRAD.scaled(-2.0) == SeedGrad("gaussian", ((3, -3.0), (4, 4.0)))
    assert GRAD.coefficients == (1.5, -2.0)


def test_it_is_frozen_and_hashable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GRAD.law = "sphere"  # type: ignore[misc]
    assert hash(GRAD) == hash(SeedGrad("gaussian", ((3, 1.5), (4, -2.0))))
