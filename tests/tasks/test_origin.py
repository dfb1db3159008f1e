"""What stands under two names is found: a text with other options or punctuation."""

from __future__ import annotations

from zofo.tasks import origin
from zofo.tasks.definition import Task


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
