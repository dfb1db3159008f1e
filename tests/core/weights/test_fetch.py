"""Reading ahead: the same elements as the store's, the next piece on its way, and never an old one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zofo.core.weights.fetch import Fetcher, sweep
from zofo.core.weights.store import Piece, Store, cut

N = 1000
PIECES = cut("w", N, 96)


def weights() -> Tensor:
    return torch.arange(float(N))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path, [("w", (N,), [weights()]), ("v", (5,), [torch.ones(5)])]) as made:
        yield made


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """(first element, thread) of every read."""
    seen: list[tuple[int, str]] = []
    read = Store.read

    def watched(self: Store, name: str, start: int, n: int, out: Tensor) -> Tensor:
        seen.append((start, threading.current_thread().name))
        return read(self, name, start, n, out)

    monkeypatch.setattr(Store, "read", watched)
    return seen


def right(piece: Piece, found: Tensor) -> bool:
    return torch.equal(found, weights()[piece.start : piece.start + piece.n])


class TestFetcher:
    def test_gives_every_piece_and_foresees_the_second_pass(self, store: Store) -> None:
        with Fetcher(store) as fetcher:
            for missed in (len(PIECES), len(PIECES) + 1, len(PIECES) + 1):  # the second pass begins unforeseen
                assert all(right(piece, fetcher.take(piece)) for piece in PIECES)
                assert fetcher.missed == missed

    def test_an_order_that_is_given_is_foreseen_at_once(self, store: Store, reads: list[tuple[int, str]]) -> None:
        with Fetcher(store, PIECES) as fetcher:
            assert all(right(piece, fetcher.take(piece)) for piece in PIECES)
            assert fetcher.missed == 1
        assert [start for start, _ in reads] == [piece.start for piece in PIECES], "each once"
        assert [name.startswith("zofo-store") for _, name in reads] == [False] + [True] * (len(PIECES) - 1)

    def test_a_piece_that_was_not_foreseen_is_read_at_once(self, store: Store) -> None:
        with Fetcher(store, PIECES) as fetcher:
            for i in (0, 1, 7, 8, 3, 0, 1):
                assert right(PIECES[i], fetcher.take(PIECES[i]))
            assert fetcher.missed == 4

    def test_the_next_piece_is_read_while_this_one_is_in_use(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        began = threading.Event()
        read = Store.read

        def noted(self: Store, name: str, start: int, n: int, out: Tensor) -> Tensor:
            if start == PIECES[1].start:
                began.set()
            return read(self, name, start, n, out)

        monkeypatch.setattr(Store, "read", noted)
        with Fetcher(store, PIECES) as fetcher:
            fetcher.take(PIECES[0])
            assert began.wait(10)

    def test_two_buffers_of_the_largest_piece_and_no_more(self, store: Store) -> None:
        pieces = [Piece("w", 0, 10), Piece("w", 10, 300), Piece("v", 0, 5), Piece("w", 310, 200)]
        places = set()
        with Fetcher(store, pieces * 2) as fetcher:
            for _ in range(3):
                for piece in pieces:
                    fetcher.take(piece)
            for piece in pieces:
                places.add(fetcher.take(piece).data_ptr())
            assert len(places) == 2
            assert max(fetcher.used.numel(), fetcher.spare.numel()) == 300

    def test_the_buffer_is_the_callers_until_the_next_call(self, store: Store) -> None:
        with Fetcher(store, PIECES) as fetcher:
            for piece in PIECES:
                fetcher.take(piece).add_(1.0)
            assert right(PIECES[0], fetcher.take(PIECES[0])), "the store is not what is written to"

    def test_what_was_written_since_is_read_again(self, store: Store) -> None:
        with Fetcher(store, PIECES) as fetcher:
            fetcher.take(PIECES[0])
            assert fetcher.ahead is not None
            fetcher.ahead.future.result()
            store.write("w", PIECES[1].start, torch.full((PIECES[1].n,), -1.0))
            assert (fetcher.take(PIECES[1]) == -1).all()

    def test_an_error_in_the_thread_is_raised_where_its_piece_is_taken(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read, broken = Store.read, {PIECES[1].start}

        def failing(self: Store, name: str, start: int, n: int, out: Tensor) -> Tensor:
            if start in broken:
                raise OSError("the disk is gone")
            return read(self, name, start, n, out)

        monkeypatch.setattr(Store, "read", failing)
        with Fetcher(store, PIECES) as fetcher:
            assert right(PIECES[0], fetcher.take(PIECES[0]))
            with pytest.raises(OSError, match="gone"):
                fetcher.take(PIECES[1])
            assert right(PIECES[0], fetcher.take(PIECES[0]))  # and 1 fails again, unseen
            assert right(PIECES[5], fetcher.take(PIECES[5]))
            broken.clear()
            assert right(PIECES[1], fetcher.take(PIECES[1]))

    def test_close_ends_the_thread(self, store: Store) -> None:
        fetcher = Fetcher(store, PIECES)
        fetcher.take(PIECES[0])
        fetcher.close()
        assert not any(thread.is_alive() for thread in fetcher.worker._threads)


class TestSweep:
    @pytest.mark.parametrize("size", [7, 96, 500, 999, 1000])
    def test_gives_every_piece_in_order(self, store: Store, size: int) -> None:
        pieces = cut("w", N, size)
        found = [(piece, part.clone()) for piece, part in sweep(store, pieces)]
        assert [piece for piece, _ in found] == pieces and all(right(*pair) for pair in found)

    def test_of_nothing_is_nothing(self, store: Store) -> None:
        assert list(sweep(store, [])) == []

    @pytest.mark.parametrize("size", [7, 96, 500, 1000])
    @pytest.mark.parametrize("keep", [True, False])
    def test_keeps_what_was_changed_or_not(self, store: Store, size: int, keep: bool) -> None:
        for piece, part in sweep(store, cut("w", N, size), keep):
            part.mul_(2).add_(piece.start)
        starts = torch.arange(N) // size * size
        want = 2 * weights() + starts if keep else weights()
        assert torch.equal(store.read("w", 0, N, torch.empty(N)), want)

    def test_holds_two_buffers(self, store: Store) -> None:
        assert len({part.data_ptr() for _, part in sweep(store, PIECES)}) == 2

    def test_a_caller_that_stops_loses_that_piece_alone(self, store: Store) -> None:
        going = sweep(store, PIECES, keep=True)
        for piece, part in going:
            part.zero_()
            if piece == PIECES[3]:
                break
        going.close()
        found = store.read("w", 0, N, torch.empty(N))
        assert not found[: PIECES[3].start].any() and torch.equal(
            found[PIECES[3].start :], weights()[PIECES[3].start :]
        )

    @pytest.mark.parametrize("last", [0, 4, len(PIECES) - 1])
    def test_an_error_in_writing_is_raised(self, store: Store, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
        write = Store.write

        def failing(self: Store, name: str, start: int, tensor: Tensor) -> None:
            if start == PIECES[last].start:
                raise OSError("the disk is full")
            write(self, name, start, tensor)

        monkeypatch.setattr(Store, "write", failing)
        with pytest.raises(OSError, match="full"):
            for _ in sweep(store, PIECES, keep=True):
                pass
