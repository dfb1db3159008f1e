"""curves.png is a picture for every method, written whole."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from zofo.picture import as_bytes
from zofo.report.plots import curves, drawn, losses, running, validation


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
    shape(as_bytes(drawn([], "empty")))
    rows = metrics()
    rows[3]["A"], rows[4]["gap"], rows[10]["p"]["loss"] = "nan", "inf", "nan"
    shape(as_bytes(drawn(rows, "holes")))


def test_methods_without_levels_name_no_terms_of_g() -> None:
    """Two stages and Addax have two losses each, and no D_f."""
    for pair in (("loss_p", "A"), ("A", "loss_theta")):
        axes = Figure().subplots()
        losses(axes, [{"kind": "step", "step": k, pair[k % 2]: 1.0} for k in range(1, 9)])
        told = axes.get_legend_handles_labels()[1]
        assert len(told) == 2 and all(label.startswith("training loss") for label in told)


def test_no_figure_stays_behind(metrics) -> None:
    """matplotlib's global state (pyplot) is not touched."""
    import sys

    before = "matplotlib.pyplot" in sys.modules
    as_bytes(drawn(metrics(), "x"))
    assert ("matplotlib.pyplot" in sys.modules) == before


def labels(rows: list[dict[str, Any]], zero_shot: float | None = None) -> tuple[str, list[str]]:
    """Unit and labels of the validation panel."""
    axes = Figure().subplots()
    validation(axes, rows, zero_shot)
    return axes.get_ylabel(), axes.get_legend_handles_labels()[1]


def test_the_validation_panel_names_the_first_metric() -> None:
    row = {"kind": "validation", "step": 4, "p": {"loss": 0.5, "macro_f1": 0.6, "accuracy": 0.7}}
    assert labels([row], 0.4) == ("macro-F1 (%)", ["p, macro-F1", "p, loss", "zero-shot macro-F1 (test)"])


def test_a_validation_of_losses_alone_draws_losses() -> None:
    rows = [{"kind": "validation", "step": k, "theta": {"n": 3, "loss": 0.5 / k}} for k in (1, 2)]
    axes = Figure().subplots()
    validation(axes, rows, None)
    (right,) = [other for other in axes.figure.axes if other is not axes]
    assert [line.get_label() for line in right.lines] == ["theta, loss"] and not axes.lines
    shape(as_bytes(drawn(rows, "losses")))


def test_running_mean() -> None:
    assert running([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
