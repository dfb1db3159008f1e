from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from zofo.errors import BadInput
from zofo.tasks.definition import MAX_TEMPLATE, Task, dump, find, names, read

GOOD = {
    "name": "mine", "about": "a test", "template": "{{ text }} It was", "template_free": "{{ text }}",
    "choices": ["bad", "good"], "folder": "mine",
}  # fmt: skip


def written(where: Path, **changes: object) -> str:
    path = where / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes))
    return str(path)


def test_both_tasks_ship_and_read() -> None:
    assert names() == ["reviews", "sst2"]
    for name in names():
        task = find(name)
        assert task.name == name and task.choices == ("terrible", "great") and task.about


def test_a_task_is_read_from_its_file_and_is_frozen(tmp_path: Path) -> None:
    task = find(written(tmp_path))
    assert task == Task(**GOOD)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frozen"):
        task.name = "other"  # type: ignore[misc]


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean 'sst2'"):
        find("sst-2")
    with pytest.raises(BadInput, match="choose one of: reviews, sst2"):
        find("qqqqqqq")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chioces": ["a", "b"]}, "did you mean 'choices'"),
        ({"choices": ["one"]}, "choices"),
        ({"choices": ["same", "same"]}, "each another"),
        ({"choices": ["", "x"]}, "each another"),
        ({"metric": "bleu"}, "metric"),
        ({"folder": "../secrets"}, "folder"),
        ({"folder": "/etc"}, "folder"),
        ({"name": "a/b"}, "name"),
        ({"template": "x" * (MAX_TEMPLATE + 1)}, "template"),
        ({"validation": "file", "test_file": "validation"}, "both"),
        ({"hub": {"id": "a/b", "trust_remote_code": True}}, "hub.trust_remote_code"),
    ],
)
def test_a_wrong_definition_is_bad_input_that_says_what(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        find(written(tmp_path, **changes))


@pytest.mark.parametrize(
    "text", ["- a\n- list", "a: [", "!!python/object/apply:os.getcwd []", "x" * 70000, "\x00: a", "about: 2001-99-99"]
)
def test_a_file_that_is_no_definition_is_bad_input(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(BadInput):
        find(path)


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        find(tmp_path / "none.yaml")


def test_a_definition_written_out_reads_back(tmp_path: Path) -> None:
    for name in names():
        (tmp_path / "task.yaml").write_text(dump(find(name)), encoding="utf-8")
        assert read(tmp_path / "task.yaml", "x") == find(name)
