"""Which answers a row can have, and which of them its label means."""

from __future__ import annotations

from typing import Any

import pytest

from zofo.errors import BadInput
from zofo.tasks.answers import UNKNOWN, Answers, answers, fault, label_text, reach
from zofo.tasks.definition import Task

WHERE = "mine.jsonl, row 7"
FIXED = Task(name="t", choices=("No", "Yes", "Maybe"))
LISTED = Task(name="t", options="options")
FIELDS = Task(name="t", options=("one", "two"))
TEXT = Task(name="t", metrics=("f1",))


def right(task: Task, label: Any, **row: Any) -> tuple[int, ...]:
    return answers(task, {task.label: label, **row}, WHERE).right


@pytest.mark.parametrize("label", [1, "1", 1.0, "Yes", ["Yes"], [1], ["1"], [1.0]])
def test_a_label_is_a_number_or_the_text_of_a_choice(label: Any) -> None:
    assert answers(FIXED, {"label": label}, WHERE) == Answers(("No", "Yes", "Maybe"), (1,))


def test_a_list_of_labels_is_all_that_is_right_in_its_order_and_once() -> None:
    assert right(FIXED, ["Maybe", "Yes", 2, "Maybe"]) == (2, 1)
    assert right(LISTED, ("b", "c"), options=["a", "b", "c"]) == (1, 2)


def test_labels_say_what_the_field_holds_instead() -> None:
    task = FIXED.model_copy(update={"labels": ("A", 7, "1")})
    assert [right(task, value) for value in ("A", 7, "7", "1", 1)] == [(0,), (1,), (1,), (2,), (2,)]
    for value in ("No", 0, "0"):
        with pytest.raises(BadInput, match=r"field 'label' is .* one of A, 7, 1"):
            right(task, value)


def test_a_text_that_is_a_choice_is_that_choice_though_it_looks_like_a_number() -> None:
    assert right(LISTED, "2", options=["1", "2", "3"]) == (1,)
    assert right(LISTED, 2, options=["1", "2", "3"]) == (1,), "a number means the same in JSON as in a table"
    assert right(LISTED, 2, options=["a", "b", "c"]) == (2,), "where no choice is a number it counts from 0"


@pytest.mark.parametrize("value", [1, "1", 1.0, 2, "2 "])
def test_a_label_that_is_one_choices_text_and_anothers_number_is_refused(value: Any) -> None:
    task = Task(name="t", choices=("1", "2", "3"))
    with pytest.raises(BadInput, match=r"the text of choice \d and the number of choice \d; say which with `labels:`"):
        right(task, value)
    assert right(task.model_copy(update={"labels": (0, 1, 2)}), value) == (int(value),)
    assert right(task.model_copy(update={"labels": (1, 2, 3)}), value) == (int(value) - 1,)
    assert right(Task(name="t", choices=("0", "1", "2")), value) == (int(value),), "both mean the same"


def test_options_are_a_list_in_a_field_or_a_field_each() -> None:
    assert answers(LISTED, {"label": 0, "options": ["a", 2]}, WHERE).choices == ("a", "2")
    assert answers(FIELDS, {"label": 1, "one": "a", "two": "b"}, WHERE) == Answers(("a", "b"), (1,))
    task = FIELDS.model_copy(update={"labels": ("1", "2")})
    assert right(task, "2", one="a", two="b") == (1,)


def test_a_dotted_name_reaches_into_a_field() -> None:
    row = {"answers": {"text": ["x", "y"], "deep": {"er": 3}}, "a.b": 1, "a": {"b": 2}}
    assert reach(row, "answers.text") == ["x", "y"] and reach(row, "answers.deep.er") == 3
    assert reach(row, "a.b") == 1, "a field of that very name comes first"
    for name in ("answers.none", "none.text", "answers.text.x"):
        with pytest.raises(KeyError):
            reach(row, name)


def test_dotted_labels_and_options_are_read() -> None:
    task = Task(name="t", options="choices.text", label="key.at")
    assert right(task.model_copy(update={"label": "gold"}), "b", choices={"text": ["a", "b"]}) == (1,)
    assert answers(task, {"choices": {"text": ["a", "b"]}, "key": {"at": 1}}, WHERE).right == (1,)


def test_free_answers_are_one_text_or_all_that_are_accepted() -> None:
    assert answers(TEXT, {"label": "Paris"}, WHERE) == Answers(("Paris",), (0,))
    assert answers(TEXT, {"label": 42}, WHERE) == Answers(("42",), (0,))
    assert answers(TEXT, {"label": ["Paris", "the city"]}, WHERE) == Answers(("Paris", "the city"), (0, 1))


BAD_LABELS = [
    3,
    -1,
    "3",
    "-1",
    "yes",
    "",
    " ",
    1.5,
    3.0,
    float("inf"),
    None,
    True,
    False,
    [],
    [None],
    [True],
    ["Yes", "yes"],
    {},
    "²",
    "9" * 5000,
]


@pytest.mark.parametrize("label", BAD_LABELS, ids=lambda label: repr(label)[:12])
def test_a_label_that_is_no_choice_is_bad_input_with_its_place(label: Any) -> None:
    with pytest.raises(BadInput, match=r"mine.jsonl, row 7: field 'label' is .*one of 0, 1, 2, No, Yes, Maybe"):
        right(FIXED, label)


def test_a_long_list_of_labels_is_not_written_out() -> None:
    with pytest.raises(BadInput, match=r"0, 1, .*, 11 \.\.\.$"):
        right(LISTED, "none", options=[f"option {k}" for k in range(40)])


@pytest.mark.parametrize("task", [FIXED, LISTED, TEXT], ids=["fixed", "options", "text"])
def test_a_missing_label_is_named_with_the_fields_that_are_there(task: Task) -> None:
    with pytest.raises(BadInput, match=r"mine.jsonl, row 7: no field 'label'; fields of this row: options, text"):
        answers(task, {"text": "x", "options": ["a", "b"]}, WHERE)


@pytest.mark.parametrize(("task", "name"), [(LISTED, "options"), (FIELDS, "two")])
def test_a_missing_field_of_options_is_named(task: Task, name: str) -> None:
    with pytest.raises(BadInput, match=f"mine.jsonl, row 7: no field '{name}'; fields of this row: label, one"):
        answers(task, {"label": 0, "one": "a"}, WHERE)


@pytest.mark.parametrize("options", [None, [], ["one"], "ab", 3, {"a": 1, "b": 2}])
def test_fewer_than_two_options_are_bad_input(options: Any) -> None:
    with pytest.raises(BadInput, match=r"mine.jsonl, row 7: field 'options' is no list of two options or more"):
        right(LISTED, 0, options=options)


@pytest.mark.parametrize("option", [None, "", "  ", ["b"], {}])
def test_an_option_that_is_no_text_is_bad_input_that_names_its_field(option: Any) -> None:
    with pytest.raises(BadInput, match=r"mine.jsonl, row 7: .*'options'"):
        right(LISTED, 0, options=["a", option])
    with pytest.raises(BadInput, match=r"mine.jsonl, row 7: .*'two'"):
        right(FIELDS, 0, one="a", two=option)


@pytest.mark.parametrize("label", [None, "", " \n", [], ["Paris", ""], [None], {"text": "Paris"}])
def test_an_empty_free_answer_is_bad_input(label: Any) -> None:
    with pytest.raises(BadInput, match=r"mine.jsonl, row 7: field 'label' is "):
        right(TEXT, label)


def test_a_conversation_has_one_answer_whatever_its_row_holds() -> None:
    assert answers(Task(name="t", chat="messages", metrics=("f1",)), {}, WHERE).right == (0,)


@pytest.mark.parametrize("task", [FIXED, LISTED, Task(name="t", choices=("nan", "inf"))])
@pytest.mark.parametrize("label", [float("nan"), ["No", float("nan")]])
def test_a_label_that_is_no_number_is_refused_though_a_choice_may_be_called_so(task: Task, label: Any) -> None:
    with pytest.raises(BadInput, match=r"mine.jsonl, row 7: field 'label' is NaN; mend or drop the row"):
        right(task, label, options=["nan", "b"])


@pytest.mark.parametrize("label", [float("nan"), ["Paris", float("nan")]])
def test_a_free_answer_that_is_no_number_is_refused(label: Any) -> None:
    with pytest.raises(BadInput, match=r"mine.jsonl, row 7: field 'label' is .*nan"):
        right(TEXT, label)


def test_a_float_without_a_fraction_is_a_whole_number_and_keeps_a_name_of_its_own() -> None:
    assert [label_text(value) for value in (1.0, 1, " 1 ", 1.5, "1.0")] == ["1", "1", "1", "1.5", "1.0"]
    task = Task(name="t", choices=("a", "b"), labels=(1, 2))
    assert [right(task, value) for value in (1.0, 2.0, 2)] == [(0,), (1,), (1,)]
    old = Task(name="t", choices=("1", "1.0"), labels=("1", "1.0"))
    assert (right(old, 1), right(old, 1.0)) == ((0,), (1,)), "a run made before keeps its classes"


def test_a_truth_value_of_json_is_the_label_that_its_word_names() -> None:
    for labels in (("false", "true"), ("False", "True")):
        task = Task(name="t", choices=("no", "yes"), labels=labels)
        assert (right(task, False), right(task, True)) == ((0,), (1,))


def test_what_is_wrong_with_a_value_where_text_is_wanted() -> None:
    wrong = {"null": None, "NaN": float("nan"), "a list": ["x"], "an object": {"text": "x"}}
    assert [fault(value) for value in wrong.values()] == list(wrong)
    assert {fault(value) for value in ("", "nan", 0, 1.5, float("inf"), True)} == {""}


@pytest.mark.parametrize(
    ("more", "row", "choices"),
    [
        ({"choices": ("1", "0")}, {}, ("1", "0")),
        ({"options": "ways"}, {"ways": ["a", "b", "c"]}, ("a", "b", "c")),
        ({"metrics": ("f1",)}, {}, ("x",)),
    ],
)
def test_an_answer_that_is_to_be_predicted_leaves_the_choices(more: Any, row: Any, choices: Any) -> None:
    """A stand-in that is a label could be one choice's text and another's number."""
    task = Task(name="t", **more)
    assert answers(task, {**row, "label": UNKNOWN}, "x") == Answers(choices, (0,))
