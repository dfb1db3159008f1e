"""The sweep, the choice, the table's runs: what is run, in what order, and what is not run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_a_grid_is_run_once_and_nothing_is_run_again(lab, make) -> None:
    cells, said = lab.run(make())
    assert len(lab.orders) == 2 + 2 + 2 + 2  # two swept, one of which is tested in the second turn; the others once a seed
    assert [cell.row for cell in cells] == ["lora"] * 2 + ["bilevel"] * 2 + ["zero-shot"] * 2
    assert all(lab.store.finished(cell) for cell in cells)
    before = list(lab.orders)
    assert lab.run(make())[0] == cells and lab.orders == before
