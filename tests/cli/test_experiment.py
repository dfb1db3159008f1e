"""`zofo experiment`: the plan, bad input, and a grid run to its tables by processes of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from zofo.experiment import cells, reading
from zofo.experiment.store import Store
from zofo.run.jsonfile import write_json

GRID: dict[str, Any] = {
    "tasks": ["reviews"], "budget": {"seconds": 4}, "costs": {"lora": {"seconds": 2}}, "against": "lora", "draws": 100,
    "options": {
        "data.train_rows": 12, "data.validation_rows": 6, "data.test_rows": 8, "data.batch": 2, "data.max_length": 48,
        "run.threads": 1, "model.dtype": "fp32",
    },
    "rows": [{"name": "lora", "preset": "fo-lora"}, {"name": "zero-shot", "evaluate": True}],
}  # fmt: skip


def written(home: Path, model: str, **keys: Any) -> str:
    file = home / "grid.yaml"
    file.write_text(yaml.safe_dump({"model": model, **GRID, **keys}, sort_keys=False), encoding="utf-8")
    return str(file)


def test_dry_prints_the_plan_and_writes_nothing(cli, model: str, home: Path) -> None:
    status, out, err = cli("experiment", written(home, model), "--dry")
    assert status == 0, err
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows[1] == ["lora", "reviews", "1", "2", "2", "0", "4.0 s", "0 of 1"]
    assert rows[2][:4] == ["zero-shot", "reviews", "1", "-"] and "2 of 2 runs to do, 4.0 s left" in out
    assert not (home / "experiments").exists() and "--costs" not in out
    out = cli("experiment", written(home, model, budget={"steps": 2}, costs={}), "--dry")[1]
    assert "times need seconds in the file's `costs`: --costs ROUNDS measures them here" in out


def test_dry_counts_the_runs_of_what_was_chosen(cli, model: str, home: Path, tmp_path: Path) -> None:
    """The second rate is chosen and its run is done; a sweep in which all failed leaves its row without one."""
    rates = {"method.lr_p": [1e-3, 1e-2]}
    rows = [
        {"name": name, "preset": "fo-lora", "sweep": rates, "options": {"adapter.r": r}}
        for name, r in (("lora", 8), ("bad", 4))
    ]
    costs = {row["name"]: {"seconds": 2} for row in rows}
    file = written(home, model, rows=rows, costs=costs, sweep={"share": 0.5})
    grid, store = reading.read(file)[0], Store(tmp_path / "grid")
    store.make()
    values = {"method.lr_p": 1e-2}
    choices = [{"row": "lora", "task": "reviews", "values": values}, {"row": "bad", "task": "reviews", "values": None}]
    write_json(store.choices, choices)
    (cell,) = cells.finals(grid, {("lora", "reviews"): values, ("bad", "reviews"): None})
    write_json(store.cells / f"{store.name(cell)}.json", {"name": cell.name, "status": "done", "wall": 1.0, "test": {}})
    out = cli("experiment", file, "--dir", str(tmp_path), "--dry")[1].splitlines()
    assert [line.split("\t")[-1] for line in out[1:3]] == ["1 of 3", "0 of 2"] and "4 of 5 runs to do" in out[3]
    assert not any("failed" in line for line in out)
    failed = {"name": "x", "status": "failed", "reason": "no memory"}
    write_json(store.cells / f"{store.name(cells.sweeps(grid)[-1])}.json", failed)
    told = cli("experiment", file, "--dir", str(tmp_path), "--dry")[1].splitlines()
    assert "3 of 5 runs to do" in told[3] and told[4] == "1 failed before: --retry runs what failed again"
    told = cli("experiment", file, "--dir", str(tmp_path), "--dry", "--retry")[1]
    assert "4 of 5 runs to do" in told and "failed" not in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("nosuch", "zofo experiment nosuch: no such file, and no experiment of that name"),
        ("grid.yaml --scale small", "--scale small: grid.yaml has no such scale; leave it out"),
        ("grid.yaml --jobs 0", "--jobs 0: not 1 or more"),
        ("grid.yaml --costs 0", "--costs 0: not 1 or more"),
        ("grid.yaml --name ../x", "--name '../x': not a plain folder name"),
        ("grid.yaml --dir grid.yaml", "--dir grid.yaml: "),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(cli, model: str, home: Path, words: str, told: str) -> None:
    written(home, model)
    status, out, err = cli("experiment", *words.split())
    assert (status, out) == (2, "") and told in err and not (home / "experiments").exists()


def test_what_a_row_may_not_have_is_told_before_anything_is_written(cli, model: str, home: Path) -> None:
    rows = [{"name": "lora", "preset": "fo-lora", "options": {"method.lr_theta": 1}}]
    status, _, err = cli("experiment", written(home, model, rows=rows))
    assert status == 2 and "row 'lora': --method.lr_theta: it has no effect" in err
    assert not (home / "experiments").exists()


@pytest.mark.parametrize("words", [[], ["--dry"]])
def test_a_model_that_is_not_there_is_told_before_anything_is_written(cli, home: Path, words: list[str]) -> None:
    status, out, err = cli("experiment", written(home, "smollm2-135"), *words)
    assert (status, out) == (2, "") and "--model smollm2-135: no such model; did you mean 'smollm2-135m'?" in err
    assert not (home / "experiments").exists()


def test_tables_of_a_folder_that_is_not_there(cli, model: str, home: Path) -> None:
    status, _, err = cli("experiment", written(home, model), "--name", "nosuch", "--tables")
    assert status == 2 and "there is no folder experiments/nosuch" in err and not (home / "experiments").exists()


def test_a_grid_is_run_to_its_tables_and_tables_are_made_again(cli, model: str, home: Path) -> None:
    file = written(home, model)
    status, out, err = cli("experiment", file, "--name", "done", "--jobs", "2")
    assert status == 0, err
    place = home / "experiments" / "done"
    assert "\t1 of 1\t" in out and str(place.relative_to(home)) in out
    found = json.loads((place / "table.json").read_text(encoding="utf-8"))
    assert [entry["seeds"] for entry in found["rows"]] == [1, 1]
    assert found["rows"][1]["difference"]["seeds"] == 1
    assert {"accuracy-seconds.png", "accuracy-passes.png", "step-time.png", "table.md"} <= {
        p.name for p in place.iterdir()
    }
    (place / "table.json").unlink()
    status, again, _ = cli("experiment", file, "--name", "done", "--tables")
    assert status == 0 and again.splitlines()[1:3] == out[out.index("\nrow\t") :].splitlines()[1:3]
    assert json.loads((place / "table.json").read_text(encoding="utf-8")) == found


@pytest.mark.parametrize(("words", "wanted"), [("opt-1.3b --scale paper", "opt-1.3b-paper"), ("grid.yaml", "grid")])
def test_the_folder_has_the_files_name_and_scale(
    cli, model: str, home: Path, monkeypatch: pytest.MonkeyPatch, words: str, wanted: str
) -> None:
    from zofo.cli import experiment

    written(home, model)
    stores = []
    monkeypatch.setattr(experiment, "plan", lambda made, store, *_: stores.append(store.path) or 0)
    status, _, err = cli("experiment", *words.split(), "--dry")
    assert status == 0, err
    assert stores == [Path("experiments") / wanted]


def test_experiments_that_ship_are_listed(cli) -> None:
    status, out, _ = cli("ls", "experiments")
    assert status == 0 and any(line.startswith("opt-1.3b\tsmall, paper\t") for line in out.splitlines())
