"""Metrics are whole lines, exact, and cut back to a checkpoint to the byte."""

from __future__ import annotations

import errno
import json
import math

import pytest

from zofo.errors import BadInput, ZofoError
from zofo.run.errors import Corrupt
from zofo.run.metrics import Metrics, cut_metrics, read_metrics

ROWS = [{"kind": "step", "step": k, "A": 1 / (k + 3), "text": "é\n"} for k in range(6)]


def written(path, rows=ROWS):
    metrics = Metrics(path)
    for row in rows:
        metrics.append(row)
    metrics.sync()
    metrics.close()
    metrics.close()


def test_rows_come_back_exactly(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written(path, [*ROWS, {"step": 9, "A": math.nan, "B": [-math.inf], "p": {"loss": math.inf}}])
    assert read_metrics(path) == [*ROWS, {"step": 9, "A": "nan", "B": ["-inf"], "p": {"loss": "inf"}}]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_readers_see_each_row_whole_as_soon_as_it_is_appended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for count, row in enumerate(ROWS):
        assert read_metrics(path) == ROWS[:count]
        metrics.append(row)
    metrics.close()


def test_a_tail_torn_at_any_byte_is_left_out_and_cut_when_writing_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written(path)
    data = path.read_bytes()
    start = data.rindex(b"\n", 0, -1) + 1
    for cut in range(start, len(data)):
        for tail in (b"", bytes(len(data) - cut), b"\0\n\0\n"):
            path.write_bytes(data[:cut] + tail)
            assert read_metrics(path) == ROWS[:-1]
            written(path, ROWS[-1:])
            assert path.read_bytes() == data


def test_damage_before_a_good_line_is_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    for bad in (b"{\n", b"\xff\n", b"3\n", b"[" * 100_000 + b"\n"):
        path.write_bytes(b"".join([*lines[:2], bad, *lines[3:]]))
        with pytest.raises(Corrupt, match="line 3 is damaged"):
            read_metrics(path)


def test_a_cut_leaves_the_first_bytes_and_tells_of_lost_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert cut_metrics(path, 0) is None and not path.exists()
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    first = b"".join(lines[:3])
    assert cut_metrics(path, len(first)) is None
    assert path.read_bytes() == first
    assert cut_metrics(path, len(first)) is None
    told = cut_metrics(path, len(first) + 7)
    assert told is not None and f"{len(first)} bytes where {len(first) + 7} are needed" in told
    assert path.read_bytes() == first


def test_a_missing_file_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        read_metrics(tmp_path / "none")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_an_error_at_every_operation_of_a_cut_keeps_old_or_new(tmp_path, failing, number):
    path = tmp_path / "metrics.jsonl"
    written(path, ROWS[:3])
    kept = path.stat().st_size
    for n in range(1, 4):
        failing(0, 0)
        path.unlink(missing_ok=True)
        written(path)
        failing(n, number)
        with pytest.raises(ZofoError):
            cut_metrics(path, kept)
        assert read_metrics(path) in (ROWS, ROWS[:3])


def test_a_row_that_cannot_be_written_whole_is_told_and_left_out(tmp_path, failing):
    path = tmp_path / "metrics.jsonl"
    written(path)
    failing(2, errno.ENOSPC)
    metrics = Metrics(path)
    with pytest.raises(ZofoError, match="bytes needed"):
        metrics.append({"step": 7})
    failing(0, 0)
    metrics.close()
    assert read_metrics(path) == ROWS
