"""The picture of `bench step`: a bar for each kind in both panels, with its numbers beside it."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure

from zofo.bench import plot


def row(forwards: float, allocated: float, resident: float) -> dict[str, Any]:
    bytes_ = {"allocated_bytes": allocated * 1e6, "resident_bytes": resident * 1e6}
    return {"median_s": forwards / 2, "forwards": forwards, "allocated_ratio": allocated / 100, **bytes_}


FOUND = {
    "model": "/some/where/tiny", "weights": 134_500_000, "rows": 8, "tokens": 64, "dtype": "fp32", "threads": 2,
    "head": "one position a row",
    "results": {
        "plain forward": row(1.0, 14, 20), "plain forward, logits at all positions": row(1.2, 100, 120),
        "zofo step, $": row(2.5, 18.4, 0), "MeZO's loop": row(4.1, 113, 130),
    },
}  # fmt: skip


@pytest.fixture
def drawn() -> Figure:
    return plot.drawn(FOUND)


def test_two_panels_of_bars_the_first_kind_on_top(drawn: Figure) -> None:
    time, memory = drawn.axes
    assert [bar.get_width() for bar in time.patches] == [1.0, 1.2, 2.5, 4.1]
    assert [bar.get_width() for bar in memory.patches] == pytest.approx([20, 120, 0, 130, 14, 100, 18.4, 113])
    assert time.get_yticklabels()[0].get_text() == "plain forward"
    low, high = time.get_ylim()
    assert low > high  # the axis points down
    assert time.get_xlabel() == "plain forward passes" and "MB" in memory.get_xlabel()


def test_numbers_stand_beside_the_bars(drawn: Figure) -> None:
    time, memory = ([text.get_text() for text in axes.texts] for axes in drawn.axes)
    assert time[2] == "2.50  (1.25 s)" and memory[2] == "18.4 MB  (0.18)"
    title = drawn.get_suptitle()
    assert title == "tiny, 134.5 M weights, 8 x 64 tokens, fp32, head at one position a row, threads: 2"
