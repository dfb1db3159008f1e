"""`bench step` and `bench eval` hand their options over and print a table or JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest


def test_table_and_json(cli, monkeypatch) -> None:
    from zofo.bench import step

    seen: list[dict[str, Any]] = []
    times = {"median_s": 1.0, "min_s": 0.9, "max_s": 1.25, "forwards": 2.5}

    def measured(**options: Any) -> dict[str, Any]:
        seen.append(options)
        return {"model": options["model"], "head": "one position a row", "threads": 1, "results": {"zofo step": times}}

    monkeypatch.setattr(step, "main", measured)
    status, out, err = cli("bench", "step", "--rows", "2", "--noise", "gaussian", "sphere")
    assert status == 0, err
    assert seen[0]["rows"] == 2 and tuple(seen[0]["noise"]) == ("gaussian", "sphere") and seen[0]["tokens"] == 64
    assert out.splitlines()[-1].split("\t") == ["zofo step", "1.000", "0.900", "1.250", "2.50"]
    assert json.loads(cli("bench", "step", "--json")[1])["results"]["zofo step"] == times


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
