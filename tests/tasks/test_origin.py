"""What stands under two names is found: a text with other options or punctuation, a data set in another's form."""

from __future__ import annotations

import pytest

from zofo.tasks import origin
from zofo.tasks.definition import Task, find, names


def test_a_text_is_its_words_whatever_its_task_makes_of_it() -> None:
    one = Task(name="own/a", template="Say: {{ input }}\n", label="output", options="options")
    other = Task(name="own/b", template="{{ text }} It was", label="kind", options=("good", "bad"))
    rows = (
        {"input": "It 's a  Fine film , still .", "output": "x", "options": ["x", "y"]},
        {"text": "it's a fine film, still", "kind": 0},
    )
    assert origin.text(one, rows[0]) == origin.text(other, rows[1]) == "it s a fine film still"
    short = {**rows[0], "input": "Thanks !"}
    assert origin.text(one, short) != origin.text(other, {**rows[1], "text": "thanks"}), (
        "short ones may agree by chance"
    )
    foreign = {**rows[0], "input": "très bien. Очень хорошо"}
    assert origin.text(one, foreign) == "très bien очень хорошо"


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("rte", "crossfit/glue-rte"), ("crossfit/superglue-rte", "crossfit/glue-rte"), ("sst2", "crossfit/rotten_tomatoes"),
        ("crossfit/glue-sst2", "sst2"), ("squad", "crossfit/squad-with_context"), ("crossfit/trec", "crossfit/trec-finegrained"),
        ("winogrande", "crossfit/wino_grande"), ("crossfit/unifiedqa:boolq", "boolq"), ("copa", "crossfit/superglue-copa"),
    ],
)  # fmt: skip
def test_one_data_set_under_two_names(name: str, same: str) -> None:
    assert origin.data_set(name) == origin.data_set(same)


def test_different_data_sets_stay_different() -> None:
    twins = {origin.data_set(name) for name in names() if name.startswith("crossfit/")}
    crossfit = [name for name in names() if name.startswith("crossfit/")]
    assert len(twins) == len(crossfit) - 2, "glue-sst2 and rotten_tomatoes, trec and trec-finegrained"
    assert origin.data_set("own/rte") is None and find("rte").name == "rte"
