"""The file of an experiment: found by path or name, a scale lies over it, rows are expanded; those that ship and those that were published are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from zofo.errors import BadInput
from zofo.experiment import cells, reading

Written = Callable[..., str]


@pytest.mark.parametrize("name", ["nosuch", "nosuch.yaml"])
def test_a_file_that_is_not_there(name: str) -> None:
    with pytest.raises(BadInput, match="no such file"):
        reading.read(name)


def test_a_scale_lies_over_the_file(written: Written) -> None:
    scales = {"small": {"seeds": [7], "options": {"data.batch": 2}}, "paper": {"budget": {"steps": 9}}}
    file = written(scales=scales, options={"data.batch": 8, "data.shots": 1})
    made, chosen = reading.read(file)
    assert (chosen, made.seeds, made.options) == ("small", [7], {"data.batch": 2, "data.shots": 1})
    made, chosen = reading.read(file, "paper")
    assert (chosen, made.seeds, made.budget.steps) == ("paper", [0], 9)
    with pytest.raises(BadInput, match=r"--scale papr: .* has no such scale; did you mean 'paper'\?"):
        reading.read(file, "papr")


def test_a_scale_has_sweeps_of_its_own_by_row(written: Written) -> None:
    rows = [{"name": "a", "preset": "mezo", "sweep": {"method.lr_theta": [1e-6]}}, {"name": "b", "preset": "fo-lora"}]
    file = written(rows=rows, scales={"s": {"sweeps": {"a": {"method.lr_theta": [2e-5, 6e-5]}}}, "t": {}})
    assert [row.sweep for row in reading.read(file)[0].rows] == [{"method.lr_theta": [2e-5, 6e-5]}, {}]
    assert [row.sweep for row in reading.read(file, "t")[0].rows] == [{"method.lr_theta": [1e-6]}, {}]


def test_the_options_of_a_scale_lie_over_the_files_one_by_one_nested_or_dotted(
    written: Written,
) -> None:
    file = written(
        options={"method": {"lam": 1, "T": 5}, "data.batch": 4, "data": {"shots": 1}},
        scales={"s": {"options": {"method": {"lam": 2}, "data": {"batch": 8}}}},
    )
    assert reading.read(file)[0].options == {"method.lam": 2, "method.T": 5, "data.batch": 8, "data.shots": 1}


def test_a_key_that_stands_twice_is_named(written: Written, tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text(Path(written()).read_text() + "costs: {a: {seconds: 1}}\ncosts: {a: {seconds: 2}}\n")
    with pytest.raises(BadInput, match="'costs' stands there twice"):
        reading.read(str(file))


def test_a_row_that_varies_becomes_rows(written: Written) -> None:
    rows = [{"name": "a", "preset": "mezo", "vary": {"method.lam": [1, 1e4], "data.hard_prompt": [True, False]}}]
    made, _ = reading.read(written(rows=rows))
    assert [r.name for r in made.rows][:2] == ["a lam=1 hard_prompt=true", "a lam=1 hard_prompt=false"]
    assert made.rows[-1].options == {"method.lam": 10000.0, "data.hard_prompt": False}


def test_options_nest_or_are_dotted(written: Written) -> None:
    made, _ = reading.read(written(options={"method": {"lambda": 3}, "data.shots": 1}))
    assert made.options == {"method.lam": 3, "data.shots": 1}


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("name", reading.names())
def test_the_ready_files_are_whole_at_both_scales(name: str, scale: str) -> None:
    """Every row resolves to a run that would be taken."""
    made, chosen = reading.read(name, scale)
    assert chosen == scale and made.about
    assert made.model == "smollm2-135m" or (scale == "paper" and (made.seeds == [0, 1, 2] or name == "step-time"))
    swept = cells.sweeps(made)
    table = cells.finals(made, cells.rehearsed(made))
    assert len({cell.digest for cell in table}) > 1 and all(cell.steps for cell in swept)


PUBLISHED = sorted(
    file for file in (Path(__file__).parents[2] / "benchmarks").rglob("*.yaml") if "\nrows:" in file.read_text()
)


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_published_grids_are_read(file: Path) -> None:
    """A command that stands beside a figure is not refused."""
    made, _ = reading.read(str(file))
    assert made.rows


def test_the_papers_tables_are_there() -> None:
    assert {"opt-1.3b", "llama-2-7b", "prompt-sensitivity", "two-stage", "ablations", "step-time", "curves"} <= set(
        reading.names()
    )
    assert len(yaml.safe_load((reading.READY / "opt-1.3b.yaml").read_text())["rows"]) == 10
