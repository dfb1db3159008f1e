"""Whatever is wrong in an experiment's file is named by its key, and so are rows that do not fit together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zofo.errors import BadInput
from zofo.experiment import cells, grid, reading

Written = Callable[..., str]


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
    ({**row(evaluate=True), "steps": {"a": 1}}, "x.yaml: steps.a", "nothing is trained in that row"),
    ({**row(evaluate=True), "costs": {"a": {"seconds": 1}}}, "x.yaml: costs.a", "nothing is trained in that row"),
    ({**row(preset="sketch", sweep={"method.rank": [8, 64]}), "budget": {"seconds": 9}}, "sweep.method.rank", "what a step costs"),
    ({**row(sweep={"data.hard_prompt": [True, False]}), "budget": {"seconds": 9}}, "sweep.data.hard_prompt", "what a step costs"),
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
def test_a_mistake_is_named_by_its_key(written: Written, keys: dict[str, Any], asked: str, found: str) -> None:
    with pytest.raises(BadInput) as error:
        reading.read(written(**keys))
    assert asked in str(error.value) and found in str(error.value), str(error.value)
    assert error.value.status == 2


@pytest.mark.parametrize(
    "keys",
    [
        {"budget": {"steps": 9}, **row(preset="bilevel-lora", sweep={"method.T": [1, 20]})},
        {"budget": {"passes": 9}, **row(preset="bilevel-lora", sweep={"method.T": [1, 20]}, steps=3)},
        {"budget": {"passes": 9}, **row(preset="bilevel-lora", sweep={"method.lam": [1, 10]})},
    ],
)
def test_options_that_change_a_steps_cost_are_swept_where_the_budget_is_not_in_it(written: Written, keys: Any) -> None:
    assert reading.read(written(**keys))[0].rows[0].sweep


@pytest.mark.parametrize("keys", [{"preset": "two-stage"}, {"options": {"method.name": "two-stage"}}, {"like": "b"}])
def test_a_row_of_two_stages_has_a_cost_of_each(written: Written, keys: dict[str, Any]) -> None:
    rows = [{"name": "a", **keys}, {"name": "b", "preset": "two-stage"}]
    made, _ = reading.read(written(rows=rows, costs={"a": {"sst2": {"seconds": 2, "stages": [1, 3]}}}))
    assert cells.cost_of(made, made.row("a"), "sst2") == grid.Cost(seconds=2, stages=(1, 3))
