"""The journal gives back what was appended, to the bit, and cuts or refuses what is damaged."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import struct
import zlib

import pytest

from zofo.core import noise
from zofo.errors import ZofoError
from zofo.run import journal
from zofo.run.errors import Corrupt, Newer
from zofo.run.journal import Applied, Journal, fp32


def records(count: int) -> list[Applied]:
    draw = random.Random(count)
    terms = [tuple((draw.getrandbits(64), fp32(draw.gauss(0, 1e-6))) for _ in range(k % 4)) for k in range(count)]
    laws = [draw.choice(journal.LAWS) for _ in range(count)]
    return [Applied(k * 2, terms[k], fp32(draw.random()), laws[k], replay=bool(k % 5)) for k in range(count)]


def written(path, count=12):
    """Write a journal; returns its records and the position after each, the empty one first."""
    log = Journal(path)
    positions = [log.position()]
    for record in records(count):
        log.append(record)
        positions.append(log.position())
    log.sync()
    log.close()
    log.close()
    return records(count), positions


def test_reads_back_to_the_bit_and_positions_are_those_of_the_file(tmp_path):
    path = tmp_path / "journal"
    steps, positions = written(path)
    data = path.read_bytes()
    assert journal.read(path) == steps and journal.whole(path) == len(data)
    for count, (length, sha256) in enumerate(positions):
        assert sha256 == hashlib.sha256(data[:length]).hexdigest()
        assert journal.read(path, length, sha256) == steps[:count]
    extreme = Applied(2**64 - 1, ((2**64 - 1, fp32(1e-45)), (0, -0.0), (1, fp32(3.4e38))))
    log = Journal(path)
    log.append(extreme)
    log.close()
    assert str(journal.read(path)[-1]) == str(extreme)  # -0.0 too


def test_the_layout_is_the_documented_one(tmp_path):
    path = tmp_path / "journal"
    log = Journal(path)
    log.append(Applied(7, ((5, -0.5),), 0.25, "sphere", False))
    log.close()
    payload = struct.pack("<QfBBIQf", 7, 0.25, 2, 0, 1, 5, -0.5)
    size = struct.pack("<I", len(payload))
    head = b"zofo-jnl" + struct.pack("<I", 1)
    crc = struct.pack("<I", zlib.crc32(size + payload))
    assert path.read_bytes() == head + struct.pack("<I", zlib.crc32(head)) + size + crc + payload


def test_every_law_that_there_is_has_a_number_that_stays():
    """A journal is read by its laws' numbers: one more goes to the end."""
    assert journal.LAWS[:3] == ("gaussian", "rademacher", "sphere")
    assert journal.LAWS[3:] == tuple(f"low-rank-{rank}" for rank in range(1, noise.MAX_RANK + 1))
    assert all(noise.known(law) for law in journal.LAWS)


def test_torn_at_every_byte_of_the_last_three_records(tmp_path):
    path = tmp_path / "journal"
    steps, positions = written(path)
    data, ends = path.read_bytes(), [length for length, _ in positions]
    for cut in range(ends[-4], len(data) + 1):
        good = max(count for count, end in enumerate(ends) if end <= cut)
        for tail in (b"", bytes(len(data) - cut), b"\xff" * (len(data) - cut)):
            path.write_bytes(data[:cut] + tail)
            if path.read_bytes() == data:
                continue
            assert journal.read(path) == steps[:good] and journal.whole(path) == ends[good]
            assert journal.read(path, *positions[good]) == steps[:good]
            if good < len(steps):
                with pytest.raises(Corrupt):
                    journal.read(path, *positions[-1])
    path.write_bytes(data[:-1])
    with pytest.raises(Corrupt, match="follow its last record"):
        Journal(path)
    journal.truncate(path, journal.whole(path))
    log = Journal(path)
    assert log.position() == positions[-2]
    log.append(steps[-1])
    assert log.position() == positions[-1] and path.read_bytes() == data
    log.close()


def test_every_flipped_bit_is_found(tmp_path):
    path = tmp_path / "journal"
    steps, positions = written(path, 5)
    data = bytearray(path.read_bytes())
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt) as told:
            journal.read(path, *positions[-1])
        assert not isinstance(told.value, Newer) and told.value.status == 2
        with pytest.raises(Corrupt):
            journal.read(path, positions[-1][0])
        if bit // 8 >= journal.START:
            got = journal.read(path)
            assert got == steps[: len(got)] and len(got) < len(steps)


@pytest.mark.parametrize("length", [-1, 0, journal.START - 1, 10**6, 2**70])
def test_lengths_that_cannot_be_are_refused(tmp_path, length):
    path = tmp_path / "journal"
    written(path)
    with pytest.raises(Corrupt, match="are needed"):
        journal.read(path, length, "0" * 64)
    with pytest.raises(Corrupt, match="are needed"):
        journal.truncate(path, length)


def test_a_length_inside_a_record_is_refused(tmp_path):
    path = tmp_path / "journal"
    _, positions = written(path)
    with pytest.raises(Corrupt, match="damaged"):
        journal.read(path, positions[-1][0] - 3)


@pytest.mark.parametrize(
    "tail", [b"\xff" * 64, struct.pack("<II", 2**32 - 1, 0), struct.pack("<II", 2**19, 0), bytes(64)]
)
def test_absurd_record_lengths_are_a_tail(tmp_path, tail):
    path = tmp_path / "journal"
    steps, _ = written(path)
    with path.open("ab") as file:
        file.write(tail)
    assert journal.read(path) == steps


def test_a_huge_sparse_tail_costs_nothing(tmp_path):
    path = tmp_path / "journal"
    steps, positions = written(path)
    os.truncate(path, 1 << 40)
    assert journal.read(path) == steps
    journal.truncate(path, positions[-1][0])
    assert journal.read(path, *positions[-1]) == steps


def test_payloads_that_encode_cannot_have_made_end_the_reading(tmp_path):
    path = tmp_path / "journal"
    steps, _ = written(path)
    nan, inf = float("nan"), float("inf")
    bad = [
        journal.STEP.pack(99, 0.0, len(journal.LAWS), 1, 0),  # a law that is not known
        journal.STEP.pack(99, 0.0, 0, 2, 0),  # a flag that is not known
        journal.STEP.pack(99, 0.0, 0, 1, 1),  # a term too few
        journal.STEP.pack(99, 0.0, 0, 1, 0) + bytes(12),  # a term too many
        journal.STEP.pack(99, nan, 0, 1, 0),
        journal.STEP.pack(99, 0.0, 0, 1, 1) + journal.TERM.pack(1, inf),
        journal.STEP.pack(steps[-1].step, 0.0, 0, 1, 0),  # a step that was
    ]
    data = path.read_bytes()
    for payload in bad:
        size = struct.pack("<I", len(payload))
        path.write_bytes(data + size + struct.pack("<I", zlib.crc32(size + payload)) + payload)
        assert journal.read(path) == steps


def test_what_is_no_journal_or_a_newer_one_is_told(tmp_path):
    path = tmp_path / "journal"
    with pytest.raises(Corrupt, match="no such file"):
        journal.read(path)
    for content in (b"", b"zofo", b"PK\x03\x04" * 10, bytes(100)):
        path.write_bytes(content)
        with pytest.raises(Corrupt, match="does not begin"):
            journal.read(path)
    path.write_bytes(journal.header(2) + b"whatever comes")
    with pytest.raises(Newer, match="its format is 2, this zofo knows 1"):
        journal.read(path)


def test_append_refuses_what_could_not_be_read_back(tmp_path):
    log = Journal(tmp_path / "journal")
    log.append(Applied(3))
    before = log.position()
    for record in (
        Applied(3),
        Applied(2),
        Applied(4, ((1, 0.1),)),  # no fp32 value
        Applied(4, ((1, float("nan")),)),
        Applied(4, (), fp32(1e39)),
        Applied(4, (), 0.0, "cauchy"),
        Applied(4, ((1, 0.0),) * 100_000),
    ):
        with pytest.raises(ValueError):
            log.append(record)
    assert log.position() == before and journal.read(tmp_path / "journal") == [Applied(3)]
    log.close()
    assert fp32(0.1) == 0.10000000149011612 and fp32(-1e39) == -float("inf")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EINTR], ids=errno.errorcode.get)
def test_an_error_at_every_operation_loses_no_record_before(tmp_path, failing, number):
    for n in range(1, 40):
        path, done = tmp_path / f"journal-{n}", []
        failing(n, number)
        try:
            log = Journal(path)
            for record in records(6):
                log.append(record)
                done.append(record)
                log.sync()
            log.close()
        except ZofoError as told:
            if number == errno.ENOSPC:
                assert "the disk is full" in told.found and "free" in told.found
            if done:
                with pytest.raises(ZofoError):  # closed for good
                    log.append(Applied(99))
                with pytest.raises(ZofoError):
                    log.sync()
        failing(0, 0)
        if path.exists():
            assert journal.read(path)[: len(done)] == done
            journal.truncate(path, journal.whole(path))
        Journal(path).close()


def test_killed_at_every_operation_loses_no_record(tmp_path, killed):
    def work() -> None:
        log = Journal(path)
        for record in records(4):
            log.append(record)
        log.sync()

    for n in range(1, 40):
        path = tmp_path / f"journal-{n}"
        if not killed(n, work):
            break
        if path.exists():
            got = journal.read(path)
            assert got == records(4)[: len(got)]
    assert n > 8 and journal.read(path) == records(4)
