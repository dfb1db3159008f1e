"""`bench step`, `bench eval` and `bench large` hand their options over and print a table or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zofo.bench.kinds import KINDS

TAKEN = {"allocated_bytes": 18.4e6, "resident_bytes": 40e6, "allocated_ratio": 0.177, "resident_ratio": 0.3235}
STEP = {"median_s": 1.0, "min_s": 0.9, "max_s": 1.25, "forwards": 2.5} | TAKEN


def test_table_and_json(cli, monkeypatch, tmp_path: Path) -> None:
    from zofo.bench import plot, step

    seen: list[tuple[Any, ...]] = []
    drawn: list[Any] = []

    def measured(*options: Any) -> dict[str, Any]:
        seen.append(options)
        return {"model": options[0], "head": "one position a row", "threads": 1, "results": {"zofo step": STEP}}

    monkeypatch.setattr(step, "main", measured)
    monkeypatch.setattr(plot, "step", lambda found, path: drawn.append((found["threads"], path)))
    status, out, err = cli("bench", "step", "--rows", "2", "--noise", "gaussian", "sphere", "--methods", "zofo", "peft")
    assert status == 0, err
    assert seen[0] == ("smollm2-135m", ("gaussian", "sphere"), 2, 64, 9, "fp32", False, ("zofo", "peft"))
    wanted = ["zofo step", "1.000", "0.900", "1.250", "2.50", "18.4 MB", "0.18", "40 MB", "0.3235"]
    assert out.splitlines()[-1].split("\t") == wanted
    assert json.loads(cli("bench", "step", "--json")[1])["results"]["zofo step"] == STEP
    assert seen[1][-1] == tuple(KINDS) and not drawn
    cli("bench", "step", "--plot", str(tmp_path / "x.png"))
    status, out, err = cli("bench", "step", "--plot", str(tmp_path / "no" / "x.png"))
    assert status == 2 and "its folder does not exist" in err
    assert drawn == [(1, tmp_path / "x.png")]


FOUND = {
    "rows": 5, "candidates": 10, "one_by_one_s": 3.0, "zofo_s": 1.5, "ratio": 2.0, "ratio_min": 1.5, "ratio_max": 2.5,
    "equal_predictions": True, "max_logprob_difference": 1.5e-6,
}  # fmt: skip


def test_scoring_is_told_as_a_table_or_json(cli, monkeypatch) -> None:
    from zofo.bench import evaluate

    seen: list[dict[str, Any]] = []
    results = {"reviews": FOUND, "copa": FOUND | {"equal_predictions": False}}

    def measured(**options: Any) -> dict[str, Any]:
        seen.append(options)
        return {"model": options["model"], "dtype": options["dtype"], "threads": 1, "results": results}

    monkeypatch.setattr(evaluate, "main", measured)
    status, out, err = cli("bench", "eval", "--task", "reviews", "copa", "--rows", "5", "--rounds", "1")
    assert status == 0, err
    assert seen[0]["tasks"] == ("reviews", "copa") and (seen[0]["rows"], seen[0]["rounds"]) == (5, 1)
    head, one, other = (line.split("\t") for line in out.splitlines()[1:])
    assert head[5:7] == ["times faster", "same predictions"]
    assert one == ["reviews", "5", "10", "3.00", "1.50", "2.00", "yes", "1.5e-06"]
    assert other[0] == "copa" and other[6] == "NO"
    assert json.loads(cli("bench", "eval", "--json")[1])["results"] == results


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--task squad", "--task squad: it has no choices to score; take a task that has"),
        ("--task reviews squad", "--task squad: it has no choices to score"),
        ("--task revews", "did you mean 'reviews'?"),
        ("--rows 0", "--rows 0: not 1 or more"),
        ("--rounds 0", "--rounds 0: not 1 or more"),
        ("--dtype fp16", "--dtype"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_loaded(cli, monkeypatch, words: str, told: str) -> None:
    from zofo.bench import evaluate

    monkeypatch.setattr(evaluate, "main", None)
    status, out, err = cli("bench", "eval", *words.split())
    assert (status, out) == (2, "") and told in err and err.count("\n") == 1


def test_a_model_larger_than_a_cap_is_told_as_a_table_or_json(cli, monkeypatch) -> None:
    from zofo.bench import large

    seen: list[tuple[Any, ...]] = []
    result = {"peak_mb": 800, "step_seconds": 9.25, "seconds": 90.0, "cpu_seconds": 80.0, "losses": [7.0, 6.5]}
    equal = {"journal": True, "theta": False}

    def measured(*options: Any) -> dict[str, Any]:
        seen.append(options)
        return {"model": "m", "equal": equal, "results": {"no cap": result | {"peak_mb": 5000}, "cap 1GB": result}}

    monkeypatch.setattr(large, "main", measured)
    status, out, err = cli("bench", "large", "--folder", "a/m", "--cap", "1GB", "--steps", "3")
    assert status == 0, err
    assert seen == [(Path("a/m"), "1GB", 3)]
    assert "journal equal, theta DIFFERENT" in out
    assert out.splitlines()[-1].split("\t") == ["cap 1GB", "800 MB", "9.2", "90", "80", "6.500000"]
    assert json.loads(cli("bench", "large", "--json")[1])["equal"] == equal


@pytest.mark.parametrize("words", ["--cap two", "--steps 0"])
def test_a_wrong_cap_or_count_is_refused_before_anything_is_made(cli, monkeypatch, words: str) -> None:
    from zofo.bench import large

    monkeypatch.setattr(large, "main", None)
    status, out, err = cli("bench", "large", *words.split())
    assert (status, out) == (2, "") and err.count("\n") == 1
