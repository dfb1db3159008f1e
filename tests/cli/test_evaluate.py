"""`eval` scores runs and models, and writes only what belongs into eval.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zofo.cli import evaluate


def lines(out: str) -> dict[str, list[str]]:
    return {row.split("\t")[0]: row.split("\t") for row in out.splitlines() if "\t" in row}


def test_a_run_scores_as_it_did_at_the_end_of_training(cli, trained: str, home: Path) -> None:
    file = home / "runs" / trained / "eval.json"
    before = json.loads(file.read_text(encoding="utf-8"))
    status, out, err = cli("eval", trained)
    assert status == 0, err
    after = json.loads(file.read_text(encoding="utf-8"))
    assert after == before
    used = before["used"]
    assert lines(out)[f"{used} (used)"][4] == str(before["results"][used]["n"])


def test_results_that_are_missing_are_filled_in(cli, trained: str, home: Path) -> None:
    file = home / "runs" / trained / "eval.json"
    before = json.loads(file.read_text(encoding="utf-8"))
    begun = {"task": "reviews", "split": "test", "step": 0, "used": "zero-shot", "checkpoint": "base", "truncated": 0}
    file.write_text(json.dumps({**begun, "results": {"zero-shot": before["results"]["zero-shot"]}}), encoding="utf-8")
    assert cli("eval", trained)[0] == 0
    assert json.loads(file.read_text(encoding="utf-8")) == before


@pytest.mark.parametrize("words", ["--split validation", "--which last"])
def test_other_rows_or_checkpoints_are_not_recorded(cli, trained: str, home: Path, words: str) -> None:
    file = home / "runs" / trained / "eval.json"
    before = file.read_bytes()
    status, out, err = cli("eval", trained, *words.split())
    assert status == 0, err
    assert {"p", "s"} <= {name.removesuffix(" (used)") for name in lines(out)}
    assert file.read_bytes() == before


def test_a_slot_alone(cli, trained: str) -> None:
    status, out, _ = cli("eval", trained, "--slot", "p")
    assert status == 0 and [name.removesuffix(" (used)") for name in lines(out)][1:] == ["p"]


def test_a_model_is_scored_as_it_is(cli, model: str, trained: str) -> None:
    status, out, err = cli("eval", model, "--task", "reviews", "--split", "validation")
    assert status == 0, err
    assert "zero-shot" in lines(out) and "%" in lines(out)["zero-shot"][1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("{model}", "a model needs a task"),
        ("{model} --task reviews --slot p", "it has no adapters"),
        ("{model} --task revews", "did you mean 'reviews'?"),
        ("./nosuch --task reviews", "no run in runs, and as a model: no such folder or .gguf file"),
        ("smollm2-135n --task reviews", "did you mean 'smollm2-135m'?"),
    ],
)
def test_bad_input(cli, trained: str, model: str, words: str, told: str) -> None:
    status, _, err = cli("eval", *words.format(model=model).split())
    assert status == 2 and told in err and err.count("\n") == 1


def test_a_slot_that_is_not_there() -> None:
    from zofo.errors import BadInput

    class Held:
        slots = None

    assert evaluate.chosen(Held(), None, "r") == ["theta"]
    with pytest.raises(BadInput, match="no such adapter"):
        evaluate.chosen(Held(), "s", "r")
