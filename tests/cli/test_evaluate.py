"""`eval` scores runs and models, and writes only what belongs into eval.json."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zofo.job import PACKAGES
from zofo.report.words import figure, score
from zofo.run.folder import RunFolder
from zofo.run.lock import lock
from zofo.tasks import definition


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
    assert lines(out)["what"] == ["what", "accuracy", "loss", "choice loss", "rows"]
    held = before["results"][used]
    assert lines(out)[f"{used} (used)"][1:] == [
        score(held),
        figure(held["loss"]),
        figure(held["choice_loss"]),
        str(held["n"]),
    ]


def test_the_record_says_how_the_scores_came_about(cli, trained: str, home: Path) -> None:
    run = home / "runs" / trained
    found, splits = (json.loads((run / name).read_text(encoding="utf-8")) for name in ("eval.json", "splits.json"))
    assert found["model"] == str(home / "tiny") and found["task"] == "reviews" and found["dtype"] == "fp32"
    assert found["adapter"] == "lora" and found["template"] == definition.find("reviews").template
    assert (found["shots"], found["calibration"], found["split"], found["seed"]) == (0, "none", "test", 0)
    assert found["rows_sha256"] == splits["parts"]["test"]["sha256"] and found["source"] == splits["source"]
    assert set(found["versions"]) == set(PACKAGES) and found["versions"]["torch"].split("+")[0] in torch.__version__
    for result in found["results"].values():
        names = ["loss", "choice_loss", "accuracy"]
        assert set(result) == {"n", *names, *(f"{name}_se" for name in names)}


def test_results_that_are_missing_are_filled_in(cli, trained: str, home: Path) -> None:
    file = home / "runs" / trained / "eval.json"
    before = json.loads(file.read_text(encoding="utf-8"))
    begun = {"task": "reviews", "split": "test", "step": 0, "used": "zero-shot", "checkpoint": "base", "truncated": 0}
    file.write_text(json.dumps({**begun, "results": {"zero-shot": before["results"]["zero-shot"]}}), encoding="utf-8")
    assert cli("eval", trained)[0] == 0
    after = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(before), encoding="utf-8")  # others use this run
    before.pop("memory")  # what a run took is known when it has run
    assert after == before


def test_a_run_that_is_being_trained_keeps_its_record(cli, trained: str, home: Path) -> None:
    """The trainer's last word would be overwritten by scores of a checkpoint that is not the best any more."""
    folder = RunFolder(home / "runs" / trained)
    before = folder.eval.read_bytes()
    with lock(folder):
        status, out, err = cli("eval", trained)
    assert status == 0 and "(used)" in out and "stays as it is: process" in err
    assert folder.eval.read_bytes() == before


@pytest.mark.parametrize("words", ["--split validation", "--which last"])
def test_other_rows_or_checkpoints_are_not_recorded(cli, trained: str, home: Path, words: str) -> None:
    file = home / "runs" / trained / "eval.json"
    before = file.read_bytes()
    status, out, err = cli("eval", trained, *words.split())
    assert status == 0, err
    assert {"p", "s"} <= {name.removesuffix(" (used)") for name in lines(out)}
    assert file.read_bytes() == before


@pytest.mark.parametrize("words", ["--shots 1", "--calibration sfc", "--dtype bf16", "--data.test_rows 5"])
def test_a_run_scored_with_other_options_is_told_and_not_recorded(cli, trained: str, home: Path, words: str) -> None:
    file = home / "runs" / trained / "eval.json"
    before = file.read_bytes()
    status, out, err = cli("eval", trained, *words.split(), "--out", "other.json")
    assert status == 0, err
    found, own = json.loads((home / "other.json").read_text(encoding="utf-8")), json.loads(before)
    assert file.read_bytes() == before
    assert (", calibrated (sfc)" in out) == ("sfc" in words) == (found["calibration"] == "sfc")
    same = found["results"]["p"] == own["results"]["p"] and found["rows_sha256"] == own["rows_sha256"]
    assert not same or "sfc" in words, "calibration changes answers, not losses"


@pytest.mark.parametrize(
    "words", ["--seed 1", "--data.train_rows 9", "--data.validation_rows 3", "--data.upper_share 0.5"]
)
def test_a_runs_rows_are_not_chosen_anew(cli, trained: str, words: str) -> None:
    """Rows that it was trained on could come to be tested."""
    status, _, err = cli("eval", trained, *words.split())
    assert status == 2 and "a run's rows are those that it was made on" in err


def test_options_that_say_what_holds_anyway_are_no_others(cli, trained: str, home: Path) -> None:
    file = home / "runs" / trained / "eval.json"
    before = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(before | {"results": {"zero-shot": before["results"]["zero-shot"]}}), encoding="utf-8")
    assert cli("eval", trained, "--shots", "0", "--seed", "0", "--data.test_rows", "8")[0] == 0
    assert json.loads(file.read_text(encoding="utf-8")) == before


def test_out_writes_the_printed_results_with_how_they_came_about(cli, trained: str, home: Path) -> None:
    status, out, err = cli("eval", trained, "--out", "found.json")
    assert status == 0, err
    found = json.loads((home / "found.json").read_text(encoding="utf-8"))
    own = json.loads((home / "runs" / trained / "eval.json").read_text(encoding="utf-8"))
    shared = set(own) - {"checkpoint", "step", "results", "memory"}  # the memory is that of its training
    assert {key: found[key] for key in shared} == {key: own[key] for key in shared}
    assert found["results"] == {slot: own["results"][slot] for slot in ("p", "s")}
    assert found["what"] == f"run {trained}, step {own['step']}" and found["what"] in out and found["seconds"] > 0
    assert [f"note: {note}" for note in found["notes"]] == [row for row in out.splitlines() if row.startswith("note")]


def test_a_folder_that_is_not_there_is_told_before_anything_is_scored(cli, trained: str) -> None:
    status, out, err = cli("eval", trained, "--out", "nosuch/x.json")
    assert (status, out) == (2, "") and "--out nosuch/x.json: its folder does not exist; make it first" in err


def mine(home: Path) -> str:
    """Rows of a user's own: free answers, so another kind of task."""
    rows = [{"prompt": f"Say {k} again:", "completion": f" {k}"} for k in range(30)]
    (home / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return "mine.jsonl"


def test_a_run_is_taken_to_another_task(cli, trained: str, home: Path) -> None:
    file = home / "runs" / trained / "eval.json"
    before, own = file.read_bytes(), mine(home)
    status, out, err = cli("eval", trained, "--data.train", own, "--out", "other.json")
    assert status == 0, err
    assert ", own/mine, test rows" in out and lines(out)["what"] == ["what", "loss", "rows"], (
        "losses alone are measured"
    )
    found = json.loads((home / "other.json").read_text(encoding="utf-8"))
    assert (found["task"], found["results"]["p"]["n"]) == ("own/mine", 6) and "accuracy" not in found["results"]["p"]
    assert file.read_bytes() == before


def begun(cli, model: str, home: Path, name: str, *words: str) -> None:
    """A run of one step, made once."""
    train = f"train --preset mezo --model {model} --run.dir more --run {name} --steps 1 --run.threads 1 --batch 2"
    if not (home / "more" / name).exists():
        assert cli(*train.split(), "--run.eval_every", "0", *words)[0] == 0


def test_a_test_file_without_training_rows_is_refused_for_a_run_too(cli, trained: str) -> None:
    status, _, err = cli("eval", trained, "--data.test", "nosuch.jsonl")
    assert status == 2 and "nosuch.jsonl" in err


def test_a_run_on_own_files_is_scored_on_another_test_file_where_one_is_given(cli, model: str, home: Path) -> None:
    begun(cli, model, home, "own", "--data.train", mine(home))
    rows = [{"prompt": f"Say {k} once more:", "completion": f" {k}"} for k in range(4)]
    (home / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    status, _, err = cli("eval", "own", "--dir", "more", "--data.test", "new.jsonl", "--out", "new.json")
    assert status == 0, err
    assert json.loads((home / "new.json").read_text(encoding="utf-8"))["results"]["theta"]["n"] == 4


@pytest.mark.parametrize(
    "words", ["eval own --data.test {}", "adapt own --data.train mine.jsonl --data.test {} --shots 1"]
)
def test_test_rows_that_the_run_was_trained_on_are_told(cli, model: str, home: Path, words: str) -> None:
    begun(cli, model, home, "own", "--data.train", mine(home))
    parts = json.loads((home / "more" / "own" / "splits.json").read_text(encoding="utf-8"))["parts"]
    held = (home / "mine.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    seen = [held[k] for k in parts["D_f"]["indices"][:1] + parts["D_p"]["indices"][:2]]
    (home / "leak.jsonl").write_text("".join(seen) + '{"prompt": "Say it:", "completion": " it"}\n', encoding="utf-8")
    status, out, err = cli(*words.format("leak.jsonl").split(), "--dir", "more")
    assert status == 0, err
    assert "note: test: 3 of the 4 rows of own/mine have a text that the run was trained on\n" in out


def test_a_test_file_that_is_the_training_file_is_told(cli, model: str, home: Path) -> None:
    begun(cli, model, home, "own", "--data.train", mine(home))
    parts = json.loads((home / "more" / "own" / "splits.json").read_text(encoding="utf-8"))["parts"]
    trained, chosen = parts["D_f"]["rows"] + parts["D_p"]["rows"], parts["validation"]["rows"]
    status, out, err = cli("eval", "own", "--dir", "more", "--data.test", "mine.jsonl")
    assert status == 0, err
    assert f"note: test: {trained} of the 30 rows of own/mine have a text that the run was trained on\n" in out
    assert f"note: test: {chosen} of the 30 rows of own/mine chose the run's checkpoint" in out


STARS = [{"body": f"Film {k} was fine", "stars": str(1 + 4 * (k % 2)), "id": k} for k in range(30)]


def table(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path.name


def stars(cli, model: str, home: Path) -> None:
    """A run on labelled rows of which three are tested, whose file is gone."""
    if not (home / "more" / "stars").exists():
        columns = ["--data.text_column", "body", "--data.label_column", "stars", "--data.test_rows", "3"]
        begun(cli, model, home, "stars", "--data.train", table(home / "stars.csv", STARS), *columns)
        (home / "stars.csv").unlink()


def results(home: Path, name: str = "new.json") -> Any:
    return json.loads((home / name).read_text(encoding="utf-8"))


def test_a_run_is_scored_on_a_whole_test_file_though_its_training_file_is_gone(cli, model: str, home: Path) -> None:
    stars(cli, model, home)
    record = (home / "more" / "stars" / "eval.json").read_bytes()
    table(home / "new.csv", [{"body": f"Another film, {k}", "stars": "5"} for k in range(8)])
    status, _, err = cli("eval", "stars", "--dir", "more", "--data.test", "new.csv", "--out", "new.json")
    assert status == 0, err
    found = results(home)
    assert found["results"]["theta"]["n"] == 8, "all of them, where the run tested 3"
    assert found["source"] == str((home / "new.csv").resolve()) and found["task"] == "own/stars"
    assert (home / "more" / "stars" / "eval.json").read_bytes() == record
    few = ["--data.test_rows", "2", "--out", "few.json"]
    assert cli("eval", "stars", "--dir", "more", "--data.test", "new.csv", *few)[0] == 0
    assert results(home, "few.json")["results"]["theta"]["n"] == 2, "as many as are asked for"


def test_a_test_file_may_call_its_columns_otherwise(cli, model: str, home: Path) -> None:
    stars(cli, model, home)
    table(home / "other.csv", [{"review": f"Another film, {k}", "given": "5"} for k in range(4)])
    words = ["eval", "stars", "--dir", "more", "--data.test", "other.csv", "--data.text_column", "review"]
    status, _, err = cli(*words)
    assert status == 2 and err.count("\n") == 1 and "no column 'stars'" in err
    assert cli(*words, "--data.label_column", "given")[0] == 0
    status, _, err = cli(*words, "--data.messages_column", "m")
    assert status == 2 and "--data.messages_column m: own/stars reads no such column" in err


def test_a_label_that_the_run_has_not_is_named(cli, model: str, home: Path) -> None:
    stars(cli, model, home)
    table(home / "third.csv", [{"body": "A film", "stars": "3"}])
    status, _, err = cli("eval", "stars", "--dir", "more", "--data.test", "third.csv")
    assert status == 2 and err.count("\n") == 1 and "row 1: field 'stars' is '3'; it must be one of 1, 5" in err


def test_a_run_on_a_task_that_ships_is_scored_on_a_file_of_the_users(cli, trained: str, home: Path) -> None:
    rows = [{"sentence": f"Film {k} was fine", "label": k % 2} for k in range(20)]
    (home / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    status, _, err = cli("eval", trained, "--data.test", "films.jsonl", "--out", "new.json")
    assert status == 0, err
    assert {slot: result["n"] for slot, result in results(home)["results"].items()} == {"p": 20, "s": 20}


def test_a_model_is_scored_on_a_whole_file_of_the_users(cli, model: str, home: Path) -> None:
    table(home / "all.csv", STARS)
    words = ["--data.text_column", "body", "--data.label_column", "stars"]
    status, out, err = cli("eval", model, "--data.test", "all.csv", *words, "--out", "new.json")
    assert status == 0, err
    assert results(home)["results"]["zero-shot"]["n"] == 30 and ", own/all, test rows" in out
    assert "note: test: labels '1' 15, '5' 15\n" in out and "note: train" not in out, "no rows to train on are missed"
    assert cli("eval", model, "--task", "reviews", "--data.test", "all.csv")[0] == 2, "it has no sentence"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--data.test all.csv --data.text_column body --data.label_column nosuch", "no column 'nosuch'"),
        ("--data.test empty.jsonl", "--data.test empty.jsonl: no rows"),
        ("--data.test nosuch.csv", "--data.test nosuch.csv: no such file"),
        ("--data.test all.csv --shots 2", "no --data.train beside it"),
        ("--data.test all.csv --split validation", "no --data.train beside it"),
    ],
)
def test_what_is_wrong_with_a_test_file_is_one_line(cli, model: str, home: Path, words: str, told: str) -> None:
    table(home / "all.csv", STARS)
    (home / "empty.jsonl").write_text("", encoding="utf-8")
    status, out, err = cli("eval", model, *words.split())
    assert (status, out) == (2, "") and err.count("\n") == 1 and told in err


@pytest.mark.parametrize("words", ["eval beside", "adapt beside --shots 1", "eval beside --shots 1 --draws 2"])
def test_rows_that_a_run_trained_on_are_not_carved_to_be_tested(cli, model: str, home: Path, words: str) -> None:
    own = mine(home)
    (home / "apart.jsonl").write_text('{"prompt": "Say it:", "completion": " it"}\n', encoding="utf-8")
    begun(cli, model, home, "beside", "--data.train", own, "--data.test", "apart.jsonl")
    status, _, err = cli(*words.split(), "--dir", "more", "--data.train", own)
    assert status == 2 and err.count("\n") == 1 and "run beside was made on this file with a test file beside it" in err
    assert "give --data.test too" in err
    if words == "eval beside":
        assert cli(*words.split(), "--dir", "more", "--data.train", own, "--data.test", "apart.jsonl")[0] == 0


def test_another_carving_of_a_runs_own_file_is_refused(cli, model: str, home: Path) -> None:
    begun(cli, model, home, "own", "--data.train", mine(home))
    text = "name: again\ntemplate: '{{ prompt }}'\nlabel: completion\nmetrics: []\nfiles: {train: mine.jsonl}\n"
    (home / "again.yaml").write_text(text, encoding="utf-8")
    assert cli("eval", "own", "--dir", "more", "--data.train", "mine.jsonl")[0] == 0, "the same fifth"
    other = "eval own --data.train mine.jsonl --seed 1", "eval own --task again.yaml", "adapt own --task again.yaml"
    for words in (*other, "eval own --data.train mine.jsonl --seed 1 --split validation"):
        status, out, err = cli(*words.split(), "--dir", "more")
        assert (status, out) == (2, "") and err.count("\n") == 1 and "are among those that run own was made on" in err


def test_what_a_run_was_trained_for_does_not_limit_what_it_is_scored_on(cli, model: str, home: Path) -> None:
    words = ["--task", "reviews", "--objective", "classification", "--data.train_rows", "9", "--data.test_rows", "4"]
    begun(cli, model, home, "classifier", *words)
    status, out, err = cli("eval", "classifier", "--dir", "more", "--data.train", mine(home))
    assert status == 0, err
    assert ", own/mine, test rows" in out


def test_a_run_on_own_files_is_taken_to_a_task_of_the_package(cli, model: str, home: Path) -> None:
    begun(cli, model, home, "own", "--data.train", mine(home))
    record = json.loads((home / "more" / "own" / "eval.json").read_text(encoding="utf-8"))
    assert record["task"] == "own/mine" and set(record["results"]["theta"]) == {"n", "loss", "loss_se"}
    status, out, err = cli("eval", "own", "--dir", "more", "--task", "reviews", "--data.test_rows", "6")
    assert status == 0, err
    assert ", reviews, test rows" in out and "%" in lines(out)["theta (used)"][1]
    shown = cli("show", "own", "--dir", "more")[1]
    loss = figure(record["results"]["theta"]["loss"])
    assert f"theta\tloss\t-\t{loss}\t6" in shown.splitlines()


def test_a_slot_alone(cli, trained: str) -> None:
    status, out, _ = cli("eval", trained, "--slot", "p")
    assert status == 0 and [name.removesuffix(" (used)") for name in lines(out)][1:] == ["p"]


def test_a_model_is_scored_as_it_is(cli, model: str, trained: str) -> None:
    status, out, err = cli("eval", model, "--task", "reviews", "--split", "validation")
    assert status == 0, err
    assert "zero-shot" in lines(out) and "%" in lines(out)["zero-shot"][1]


def test_a_model_with_demonstrations_is_called_by_their_number(cli, model: str, home: Path) -> None:
    few = (
        "--task reviews --data.test_rows 5 --data.train_rows 9 --data.validation_rows 3 --shots 1 --calibration icl-sfc"
    )
    status, out, err = cli("eval", model, *few.split(), "--data.max_length", "60", "--out", "few.json")
    assert status == 0, err
    assert "1-shot" in lines(out) and "zero-shot" not in lines(out) and "calibrated (icl-sfc)" in out
    found = json.loads((home / "few.json").read_text(encoding="utf-8"))
    assert (found["shots"], found["calibration"], found["what"]) == (1, "icl-sfc", model)
    assert found["used"] is found["adapter"] is None


def test_a_task_is_scored_by_all_of_its_metrics(cli, model: str, home: Path) -> None:
    text = (definition.DEFINITIONS / "reviews.yaml").read_text(encoding="utf-8")
    (home / "both.yaml").write_text(text.replace("metrics: [accuracy]", "metrics: [macro_f1, accuracy]"), "utf-8")
    status, out, err = cli("eval", model, "--task", "both.yaml", "--data.test_rows", "5")
    assert status == 0, err
    assert lines(out)["what"] == ["what", "macro-F1", "accuracy", "loss", "choice loss", "rows"]
    assert all("% +- " in cell for cell in lines(out)["zero-shot"][1:3])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("{model}", "a model needs a task"),
        ("{model} --shots 3", "a model needs a task"),
        ("{model} --task reviews --slot p", "it has no adapters"),
        ("{model} --task reviews --which last", "it has no checkpoints"),
        ("{model} --task reviews --method.T 3", "--method.T: no such option"),
        (
            "{model} --task reviews --calibration icl",
            "--data.calibration icl: input should be 'none', 'sfc' or 'icl-sfc'",
        ),
        ("{model} --task reviews --data.shot_length 9", "--data.shot_length 9: it has no effect on scores without"),
        ("{run} --data.shot_length 9", "--data.shot_length 9: it has no effect on scores without demonstrations"),
        ("{run} --task reviews --data.upper_share 0.5", "--data.upper_share 0.5: it has no effect on scores without"),
        ("{model} --task reviews --shots 2000", "--data.shots 2000"),
        ("{model} --task revews", "did you mean 'reviews'?"),
        ("./nosuch --task reviews", "no run in runs, and as a model: no such folder or .gguf file"),
        ("smollm2-135n --task reviews", "did you mean 'smollm2-135m'?"),
    ],
)
def test_bad_input(cli, trained: str, model: str, words: str, told: str) -> None:
    status, _, err = cli("eval", *words.format(model=model, run=trained).split())
    assert status == 2 and told in err and err.count("\n") == 1


def samples(home: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (home / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("words", ["", "--calibration sfc"])
def test_samples_are_the_scores_row_by_row(cli, trained: str, home: Path, words: str) -> None:
    """Accuracy, loss and choices of the results follow from the lines."""
    status, _, err = cli("eval", trained, *words.split(), "--samples", "rows.jsonl", "--out", "found.json")
    assert status == 0, err
    found, lines = results(home, "found.json"), samples(home)
    parts = json.loads((home / "runs" / trained / "splits.json").read_text(encoding="utf-8"))["parts"]
    assert [line["row"] - 1 for line in lines] == parts["test"]["indices"] * 2
    for slot in ("p", "s"):
        held, result = [line for line in lines if line["slot"] == slot], found["results"][slot]
        assert sum(line["right"] for line in held) / len(held) == pytest.approx(result["accuracy"])
        assert sum(line["loss"] for line in held) / len(held) == pytest.approx(result["loss"])
        for line in held:
            assert line["predicted"] == max(line["scores"], key=line["scores"].get)
            assert line["right"] == (line["predicted"] == line["answer"])
            assert {"sentence", "label"} <= set(line["columns"])
    if not words:
        assert all(-line["scores"][line["answer"]] == pytest.approx(line["loss"]) for line in lines)


def test_samples_of_a_model(cli, model: str, home: Path) -> None:
    few = "--task reviews --data.test_rows 3 --samples rows.jsonl"
    assert cli("eval", model, *few.split())[0] == 0
    assert [line["slot"] for line in samples(home)] == ["zero-shot"] * 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--samples nosuch/x.jsonl", "--samples nosuch/x.jsonl: its folder does not exist"),
        (
            "--samples x.jsonl --shots 1 --draws 2",
            "--samples x.jsonl: with --draws every row is answered several times",
        ),
    ],
)
def test_samples_that_cannot_be_written_are_told(cli, trained: str, words: str, told: str) -> None:
    status, out, err = cli("eval", trained, *words.split())
    assert (status, out) == (2, "") and err.count("\n") == 1 and told in err
