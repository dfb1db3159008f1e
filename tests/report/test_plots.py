"""curves.png is a picture for every method, written whole."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from zofo.report.plots import curves, picture, running


def shape(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and png.rstrip().endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize("method", ["bilevel", "mezo", "first-order"])
@pytest.mark.parametrize("steps", [1, 12, 60])
def test_every_method(metrics, tmp_path: Path, method: str, steps: int) -> None:
    path = tmp_path / "curves.png"
    curves(metrics(method, steps), path, "run $1_x", {"accuracy": 0.55})
    width, height = shape(path.read_bytes())
    assert height > 300 and (width > 1200) == (method == "bilevel")
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]


def test_nothing_yet_and_not_finite(metrics) -> None:
    shape(picture([], "empty"))
    rows = metrics()
    rows[3]["A"], rows[4]["gap"], rows[10]["p"]["loss"] = "nan", "inf", "nan"
    shape(picture(rows, "holes"))


def test_no_figure_stays_behind(metrics) -> None:
    """matplotlib's global state (pyplot) is not touched."""
    import sys

    before = "matplotlib.pyplot" in sys.modules
    picture(metrics(), "x")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_running_mean() -> None:
    assert running([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
