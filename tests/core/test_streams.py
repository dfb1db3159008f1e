"""Every random thing is a function of (run seed, stream name, step), and nothing else touches torch's generator."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from zofo.core import streams


def test_a_key_is_fixed_for_ever() -> None:
    """BLAKE2b-64 of the text "seed:stream:step...": journals and resumed runs depend on it."""
    assert streams.key(0, "noise", 0, 0) == 0x3255B6205EE55CDF
    assert 0 <= streams.key(2**63 - 1, "noise", 2**40) < 2**64


def test_a_key_depends_on_every_part() -> None:
    parts = [
        (0, "noise", 1, 2), (1, "noise", 1, 2), (0, "rows", 1, 2), (0, "noise", 2, 1), (0, "noise", 1),
        (0, "noise", 1, 2, 0), (0, "noise", 12), (0, "noise"), (10, "noise", 1, 2),
    ]  # fmt: skip
    assert len({streams.key(*part) for part in parts}) == len(parts)


def test_keys_of_many_steps_differ() -> None:
    assert len({streams.key(0, "noise", step, i) for step in range(500) for i in range(20)}) == 10_000


def test_a_generator_is_a_pure_function() -> None:
    first = streams.generator(1, "rows", 3).integers(0, 1000, 20)
    assert (streams.generator(1, "rows", 3).integers(0, 1000, 20) == first).all()
    assert (streams.generator(1, "rows", 4).integers(0, 1000, 20) != first).any()


def draw(*step: int) -> Tensor:
    """Numbers from torch's global generator inside `seeded`."""
    with streams.seeded(5, "dropout", *step):
        return torch.rand(50)


def test_seeded_depends_on_its_arguments_alone() -> None:
    first = draw(1)
    torch.rand(3)
    assert torch.equal(draw(1), first)
    assert not torch.equal(draw(2), first)


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_seeded_puts_the_generators_back(error: type[BaseException] | None) -> None:
    torch.manual_seed(3)
    before, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        with streams.seeded(5, "dropout", 1):
            torch.rand(7)
            if error:
                raise error
    except BaseException as raised:
        assert error is not None and isinstance(raised, error)
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy[1]).all()


def test_seeded_takes_any_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (0, 2**63 - 1, 2**63, 2**64 - 1):
        monkeypatch.setattr(streams, "key", lambda *parts, value=value: value)
        assert draw(1).numel() == 50
