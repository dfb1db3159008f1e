"""`zofo.predict` answers rows as `zofo eval` would, without looking at an answer that is there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from datasets import Dataset

import zofo
from zofo import named
from zofo.config import build
from zofo.errors import BadInput
from zofo.job import prepare
from zofo.measure import evaluate
from zofo.predicting import By, chosen, predicted
from zofo.scoring.tokens import pad_id
from zofo.tasks import definition, files

CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
FEW: dict[str, Any] = {
    "batch": 2, "data__train_rows": 12, "data__validation_rows": 4, "data__test_rows": 4, "data__max_length": 64,
    "run__threads": 1, "run__eval_every": 0,
}  # fmt: skip
STARS = [{"body": f"Film {k} was fine", "stars": str(1 + 4 * (k % 2))} for k in range(30)]


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(rows cut|as demonstrations):UserWarning"),
    pytest.mark.usefixtures("there"),
]


def run(folder: str, name: str, preset: str = "mezo", **options: Any) -> str:
    """A run of one step, made once."""
    if not Path("runs", name).exists():
        zofo.train(folder, preset=preset, steps=1, run=name, **(FEW | options))
    return name


def stars(folder: str, place: Path) -> str:
    """A run on labelled rows whose file is gone."""
    if not Path("runs", "stars").exists():
        rows = lines(place / "stars.jsonl", STARS)
        run(folder, "stars", data__train=rows, data__text_column="body", data__label_column="stars", run__test=False)
        Path(rows).unlink()
    return "stars"


@pytest.mark.parametrize(
    "options", [{}, {"calibration": "sfc"}, {"channel": True}], ids=lambda o: "-".join(o) or "plain"
)
def test_predictions_are_those_that_are_scored(folder: str, options: dict[str, Any]) -> None:
    """The choice is that of `evaluate` on the same rows with their labels, the probability the softmax of what it compares."""
    flags = {f"data.{key}": value for key, value in options.items()}
    few = {"data.max_length": 64, "data.test_rows": 9}
    ready = prepare(build({"model.name": folder, "data.task": "reviews", **few, **flags}), wanted=("test",))
    model, tokenizer = zofo.load(folder)
    found = evaluate(
        model,
        ready.encoded["test"],
        ready.task,
        pad=pad_id(tokenizer),
        nulls=ready.nulls.get("test", ()),
        predictions=True,
    )
    rows = [{key: value for key, value in row.items() if key != "label"} for row in ready.splits.test]
    said = zofo.predict(
        folder, rows, task="reviews", data__max_length=64, **{f"data__{k}": v for k, v in options.items()}
    )
    assert [ready.task.choices.index(row["predicted"]) for row in said] == found["predictions"]
    for row, ranked, own in zip(said, found["ranked"], rows, strict=True):
        weights = [math.exp(score - max(ranked)) for score in ranked]
        assert row["probability"] == pytest.approx(max(weights) / sum(weights), rel=1e-4)
        assert {key: row[key] for key in own} == own


def test_an_answer_that_is_there_is_not_looked_at(folder: str, place: Path) -> None:
    name, rows = stars(folder, place), [{"body": "A fine film", "id": 3}]
    (bare,) = zofo.predict(name, rows)
    (labelled,) = zofo.predict(name, [{**rows[0], "stars": "no such label"}])
    assert bare["predicted"] in ("1", "5") and labelled == {**bare, "stars": "no such label"}


def test_a_column_of_another_name_is_named(folder: str, place: Path) -> None:
    name = stars(folder, place)
    with pytest.raises(BadInput, match="rows, row 1: no column 'body'; columns of this row: review"):
        zofo.predict(name, [{"review": "A fine film"}])
    (row,) = zofo.predict(name, [{"review": "A fine film"}], data__text_column="review")
    assert row["predicted"] == zofo.predict(name, [{"body": "A fine film"}])[0]["predicted"] and "body" not in row
    flags = {"data.text_column": "review"}
    made = predicted(named.find(name, "runs"), name, [{"review": "A fine film"}], flags, By())
    assert made.task.files is not None and made.task.files.columns["text"] == "review", "what is shown of a row"


def test_a_run_is_asked_for_an_adapter_and_a_checkpoint(folder: str) -> None:
    name = run(folder, "two", "bilevel-lora", task="reviews", method__T=2, method__lr_p=0.5)
    rows = [{"sentence": "A fine film"}, {"sentence": "A dull film"}]
    p, s = (zofo.predict(name, rows, slot=slot, which="last") for slot in "ps")
    assert p != s and zofo.predict(name, rows, slot="p", which="last") == p
    assert zofo.predict(name, rows, task="sst2") != [], "another task of the same columns"


def test_a_saved_adapter_answers_rows_of_the_task_that_it_was_made_for(folder: str, place: Path) -> None:
    """Its choices are those that `zofo.evaluate` scores, on columns called as its own file has them, or otherwise."""
    rows = [{"body": f"Film {k} was fine", "mood": "up" if k % 2 else "down"} for k in range(30)]
    named: dict[str, Any] = {"data__text_column": "body", "data__label_column": "mood", "data__max_length": 64}
    file = lines(place / "moods.jsonl", rows)
    zofo.adapt(folder, shots=2, steps=3, draws=1, lr=0.1, out="moods", data__train=file, **named)
    asked = [{"body": f"Film {k} was dull", "id": k} for k in range(6)]
    said = zofo.predict(folder, asked, adapter="moods")
    assert {row["predicted"] for row in said} <= {"up", "down"} and [row["id"] for row in said] == list(range(6))
    answers = lines(place / "answered.jsonl", [{"body": row["body"], "mood": row["predicted"]} for row in said])
    found = zofo.evaluate(folder, adapter="moods", data__test=answers)
    assert found["results"]["adapter"]["accuracy"] == 1 and found["results"]["adapter"]["n"] == 6
    other = zofo.predict(folder, [{"text": row["body"]} for row in asked], adapter="moods", data__text_column="text")
    assert [row["predicted"] for row in other] == [row["predicted"] for row in said]
    for options, told in (
        ({"slot": "p"}, "slot=p: `adapter` names another one"),
        ({"data__label_column": "mood"}, "answers are predicted, not read"),
    ):
        with pytest.raises(BadInput, match=told):
            zofo.predict(folder, asked, adapter="moods", **options)


def test_a_run_with_demonstrations_has_those_that_it_was_tested_with(folder: str) -> None:
    few = FEW | {"data__max_length": 48, "data__shot_length": 40, "data__shots": 1, "data__task": "reviews"}
    name = run(folder, "shot", **few)
    data = {key.replace("__", "."): value for key, value in few.items() if key.startswith("data__")}
    ready = prepare(build({"model.name": folder, **data}), wanted=("test",))
    model, tokenizer = zofo.load(name)
    assert not any(row.left_out for row in ready.encoded["test"])
    found = evaluate(model, ready.encoded["test"], ready.task, pad=pad_id(tokenizer), predictions=True)
    said = zofo.predict(name, [{"sentence": row["sentence"]} for row in ready.splits.test])
    assert [ready.task.choices.index(row["predicted"]) for row in said] == found["predictions"]
    for row, ranked in zip(said, found["ranked"], strict=True):
        assert row["probability"] == pytest.approx(1 / (1 + math.exp(min(ranked) - max(ranked))), rel=1e-4)


def test_rows_with_options_of_their_own_choose_among_them(folder: str, place: Path) -> None:
    text = "name: o\ntemplate: '{{ q }}'\noptions: ways\nlabel: way\n"
    (place / "o.yaml").write_text(text, encoding="utf-8")
    rows = [{"q": "Where?", "ways": ["left", "right"]}, {"q": "When?", "ways": ["now", "later", "never"]}]
    for row, own in zip(zofo.predict(folder, rows, task="o.yaml"), rows, strict=True):
        assert row["predicted"] in own["ways"] and 0 < row["probability"] <= 1
    with pytest.raises(BadInput, match="rows, row 1: no field 'ways'"):
        zofo.predict(folder, [{"q": "Where?"}], task="o.yaml")


def test_rows_without_options_have_those_that_all_training_rows_share(folder: str, mixed: Path) -> None:
    """In MetaICL's form, where each row brings its options: new rows need not."""
    task = mixed.parent / "a"
    row = json.loads((task / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    (said,) = zofo.predict(folder, [{"input": row["input"]}], task=task)
    (same,) = zofo.predict(folder, [{"input": row["input"], "options": row["options"]}], task=task)
    assert (said["predicted"], said["probability"]) == (same["predicted"], same["probability"])
    assert said["predicted"] in row["options"] and set(said) == {"input", "predicted", "probability"}


def test_completions_are_generated(folder: str, place: Path) -> None:
    rows = [{"prompt": f"Say {k} again:", "completion": f" {k}"} for k in range(30)]
    name = run(folder, "said", data__train=lines(place / "said.jsonl", rows), run__test=False)
    asked = [{"prompt": "Say it:"}, {"prompt": "Say 77 again and again:"}]
    said = zofo.predict(name, asked, max_new_tokens=4)
    model, tokenizer = zofo.load(name)
    for row, own in zip(said, asked, strict=True):
        ids = tokenizer(own["prompt"], return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=4, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert row == {**own, "predicted": tokenizer.decode(made, skip_special_tokens=True).strip()}


def test_demonstrations_are_of_the_runs_own_rows_under_their_own_names_and_no_others(folder: str, place: Path) -> None:
    rows = lines(place / "shown.jsonl", STARS)
    columns = {"data__text_column": "body", "data__label_column": "stars"}
    name = run(folder, "shown", data__train=rows, data__shots=1, data__shot_length=30, run__test=False, **columns)
    (own,) = zofo.predict(name, [{"body": "A fine film"}])
    (other,) = zofo.predict(name, [{"review": "A fine film"}], data__text_column="review")
    assert own["probability"] == other["probability"]
    test = lines(place / "shown-test.jsonl", STARS[:4])
    lines(Path(rows), [{**row, "body": row["body"] + " and long"} for row in STARS])
    with pytest.raises(BadInput, match="the training rows, which demonstrations come from, are not those of the run"):
        zofo.predict(name, [{"body": "A fine film"}])
    with pytest.raises(BadInput, match="the training rows, which demonstrations come from, are not those of the run"):
        zofo.evaluate(name, data__test=test)


def test_rows_of_tables(folder: str) -> None:
    pandas = pytest.importorskip("pandas")
    columns = {"sentence": ["A fine film", "A bad one"]}
    own = zofo.predict(folder, [{"sentence": "A fine film"}, {"sentence": "A bad one"}], task="reviews")
    for table in (pandas.DataFrame(columns), pyarrow.table(columns), Dataset.from_dict(columns)):
        assert zofo.predict(folder, table, task="reviews") == own


def test_a_conversation_is_answered_whoever_spoke_last() -> None:
    task = definition.Task(name="own/c", template="{{ messages }}", chat="messages", label="messages", metrics=())
    user, other = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
    (first, second) = files.unlabelled(task, [{"messages": [user]}, {"messages": [user, other]}], "rows")
    assert first["messages"][:1] == [user] and first["messages"][1]["role"] == "assistant"
    assert second["messages"] == first["messages"], "an answer that is there takes no room from the prompt"


def test_rows_that_are_cut_are_told(folder: str) -> None:
    with pytest.warns(UserWarning, match="^1 rows cut at the end of 'sentence' to 40 tokens$"):
        zofo.predict(folder, [{"sentence": "x" * 60}, {"sentence": "y"}], task="reviews", data__max_length=40)


def test_a_choice_without_numbers_is_none() -> None:
    assert chosen(("a", "b"), -1, [math.nan] * 2) == {"predicted": None, "probability": None}
    assert chosen(("a", "b"), 1, [math.nan, -700.0]) == {"predicted": "b", "probability": 1.0}


@pytest.mark.parametrize(
    ("rows", "more", "told"),
    [
        ([], {}, "rows: no rows"),
        (["a text"], {}, "rows, row 1: a str; give a dict of columns"),
        ({"sentence": "x"}, {}, "rows: a dict; give a list of dicts"),
        (None, {}, "rows: a NoneType; give a list of dicts"),
        ([{"sentence": "x", "probability": 1}], {}, "it has a column 'probability'"),
        ([{"sentence": "x"}], {"which": "first"}, "choose one of: best, last"),
        ([{"sentence": "x"}], {"data__test_rows": 3}, "data__test_rows=3: it has no effect on predicting"),
        ([{"sentence": "x"}], {"max_new_tokens": 0}, "reviews has choices"),
    ],
)
def test_what_cannot_be_done_is_told(folder: str, rows: Any, more: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        zofo.predict(folder, rows, task="reviews", **more)


def test_a_run_on_several_tasks_is_told_which(folder: str, mixed: Path) -> None:
    name = run(folder, "mixed", "multi-task-lora", mixture=str(mixed), run__test=False)
    with pytest.raises(BadInput, match="it was trained on several tasks; name the one with `task`"):
        zofo.predict(name, [{"input": "x"}])
    (row,) = zofo.predict(name, [{"input": "x", "options": ["p", "q"]}], task="own/four")
    assert row["predicted"] in ("p", "q")
    with pytest.raises(BadInput, match=r"data__train=x\.csv: own/four is a task of the run's mixture"):
        zofo.predict(name, [{"input": "x", "options": ["p", "q"]}], task="own/four", data__train="x.csv")
