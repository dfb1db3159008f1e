from __future__ import annotations

import pytest

from zofo.errors import BadInput
from zofo.tasks.definition import Task, find
from zofo.tasks.template import MAX_TEXT, fields, render


def task(template: str, free: str = "{{ text }}") -> Task:
    return Task(name="t", about="", template=template, template_free=free, choices=("a", "b"))


def test_the_shipped_tasks_render_with_and_without_the_hard_prompt() -> None:
    for name in ("sst2", "reviews"):
        row = {"sentence": "a <b>fine</b> & quiet film ", "label": 1}
        assert render(find(name), row, True) == "a <b>fine</b> & quiet film It was"
        assert render(find(name), row, False) == "a <b>fine</b> & quiet film"


def test_what_a_row_holds_is_text_and_never_a_template() -> None:
    assert render(task("{{ text }}"), {"text": "{{ 7 * 7 }} {% raw %}"}) == "{{ 7 * 7 }} {% raw %}"


def test_a_newline_at_the_end_is_kept() -> None:
    assert render(task("{{ text }}\n"), {"text": "x"}) == "x\n"


def test_a_missing_field_is_named_with_the_row() -> None:
    with pytest.raises(BadInput, match=r"task t, row 7: .*'text'.*fields of this row: other"):
        render(task("{{ text }}"), {"other": 1}, number=7)
    with pytest.raises(BadInput, match="deeper"):
        render(task("{{ text.deeper }}"), {"text": {"deep": 1}})


@pytest.mark.parametrize(
    "template",
    [
        "{{ text.__class__ }}",
        "{{ text['__class__'] }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ text.upper() }}",
        "{{ 'a{0.__class__}'.format(text) }}",
        "{{ 'a' * 10000000000 }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{{ 1 / 0 }}",
        "{{ text | center(10000000000) }}",
        "{{ text | attr('__class__') }}",
        "{{ range(5) }}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
        "{{ self.__init__ }}",
        "{{ broken",
    ],
)
def test_the_sandbox_refuses(template: str) -> None:
    with pytest.raises(BadInput):
        render(task(template), {"text": "x"})


def test_a_long_text_is_refused_piece_by_piece() -> None:
    row = {"text": "y" * 5000}
    with pytest.raises(BadInput, match="longer than"):
        render(task("{% for a in text %}{% for b in text %}{{ text }}{% endfor %}{% endfor %}"), row)
    with pytest.raises(BadInput, match="longer than"):
        render(task("{{ text }}"), {"text": "y" * (MAX_TEXT + 1)})


def test_fields_are_those_of_the_prompt_free_template() -> None:
    assert fields(task("x", "{{ b.x }} {{ a | trim }} {% for c in d %}{{ c }}{% endfor %}")) == ("a", "b", "d")
    with pytest.raises(BadInput, match="no field"):
        fields(task("x", "plain"))
    with pytest.raises(BadInput, match="broken"):
        fields(task("x", "{{"))
