"""`zofo.evaluate` gives what `zofo eval` writes: the scores of a run, a model or a saved adapter, on the rows that are asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import zofo
from zofo.cli.main import heap, main
from zofo.errors import BadInput
from zofo.evaluating.run import chosen

TIMES = {"seconds"}


def written(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """What `zofo eval WORDS --out` writes."""
    monkeypatch.setattr(heap, "keep", lambda: None)
    assert main(["eval", *words, "--out", "out.json"]) == 0
    found: dict[str, Any] = json.loads(Path("out.json").read_text(encoding="utf-8"))
    return found


def timeless(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in TIMES}


def test_a_run_has_the_scores_of_the_end_of_its_training(run: str, place: Path) -> None:
    before = json.loads((place / "runs" / run / "eval.json").read_text(encoding="utf-8"))
    found = zofo.evaluate(run)
    assert found["results"] == {slot: before["results"][slot] for slot in "ps"} and found["used"] == before["used"]
    assert found["what"] == f"run {run}, step {before['step']}" and found["adapter"] == "lora"
    assert json.loads((place / "runs" / run / "eval.json").read_text(encoding="utf-8")) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ""),
        ({"split": "validation", "slot": "p"}, "--split validation --slot p"),
        ({"which": "last", "data__calibration": "sfc"}, "--which last --calibration sfc"),
        ({"shots": 2, "slot": "s"}, "--shots 2 --slot s"),
        ({"data__test": "rows.jsonl"}, "--data.test rows.jsonl"),
    ],
)
def test_it_is_what_the_command_line_writes(
    run: str, options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"sentence": f"Film {k} was fine", "label": k % 2} for k in range(8)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert timeless(zofo.evaluate(run, **options)) == timeless(written(monkeypatch, run, *words.split()))


def test_a_model_is_scored_as_it_is(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["--task", "reviews", "--data.test_rows", "5", "--data.max_length", "64"]
    found = zofo.evaluate(Path(folder), "reviews", data__test_rows=5, data__max_length=64)
    assert timeless(found) == timeless(written(monkeypatch, folder, *few))
    assert found["results"]["zero-shot"]["n"] == 5 and found["used"] is None and found["adapter"] is None


def test_other_rows_are_not_recorded(run: str, place: Path) -> None:
    before = (place / "runs" / run / "eval.json").read_bytes()
    for options in ({"data__test_rows": 3}, {"which": "last"}, {"split": "validation"}, {"shots": 1}):
        zofo.evaluate(run, **options)
    assert (place / "runs" / run / "eval.json").read_bytes() == before


def test_what_was_answered_to_each_row_is_written(run: str, place: Path) -> None:
    found = zofo.evaluate(run, slot="s", samples=place / "said.jsonl")
    rows = [json.loads(line) for line in (place / "said.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == found["results"]["s"]["n"] == 6 and {row["slot"] for row in rows} == {"s"}
    right = sum(row["predicted"] == row["answer"] for row in rows)
    assert right / 6 == pytest.approx(found["results"]["s"]["accuracy"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"which": "first"}, r"evaluate\(which='first'\): unknown; choose one of: best, last"),
        ({"split": "train"}, "choose one of: test, validation"),
        ({"side": "train", "split": "validation"}, "side=train: these tasks are scored on their test rows"),
        ({"side": "train"}, "side=train: reviews is one task, not a mixture"),
        ({"data__batch": 4}, "data__batch=4: it has no effect on evaluating; leave it out"),
        ({"method__lam": 4}, "method__lam=4: it has no effect on evaluating"),
        ({"split": "validation", "data__test": "x.csv"}, "data__test=x.csv: validation rows are scored"),
        ({"split": "validation", "data__test_rows": 3}, "data__test_rows=3: validation rows are scored"),
        ({"data__validation": "x.csv"}, "data__validation=x.csv: test rows are scored"),
        ({"samples": "nosuch/x"}, "samples=nosuch/x: its folder does not exist"),
        ({"samples": "."}, "samples=.: it is a folder"),
        ({"slot": "q"}, "slot=q: run two has no such adapter; it has p, s"),
        ({"slot": "p", "adapter": "there"}, "slot=p: `adapter` names another one"),
        ({"draws": 2}, "draws=2: there are no demonstrations to draw"),
        ({"mixture": "class-to-class", "task": "reviews"}, "reviews"),
    ],
)
def test_bad_input(run: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        zofo.evaluate(run, **options)


def test_a_model_needs_a_task_and_has_no_checkpoints(folder: str) -> None:
    with pytest.raises(BadInput, match="a model needs a task"):
        zofo.evaluate(folder)
    with pytest.raises(BadInput, match="it has no checkpoints"):
        zofo.evaluate(folder, "reviews", which="last")


def test_a_slot_that_is_not_there() -> None:
    class Held:
        slots = None

    assert chosen(Held(), None, "r") == ["theta"]  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="no such adapter"):
        chosen(Held(), "s", "r")  # type: ignore[arg-type]
