"""A figure as a file: in the format of its ending, the same bytes for the same figure, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from zofo import picture


def drawn() -> Figure:
    figure = picture.sheet(2.0, 1.0)
    figure.subplots().plot([0, 1], [1, 0], label="a")
    return figure


@pytest.mark.parametrize(("ending", "begins"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("SVG", b"<?xml")])
def test_it_is_written_in_the_format_of_its_ending_and_twice_the_same(
    tmp_path: Path, ending: str, begins: bytes
) -> None:
    files = [tmp_path / f"{name}.{ending}" for name in ("one", "two")]
    for file in files:
        picture.write(drawn(), file)
    assert files[0].read_bytes().startswith(begins) and files[0].read_bytes() == files[1].read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in files}, "nothing half written"


def test_its_size_is_in_inches() -> None:
    figure = picture.sheet(3.0, 2.0, dpi=50)
    assert tuple(figure.get_size_inches()) == (3.0, 2.0) and figure.dpi == 50
