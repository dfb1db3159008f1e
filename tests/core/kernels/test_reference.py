"""The noise stream is Philox-4x32-10 with the published answers, and the table is the one that was published."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from zofo.core.kernels import reference

ANSWERS = [  # Random123's known-answer file: counter, key, result
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), ANSWERS)
def test_philox_gives_the_published_answers(
    counter: tuple[int, ...], key: tuple[int, int], result: tuple[int, ...]
) -> None:
    words = tuple(torch.tensor([word]) for word in counter)
    assert tuple(int(word) for word in reference.philox(words, key)) == result  # type: ignore[arg-type]


@pytest.mark.parametrize(("counter", "key", "result"), ANSWERS)
@pytest.mark.parametrize("few", [0, 4096], ids=["torch", "numpy"])
def test_words_put_block_and_tensor_id_into_the_counter(
    counter: tuple[int, ...], key: tuple[int, int], result: tuple[int, ...], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream's layout: counter = (block low, block high, id low, id high), key = (low, high)."""
    monkeypatch.setattr(reference, "FEW", few)
    block, tid = counter[0] | counter[1] << 32, counter[2] | counter[3] << 32
    signed = block - 2**64 if block >= 2**63 else block
    drawn = reference.words(key[0] | key[1] << 32, tid, torch.tensor([signed]))
    assert tuple(drawn[0].tolist()) == result


def test_an_elements_bits_have_a_fixed_place() -> None:
    """Gaussian: 16 bits an element, low half first; Rademacher: one bit an element, lowest first."""
    words = reference.words(5, 9, torch.tensor([3]))[0].tolist()
    halves = reference.halves(5, 9, torch.arange(24, 32)).tolist()
    assert halves == [half for word in words for half in (word & 0xFFFF, word >> 16)]
    signs = reference.signs(5, 9, torch.arange(384, 512)).tolist()
    assert signs == [word >> bit & 1 for word in words for bit in range(32)]


def test_the_table_is_the_published_file() -> None:
    data = reference.TABLE.read_bytes()
    assert len(data) == 4 * 65536
    assert hashlib.sha256(data).hexdigest() == reference.TABLE_SHA256
    assert reference.TABLE_SHA256 == "8babbcaf96568f10165a1eab530c0e5c92d04de96761b6dbb3dadfa94baba37f"


def test_a_damaged_table_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    data = bytearray(reference.TABLE.read_bytes())
    data[1000] ^= 1
    (tmp_path / "normal16.f32").write_bytes(data)
    monkeypatch.setattr(reference, "TABLE", tmp_path / "normal16.f32")
    with pytest.raises(AssertionError, match="damaged"):
        reference.table.__wrapped__()


def test_the_table_is_symmetric_monotone_and_of_unit_variance() -> None:
    table = reference.table()
    assert table.dtype == torch.float32
    assert torch.equal(table, -table.flip(0))
    assert (table.diff() > 0).all()
    assert float((table.double() ** 2).mean()) == pytest.approx(1, abs=1e-7)
    assert float((table.double() ** 4).mean()) == pytest.approx(3, abs=2e-3)


def test_the_table_holds_normal_quantiles() -> None:
    """Phi(z_k) = (k + 1/2) / 65536 up to the scale that gives unit variance."""
    below = torch.special.ndtr(reference.table().double()).numpy()
    assert np.abs(below - (np.arange(65536) + 0.5) / 65536).max() < 3e-5


def test_squares_are_the_tables_squares_in_fixed_point() -> None:
    exact = reference.table().double() ** 2
    assert (
        float((reference.squares().double() / 2**reference.SQUARE_BITS - exact).abs().max())
        <= 0.5 / 2**reference.SQUARE_BITS
    )


def test_scaled_rounds_once() -> None:
    """a z in fp32 is the correctly rounded product of fp32(a) and the table's entry."""
    index, a = torch.arange(1000), 0.1234567890123
    z = reference.table()[reference.halves(1, 2, index)]
    got = reference.scaled("gaussian", 1, 2, index, a, torch.float32)
    exact = z.double() * float(np.float32(a))  # 48 bits: exact in fp64
    assert torch.equal(got, exact.float())
    assert reference.scaled("gaussian", 1, 2, index, a, torch.float64).dtype == torch.float64


def test_sum_of_squares_of_nothing_is_zero() -> None:
    assert reference.sum_of_squares(1, 2, 5, 5) == 0
