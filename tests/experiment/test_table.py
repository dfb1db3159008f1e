"""The table: means, deviations, paired differences, p and s apart, and what is missing."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from zofo.experiment import cells, lines, table, text
from zofo.experiment.store import Store
from zofo.run.jsonfile import write_json


@pytest.fixture
def found(full) -> dict[str, Any]:
    return table.tabulate(*full)


def entry(found: dict[str, Any], row: str, task: str = "sst2") -> dict[str, Any]:
    return next(e for e in found["rows"] if (e["row"], e["task"]) == (row, task))


def test_means_deviations_seeds_and_the_adapters_apart(found: dict[str, Any]) -> None:
    held = entry(found, "better")
    scores = [15 / 20, 16 / 20, 17 / 20]
    assert held["mean"] == pytest.approx(0.8) and held["sd"] == pytest.approx(statistics.stdev(scores))
    assert (held["seeds"], held["wanted"], held["used"]) == (3, 3, {"s": 3})
    assert held["slots"]["p"]["mean"] == 0.5 and held["slots"]["s"]["mean"] == held["mean"]
    assert held["passes"] == 46 + 2 * 43 and held["checkpoint"] == 2


def test_the_difference_is_paired_by_seed_and_row(found: dict[str, Any]) -> None:
    """The better row answers five more rows in every seed: 0.25, and the seeds add nothing to its spread."""
    held = entry(found, "better")["difference"]
    assert held["mean"] == pytest.approx(0.25) and held["seeds"] == 3
    assert 0.02 < held["low"] < 0.25 < held["high"] < 0.48
    assert entry(found, "base")["difference"] is None and entry(found, "later")["difference"] is None


def test_what_failed_and_what_is_to_come_stay(found: dict[str, Any]) -> None:
    held = entry(found, "better", "rte")
    assert (held["seeds"], held["failures"]) == (2, ["seed 2: out of memory: 1 PB were asked for"])
    assert held["difference"]["seeds"] == 2
    assert (entry(found, "later")["seeds"], entry(found, "later")["pending"], entry(found, "later")["mean"]) == (
        0,
        3,
        None,
    )


def test_over_tasks_only_whole_seeds_count(found: dict[str, Any]) -> None:
    over = {e["row"]: e for e in found["average"]}
    assert (over["better"]["seeds"], over["base"]["seeds"], over["later"]["seeds"]) == (2, 3, 0)
    assert over["better"]["mean"] == pytest.approx((0.75 + 0.8) / 2)
    assert over["better"]["difference"]["mean"] == pytest.approx(0.25)


@pytest.fixture
def unfinished(make: Any, made_up: Any, tmp_path: Path) -> Any:
    """Tables of rows a, b and c on two tasks, of right answers (of 20) by row and task, a seed each."""

    def tabulated(rights: dict[tuple[str, str], list[int]]) -> dict[str, Any]:
        rows = [{"name": name, "preset": "fo-lora", "options": {"data.shots": k}} for k, name in enumerate("abc")]
        made, store = make(tasks=["sst2", "rte"], rows=rows, against="a", draws=200), Store(tmp_path / "unfinished")
        store.make()
        whole = cells.finals(made, {})
        for cell in whole:
            held = rights.get((cell.row, cell.task), [])
            if cell.seed < len(held):
                right = [1] * held[cell.seed] + [0] * (20 - held[cell.seed])
                write_json(store.cells / f"{cell.name}.json", made_up(cell, right))
        return table.tabulate(made, store, whole)

    return tabulated


def test_over_tasks_scores_mean_and_difference_are_of_the_same_seeds(unfinished: Any) -> None:
    """b lacks a seed of rte, which a has: over what there is of each task alone b would be 2.5 points below a."""
    found = unfinished({("a", "sst2"): [10, 20], ("a", "rte"): [10, 10], ("b", "sst2"): [12, 12], ("b", "rte"): [12]})
    over = {e["row"]: e for e in found["average"]}
    b = over["b"]
    assert (b["seeds"], b["mean"], b["other"]) == (1, pytest.approx(0.6), pytest.approx(0.5))
    assert [b["tasks"][task]["values_by_seed"] for task in ("sst2", "rte")] == [[0.6], [0.6]]
    assert b["difference"]["mean"] == pytest.approx(0.1) and b["difference"]["seeds"] == 1
    assert b["difference"]["low"] < 0.1 < b["difference"]["high"]
    assert (over["a"]["seeds"], over["a"]["mean"]) == (2, pytest.approx(0.625))
    said = text.document(found, "it")
    assert "| row | sst2 | rte | mean | seeds | less a [95 %] |" in said
    assert "| b | 60.0 | 60.0 | 60.0 | 1 of 2 | +10.0 [" in said and "] from 50.0 |" in said
    assert "| c | - | - | - | 0 of 2 | - |" in said


def test_over_tasks_a_row_has_the_seeds_of_the_one_that_it_is_compared_with(unfinished: Any) -> None:
    """a lacks a seed of rte: b has both, and is shown on the one that both have."""
    found = unfinished({("a", "sst2"): [10, 20], ("a", "rte"): [10], ("b", "sst2"): [12, 12], ("b", "rte"): [12, 2]})
    over = {e["row"]: e for e in found["average"]}
    assert over["b"]["mean"] - over["a"]["mean"] == pytest.approx(over["b"]["difference"]["mean"])
    assert (over["a"]["seeds"], over["b"]["seeds"], over["b"]["mean"]) == (1, 1, pytest.approx(0.6))
    assert "from" not in text.overview(found)[2][1][-1], "a stands there on the same seed"


def test_over_tasks_a_row_without_a_whole_seed_has_scores_alone(unfinished: Any) -> None:
    found = unfinished({("a", "sst2"): [10, 20], ("a", "rte"): [10, 10], ("b", "sst2"): [12, 14], ("c", "rte"): [12]})
    b, c = text.overview(found)[2][1:]
    assert b == ["b", "65.0 +- 7.1 (2 seeds)", "-", "-", "0 of 2", "-"]
    assert c == ["c", "-", "60.0 (1 seed)", "-", "0 of 2", "-"]


def test_each_stage_has_its_own_seconds(make: Any, made_up: Any, tmp_path: Path) -> None:
    """Steps are granted, and runs known, by the mean alone."""
    rows = [
        {"name": "half", "preset": "two-stage", "options": {"method.stage_one": 0}},
        {"name": "early", "preset": "two-stage", "options": {"method.stage_one": 1}},
        {"name": "plain", "preset": "two-stage", "options": {"method.stage_one": 1}},
    ]
    costs = {
        "half": {"seconds": 2, "stages": [1, 3]},
        "early": {"seconds": 2, "stages": [1, 3]},
        "plain": {"seconds": 2},
    }
    made, store = make(rows=rows, costs=costs, budget={"seconds": 8.5}, against="", seeds=[0]), Store(tmp_path / "two")
    store.make()
    whole = cells.finals(made, {})
    for cell in whole:
        write_json(store.cells / f"{cell.name}.json", made_up(cell, [1, 0]))
    half, early, plain = lines.lines(made, store, whole)
    assert [line.cells[0].steps for line in (half, early, plain)] == [4, 4, 4]
    assert early.cells[0].digest == plain.cells[0].digest
    spent = [[table.clock(line, 0, {"step": k, "seconds": 9.0}) for k in range(5)] for line in (half, early, plain)]
    assert spent == [[0, 1, 2, 5, 8], [0, 1, 4, 7, 10], [0, 2, 4, 6, 8]]
    found = table.tabulate(made, store, whole)
    assert [e["seconds"]["0.1"] for e in found["reach"]] == [[2.0], [4.0], [4.0]]
    assert [e["budgeted_seconds"] for e in found["rows"]] == [8, 10, 8]


def test_seconds_are_steps_times_cost_where_it_is_said(found: dict[str, Any]) -> None:
    assert entry(found, "better")["budgeted_seconds"] == 6.0 and entry(found, "base")["budgeted_seconds"] is None
    reach = {(e["row"], e["task"]): e["seconds"] for e in found["reach"]}
    assert reach["better", "sst2"] == {"0.1": [6.0] * 3, "0.9": [None] * 3}
    assert reach["base", "sst2"] == {"0.1": [4.0] * 3, "0.9": [None] * 3}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_have_a_mean_that_is_none_and_no_deviation(value: float) -> None:
    found = table.spread([value, 1.0])
    assert not math.isfinite(found["mean"]) and found["sd"] is None


def test_a_row_that_names_all_tasks_has_a_mean_over_them(make: Any, made_up: Any, tmp_path: Path) -> None:
    rows = [
        {"name": "a", "preset": "fo-lora", "tasks": ["sst2", "rte"]},
        {"name": "b", "preset": "mezo", "tasks": ["rte"]},
    ]
    made, store = make(rows=rows, against="", tasks=["sst2", "rte"]), Store(tmp_path / "named")
    store.make()
    whole = cells.finals(made, {})
    for cell in whole:
        write_json(store.cells / f"{cell.name}.json", made_up(cell, [1, 0]))
    means = {entry["row"]: entry["mean"] for entry in table.tabulate(made, store, whole)["average"]}
    assert means == {"a": 0.5, "b": None}


def test_a_cosine_of_A_alone_is_named_where_G_has_more(make: Any, made_up: Any, tmp_path: Path) -> None:
    """Runs with `lam_every` were measured where lambda was 0; where it always is, G is A."""
    seldom = {"method.coupling": "outer", "method.lam_every": 2}
    rows = [
        {"name": "seldom", "preset": "bilevel-lora", "options": seldom},
        {"name": "never", "preset": "bilevel-lora", "options": {"method.lam": 0}},
        {"name": "follow", "preset": "bilevel-lora", "options": {"method.coupling": "follow"}},
    ]
    made, store = make(rows=rows, against=""), Store(tmp_path / "cosines")
    store.make()
    whole = cells.finals(made, {})

    def tell(of_seed: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for cell in whole:
            held = {name: {"mean": mean} for name, mean in of_seed[cell.seed].items()}
            write_json(store.cells / f"{cell.name}.json", made_up(cell, [1, 0], cosines=held))
        return {e["row"]: e for e in table.tabulate(made, store, whole)["rows"]}

    found = tell([{"A": 0.25}, {"A": 0.75}])
    assert {e["cosine"] for e in found.values()} == {0.5}
    assert {row: e["notes"] for row, e in found.items()} == {"seldom": ["cosine of A alone"], "never": [], "follow": []}
    found = tell([{"A": 0.25}, {"A": 0.75, "G": 0.125}])
    assert (found["seldom"]["cosine"], found["seldom"]["notes"]) == (0.125, []), "A and G have no mean together"


def test_losses_and_scores_have_no_mean_together() -> None:
    assert table.common(["f1", "accuracy"]) == "score" and table.common(["em", "em"]) == "em"
    assert table.common(["loss", "loss"]) == "loss" and table.common(["loss", "em"]) is None
    assert table.common([]) is None


def test_validation_without_scores_reaches_nothing_and_says_nothing(full) -> None:
    made, store, cells = full
    held = next(line for line in lines.lines(made, store, cells) if line.row == "base")
    for record in held.records.values():
        for point in record["curve"]:
            point["score"] = None
    assert table.reached(made, held)["seconds"] == {"0.1": [], "0.9": []}
