"""`bench icl` hands its options over, and prints a table or JSON; the channel is a flag of train and eval."""

from __future__ import annotations

import json
from typing import Any

WAY = {
    "what": "16 demonstrations", "batch": 1, "shots": 12, "shots_asked": 16, "kept_tokens": 700, "row_s": 0.0125,
    "ratio": 2.5, "ratio_min": 2.25, "ratio_max": 3.0, "read_s": 0.25, "allocated_bytes": 18.4e6, "kept_bytes": 32e6,
}  # fmt: skip


def test_table_and_json(cli, monkeypatch) -> None:
    from zofo.bench import icl

    seen: list[tuple[Any, ...]] = []

    def measured(*options: Any) -> dict[str, Any]:
        seen.append(options)
        return {"model": options[0], "threads": 1, "results": {"sst2": {"ways": [WAY]}}}

    monkeypatch.setattr(icl, "main", measured)
    status, out, err = cli(
        "bench", "icl", "--task", "sst2", "copa", "--shots", "4", "16", "--batch", "1", "--rows", "9"
    )
    assert status == 0, err
    assert seen[0] == ("smollm2-135m", ("sst2", "copa"), (4, 16), (4,), 9, (1,), 5, "fp32", False, False)
    assert "note: sst2, 16 demonstrations, 1 a pass: 12 of 16 demonstrations (the model reads no more)" in out
    wanted = ["sst2", "16 demonstrations", "700", "1", "12.50", "2.50", "2.25", "3.00", "250", "18.4 MB", "32 MB"]
    assert out.splitlines()[-1].split("\t") == wanted
    assert json.loads(cli("bench", "icl", "--json", "--channel")[1])["results"]["sst2"]["ways"] == [WAY]
    assert seen[1][-1] is True


def test_bad_numbers_and_tasks_are_one_line(cli) -> None:
    for words, told in ((["--a-class", "0"], "--a-class 0"), (["--task", "squad"], "--task squad: it has no choices")):
        status, _, err = cli("bench", "icl", *words)
        assert status == 2 and err.splitlines()[-1].removeprefix("zofo: ").startswith(told), err


ROWS = ["--data.train_rows", "12", "--data.validation_rows", "6", "--data.test_rows", "8", "--data.max_length", "40"]


def test_a_model_is_scored_by_the_channel(cli, model: str, home) -> None:
    words = ["eval", model, "--task", "reviews", *ROWS, "--out", "channel.json"]
    status, _, err = cli(*words, "--channel", "--shots", "1")
    assert status == 0, err
    found = json.loads((home / "channel.json").read_text(encoding="utf-8"))
    assert found["channel"] is True and set(found["results"]) == {"1-shot channel"}
    status, _, err = cli(*words, "--channel", "false")
    assert status == 0 and json.loads((home / "channel.json").read_text(encoding="utf-8"))["channel"] is False, err


def test_the_dry_run_shows_what_the_channel_scores(cli, model: str) -> None:
    words = ["train", "--preset", "metaicl-channel", "--model", model, "--task", "reviews", *ROWS, "--dry-run"]
    status, out, err = cli(*words, "--shots", "1")
    assert status == 0, err
    assert "the input, after the right answer, stands in [[ ]]" in out
    examples = out.split("stands in [[ ]]\n")[1].split("\n# memory")[0]
    assert examples.count("[[") == 3
    before = [piece.splitlines()[-1] for piece in examples.split("[[")[:-1]]
    assert all(word.endswith(("terrible", "great")) for word in before), "the choice stands before the brackets"
