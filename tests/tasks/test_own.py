"""A configuration gives a task: by name, by file, or made from the user's own rows by their columns."""

from __future__ import annotations

import csv
import itertools
import json
import sys
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zofo.config import DataConfig
from zofo.errors import BadInput
from zofo.tasks.answers import answers
from zofo.tasks.definition import Files, Task, find
from zofo.tasks.files import load
from zofo.tasks.own import MOST, order, resolve, title
from zofo.tasks.render import encode
from zofo.tasks.template import fill

ROWS = [{"text": f"row {k}", "label": "bad" if k % 2 else "good"} for k in range(6)]
NAN = float("nan")
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, and no data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOFO_DATA", raising=False)


def lines(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def table(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def own(tmp_path: Path, rows: list[Any], **more: Any) -> Task:
    return resolve(DataConfig(train=lines(tmp_path / "mine.jsonl", rows), **more))


def labelled(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": f"row {k}", "label": label} for k, label in enumerate(labels)]


def right(task: Task) -> list[int]:
    """The right choice of each training row."""
    return [answers(task, row, "x").right[0] for row in load(task).train]


# By name, by file, by folder


def test_a_name_is_the_shipped_task() -> None:
    assert resolve(DataConfig(task="sst2")) == find("sst2")
    assert resolve(DataConfig(task="crossfit/trec")) == find("crossfit/trec")


def test_a_shipped_name_means_the_same_task_whatever_folder_one_stands_in(tmp_path: Path) -> None:
    rows = [{"sentence": "x", "label": 0}, {"sentence": "y", "label": 1}]
    lines(tmp_path / "sst2" / "train.jsonl", rows)
    assert resolve(DataConfig(task="sst2")) == find("sst2")


def test_a_yaml_file_takes_its_files_from_its_own_folder(tmp_path: Path) -> None:
    train, test = lines(tmp_path / "deep" / "a.jsonl", ROWS), lines(tmp_path / "deep" / "b.jsonl", ROWS[:2])
    text = "name: mine\nchoices: [bad, good]\ntemplate: '{{ text }}?'\nfiles: {train: a.jsonl, test: b.jsonl}\n"
    (tmp_path / "deep" / "mine.yaml").write_text(text)
    task = resolve(DataConfig(task="deep/mine.yaml"))
    assert task.files is not None and (task.files.train, task.files.test) == (train, test)
    source = load(task)
    assert (source.train, source.validation, source.test) == (ROWS, None, ROWS[:2])


def test_a_task_with_own_rows_keeps_its_template_and_choices(tmp_path: Path) -> None:
    rows = [{"sentence": "a fine film", "label": "1"}, {"sentence": "a dull film", "label": "0"}]
    train = table(tmp_path / "mine.csv", rows)
    task = resolve(DataConfig(task="sst2", train=train, test=table(tmp_path / "more.csv", rows[:1])))
    assert (task.name, task.choices, task.template) == ("sst2", find("sst2").choices, find("sst2").template)
    assert (task.folder, task.hub, task.note) == (None, None, ""), "nothing is said or taken of the published rows"
    source = load(task)
    assert (source.name, source.train, source.validation, source.test) == (train, rows, None, rows[:1])
    assert fill(task, task.template, source.train[0], "x") == "a fine film It was" and right(task) == [1, 0]


def test_own_rows_are_found_again_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines(tmp_path / "mine.jsonl", ROWS)
    task = resolve(DataConfig(train="mine.jsonl"))
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    assert [row["text"] for row in load(task).train] == [row["text"] for row in ROWS]


@pytest.mark.parametrize("name", ["validation", "valid", "dev"])
def test_a_folder_is_a_task_of_its_train_validation_and_test_files(tmp_path: Path, name: str) -> None:
    table(tmp_path / "films" / "train.csv", ROWS)
    lines(tmp_path / "films" / f"{name}.jsonl", ROWS[2:])
    lines(tmp_path / "films" / "test.json", ROWS[:2])
    task = resolve(DataConfig(task="films"))
    source = load(task)
    assert (task.name, task.choices) == ("own/films", ("bad", "good"))
    assert (source.train, source.validation, source.test) == (ROWS, ROWS[2:], ROWS[:2])


def test_a_folder_with_a_train_file_alone_is_a_task(tmp_path: Path) -> None:
    lines(tmp_path / "films" / "train.jsonl", ROWS)
    source = load(resolve(DataConfig(task=str(tmp_path / "films"))))
    assert (source.train, source.validation, source.test) == (ROWS, None, None)


# A text and its label


def test_names_in_other_scripts_are_told_apart_and_the_same_name_gives_the_same(tmp_path: Path) -> None:
    names = [
        title(Files(train=str(tmp_path / word / "train.csv"))) for word in ("情感", "主题", "情感", "café", "cafe")
    ]
    assert names[0] == names[2] and len(set(names)) == 4 and names[4] == "own/cafe" and names[3].startswith("own/caf-")
    assert all(name.isascii() for name in names)


def test_the_labels_that_occur_are_the_choices_of_a_table(tmp_path: Path) -> None:
    task = resolve(DataConfig(train=table(tmp_path / "films.csv", ROWS)))
    assert (task.name, task.choices, task.objective, task.shorten) == (
        "own/films",
        ("bad", "good"),
        "classification",
        "text",
    )
    assert right(task) == [1, 0, 1, 0, 1, 0]
    row = load(task).train[0]
    assert fill(task, task.template, row, "x") == "row 0\nlabel:" and fill(task, task.free, row, "x") == "row 0\n"
    assert fill(task, task.template_task, {}, "x") == "label:"


@pytest.mark.parametrize("column", ["text", "sentence", "review", "content", "body"])
def test_a_column_with_a_usual_name_is_the_text(tmp_path: Path, column: str) -> None:
    rows = [{"id": k, column: row["text"], "label": row["label"]} for k, row in enumerate(ROWS)]
    assert load(own(tmp_path, rows)).train == ROWS


def test_named_columns_are_taken_and_the_label_column_stands_in_the_prompt(tmp_path: Path) -> None:
    rows = [{"text": "not this", "Q": row["text"], "{mood}": row["label"], "label": "nor this"} for row in ROWS]
    task = own(tmp_path, rows, text_column="Q", label_column="{mood}")
    assert load(task).train == ROWS and task.choices == ("bad", "good")
    assert fill(task, task.template, {"text": "x"}, "x") == "x\nmood:"


def test_labels_that_are_numbers_stand_in_the_order_of_numbers(tmp_path: Path) -> None:
    train = table(tmp_path / "x.csv", labelled("10", "9", "-1", "2.5", "word"))
    task = resolve(DataConfig(train=train))
    assert task.choices == ("-1", "2.5", "9", "10", "word") and right(task) == [3, 2, 0, 1, 4]


def test_the_order_of_labels_depends_on_no_order_they_come_in() -> None:
    assert len({tuple(sorted(some, key=order)) for some in itertools.permutations(["1", "nan", "b", "a"])}) == 1


def test_whole_numbers_from_one_are_labels_and_no_indices(tmp_path: Path) -> None:
    task = own(tmp_path, labelled(1, 5, 3, 2, 4))
    assert task.choices == ("1", "2", "3", "4", "5") and right(task) == [0, 4, 2, 1, 3]
    with pytest.raises(BadInput, match="field 'label' is '0'; it must be one of 1, 2, 3, 4, 5"):
        answers(task, {"text": "x", "label": 0}, "x")


def test_white_space_around_a_label_makes_no_other_label(tmp_path: Path) -> None:
    task = own(tmp_path, labelled("pos", "neg", "pos ", " neg"))
    assert task.choices == ("neg", "pos") and right(task) == [1, 0, 1, 0]


def test_one_as_a_float_is_one_as_a_whole_number(tmp_path: Path) -> None:
    task = own(tmp_path, labelled(1, 1.0, 2, "1", 2.0, 2.5))
    assert task.choices == ("1", "2", "2.5") and right(task) == [0, 0, 1, 0, 1, 2]


def test_truth_values_are_labels(tmp_path: Path) -> None:
    task = own(tmp_path, labelled(True, False))
    assert task.choices == ("False", "True") and right(task) == [1, 0]


def test_a_label_that_only_the_test_file_has_is_named_with_file_row_and_field(tmp_path: Path) -> None:
    test = table(tmp_path / "test.csv", [ROWS[0], {"text": "x", "label": "middling"}])
    with pytest.raises(BadInput, match=r"^--data.test .*test.csv, row 2: field 'label' is 'middling'; .* bad, good$"):
        load(own(tmp_path, ROWS, test=test))


# Folders of `datasets`


@pytest.fixture
def datasets() -> Any:
    return pytest.importorskip("datasets")


def classes(datasets: Any, labels: list[int], names: list[str]) -> Any:
    """A data set whose label column names its classes."""
    held = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=names))
    return datasets.Dataset.from_list(labelled(*labels), features=held)


def test_the_class_names_of_a_saved_set_are_the_choices_in_their_order(tmp_path: Path, datasets: Any) -> None:
    classes(datasets, [1, 0, 2, 0], ["world", "sports", "arts", "never"]).save_to_disk(tmp_path / "news")
    task = resolve(DataConfig(train="news"))
    assert (task.name, task.choices) == ("own/news", ("world", "sports", "arts", "never")) and right(task) == [
        1,
        0,
        2,
        0,
    ]
    assert load(task).test is None


@pytest.mark.parametrize("names", [["1", "2"], ["1", "2", "3", "4", "5"], ["2", "1", "0"]])
def test_class_names_that_are_numbers_are_no_class_numbers(tmp_path: Path, datasets: Any, names: list[str]) -> None:
    numbers = list(range(len(names))) * 3
    datasets.DatasetDict({"train": classes(datasets, numbers, names)}).save_to_disk(str(tmp_path / "set"))
    task = resolve(DataConfig(task="", train=str(tmp_path / "set")))
    assert task.choices == tuple(names) and right(task) == numbers


def test_the_splits_of_a_saved_set_serve_for_validation_and_test(tmp_path: Path, datasets: Any) -> None:
    names = ["world", "sports"]
    held = {"train": [0, 1, 1], "validation": [1], "test": [1, 0]}
    sets = {part: classes(datasets, labels, names) for part, labels in held.items()}
    datasets.DatasetDict(sets).save_to_disk(tmp_path / "news")
    task = resolve(DataConfig(train="news"))
    source = load(task)
    assert task.choices == ("world", "sports")
    assert [source.train, source.validation, source.test] == [labelled(*labels) for labels in held.values()]
    other = lines(tmp_path / "mine.jsonl", labelled("sports"))
    assert load(resolve(DataConfig(train="news", test=other))).test == labelled("sports"), "a file given comes first"


def test_a_single_class_name_is_bad_input(tmp_path: Path, datasets: Any) -> None:
    classes(datasets, [0, 0], ["only"]).save_to_disk(tmp_path / "news")
    with pytest.raises(BadInput, match=r"--data.train news"):
        resolve(DataConfig(train="news"))


# Prompt and completion, messages


@pytest.fixture(scope="module")
def tokenizer(folder: str) -> Any:
    """A token a byte; its end-of-text token is <end>."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("flags", [{}, {"prompt_column": "q", "completion_column": "a"}])
def test_a_completion_is_an_answer_that_ends_with_the_end_of_text(tmp_path: Path, tokenizer: Any, flags: Any) -> None:
    one, two = (flags["prompt_column"], flags["completion_column"]) if flags else ("prompt", "completion")
    task = own(tmp_path, [{one: "2 + 2 =", two: "4", "more": 0}], **flags)
    (row,) = load(task).train
    found = encode(task, row, tokenizer)
    assert (task.kind, task.metrics, row) == ("text", (), {"prompt": "2 + 2 =", "completion": "4"})
    assert tokenizer.decode(found.context) == "2 + 2 =" and tokenizer.decode(found.answers[0]) == " 4<end>"
    assert found.answers[0][-1] == tokenizer.eos_token_id and found.texts == ("4",)


def test_a_text_column_makes_a_label_task_of_rows_with_a_prompt_too(tmp_path: Path) -> None:
    rows = [row | {"prompt": "x", "completion": "y", "messages": TALK} for row in ROWS]
    assert own(tmp_path, rows, text_column="text").kind == "fixed"
    assert own(tmp_path, rows, prompt_column="prompt").kind == "text"
    assert own(tmp_path, rows).chat == "messages"


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "x", "completion": NAN}, "completion' is 'nan'"),
        ({"prompt": NAN, "completion": "x"}, "prompt' is NaN"),
        ({"prompt": ["x", "y"], "completion": "x"}, "prompt' is a list"),
        ({"prompt": TALK[:1], "completion": "x"}, "prompt' is a list"),
        ({"prompt": {"a": "x"}, "completion": "x"}, "prompt' is an object"),
    ],
)
def test_a_prompt_or_completion_that_is_no_text_is_named(tmp_path: Path, row: Any, field: str) -> None:
    with pytest.raises(BadInput, match=rf"--data.train .*mine.jsonl, row 2: field '{field}"):
        load(own(tmp_path, [{"prompt": "x", "completion": "y"}, row]))


@pytest.mark.parametrize(("text", "found"), [(NAN, "NaN"), (["a", "b"], "a list"), ({"a": "b"}, "an object")])
def test_a_text_that_is_none_is_named(tmp_path: Path, text: Any, found: str) -> None:
    with pytest.raises(BadInput, match=rf"mine.jsonl, row 7: field 'text' is {found} where a text is wanted"):
        load(own(tmp_path, [*ROWS, {"text": text, "label": "good"}]))


@pytest.mark.parametrize("column", ["text", "label"])
def test_bytes_are_no_text_and_no_label(tmp_path: Path, column: str) -> None:
    """A parquet column may hold them; they would stand in prompts as Python writes them."""
    rows = [{"text": f"film {k}", "label": "ab"[k % 2]} for k in range(8)]
    rows = [row | {column: row[column].encode()} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    with pytest.raises(BadInput, match=rf"mine.parquet, row 1: field '{column}' is bytes"):
        load(resolve(DataConfig(train=str(tmp_path / "mine.parquet"))))


@pytest.mark.parametrize("row", [{"prompt": "x", "completion": ""}, {"prompt": "", "completion": "x"}])
def test_an_empty_prompt_or_completion_is_named(tmp_path: Path, row: Any) -> None:
    with pytest.raises(BadInput, match=r"--data.train .*mine.jsonl, row 2: .*field '\w+' is"):
        load(own(tmp_path, [{"prompt": "x", "completion": "y"}, row]))


@pytest.mark.parametrize(("column", "flag"), [("messages", ""), ("talk", "talk")])
def test_the_last_message_is_the_answer(tmp_path: Path, tokenizer: Any, column: str, flag: str) -> None:
    task = own(tmp_path, [{column: TALK, "id": 1}], messages_column=flag)
    (row,) = load(task).train
    assert (task.chat, task.metrics, task.stop, row) == ("messages", (), "end", {"messages": TALK})
    tokenizer = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    found = encode(task, row, tokenizer)
    assert tokenizer.decode(found.context) == "[user]hi<end>[assistant]"
    assert tokenizer.decode(found.answers[0]) == "hello<end>"


# MetaICL's form


def meta(*options: Any) -> list[dict[str, Any]]:
    return [{"input": f"row {k}", "output": "b", "options": some} for k, some in enumerate(options)]


def test_the_same_options_in_every_row_are_classes(tmp_path: Path) -> None:
    task = own(tmp_path, meta(["a", "b"], ["a", "b"]))
    assert (task.kind, task.metrics, right(task)) == ("options", ("macro_f1", "accuracy"), [1, 1])
    assert fill(task, task.template, {"input": "x"}, "x") == "x\n"


def test_the_same_options_in_another_order_are_classes_too(tmp_path: Path) -> None:
    task = own(tmp_path, meta(["a", "b"], ["b", "a"]))
    assert (task.metrics, right(task)) == (("macro_f1", "accuracy"), [1, 0])


def test_options_of_each_row_are_its_choices(tmp_path: Path) -> None:
    task = own(tmp_path, meta(["a", "b"], ["b", "c", "d"]))
    assert (task.kind, task.metrics, right(task)) == ("options", ("accuracy",), [1, 0])


@pytest.mark.parametrize("empty", [[], None])
def test_no_options_are_free_answers(tmp_path: Path, empty: Any) -> None:
    task = own(tmp_path, meta(empty, empty))
    assert (task.kind, task.metrics) == ("text", ("f1", "em")) and len(load(task).train) == 2


def test_a_row_without_options_among_others_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"mine.jsonl, row 2: field 'options' is no list of two options or more"):
        load(own(tmp_path, meta(["a", "b"], [])))


@pytest.mark.parametrize(
    "options",
    [
        "ab",
        5,
        [{"text": "a"}, {"text": "b"}],
    ],
)  # fmt: skip
def test_options_that_are_no_texts_are_bad_input_with_their_row(tmp_path: Path, options: Any) -> None:
    with pytest.raises(BadInput, match=r"mine.jsonl, row 2: .*'options'"):
        load(own(tmp_path, meta(["a", "b"], options)))


# What is missing


def test_without_a_task_and_rows_the_names_are_told() -> None:
    with pytest.raises(BadInput, match=r"^--task: no task was named; name one \(boolq, cb.*--data.train FILE"):
        resolve(DataConfig())


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("task", ["", "sst2"])
def test_a_test_file_without_a_training_file_is_refused(tmp_path: Path, part: str, task: str) -> None:
    path = lines(tmp_path / "x.jsonl", ROWS)
    with pytest.raises(BadInput, match=rf"^--data.{part} .*x.jsonl: no --data.train beside it; give both$"):
        resolve(DataConfig(task=task, **{part: path}))


def test_a_missing_column_is_told_with_its_flag_and_the_columns_there_are(tmp_path: Path) -> None:
    rows = [{"Q": "x", "mood": "good"}, {"Q": "y", "mood": "bad"}]
    asked = r"^--data.train .*mine.jsonl"
    with pytest.raises(
        BadInput,
        match=rf"{asked}: no column is known as the text; .*--data.text_column; columns: 'Q', 'mood' \(for free .*--data.prompt_column",
    ):
        own(tmp_path, rows)
    with pytest.raises(
        BadInput, match=rf"{asked}: no column 'label'; name it with --data.label_column; columns: 'Q', 'mood'"
    ):
        own(tmp_path, rows, text_column="Q")
    with pytest.raises(BadInput, match=rf"{asked}: no column 'tone'; name it with --data.label_column"):
        own(tmp_path, rows, text_column="Q", label_column="tone")
    with pytest.raises(BadInput, match=rf"{asked}, row 1: no column 'P'; columns of this row: Q, mood"):
        own(tmp_path, rows, text_column="P", label_column="mood")


def test_a_column_that_a_later_row_lacks_is_named_with_that_row(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"mine.jsonl, row 7: no column 'label'; columns of this row: text"):
        own(tmp_path, [*ROWS, {"text": "x"}])


def test_an_unknown_prompt_or_messages_column_is_named(tmp_path: Path) -> None:
    for flags in ({"prompt_column": "q"}, {"completion_column": "q"}, {"messages_column": "q"}):
        with pytest.raises(
            BadInput, match=r"mine.jsonl, row 1: no column 'q'; columns of this row: completion, prompt"
        ):
            load(own(tmp_path, [{"prompt": "x", "completion": "y"}], **flags))


@pytest.mark.parametrize("count", [1, MOST + 1])
def test_one_label_or_far_too_many_are_refused(tmp_path: Path, count: int) -> None:
    rows = labelled(*[f"label {k % count}" for k in range(MOST + 5)])
    many = f"has {count} different labels in {MOST + 5} rows; for free ans"
    with pytest.raises(BadInput, match="column 'label' " + ("holds 'label 0' in every row" if count == 1 else many)):
        own(tmp_path, rows)
    assert len(own(tmp_path, labelled(*range(MOST))).choices) == MOST


@pytest.mark.parametrize("label", ["", "  ", None])
def test_an_empty_label_is_named_with_its_row(tmp_path: Path, label: Any) -> None:
    with pytest.raises(BadInput, match=r"^--data.train .*mine.jsonl, row 7: field 'label' is empty"):
        own(tmp_path, [*ROWS, {"text": "x", "label": label}])


def test_all_rows_with_nothing_in_a_field_are_named_and_the_field_as_the_file_has_it(tmp_path: Path) -> None:
    names = {"text_column": "What (raw)", "label_column": "Verdict"}
    good = [{"What (raw)": f"film {k}", "Verdict": "good" if k % 2 else "bad"} for k in range(12)]
    rows = [dict(row) for row in good]
    for k in (2, 5, 9):
        rows[k]["Verdict"] = ""
    with pytest.raises(
        BadInput, match=r"row 3: field 'Verdict' is empty \(so in 3 rows: 3, 6, 10\); mend or drop them"
    ):
        own(tmp_path, rows, **names)
    rows = [row | ({"What (raw)": " "} if k == 7 else {}) for k, row in enumerate(good)]
    with pytest.raises(BadInput, match=r"row 8: no text: field 'What \(raw\)' is empty; mend or drop the row"):
        load(own(tmp_path, rows, **names))


def test_a_table_of_one_column_whose_name_holds_a_separator_says_so(tmp_path: Path) -> None:
    (tmp_path / "semi.csv").write_text("text;label\na;yes\nb;no\n", encoding="utf-8")
    with pytest.raises(
        BadInput, match=r"put commas between its columns.*one column is called 'text;label', with ';' in it"
    ):
        resolve(DataConfig(train=str(tmp_path / "semi.csv")))


@pytest.mark.parametrize(("label", "found"), [(NAN, "NaN"), (["good"], "a list"), ({"a": "good"}, "an object")])
def test_a_label_that_is_none_is_named_with_its_row(tmp_path: Path, label: Any, found: str) -> None:
    with pytest.raises(BadInput, match=rf"^--data.train .*mine.jsonl, row 7: field 'label' is {found}, no label; mend"):
        own(tmp_path, [*ROWS, {"text": "x", "label": label}])


def test_a_file_without_rows_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^--data.train .*mine.jsonl: no rows"):
        own(tmp_path, [])


def test_a_folder_without_a_train_file_is_bad_input(tmp_path: Path) -> None:
    lines(tmp_path / "films" / "test.jsonl", ROWS)
    with pytest.raises(
        BadInput, match=r"^--task films: the folder has no train file; it should hold train.csv\|.tsv\|"
    ):
        resolve(DataConfig(task="films"))


def test_an_unknown_task_gets_the_nearest_name() -> None:
    with pytest.raises(BadInput, match=r"^--task sst: no such task; did you mean 'sst2'\?"):
        resolve(DataConfig(task="sst"))


@pytest.mark.parametrize("path", ["none.csv", "some/none.csv", "/none", "a/b/c"])
def test_a_missing_file_is_bad_input(path: str) -> None:
    with pytest.raises(BadInput, match=rf"^--data.train {path}: no such file; check the path$"):
        resolve(DataConfig(train=path))


def test_a_missing_path_that_could_be_a_hub_id_is_told_as_both(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Api:
        def dataset_info(self, name: str, timeout: float) -> None:
            asked.append(name)
            raise OSError("no such host")

    def load_dataset(name: str) -> None:
        asked.append(name)
        assert config.HF_HUB_OFFLINE, "asked without retries"
        raise ConnectionError("cannot reach it")

    config = types.SimpleNamespace(HF_HUB_OFFLINE=False)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset, config=config))
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=Api))
    said = r"^--data.train rows/mine: no such file, and it cannot be had from the hub \(ConnectionError.*check the path, or"
    with pytest.raises(BadInput, match=said):
        resolve(DataConfig(train="rows/mine"))
    assert asked == ["rows/mine"] * 2
