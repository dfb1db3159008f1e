"""Templates put a row's fields into text, in a sandbox that can do nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from zofo.errors import BadInput
from zofo.tasks.definition import Task, find
from zofo.tasks.template import MAX_TEXT, fields, fill, plain_fields


def task(template: str, free: str | None = "{{ text }}", **more: Any) -> Task:
    return Task(name="t", template=template, template_free=free, **({"choices": ("a", "b")} | more))


def filled(template: str, asked: str = "mine.jsonl, row 1", **row: Any) -> str:
    return fill(task(template), template, row, asked)


def test_the_shipped_tasks_render_with_and_without_the_hard_prompt() -> None:
    for name in ("sst2", "reviews"):
        row, made = {"sentence": "a <b>fine</b> & quiet film ", "label": 1}, find(name)
        assert fill(made, made.template, row, "x") == "a <b>fine</b> & quiet film It was"
        assert fill(made, made.free, row, "x") == "a <b>fine</b> & quiet film"


def test_what_a_row_holds_is_text_and_never_a_template() -> None:
    assert filled("{{ text }}", text="{{ 7 * 7 }} {% raw %}") == "{{ 7 * 7 }} {% raw %}"


def test_a_newline_at_the_end_is_kept() -> None:
    assert filled("{{ text }}\n", text="x") == "x\n"


def test_before_and_after_part_a_text_at_its_first_mark() -> None:
    both = "{{ text | before('_') }}<{{ text | after('_') }}>"
    assert filled(both, text="one _ two _ three") == "one < two _ three>"
    assert filled(both, text="no mark") == "no mark<>"
    assert filled(both, text="_ first") == "< first>"
    assert filled("{{ text | before('1') }}", text=2315) == "23"


def test_a_missing_field_is_named_with_the_row() -> None:
    with pytest.raises(BadInput, match=r"mine.jsonl, row 7: .*'text'.*choose one of: other"):
        filled("{{ text }}", asked="mine.jsonl, row 7", other=1)
    with pytest.raises(BadInput, match=r"row 1: .*deeper"):
        filled("{{ text.deeper }}", text={"deep": 1})


def test_a_missing_field_is_told_without_the_choice_among_the_fields() -> None:
    with pytest.raises(BadInput) as error:
        filled("{{ choice }} {{ text }}", choice="a", other=1)
    assert error.value.do == "choose one of: other"


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
        "{{ text | before.__class__ }}",
        "{{ before('a', 'b') }}",
        "{{ text | before(1) }}",
        "{{ range(5) }}",
        "{{ range }}",
        "{{ lipsum }}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
        "{{ self.__init__ }}",
        "{{ broken",
    ],
)
def test_the_sandbox_refuses(template: str) -> None:
    with pytest.raises(BadInput):
        filled(template, text="x")


def test_a_long_text_is_refused_piece_by_piece() -> None:
    with pytest.raises(BadInput, match="longer than"):
        filled("{% for a in text %}{% for b in text %}{{ text }}{% endfor %}{% endfor %}", text="y" * 5000)
    with pytest.raises(BadInput, match="longer than"):
        filled("{{ text }}", text="y" * (MAX_TEXT + 1))
    assert len(filled("{{ text }}", text="y" * MAX_TEXT)) == MAX_TEXT


def test_fields_are_those_of_all_templates_and_options() -> None:
    made = task(
        "{{ z }} {{ b.x }}", "{{ b.x }} {{ a | trim }} {% for c in d %}{{ c }}{% endfor %}", template_task="{{ y }}",
        answer="{{ choice }} {{ rest }}", choices=(), options=("one", "two"),
    )  # fmt: skip
    assert fields(made) == ("a", "b", "d", "one", "rest", "two", "y", "z")
    assert fields(task("{{ x }}", None, choices=(), options="listed")) == ("listed", "x")
    assert fields(task("{{ x }}", None, label="gold")) == ("x",), "the label says nothing of which row it is"


def test_a_choice_is_a_field_only_where_the_prompt_reads_it() -> None:
    assert fields(task("{{ choice }}", "{{ x }}")) == ("choice", "x")
    assert fields(task("{{ x }}", None, answer="{{ choice }}")) == ("x",)


def test_the_only_field_of_a_chat_task_is_its_messages() -> None:
    assert fields(Task(name="t", chat="messages", metrics=("f1",))) == ("messages",)


@pytest.mark.parametrize("part", ["template", "template_free", "template_task", "answer"])
def test_a_broken_template_is_bad_input_wherever_it_stands(part: str) -> None:
    given = {"template": "{{ x }}", "choices": ("a", "b")} | {part: "{{"}
    with pytest.raises(BadInput, match="broken at line 1"):
        fields(Task(name="t", **given))


def test_a_template_without_a_field_is_bad_input() -> None:
    with pytest.raises(BadInput, match="reads no field"):
        fields(task("x", "plain", answer="{{ choice }} {{ rest }}"))


@pytest.mark.parametrize(
    ("template", "plain"),
    [
        ("{{ b }} {{ a | trim | lower }}: {{ choice }}", ("a", "b", "text")),
        ("{{ a | join(' ') }} {{ b.c }} {{ d[0] }} {{ e | first }}", ("text",)),
        ("{% for a in b %}{{ a }}{% endfor %}{% if c %}{{ d }}{% endif %}", ("d", "text")),
        ("{% set text = text.body %}{{ text }}", ("text",)),
        ("{{ a | default('none') }}", ("a", "text")),
    ],
)
def test_the_fields_that_a_template_writes_as_they_are_must_be_texts(template: str, plain: tuple[str, ...]) -> None:
    assert plain_fields(task(template)) == plain
    assert plain_fields(task(template, free="{{ text[0] }}")) == tuple(name for name in plain if name != "text")
    assert plain_fields(Task(name="t", template="{{ messages }}", chat="messages", metrics=())) == ()
