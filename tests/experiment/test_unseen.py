"""A mixture in an experiment: every row's base meets the unseen tasks as `zofo adapt` and `zofo eval` have it, in pairs."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

import zofo
from zofo.errors import BadInput, ZofoError
from zofo.experiment import cells, grid, report, table, text, unseen
from zofo.run.jsonfile import read_json

QUICK: dict[str, Any] = {"shots": 2, "steps": 2, "draws": 2, "demonstrations": 3, "options": {"adapter.r": 2}}
SMALL: dict[str, Any] = {
    "data.test_rows": 6,
    "data.validation_rows": 2,
    "data.max_length": 48,
    "data.batch": 2,
    "run.threads": 1,
}
ROWS = [
    {"name": "base", "evaluate": True},
    {"name": "shown", "evaluate": True, "unseen": "demonstrations"},
    {"name": "reptile", "preset": "reptile-lora", "options": {"adapter.r": 2, "method.tasks": 2}},
    {"name": "bilevel", "preset": "meta-lora", "options": {"method.T": 1, "method.tasks": 2, "adapter.r": 2}},
]  # fmt: skip


@pytest.fixture
def make(folder: str, tmp_path: Path, mixed: Path):
    """A grid over the toy mixture with keys laid over it."""

    def made(**keys: Any) -> grid.Grid:
        file = tmp_path / "meta.yaml"
        tree = {
            "model": folder, "mixture": str(mixed), "seeds": [0, 1], "budget": {"steps": 2}, "validations": 1,
            "against": "base", "options": {**SMALL, "model.dtype": "fp32"}, "unseen": QUICK, "rows": ROWS, **keys,
        }  # fmt: skip
        file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        return grid.read(str(file))[0]

    return made


def test_each_base_meets_the_unseen_tasks_as_adapt_and_eval_do(lab, make, mixed: Path, folder: str) -> None:
    made, _ = lab.run(make())
    held = {(cell.row, cell.seed): lab.store.record(cell)["test"] for cell in made}
    assert len(held) == 8 and all(list(test["tasks"]) == ["own/c", "own/d"] for test in held.values())
    options = {key: QUICK[key] for key in ("shots", "steps", "draws")}
    own = {"mixture": str(mixed), "adapter__r": 2, "data__test_rows": 6, "data__max_length": 48, "model__dtype": "fp32"}
    direct = zofo.adapt(folder, seed=1, **options, **own)
    base = held["base", 1]
    assert base["used"] == "adapted" and base["slots"]["adapted"]["macro_f1"] == direct["mean"]["after"]["mean"]
    assert base["slots"]["zero-shot"]["macro_f1"] == direct["mean"]["before"]
    run = next(lab.store.run(cell) for cell in made if (cell.row, cell.seed) == ("bilevel", 1))
    direct = zofo.adapt(run.name, dir=str(run.path.parent), seed=1, mixture=str(mixed), data__test_rows=6, adapter__r=2, **options)  # fmt: skip
    for name, record in direct["tasks"].items():
        said = held["bilevel", 1]["tasks"][name]
        assert [d["result"]["macro_f1"] for d in said["draws"]] == [d["result"]["macro_f1"] for d in record["draws"]]
    assert held["shown", 0]["used"] == "demonstrations"
    assert {test["rows_sha256"] for test in held.values()} == {held["base", s]["rows_sha256"] for s in (0, 1)}
    orders = list(lab.orders)
    lab.run(make())
    assert lab.orders == orders, "nothing is run again"


def test_a_draw_is_what_rows_are_compared_by(lab, make) -> None:
    """The score is the mean over tasks of each draw, and the difference pairs the draws of a seed."""
    wanted = make(rows=[ROWS[0], ROWS[2]])
    made, _ = lab.run(wanted)
    found = report.write(wanted, lab.store, made)
    tests = {(cell.row, cell.seed): lab.store.record(cell)["test"] for cell in made}
    values = {key: test["slots"]["adapted"]["by_row"]["macro_f1"] for key, test in tests.items()}
    for key, test in tests.items():
        by_task = [[d["result"]["macro_f1"] for d in t["draws"]] for t in test["tasks"].values()]
        assert values[key] == pytest.approx([statistics.fmean(draw) for draw in zip(*by_task, strict=True)])
    rows = {entry["row"]: entry for entry in found["rows"]}
    less = [x - y for s in (0, 1) for x, y in zip(values["reptile", s], values["base", s], strict=True)]
    assert rows["reptile"]["difference"]["mean"] == pytest.approx(statistics.fmean(less))
    assert rows["base"]["slots"]["zero-shot"]["mean"] is not None and found["unseen"]["columns"][2] == "base, before"
    assert [row[0] for row in found["unseen"]["rows"]] == ["own/c", "own/d", "mean over tasks"]
    written = (lab.store.path / "table.md").read_text()
    assert "| zero-shot |" in written and "unseen tasks" in written and (lab.store.path / "unseen.png").exists()
    assert [title for title, *_ in text.tables(read_json(lab.store.path / "table.json"))] == [title for title, *_ in text.tables(found)]  # fmt: skip


def test_runs_are_known_by_how_the_unseen_tasks_are_met_and_by_the_mixture(make, mixed: Path) -> None:
    def digests(**keys: Any) -> list[str]:
        return [cell.digest for cell in cells.finals(make(**keys), {})]

    before = digests()
    assert len(set(before)) == len(before)
    assert not set(before) & set(digests(unseen={**QUICK, "draws": 3}))
    file = mixed.parent / "b" / "train.jsonl"
    held = file.read_text()
    try:
        file.write_text(held.replace("b row 3", "b row three"))
        assert not set(before) & set(digests())
    finally:
        file.write_text(held)
    assert digests() == before


def record(*draws: float, before: float = 0.1, metric: str = "macro_f1", name: str = "t") -> dict[str, Any]:
    made = [{"seed": k, "result": {metric: value}} for k, value in enumerate(draws)]
    return {
        "task": name, "metric": metric, "drawn": "", "notes": [], "after": {}, "seconds": 1.0, "before": {metric: before},
        "test": {"sha256": name, "rows": 4}, "draws": made,
    }  # fmt: skip


ORDER = {"how": "adapted", "seed": 0, "draws": 2}


def test_a_task_that_failed_is_not_in_the_mean_and_makes_rows_incomparable() -> None:
    whole = unseen.told({"t": record(0.2, 0.4), "u": record(0.6, 0.8, name="u")}, ORDER)
    assert (
        whole["slots"]["adapted"]["by_row"] == {"macro_f1": pytest.approx([0.4, 0.6])} and whole["metric"] == "macro_f1"
    )
    part = unseen.told({"t": record(0.2, 0.4), "u": {"task": "u", "failed": "why"}}, ORDER)
    assert part["slots"]["adapted"]["by_row"]["macro_f1"] == pytest.approx([0.2, 0.4])
    assert part["rows_sha256"] != whole["rows_sha256"] and part["tasks"]["u"] == {"task": "u", "failed": "why"}
    mixed = unseen.told({"t": record(0.2, 0.4), "u": record(0.6, 0.8, metric="accuracy", name="u")}, ORDER)
    assert mixed["metric"] == "score"
    with pytest.raises(ZofoError, match="u: why"):
        unseen.told({"u": {"task": "u", "failed": "why"}}, ORDER)
    other_seed = unseen.told({"t": record(0.2, 0.4), "u": record(0.6, 0.8, name="u")}, {**ORDER, "seed": 1})
    assert other_seed["rows_sha256"] != whole["rows_sha256"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"tasks": ["sst2"]}, "give tasks, or a mixture"),
        ({"unseen": {"shots": 0}}, "unseen.shots"),
        ({"unseen": {"shot": 4}}, "no such key"),
        ({"mixture": "", "tasks": ["sst2"], "rows": [{**ROWS[1], "name": "x"}], "against": ""}, "there is no mixture"),
    ],
)
def test_what_does_not_fit_is_refused(make, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make(**keys)


def test_options_without_effect_on_unseen_tasks_are_refused(make) -> None:
    with pytest.raises(BadInput, match=r"unseen.options method.T: it has no effect"):
        cells.finals(make(unseen={**QUICK, "options": {"method.T": 3}}), {})
    swept = [{"name": "r", "preset": "reptile-lora", "sweep": {"method.lr_p": [1e-3, 1e-2]}}]
    with pytest.raises(BadInput, match="choose by loss"):
        cells.sweeps(make(rows=swept, against="", sweep={"by": "metric"}))


def test_the_mean_over_seeds_pools_their_draws(make, lab) -> None:
    line = table.Line(
        "r", "m", {}, {s: {"status": "done", "test": {"tasks": {"t": record(0.1 + s, 0.2 + s)}}} for s in (0, 1)}
    )
    (found,) = table.series([line])
    assert found.points["t"].draws == (0.1, 0.2, 1.1, 1.2) and found.points["t"].after["mean"] == pytest.approx(0.65)


def test_the_cosine_of_a_meta_run_is_over_its_tasks_with_their_own_adapters(
    lab, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zofo import job

    placed: list[str] = []
    put = job.at_hand
    monkeypatch.setattr(job, "at_hand", lambda problem, name: (placed.append(name), put(problem, name))[1])
    sketch = {
        "name": "sketch",
        "preset": "meta-sketch-lora",
        "options": {"method.T": 1, "method.tasks": 3, "adapter.r": 2},
    }
    grid = make(rows=[ROWS[0], sketch, ROWS[3]], seeds=[0], cosines=2)
    made, _ = lab.run(grid)
    held = {cell.row: lab.store.record(cell) for cell in made}
    by_sketch, by_zeroth = held["sketch"]["cosines"]["A"], held["bilevel"]["cosines"]["G"]
    assert by_sketch["mean"] > 0.1 > abs(by_zeroth["mean"])
    assert len(set(placed)) >= 3
    entry = next(e for e in table.tabulate(grid, lab.store, made)["rows"] if e["row"] == "sketch")
    assert entry["cosine"] is not None and entry["moved"] > 0
