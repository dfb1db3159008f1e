"""The journal: every step as it was applied to the weights, in frames that are checked.

A file is a header (8 bytes of magic, u32 version, u32 CRC-32 of both), then for each record u32 payload length, u32
CRC-32 of that length and the payload, and the payload; all little-endian. The payload is u64 step,
f32 decay, u8 law, u8 replay, u32 number of terms, and for each term u64 key, f32 a. A step is
`sum a_i z(key_i)` with the decay applied; where replay is false (Adam) it is a note and no more.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from zofo.errors import ZofoError
from zofo.run import seam
from zofo.run.errors import Corrupt, Newer

MAGIC, VERSION = b"zofo-jnl", 1


def header(version: int) -> bytes:
    """The first bytes of a journal."""
    head = MAGIC + struct.pack("<I", version)
    return head + struct.pack("<I", zlib.crc32(head))


HEADER = header(VERSION)
START = len(HEADER)  # bytes of a journal without records
LAWS = ("gaussian", "rademacher", "sphere", *(f"low-rank-{rank}" for rank in range(1, 33)))
FRAME = struct.Struct("<II")
STEP = struct.Struct("<QfBBI")
TERM = struct.Struct("<Qf")
MAX_RECORD = 1 << 20  # bytes of a payload: 87,000 terms
RESTORE = "use an older checkpoint, or start a new run with another name"


@dataclass(frozen=True)
class Applied:
    """One step as applied. `terms`: (key, a) with a 64-bit key and a = -lr c, an fp32 value; may be empty."""

    step: int
    terms: tuple[tuple[int, float], ...] = ()
    decay: float = 0.0
    law: str = "gaussian"
    replay: bool = True


def fp32(value: float) -> float:
    """Round to the nearest fp32 value; beyond its range, to an infinity (which the journal refuses)."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def encode(record: Applied) -> bytes:
    """Frame one record. Raises `ValueError` for a float that is no finite fp32 value, or too many terms."""
    for value in (record.decay, *(a for _, a in record.terms)):
        if not math.isfinite(value) or fp32(value) != value:
            raise ValueError(f"step {record.step}: {value!r} is no finite fp32 value; round it with fp32()")
    head = STEP.pack(record.step, record.decay, LAWS.index(record.law), record.replay, len(record.terms))
    payload = head + b"".join(TERM.pack(key, a) for key, a in record.terms)
    if len(payload) > MAX_RECORD:
        raise ValueError(f"step {record.step}: {len(record.terms)} terms are more than a record holds")
    return FRAME.pack(len(payload), _crc(payload)) + payload


def _crc(payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<I", len(payload))))


def _decode(payload: bytes) -> Applied | None:
    """Undo `encode`; None for a payload that it cannot have made."""
    step, decay, law, replay, count = STEP.unpack_from(payload)
    if len(payload) != STEP.size + count * TERM.size or law >= len(LAWS) or replay > 1:
        return None
    terms = tuple(TERM.iter_unpack(payload[STEP.size :]))
    if not all(math.isfinite(value) for value in (decay, *(a for _, a in terms))):
        return None
    return Applied(step, terms, decay, LAWS[law], bool(replay))


def _record(file: BinaryIO, left: int) -> tuple[Applied | None, int]:
    """Read one record of at most `left` bytes: (record, its bytes), or (None, 0) when it is not whole."""
    if left < FRAME.size:
        return None, 0
    size, crc = FRAME.unpack(file.read(FRAME.size))
    if not STEP.size <= size <= min(MAX_RECORD, left - FRAME.size):
        return None, 0
    payload = file.read(size)
    if len(payload) != size or _crc(payload) != crc:
        return None, 0
    return _decode(payload), FRAME.size + size


def _scan(file: BinaryIO, length: int) -> Iterator[tuple[Applied, int]]:
    """Yield whole records within `length` bytes, steps rising, each with the position of its end."""
    at, last = START, -1
    while True:
        record, size = _record(file, length - at)
        if record is None or record.step <= last:
            return
        at, last = at + size, record.step
        yield record, at


def _open(path: Path) -> tuple[BinaryIO, int]:
    """Open a journal after its header; returns the file and its length. Raises `Corrupt`."""
    try:
        if not path.is_file():
            raise Corrupt(f"journal {path}", "no such file", RESTORE)
        file = path.open("rb")
    except OSError as error:
        raise Corrupt(f"journal {path}", f"cannot be read ({error.strerror})", RESTORE) from error
    head = file.read(START)
    if head == HEADER:
        return file, os.fstat(file.fileno()).st_size
    file.close()
    version = int.from_bytes(head[len(MAGIC) : -4], "little")
    if version > VERSION and head == header(version):
        raise Newer(f"journal {path}", f"its format is {version}, this zofo knows {VERSION}", "use a newer zofo")
    raise Corrupt(f"journal {path}", "it does not begin as a journal does", RESTORE)


def _digest(path: Path, file: BinaryIO, length: int) -> hashlib._Hash:
    """Hash the first `length` bytes, a block at a time."""
    file.seek(0)
    running, left = hashlib.sha256(), length
    while left:
        block = file.read(min(left, 1 << 20))
        if not block:
            raise Corrupt(f"journal {path}", f"it ends before byte {length}", RESTORE)
        running.update(block)
        left -= len(block)
    return running


def read(path: Path, length: int | None = None, sha256: str | None = None) -> list[Applied]:
    """Read a journal's records in order.

    Args: length, sha256: what a checkpoint says of the part it stands on; then just that part is
    read and must agree, else `Corrupt`. Without a length reading ends before the first bad record,
    as a log does. Raises `Corrupt` also for a missing file or a newer format.
    """
    file, size = _open(path)
    with file:
        if length is not None and not START <= length <= size:
            raise Corrupt(f"journal {path}", f"it has {size} bytes where {length} are needed", RESTORE)
        if sha256 is not None and _digest(path, file, size if length is None else length).hexdigest() != sha256:
            raise Corrupt(f"journal {path}", "its SHA-256 is not the checkpoint's", RESTORE)
        file.seek(START)
        found = list(_scan(file, size if length is None else length))
    end = found[-1][1] if found else START
    if length is not None and end != length:
        raise Corrupt(f"journal {path}", f"a record at byte {end} is damaged", RESTORE)
    return [record for record, _ in found]


def whole(path: Path) -> int:
    """Bytes up to the end of the last whole record. Raises `Corrupt` as `read` does."""
    file, size = _open(path)
    with file:
        return max((end for _, end in _scan(file, size)), default=START)


def truncate(path: Path, length: int) -> None:
    """Cut a journal back to `length` bytes (START: to no record), durably. Raises `Corrupt` if it is shorter."""
    file, size = _open(path)
    file.close()
    if not START <= length <= size:
        raise Corrupt(f"journal {path}", f"it has {size} bytes where {length} are needed", RESTORE)
    if length < size:
        seam.cut_file(path, length)


class Journal:
    """A journal open for appending; made if missing. Raises `Corrupt` when its tail was not cut first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            seam.write_file(path, HEADER)
        file, size = _open(path)
        with file:
            self._last, end = -1, START
            for record, after in _scan(file, size):
                self._last, end = record.step, after
            if end != size:
                raise Corrupt(f"journal {path}", f"{size - end} bytes follow its last record", "cut it with truncate()")
            self._hash, self._length = _digest(path, file, size), size
        with seam.told(path):
            self._file = seam.disk.extend(path)

    def append(self, record: Applied) -> None:
        """Write one record (some 40 bytes; safe from a killed process, from a power cut only after `sync`).

        Raises `ValueError` for a step that does not follow, `ZofoError` when the disk refuses: then
        the journal is closed, for bytes after a torn record would be lost.
        """
        if record.step <= self._last:
            raise ValueError(f"step {record.step} after step {self._last} in {self.path}")
        frame = encode(record)
        with self._guard(len(frame)):
            seam.disk.write(self._file, frame)
            self._hash.update(frame)
            self._length, self._last = self._length + len(frame), record.step

    def sync(self) -> None:
        """Wait until all records are on the disk. A failure closes the journal: it is not tried again."""
        with self._guard(0):
            seam.disk.fsync(self._file)

    @contextmanager
    def _guard(self, need: int) -> Iterator[None]:
        """Run a block that writes; any exception in it closes the journal for good."""
        if self._file < 0:
            raise ZofoError(f"write {self.path}", "the journal is closed", "go on with `zofo resume`")
        try:
            with seam.told(self.path, need):
                yield
        except BaseException:
            with suppress(ZofoError):
                self.close()
            raise

    def position(self) -> tuple[int, str]:
        """(bytes, SHA-256 in hex) of all that was appended: what a checkpoint keeps."""
        return self._length, self._hash.hexdigest()

    def close(self) -> None:
        """Close the file (twice does no harm); does not sync."""
        file, self._file = self._file, -1
        if file >= 0:
            with seam.told(self.path):
                seam.disk.close(file)
