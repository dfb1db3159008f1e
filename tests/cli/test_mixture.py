"""Mixtures on the command line: listed, shown, rehearsed, scored task by task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zofo.report.words import figure, score
from zofo.tasks import files


def table(out: str) -> dict[str, list[str]]:
    return {row.split("\t")[0]: row.split("\t") for row in out.splitlines() if "\t" in row}


@pytest.fixture
def run(cli, model: str, mixed: Path, home: Path) -> str:
    """A run of two steps on the toy mixture, made once a session."""
    if not (home / "runs" / "mixed-run").exists():
        status, _, err = cli(
            *f"train --preset bilevel-lora --model {model} --mixture {mixed} --run mixed-run --steps 2 --batch 2".split(),
            *["--method.T", "1", "--run.eval_every", "1", "--run.threads", "1", "--data.max_length", "64"],
        )
        assert status == 0, err
    return "mixed-run"


def test_mixtures_are_listed_and_shown(cli, mixed: Path) -> None:
    assert table(cli("ls", "mixtures")[1])["class-to-class"][1].startswith("Classification tasks to other")
    status, out, _ = cli("show", str(mixed))
    assert status == 0 and out.startswith("mixture") and "Toy tasks." in out
    assert table(out)["own/four"] == ["own/four", "training", "macro-F1", "12", "8"]
    assert table(out)["own/c"][1] == "unseen"
    status, out, _ = cli("show", "qa-to-qa-paper")
    assert status == 0 and table(out)["crossfit/hellaswag"][2] == "on the hub alone"


def test_a_mixture_that_cannot_be_had_is_refused_with_its_tasks(
    cli, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "reachable", lambda id: False)
    status, _, err = cli("train", "--model", model, "--mixture", "class-to-class-paper")
    assert status == 2 and err.count("\n") == 1 and "36 of its 63 tasks cannot be had" in err and "wiki_qa" in err


def test_a_rehearsal_says_what_each_task_gives(cli, model: str, mixed: Path) -> None:
    status, out, err = cli("train", "--model", model, "--mixture", str(mixed), "--dry-run", "--data.max_length", "64")
    assert status == 0, err
    assert "toy: 4 training and 2 unseen tasks; objective lm" in out
    assert table(out)["own/a"] == ["own/a", "training", "4", "8", "8", "0", "macro-F1"]
    assert table(out)["own/d"] == ["own/d", "unseen", "0", "0", "0", "8", "macro-F1"]
    assert cli("memory", "--model", model, "--mixture", str(mixed), "--data.max_length", "64")[0] == 0


def test_a_model_is_scored_task_by_task_and_in_the_mean(cli, model: str, mixed: Path, home: Path) -> None:
    status, out, err = cli("eval", model, "--mixture", str(mixed), "--out", str(home / "mixed.json"))
    assert status == 0, err
    found = json.loads((home / "mixed.json").read_text(encoding="utf-8"))["results"]["zero-shot"]
    assert [row for row in table(out) if row.startswith("own/")] == ["own/c", "own/d"] == list(found["tasks"])
    for task, result in found["tasks"].items():
        assert table(out)[task][1:] == ["macro-F1", f"{score(result)}, loss {figure(result['loss'])}", "8"]
    assert table(out)["mean over tasks"][2].startswith(score(found))
    assert found["score"] == pytest.approx(sum(result["macro_f1"] for result in found["tasks"].values()) / 2)


def test_the_training_side_is_scored_on_its_test_rows(cli, model: str, run: str, mixed: Path) -> None:
    for target in (run, model):
        more = [] if target == run else ["--mixture", str(mixed)]
        status, out, err = cli("eval", target, *more, "--side", "train")
        assert status == 0, err
        assert [row for row in table(out) if row.startswith("own/")] == ["own/a", "own/b", "own/four", "own/free"]
        assert table(out)["own/free"][1] == "F1" and "4 tasks" not in err


def test_a_run_scores_as_it_did_at_the_end_of_training_and_its_record_stays(cli, run: str, home: Path) -> None:
    file = home / "runs" / run / "eval.json"
    before = json.loads(file.read_text(encoding="utf-8"))
    status, out, err = cli("eval", run)
    assert status == 0, err
    assert json.loads(file.read_text(encoding="utf-8")) == before
    used = before["results"][before["used"]]
    column = table(out)["task"].index(f"{before['used']} (used)")
    assert table(out)["own/d"][column].startswith(score(used["tasks"]["own/d"]))
    assert "validation" not in out and "own/free" not in out


def test_a_run_on_a_mixture_is_scored_on_other_tasks_too(cli, run: str, home: Path, mixed: Path) -> None:
    before = (home / "runs" / run / "eval.json").read_bytes()
    status, out, err = cli("eval", run, "--task", "reviews", "--data.test_rows", "4")
    assert status == 0, err
    assert "accuracy" in table(out)["what"]
    (mixed.parent / "d.yaml").write_text("test: [d]", encoding="utf-8")
    status, out, err = cli("eval", run, "--mixture", str(mixed.parent / "d.yaml"))
    assert status == 0 and [row for row in table(out) if row.startswith("own/")] == ["own/d"], err
    assert (home / "runs" / run / "eval.json").read_bytes() == before


def test_a_training_tasks_own_adapter_is_scored_exported_and_written_with(
    cli, model: str, mixed: Path, home: Path
) -> None:
    train = f"train --preset meta-lora --model {model} --mixture {mixed} --run own-adapters --steps 3 --batch 2 --method.T 1 --method.tasks 4 --method.lr_p 0.1 --method.lr_s 0.1"
    assert cli(*train.split(), "--run.eval_every", "0", "--run.threads", "1", "--data.max_length", "64")[0] == 0
    rows = ["--task", "reviews", "--data.test_rows", "4"]
    status, out, err = cli("eval", "own-adapters", *rows, "--slot", "own/a")
    assert status == 0 and "own adapter of own/a, reviews" in out and "theta alone" not in err, err
    status, out, err = cli("eval", "own-adapters", "--task", "own/a", "--slot", "own/a")
    assert status == 0 and "own adapter of own/a, own/a" in out, err
    theta = cli("eval", "own-adapters", *rows)[1]
    assert table(out)["p (used)"][1:] != table(theta)["theta (used)"][1:]
    assert cli("export", "own-adapters", "--out", "own-out", "--slot", "own/a/s", "--no-merge")[0] == 0
    assert json.loads((home / "own-out" / "zofo.json").read_text())["used"] == "own/a/s"
    assert (home / "own-out" / "adapter").is_dir()
    assert cli("generate", "own-adapters", "A", "--slot", "own/b", "--max-new-tokens", "2")[0] == 0
    for words in (["eval", "own-adapters", "--slot", "own/a"], ["eval", "own-adapters", *rows, "--slot", "p"]):
        status, out, err = cli(*words)
        assert (status, out) == (2, "") and err.count("\n") == 1 and "--slot" in err
    for other in (["--data.train", "x.csv"], ["--data.label_column", "x"], ["--data.test", "x.csv", "--shots", "1"]):
        status, _, err = cli("eval", "own-adapters", "--task", "own/a", *other)
        assert status == 2 and "own/a is a task of the run's mixture, which brings rows of its own" in err, err
    status, _, err = cli("eval", "own-adapters", "--task", "own/nosuch")
    assert status == 2 and "own/nosuch" in err


def test_runs_are_shown_and_compared_by_their_mean_score(cli, run: str, home: Path) -> None:
    found = json.loads((home / "runs" / run / "eval.json").read_text(encoding="utf-8"))
    status, out, _ = cli("show", run)
    assert status == 0 and "data.mixture" in out and score(found["results"]["zero-shot"]) in out
    status, out, _ = cli("compare", run)
    assert status == 0 and score(found["results"]["p"]) in table(out)[run]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--task", "reviews", "--side", "train"], "--side train: reviews is one task, not a mixture"),
        (["--mixture", "class-to-class", "--task", "reviews"], "brings tasks of its own; give one of the two"),
        (["--mixture", "class-to-class", "--side", "train", "--split", "validation"], "are scored on their test rows"),
    ],
)
def test_what_does_not_fit_is_refused(cli, model: str, words: list[str], told: str) -> None:
    status, _, err = cli("eval", model, *words)
    assert status == 2 and told in err and err.count("\n") == 1


def test_a_split_without_tasks_is_one_line(cli, model: str, mixed: Path, home: Path) -> None:
    (mixed.parent / "unseen.yaml").write_text("test: [d]", encoding="utf-8")
    asked = ["--mixture", str(mixed.parent / "unseen.yaml"), "--split", "validation"]
    status, out, err = cli("eval", model, *asked)
    assert (status, out) == (2, "") and err.count("\n") == 1 and "it has no training tasks" in err
    (mixed.parent / "seen.yaml").write_text("[a]", encoding="utf-8")
    train = f"train --preset mezo --model {model} --mixture {mixed.parent / 'seen.yaml'} --run all-seen --steps 1"
    status, out, _ = cli(*train.split(), "--batch", "2", "--run.eval_every", "0", "--run.threads", "1")
    assert status == 0 and "test rows of seen: not scored (the mixture has no unseen tasks)" in out
    assert "run.test" not in out + cli("resume", "all-seen")[1]
    card = (home / "runs" / "all-seen" / "README.md").read_text(encoding="utf-8")
    assert "`zofo eval --side train` scores" in card and "left unread" not in card
    status, out, err = cli("eval", "all-seen")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert "mixture seen, test rows: it has no unseen tasks; add --side train, or --task" in err


def test_a_run_on_a_mixture_takes_no_other_test_file(cli, run: str) -> None:
    status, _, err = cli("eval", run, "--data.test", "x.jsonl")
    assert status == 2 and "the run's tasks bring files of their own" in err


@pytest.mark.parametrize("words", ["eval {run}", "eval {run} --shots 1 --draws 2", "adapt {run} --shots 1"])
def test_a_task_that_the_run_was_trained_on_is_not_unseen(cli, run: str, mixed: Path, words: str) -> None:
    other = mixed.parent / "other.yaml"
    other.write_text("test: [d, b, a]", encoding="utf-8")
    status, out, err = cli(*words.format(run=run).split(), "--mixture", str(other))
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert "--mixture other: run mixed-run was trained on own/b, own/a, unseen tasks of it" in err
