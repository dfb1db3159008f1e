"""`bench estimate` hands its options over, prints a table or JSON, and refuses what it cannot measure."""

from __future__ import annotations

import json
from typing import Any

import pytest

SMALL = ["--data.train_rows", "12", "--data.validation_rows", "6", "--data.test_rows", "8", "--data.max_length", "64"]
ESTIMATED = {
    "where": "start", "objective": "G", "dtype": "bf16", "eps": 1e-3, "n": 4, "finite": 4, "error": 0.0123, "error_se": 0.002,
    "rms_error": 5.0, "grad_norm": 50.0, "rms_truth": 48.0, "goal": True, "best": True,
}  # fmt: skip

NEAR = {
    "where": "start", "objective": "G", "kind": "sketch-gaussian-input", "dtype": "bf16", "eps": 1e-3, "n": 2, "finite": 2,
    "cosine": 0.1066, "cosine_se": 0.0016, "variance": 86.129, "variance_se": 1.21, "formula": 87.0,
}  # fmt: skip


def test_estimates_are_told_as_a_table_or_json(cli, monkeypatch) -> None:
    from zofo.bench import estimate

    seen: list[dict[str, Any]] = []
    none = {"error": None, "error_se": None, "goal": False, "best": False, "finite": 3}
    unknown = {"eps": None, "cosine": None, "cosine_se": None, "variance": None, "variance_se": None, "finite": 1}

    def measured(flags: dict[str, Any], preset: str, run: Any, **options: Any) -> dict[str, Any]:
        seen.append({"flags": flags, "preset": preset, "run": run, **options})
        frame = {"model": "m", "task": "t", "run": None, "objective": "lm", "adapter": "lora", "seeds": [0, 1]}
        frame |= {"noise": "gaussian", "batches": 2, "batch": 8, "threads": 1, "error": "mean of", "goal": 0.05}
        frame |= {"keys": [0, 1], "rank": 8, "cosines": [NEAR, NEAR | unknown] if options["kinds"] else []}
        return {**frame, "places": [{"where": "start", "lambda": 10.0}], "results": [ESTIMATED, ESTIMATED | none]}

    monkeypatch.setattr(estimate, "main", measured)
    words = "--model m --task t --eps 1e-3 1e-2 1e-3 --dtype bf16 --seeds 2 --lambda 3".replace("--l", "--method.l")
    status, out, err = cli("bench", "estimate", *words.split())
    assert status == 0, err
    assert seen[0]["flags"] == {"model.name": "m", "data.task": "t", "method.lam": "3"}
    assert (seen[0]["preset"], seen[0]["run"], seen[0]["eps"]) == ("bilevel-lora", None, (1e-3, 1e-2))
    assert (seen[0]["dtypes"], seen[0]["seeds"], seen[0]["batches"]) == (("bf16",), 2, 2)
    head, one, other = (line.split("\t") for line in out.splitlines()[-3:])
    assert (
        "lambda 10 at start" in out and "goal: <= 0.05" in out and "2 gaussian z on each of 2 batches of 8 rows" in out
    )
    assert one == ["start", "G", "bf16", "0.001", "0.0123", "0.002", "*", "yes", "5", "50", "4"]
    assert other[4:8] == ["-", "-", "", "-"] and other[-1] == "4, 1 not finite" and len(head) == len(one)
    found = json.loads(cli("bench", "estimate", "--json")[1])
    assert found["results"][0] == ESTIMATED and seen[1]["dtypes"] == ("fp32", "bf16") and seen[1]["kinds"] == ()
    words = "--kinds sketch-gaussian forward-sphere --keys 2 --rank 4"
    status, out, err = cli("bench", "estimate", *words.split())
    assert status == 0, err
    assert seen[2]["kinds"] == ("forward-sphere", "sketch-gaussian-input", "sketch-gaussian-smaller")
    assert (seen[2]["keys"], seen[2]["rank"]) == (2, 4) and "whole estimates g over 2 keys" in out
    head, one, other = (line.split("\t") for line in out.splitlines()[-3:])
    assert one == ["start", "G", "sketch-gaussian-input", "bf16", "0.001", "0.107", "0.0016", "86.13", "1.2", "87", "2"]
    assert other[4:] == ["-", "-", "-", "-", "-", "87", "2, 1 not finite"] and len(head) == len(one)


def test_a_run_is_measured_at_its_start_and_after_it(cli, trained: str) -> None:
    words = (
        f"bench estimate --run {trained} --eps 1e-2 --seeds 2 --batches 1 --dtype fp32 bf16 --noise rademacher".split()
    )
    status, out, err = cli(*words, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert (found["run"], found["task"], found["lambda"], found["seeds"]) == (trained, "reviews", 2.0, [0, 1])
    assert found["model"] and found["machine"] and found["torch"] and found["threads"] == 1
    assert [(place["where"], place["step"]) for place in found["places"]] == [("start", 0), ("after step 2", 2)]
    start, after = (
        {(r["objective"], r["dtype"]): r for r in found["results"] if r["where"] == w}
        for w in ("start", "after step 2")
    )
    assert set(start) == set(after) == {(o, d) for o in ("A", "G", "B", "C", "B - C") for d in ("fp32", "bf16")}
    assert start["B - C", "fp32"]["grad_norm"] == 0 < after["B - C", "fp32"]["grad_norm"]  # p and s went their ways
    assert all(row["n"] == row["finite"] == 2 for row in found["results"])
    status, out, err = cli(*words)
    assert status == 0 and f"run {trained}" in out and len(out.splitlines()) == 4 + 20


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--run nosuch", "run 'nosuch': no such run"),
        ("--run tiny-run --task sst2", "--data.task: a run has its own"),
        ("--run tiny-run --preset quickstart", "--preset: a run has its own"),
        ("--eps 0", "--eps 0.0: not a number above 0"),
        ("--kinds sketch centre", "--kinds centre: no such estimator; take all, or the beginning of central-gaussian"),
        ("--keys 0", "--keys 0: not 1 or more"),
        ("--rank 0", "--rank 0: not 1 or more"),
        ("--eps 1e-3 nan", "--eps nan: not a number above 0"),
        ("--seeds 0", "--seeds 0: not 1 or more"),
        ("--batches 0", "--batches 0: not 1 or more"),
        ("--dtype fp8", "--dtype fp8: no such choice"),
        ("--method.T 3", "--method.T: no such option"),
        ("--calibration sfc", "--calibration: no such option"),
        ("--adapter.dropout 0.1", "--adapter.dropout: no such option"),
    ],
)
def test_what_cannot_be_estimated_is_refused_before_anything_is_loaded(
    cli, trained: str, monkeypatch, words: str, told: str
) -> None:
    from zofo.bench import estimate

    monkeypatch.setattr(estimate, "main", None)
    status, out, err = cli("bench", "estimate", *words.split())
    assert (status, out) == (2, "") and told in err and err.count("\n") == 1


def test_a_run_of_another_method_is_refused(bare, cli, model: str, tmp_path) -> None:
    words = f"train --preset mezo --model {model} --task reviews --run other --steps 1 --run.dir {tmp_path}".split()
    assert cli(*words, "--run.threads", "1", *SMALL)[0] == 0
    status, out, err = cli("bench", "estimate", "--run", "other", "--dir", str(tmp_path))
    assert (status, out) == (2, "") and "run other: method mezo has no terms A, B and C" in err
