"""`adapt` from the command line, and what it saves in use: `eval --adapter`, `generate --adapter`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zofo.adapting import shown
from zofo.adapting.options import key_is_read
from zofo.cli import adapt
from zofo.config import keys
from zofo.report.words import score

FAST = ["--shots", "2", "--steps", "2", "--draws", "2", "--data.test_rows", "6", "--data.max_length", "48"]


@pytest.fixture
def adapted(cli, model: str, home: Path) -> str:
    """A saved adapter, made once a session by the command line."""
    if not (home / "made").exists():
        status, _, err = cli("adapt", model, "--task", "reviews", *FAST, "--out", "made", "--json", "made.json")
        assert status == 0, err
    return "made"


def test_draws_mean_interval_and_the_score_before_are_printed(cli, model: str, home: Path) -> None:
    status, out, err = cli("adapt", model, "--task", "reviews", *FAST, "--json", "a.json")
    assert (status, err) == (0, ""), err
    found = json.loads((home / "a.json").read_text(encoding="utf-8"))
    record = found["tasks"]["reviews"]
    rows = {line.split("\t")[0]: line.split("\t")[1] for line in out.splitlines() if "\t" in line}
    assert rows["zero-shot"] == score(record["before"]) and rows["draw 2"] == score(record["draws"][1]["result"])
    assert f"mean over 2 draws: {100 * record['after']['mean']:.1f} % [" in out and "sd " in out
    assert "draw 1 of 2: accuracy" in out and "adapting took" in out and "2 examples of each of 2 classes" in out
    assert "the first draw's adapter (" in out and "kB) is in adapters/tiny-reviews" in out
    assert (home / "adapters" / "tiny-reviews" / "zofo.json").is_file()


def test_a_name_that_is_taken_gets_a_number(at_home: Path) -> None:
    first = adapt.free("some/model", {"data.task": "crossfit/ag news.yaml"})
    assert first == Path("adapters/model-ag-news")
    first.mkdir(parents=True)
    assert adapt.free("some/model", {"data.task": "crossfit/ag news.yaml"}) == Path("adapters/model-ag-news-2")


def test_a_loaded_adapter_scores_as_it_did(cli, adapted: str, model: str, home: Path) -> None:
    status, out, err = cli("eval", model, "--adapter", adapted, "--out", "again.json")
    assert (status, err) == (0, ""), err
    first = json.loads((home / "made.json").read_text(encoding="utf-8"))["tasks"]["reviews"]["draws"][0]["result"]
    again = json.loads((home / "again.json").read_text(encoding="utf-8"))
    assert again["results"]["adapter"] == first and again["adapter"] == "lora" and score(first) in out
    status, out, err = cli("generate", model, "It was", "--adapter", adapted, "--max-new-tokens", "2")
    assert (status, err) == (0, "")


def test_another_base_is_refused_in_one_line(cli, adapted: str, trained: str) -> None:
    for words in (("eval", trained), ("generate", trained, "It was")):
        status, out, err = cli(*words, "--adapter", adapted)
        assert (status, out) == (2, "") and err.count("\n") == 1
        assert "it fits" in err and err.count("SHA-256") == 1 and "`zofo adapt`" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("adapt {model}", "no task was named"),
        ("adapt {model} --task reviews --shots 0", "--shots 0: not 1 or more"),
        ("adapt {model} --task reviews --steps 0", "--steps 0: not 1 or more"),
        ("adapt {model} --task reviews --draws 0", "--draws 0: not 1 or more"),
        ("adapt {model} --task reviws", "--task reviws: no such task"),
        ("adapt {model} --task reviews --json no/a.json", "--json no/a.json: its folder does not exist"),
        ("adapt {model} --task reviews --json made", "--json made: it is a folder; name a file"),
        ("eval {model} --task reviews --out made", "--out made: it is a folder; name a file"),
        ("adapt {model} --task reviews --data.batch 4", "no such option"),
        ("adapt {model} --task reviews --objective f1", "a metric has none"),
        ("adapt ./nothing --task reviews", "no run in runs, and as a model"),
        ("eval {model} --adapter .", "no adapter that `zofo adapt` saved"),
        ("eval {model} --adapter nowhere", "no such folder"),
        ("eval {model} --adapter made --split validation", "may have been trained on these rows"),
        ("eval {model} --adapter made --seed 3", "the test rows of a saved adapter are those"),
        ("eval {model} --adapter made --draws 2 --shots 1", "--draws 2: a saved adapter is of one draw"),
        ("eval {model} --adapter made --side train", "--side train: a saved adapter is scored on one task"),
        ("eval {model} --adapter made --mixture x", "--mixture x: a saved adapter is scored on one task"),
        ("eval {model} --adapter made --data.train_rows 9", "--data.train_rows 9: it has no effect"),
        (
            "eval {model} --task reviews --shots 1 --draws 2 --data.validation_rows 9",
            "--data.validation_rows 9: it has",
        ),
        ("eval {model} --adapter made --data.upper_share 0.5", "--data.upper_share 0.5: it has no effect on scores"),
        ("eval {model} --adapter made --slot p", "--adapter names another one"),
        ("eval {model} --task reviews --draws 3", "there are no demonstrations to draw"),
        ("eval {model} --draws 3 --shots 2", "no task was named"),
        ("eval {model} --task reviews --shots 2 --draws 3 --split validation", "--split validation: with --draws"),
    ],
)
def test_bad_input_is_one_line(cli, adapted: str, model: str, words: str, told: str) -> None:
    status, _, err = cli(*words.format(model=model).split())
    assert status == 2 and told in err and err.count("\n") == 1, err


def test_only_options_that_it_reads_are_options_of_it() -> None:
    read = {key for key in keys() if key_is_read(key)}
    assert {"data.task", "data.test_rows", "adapter.r", "model.dtype", "method.objective"} <= read
    assert not {"data.shots", "data.batch", "data.train_rows", "run.steps", "run.seed", "method.lr_p"} & read


def test_draws_of_demonstrations(cli, model: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "--task",
        "reviews",
        "--shots",
        "1",
        "--draws",
        "2",
        "--data.test_rows",
        "6",
        "--data.max_length",
        "48",
        "--out",
        "icl.json",
    ]
    status, out, err = cli("eval", model, *words)
    assert (status, err) == (0, ""), err
    assert "1 demonstrations in the prompt, nothing trained" in out and "mean over 2 draws" in out
    found = json.loads((home / "icl.json").read_text(encoding="utf-8"))
    assert found["kind"] == "demonstrations" and len(found["tasks"]["reviews"]["draws"]) == 2
    one = shown.one

    def stopped(*given: Any) -> dict[str, Any]:
        if given[-1] == 1:
            raise KeyboardInterrupt
        return one(*given)

    monkeypatch.setattr(shown, "one", stopped)
    with pytest.raises(SystemExit, match="130"):
        cli("eval", model, *words[:-1], "stopped.json")
    held = json.loads((home / "stopped.json").read_text(encoding="utf-8"))
    first = [tasks["tasks"]["reviews"]["draws"][0]["result"] for tasks in (held, found)]
    assert first[0] == first[1] and len(held["tasks"]["reviews"]["draws"]) == 1


def test_a_mixture_is_a_line_a_task_and_a_failure_is_status_1(
    cli, model: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, down in (("good", 5), ("bad", 1)):
        (tmp_path / name).mkdir()
        for part, (ups, downs) in (("train", (5, down)), ("test", (2, 2))):
            rows = [("up", k) for k in range(ups)] + [("down", k) for k in range(downs)]
            text = "".join(
                json.dumps({"input": f"{part} {word} {k}", "output": word, "options": ["up", "down"]}) + "\n"
                for word, k in rows
            )
            (tmp_path / name / f"{part}.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "m.yaml").write_text("test: [./good, ./bad]\n", encoding="utf-8")
    asked = ["--mixture", str(tmp_path / "m.yaml"), "--shots", "2"]
    words = ["adapt", model, *asked, "--steps", "1", "--draws", "2", "--json", "mixed.json"]
    status, out, err = cli(*words)
    assert (
        (status, out) == (2, "") and err.count("\n") == 1 and "task own/bad: --shots 2: class 'down' of own/bad" in err
    )
    monkeypatch.setattr("zofo.tasks.shots.refuse_few_unseen", lambda *_: None)  # so that it fails in its turn
    status, out, err = cli(*words)
    assert (status, err) == (1, ""), err
    assert "task 1 of 2: own/good" in out and "task 2 of 2: own/bad: failed: --shots 2: class 'down' of own/bad" in out
    assert "mean over 1 of 2 tasks: " in out and not (home / "adapters" / "tiny-m").exists()
    (tmp_path / "m.yaml").write_text("test: [./good]\n", encoding="utf-8")
    status, out, err = cli("eval", model, *asked, "--draws", "2", "--out", "shown.json")
    assert (status, err) == (0, ""), err
    status, out, err = cli("eval", model, *asked[:2], "--out", "scores.json")
    assert (status, err) == (0, ""), err
    assert cli("compare", "mixed.json", "scores.json")[2] == "", "on the same rows, and that is known"
    status, out, err = cli("compare", "mixed.json", "shown.json", "--plot", "unseen.png")
    assert (status, err) == (0, "") and (home / "unseen.png").read_bytes().startswith(b"\x89PNG")
    head, *rows = [line.split("\t") for line in out.splitlines() if "\t" in line]
    assert head == ["task", "metric", "mixed, before", "mixed, after", "shown, before", "shown, after"]
    assert [row[0] for row in rows] == ["own/good", "own/bad", "mean over 1 of 2 tasks"] and rows[1][3].startswith(
        "failed: "
    )
    assert "note: not in the mean, which is over the tasks that all files have a score of: own/bad\n" in out
    assert rows[0][2] == rows[0][4], "both begin from the same base on the same rows"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("compare a.json {trained}", "runs and files of results do not stand in one table"),
        ("compare {trained} --plot p.png", "runs have curves of their own"),
        ("compare none.json", "no such file"),
        ("compare empty.json", "it holds no scores by task"),
        ("compare broken.json", "a task lacks 'metric'"),
        ("compare broken.json --plot no/p.png", "its folder does not exist"),
        ("compare broken.json --plot p.xyz", "no format of pictures"),
    ],
)
def test_compare_refuses(cli, trained: str, home: Path, words: str, told: str) -> None:
    (home / "empty.json").write_text("[]", encoding="utf-8")
    (home / "broken.json").write_text('{"tasks": {"a": {"task": "a"}}}', encoding="utf-8")
    status, _, err = cli(*words.format(trained=trained).split())
    assert status == 2 and told in err and err.count("\n") == 1, err


def test_samples_of_a_saved_adapter(cli, adapted: str, model: str, home: Path) -> None:
    status, _, err = cli("eval", model, "--adapter", adapted, "--samples", "rows.jsonl", "--out", "found.json")
    assert status == 0, err
    lines = [json.loads(text) for text in (home / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    result = json.loads((home / "found.json").read_text(encoding="utf-8"))["results"]["adapter"]
    assert {line["slot"] for line in lines} == {"adapter"} and len(lines) == result["n"]
    assert sum(line["right"] for line in lines) / len(lines) == pytest.approx(result["accuracy"])
