"""`ls` is plain and tab-separated when it is piped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from zofo.layers import presets


def test_tasks_presets_models(cli) -> None:
    for what, name in (("tasks", "reviews"), ("presets", "quickstart"), ("models", "smollm2-135m")):
        status, out, err = cli("ls", what)
        assert (status, err) == (0, "")
        rows = [line.split("\t") for line in out.splitlines()]
        assert name in [row[0] for row in rows] and all(len(row) == 2 and row[1] for row in rows)
    assert [line.split("\t")[0] for line in cli("ls", "presets")[1].splitlines()] == presets()


def test_runs(cli, trained: str, home: Path, tmp_path: Path) -> None:
    rows = [line.split("\t") for line in cli("ls", "runs")[1].splitlines()]
    own = next(row for row in rows if row[0] == trained)  # other tests have runs there too
    assert own[1:3] == ["bilevel", "reviews"] and "%" in own[4]
    assert cli("ls", "runs", "--dir", str(tmp_path))[:2] == (0, "")


def test_a_run_on_own_rows_says_which(cli, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.yaml").write_text("data: {train: a/mine.jsonl}\n", encoding="utf-8")
    (row,) = cli("ls", "runs", "--dir", str(tmp_path))[1].splitlines()
    assert "mine" in row.split("\t")[2]


def test_a_broken_run_does_not_hide_the_others(cli, tmp_path: Path) -> None:
    for name, text in (("bad", "- no mapping"), ("good", "{}\n"), ("torn", "{}\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "torn" / "eval.json").write_text("[]", encoding="utf-8")
    status, out, _ = cli("ls", "runs", "--dir", str(tmp_path))
    assert status == 0
    assert [line.split("\t")[4] for line in out.splitlines()] == [
        "the file is not a mapping of keys to values",
        "not evaluated",
        "a list, not an object",
    ]


def test_a_run_that_has_not_ended_has_no_score(cli, trained: str, home: Path) -> None:
    """Until it is tested, eval.json holds what the base scored before training."""
    shutil.copytree(home / "runs" / trained, home / "begun" / "half")
    file = home / "begun" / "half" / "eval.json"
    held = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(held | {"used": "zero-shot", "step": 0, "checkpoint": "base"}), encoding="utf-8")
    status, out, _ = cli("ls", "runs", "--dir", "begun")
    assert status == 0 and out.strip().split("\t")[4] == "not finished: step 2 of 2"


def test_piped_output_has_no_escape_codes_or_boxes(process, tmp_path: Path) -> None:
    done = process("ls", "tasks", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.isascii() and "\x1b" not in done.stdout and "\t" in done.stdout


def test_a_run_whose_metrics_are_broken_does_not_hide_the_others(cli, trained: str, home: Path) -> None:
    shutil.copytree(home / "runs" / trained, home / "torn" / "bad")
    shutil.copytree(home / "runs" / trained, home / "torn" / "good")
    file = home / "torn" / "bad" / "eval.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"used": "zero-shot"}), encoding="utf-8")
    (home / "torn" / "bad" / "metrics.jsonl").write_text("[\n{}\n", encoding="utf-8")
    status, out, _ = cli("ls", "runs", "--dir", "torn")
    assert status == 0 and [line.split("\t")[0] for line in out.splitlines()] == ["bad", "good"]
    assert "%" in out.splitlines()[1]
