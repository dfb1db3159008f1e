"""The store: what was put in comes back to the bit, by any cut; nothing is left on the disk; nothing is read beside a leaf."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zofo.core.weights import store as stores
from zofo.core.weights.store import ALIGN, Named, Piece, Store, cut

Bits = Callable[[Tensor], bytes]


def tensors() -> dict[str, Tensor]:
    """Leaves of several shapes: one number, a vector, a table, none at all, a NaN and a negative zero among them."""
    generator = torch.Generator().manual_seed(4)
    made = {"one": torch.randn((), generator=generator), "vector": torch.randn(7, generator=generator)}
    made |= {"table": torch.randn(33, 65, generator=generator), "none": torch.empty(0, 3)}
    made["vector"][2:4] = torch.tensor([float("nan"), -0.0])
    return made


def named(made: dict[str, Tensor]) -> Iterator[Named]:
    """Tensors in parts of up to ten elements."""
    return ((name, t.shape, t.reshape(-1).split(10)) for name, t in made.items())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path, named(tensors())) as made:
        yield made


def whole(store: Store, name: str) -> Tensor:
    """A leaf, read in one go."""
    shape = store.places[name].shape
    return store.read(name, 0, shape.numel(), torch.empty(shape, dtype=store.dtype))


def test_every_leaf_comes_back(store: Store, bits: Bits) -> None:
    for name, tensor in tensors().items():
        assert bits(whole(store, name)) == bits(tensor)
        assert store.places[name].at % ALIGN == 0


@given(start=st.integers(0, 33 * 65), n=st.integers(0, 33 * 65))
def test_any_range_is_that_of_the_tensor(tmp_path_factory: pytest.TempPathFactory, start: int, n: int) -> None:
    table = tensors()["table"].view(-1)
    n = min(n, table.numel() - start)
    with Store.create(tmp_path_factory.getbasetemp(), named(tensors())) as store:
        assert torch.equal(store.read("table", start, n, torch.empty(n)), table[start : start + n])


def test_what_is_written_is_read_and_its_neighbours_stay(store: Store, bits: Bits) -> None:
    want = tensors()
    want["table"].view(-1)[100:140] = torch.arange(40.0)
    store.write("table", 100, torch.arange(40.0))
    assert all(bits(whole(store, name)) == bits(tensor) for name, tensor in want.items())
    assert store.writes > 0


def test_half_precision_is_rounded_once_when_it_is_made(tmp_path: Path, bits: Bits) -> None:
    with Store.create(tmp_path, named(tensors()), torch.bfloat16) as store:
        assert all(bits(whole(store, name)) == bits(t.bfloat16()) for name, t in tensors().items())
        assert store.end <= sum(t.numel() * 2 + ALIGN for t in tensors().values())
    with Store.create(tmp_path, (("half", t.shape, [t.half()]) for t in [tensors()["table"]])) as store:
        assert torch.equal(whole(store, "half"), tensors()["table"].half().float())


def test_large_parts_are_converted_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "PIECE", 16)
    seen: list[int] = []
    write = Store.write
    monkeypatch.setattr(Store, "write", lambda self, *args: (seen.append(args[2].numel()), write(self, *args))[1])
    table = tensors()["table"].double()
    with Store.create(tmp_path, [("t", table.T.shape, [table.T])]) as store:
        assert max(seen) == 16 and sum(seen) == table.numel()
        assert torch.equal(whole(store, "t"), table.T.float()), "a part that is not contiguous is in its logical order"


def test_nothing_is_left_on_the_disk(tmp_path: Path) -> None:
    with Store.create(tmp_path, named(tensors())) as store:
        assert list(tmp_path.iterdir()) == [], "the file has no name while it is in use either"
        file = store.file.fileno()
    with pytest.raises(OSError):
        os.fstat(file)
    store.close()  # again


def test_a_store_that_is_dropped_is_closed(tmp_path: Path) -> None:
    store = Store.create(tmp_path, named(tensors()))
    file = store.file.fileno()
    del store
    with pytest.raises(OSError):
        os.fstat(file)


@pytest.mark.parametrize(
    ("parts", "match"),
    [([torch.zeros(5)], "5 elements, not the 6"), ([torch.zeros(4), torch.zeros(4)], "no elements 4..8")],
)
def test_parts_that_are_not_the_tensor_are_refused(tmp_path: Path, parts: list[Tensor], match: str) -> None:
    with pytest.raises((ValueError, IndexError), match=match):
        Store.create(tmp_path, [("t", (2, 3), parts)])


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="already"):
        Store.create(tmp_path, [("t", (1,), [torch.zeros(1)])] * 2)


@pytest.mark.parametrize(
    ("start", "n", "out", "error"),
    [
        (-1, 2, torch.empty(2), IndexError),
        (6, 2, torch.empty(2), IndexError),
        (0, -1, torch.empty(0), IndexError),
        (0, 3, torch.empty(2), ValueError),
        (0, 2, torch.empty(2, dtype=torch.bfloat16), ValueError),
        (0, 2, torch.empty(4)[::2], RuntimeError),
    ],
)
def test_what_does_not_fit_is_refused(store: Store, start: int, n: int, out: Tensor, error: type[Exception]) -> None:
    with pytest.raises(error):
        store.read("vector", start, n, out)


def test_a_file_that_was_cut_is_an_error_and_not_old_bytes(store: Store) -> None:
    os.ftruncate(store.file.fileno(), store.places["table"].at + 8)
    with pytest.raises(OSError, match="too early"):
        whole(store, "table")


def test_reads_that_come_in_bits_are_put_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.preadv

    def slowly(file: int, views: list[Any], at: int) -> int:
        return read(file, [view[:24] for view in views], at)

    write = os.pwritev
    monkeypatch.setattr(os, "preadv", slowly)
    monkeypatch.setattr(os, "pwritev", lambda file, views, at: write(file, [view[:24] for view in views], at))
    assert torch.equal(whole(store, "table"), tensors()["table"])
    store.write("table", 0, torch.arange(65.0))
    assert torch.equal(whole(store, "table")[0], torch.arange(65.0))


def test_pieces_cover_a_leaf() -> None:
    assert cut("w", 10, 4) == [Piece("w", 0, 4), Piece("w", 4, 4), Piece("w", 8, 2)]
    assert cut("w", 0, 4) == []
