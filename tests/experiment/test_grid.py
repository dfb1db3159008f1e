"""The file of an experiment: every mistake is named, a scale lies over it, rows are expanded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from zofo.errors import BadInput
from zofo.experiment import cells, grid

GOOD: dict[str, Any] = {
    "model": "m", "tasks": ["sst2"], "budget": {"steps": 3}, "rows": [{"name": "a", "preset": "mezo"}],
}  # fmt: skip


def written(place: Path, **keys: Any) -> str:
    file = place / "x.yaml"
    tree = {key: value for key, value in {**GOOD, **keys}.items() if value is not None}
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return str(file)


def row(**keys: Any) -> dict[str, Any]:
    return {"rows": [{"name": "a", **keys}]}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"seed": [1]}, "x.yaml: seed", "no such key; did you mean 'seeds'?"),
    ({"model": None}, "x.yaml: model: it is missing", "see docs/experiments.md"),
    ({"seeds": ["x"]}, "x.yaml: seeds.0 = 'x'", "integer"),
    ({"seeds": []}, "x.yaml: seeds = []", "at least 1"),
    ({"seeds": [0, 0]}, "x.yaml: seeds", "0 stands there twice"),
    ({"sweep": {"seeds": [1, 2, 1]}}, "x.yaml: sweep.seeds", "1 stands there twice"),
    ({"tasks": ["sst2", "sst2"]}, "x.yaml: tasks", "sst2 stands there twice"),
    ({"reach": [80]}, "x.yaml: reach.0 = 80", "less than or equal to 1"),
    ({"budget": {"seconds": 1e300}}, "x.yaml: budget.seconds = 1e+300", "less than 1000000000"),
    ({"costs": {"a": {"seconds": 1e-300}}}, "x.yaml: costs.a.seconds = 1e-300", "greater than 0.000000001"),
    ({"costs": {"a": {"seconds": 2, "stages": [1, 3]}}}, "x.yaml: costs.a.stages", "its method has one stage"),
    ({"costs": {"a": {"sst2": {"seconds": 2, "stages": [1, 3]}}}}, "x.yaml: costs.a.stages", "its method has one stage"),
    ({"costs": {"a": {"seconds": 4, "stages": [1, 3]}}}, "x.yaml: costs.a.stages", "lies not between them"),
    ({"costs": {"a": {"stages": [1, 3]}}}, "x.yaml: costs.a.stages", "lies not between them"),
    (row(sweep={"data.validation_rows": [9, 99]}), "row 'a': sweep.data.validation_rows", "do not compare"),
    ({"tasks": ["sst2", "rte"], "rows": [{"name": "a", "preset": "fo-lora", "tasks": ["sst2"], "sweep": {"method.lr_p": [1e-3, 1e-2]}}, {"name": "b", "like": "a"}]},
     "row 'b': like = a", "its options are chosen on sst2, not on rte"),
    (row(preset="metaicl", sweep={"data.channel": [True, False]}), "row 'a': sweep.data.channel", "measured differently do not compare"),
    ({"budget": {"passes": 9}, **row(preset="bilevel-lora", sweep={"method.T": [1, 20]})}, "row 'a': sweep.method.T", "they break the budget; `vary` it"),
    ({"budget": {"seconds": 9}, **row(preset="bilevel-lora", sweep={"method.lam": [0, 1]})}, "row 'a': sweep.method.lam", "they break the budget"),
    ({"costs": {"a": {"sts2": {"seconds": 2}}}}, "x.yaml: costs.a.sts2", "not one of its tasks; did you mean 'sst2'?"),
    ({"rows": [{"name": "a", "preset": "mezo"}, {"name": "b", "like": "a", "same_steps": True, "steps": 3}]}, "row 'b': same_steps", "its steps are given too"),
    ({"budget": {}}, "x.yaml: budget", "give one of seconds, passes, steps"),
    ({"budget": {"steps": 1, "seconds": 2}}, "x.yaml: budget", "give one of seconds, passes, steps"),
    ({"budget": {"second": 2}}, "x.yaml: budget.second = 2", "did you mean 'seconds'?"),
    ({"sweep": {"share": 2}}, "x.yaml: sweep.share = 2", "less than or equal to 1"),
    ({"against": "b"}, "x.yaml: against = b", "no such row"),
    ({"costs": {"b": {"seconds": 1}}}, "x.yaml: costs.b", "no such row"),
    ({"steps": {"b": 1}}, "x.yaml: steps.b", "no such row"),
    ({"scales": [1]}, "x.yaml: scales", "not a mapping"),
    ({"scales": {"s": {"sweeps": [1]}}}, "x.yaml: scales: sweeps", "not a mapping of rows to options"),
    ({"scales": {"s": {"sweeps": {"nosuch": {}}}}}, "x.yaml: scales: sweeps.nosuch", "no such row"),
    ({"options": {"method.lamb": 1}}, "x.yaml: options", "method.lamb: no such option; did you mean 'method.lam'?"),
    (row(presett="mezo"), "x.yaml: rows.0.presett", "did you mean 'preset'?"),
    (row(preset="mezi"), "row 'a': preset = mezi", "did you mean 'mezo'?"),
    (row(like="b"), "row 'a': like = b", "no such row"),
    (row(same_steps=True), "row 'a': same_steps", "there is no `like`"),
    (row(evaluate=True, preset="mezo"), "row 'a': evaluate", "nothing is trained"),
    (row(sweep={"method.eps": 3}), "x.yaml: rows.0.sweep", "give each option a list of values"),
    (row(sweep={"method.eps method.esp": [3]}), "x.yaml: rows.0.sweep", "method.esp: no such option"),
    (row(sweep={"method.eps": []}), "x.yaml: rows.0.sweep", "give each option a list of values"),
    (row(options={"method.eps": 1}, sweep={"method.eps": [1]}), "row 'a': method.eps", "both given and swept"),
    (row(unseen_lr=1e-3), "row 'a': unseen_lr = 0.001", "no unseen task is adapted to"),
    (row(tasks=["rte"]), "row 'a': tasks = rte", "not one of the experiment's tasks"),
    ({"rows": [{"name": "a"}, {"name": "a"}]}, "x.yaml: rows", "two rows are called 'a'"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "asked", "found"), BAD)
def test_a_mistake_is_named_by_its_key(tmp_path: Path, keys: dict[str, Any], asked: str, found: str) -> None:
    with pytest.raises(BadInput) as error:
        grid.read(written(tmp_path, **keys))
    assert asked in str(error.value) and found in str(error.value), str(error.value)
    assert error.value.status == 2


@pytest.mark.parametrize("name", ["nosuch", "nosuch.yaml"])
def test_a_file_that_is_not_there(name: str) -> None:
    with pytest.raises(BadInput, match="no such file"):
        grid.read(name)


def test_a_scale_lies_over_the_file(tmp_path: Path) -> None:
    scales = {"small": {"seeds": [7], "options": {"data.batch": 2}}, "paper": {"budget": {"steps": 9}}}
    file = written(tmp_path, scales=scales, options={"data.batch": 8, "data.shots": 1})
    made, chosen = grid.read(file)
    assert (chosen, made.seeds, made.options) == ("small", [7], {"data.batch": 2, "data.shots": 1})
    made, chosen = grid.read(file, "paper")
    assert (chosen, made.seeds, made.budget.steps) == ("paper", [0], 9)
    with pytest.raises(BadInput, match=r"--scale papr: .* has no such scale; did you mean 'paper'\?"):
        grid.read(file, "papr")


def test_a_scale_has_sweeps_of_its_own_by_row(tmp_path: Path) -> None:
    rows = [{"name": "a", "preset": "mezo", "sweep": {"method.lr_theta": [1e-6]}}, {"name": "b", "preset": "fo-lora"}]
    file = written(tmp_path, rows=rows, scales={"s": {"sweeps": {"a": {"method.lr_theta": [2e-5, 6e-5]}}}, "t": {}})
    assert [row.sweep for row in grid.read(file)[0].rows] == [{"method.lr_theta": [2e-5, 6e-5]}, {}]
    assert [row.sweep for row in grid.read(file, "t")[0].rows] == [{"method.lr_theta": [1e-6]}, {}]


def test_the_options_of_a_scale_lie_over_the_files_one_by_one_nested_or_dotted(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        options={"method": {"lam": 1, "T": 5}, "data.batch": 4, "data": {"shots": 1}},
        scales={"s": {"options": {"method": {"lam": 2}, "data": {"batch": 8}}}},
    )
    assert grid.read(file)[0].options == {"method.lam": 2, "method.T": 5, "data.batch": 8, "data.shots": 1}


@pytest.mark.parametrize(
    "keys",
    [
        {"budget": {"steps": 9}, **row(preset="bilevel-lora", sweep={"method.T": [1, 20]})},
        {"budget": {"passes": 9}, **row(preset="bilevel-lora", sweep={"method.T": [1, 20]}, steps=3)},
        {"budget": {"passes": 9}, **row(preset="bilevel-lora", sweep={"method.lam": [1, 10]})},
    ],
)
def test_options_that_change_a_steps_cost_are_swept_where_the_budget_is_not_in_it(tmp_path: Path, keys: Any) -> None:
    assert grid.read(written(tmp_path, **keys))[0].rows[0].sweep


def test_a_key_that_stands_twice_is_named(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text(Path(written(tmp_path)).read_text() + "costs: {a: {seconds: 1}}\ncosts: {a: {seconds: 2}}\n")
    with pytest.raises(BadInput, match="'costs' stands there twice"):
        grid.read(str(file))


def test_a_row_that_varies_becomes_rows(tmp_path: Path) -> None:
    rows = [{"name": "a", "preset": "mezo", "vary": {"method.lam": [1, 1e4], "data.hard_prompt": [True, False]}}]
    made, _ = grid.read(written(tmp_path, rows=rows))
    assert [r.name for r in made.rows][:2] == ["a lam=1 hard_prompt=true", "a lam=1 hard_prompt=false"]
    assert made.rows[-1].options == {"method.lam": 10000.0, "data.hard_prompt": False}


@pytest.mark.parametrize("keys", [{"preset": "two-stage"}, {"options": {"method.name": "two-stage"}}, {"like": "b"}])
def test_a_row_of_two_stages_has_a_cost_of_each(tmp_path: Path, keys: dict[str, Any]) -> None:
    rows = [{"name": "a", **keys}, {"name": "b", "preset": "two-stage"}]
    made, _ = grid.read(written(tmp_path, rows=rows, costs={"a": {"sst2": {"seconds": 2, "stages": [1, 3]}}}))
    assert cells.cost_of(made, made.row("a"), "sst2") == grid.Cost(seconds=2, stages=(1, 3))


def test_options_nest_or_are_dotted(tmp_path: Path) -> None:
    made, _ = grid.read(written(tmp_path, options={"method": {"lambda": 3}, "data.shots": 1}))
    assert made.options == {"method.lam": 3, "data.shots": 1}


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("name", grid.names())
def test_the_ready_files_are_whole_at_both_scales(name: str, scale: str) -> None:
    """Every row resolves to a run that would be taken."""
    made, chosen = grid.read(name, scale)
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
    made, _ = grid.read(str(file))
    assert made.rows


def test_the_papers_tables_are_there() -> None:
    assert {"opt-1.3b", "llama-2-7b", "prompt-sensitivity", "two-stage", "ablations", "step-time", "curves"} <= set(
        grid.names()
    )
    assert len(yaml.safe_load((grid.READY / "opt-1.3b.yaml").read_text())["rows"]) == 10
