"""A task says in one YAML file what it is; what is wrong in it is said with its key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from zofo.errors import BadInput
from zofo.tasks.definition import (
    DEFINITIONS,
    FAMILIES,
    FITS,
    MAX_TEMPLATE,
    Task,
    dump,
    find,
    metrics,
    names,
    read,
    validated,
)
from zofo.yamlfile import MAX_FILE

ROOT = Path(__file__).parents[2]
GOOD = {
    "name": "mine", "about": "a test", "template": "{{ text }} It was", "template_free": "{{ text }}",
    "choices": ["bad", "good"], "folder": "mine",
}  # fmt: skip
MAIN = [
    "boolq", "cb", "copa", "drop", "multirc", "record", "reviews", "rte", "squad", "sst2", "wic", "winogrande", "wsc",
]  # fmt: skip


def written(where: Path, **changes: object) -> str:
    path = where / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes))
    return str(path)


def test_every_shipped_task_reads_under_its_name() -> None:
    assert [name for name in names() if "/" not in name] == MAIN
    for name in names():
        task = find(name)
        assert task.name == name and task.about and task.metrics


def test_every_definition_is_in_the_built_package() -> None:
    import tomllib

    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["zofo"]
    shipped = {path for pattern in globs for path in (ROOT / "zofo").glob(pattern)}
    missing = {*DEFINITIONS.glob("*.yaml"), *FAMILIES.glob("*.yaml")} - shipped
    assert not missing, "an installed zofo would not know these tasks"


def test_a_task_is_read_from_its_file_and_is_frozen(tmp_path: Path) -> None:
    task = find(written(tmp_path))
    assert task == Task(**GOOD)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frozen"):
        task.name = "other"  # type: ignore[misc]


def test_the_kind_says_where_the_answers_come_from() -> None:
    assert Task(name="t", choices=("a", "b")).kind == "fixed"
    assert Task(name="t", options="options").kind == "options"
    assert Task(name="t", options=("one", "two")).kind == "options"
    assert Task(name="t", metrics=("f1",)).kind == "text"


def test_without_a_second_template_the_first_is_the_free_one_too() -> None:
    assert Task(name="t", template="{{ x }}?", choices=("a", "b")).free == "{{ x }}?"
    assert Task(name="t", template="{{ x }}?", template_free="{{ x }}", choices=("a", "b")).free == "{{ x }}"


def test_every_metric_fits_a_kind_and_no_kind_takes_another() -> None:
    given = {"fixed": {"choices": ("a", "b")}, "options": {"options": "o"}, "text": {}}
    assert {name for fitting in FITS.values() for name in fitting} == set(metrics())
    for kind, parts in given.items():
        assert Task(name="t", metrics=FITS[kind], **parts).metrics == FITS[kind]
        for name in set(metrics()) - set(FITS[kind]):
            with pytest.raises(ValueError, match=f"{name} is no metric of a task with"):
                Task(name="t", metrics=(name,), **parts)


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean 'sst2'"):
        find("sst-2")
    with pytest.raises(BadInput, match="did you mean 'crossfit/trec'"):
        find("crossfit/trek")
    with pytest.raises(BadInput, match="choose one of: boolq, cb, copa"):
        find("qqqqqqq")


@pytest.mark.parametrize(
    "name", ["crossfit", "crossfit/", "/trec", "sst2/trec", "crossfit/../sst2", "../definitions/sst2", ""]
)
def test_a_part_of_a_name_or_a_path_is_no_name(name: str) -> None:
    with pytest.raises(BadInput, match="no such task"):
        find(name)


def test_a_family_gives_its_members_what_all_share_and_what_their_kind_has() -> None:
    trec, arc, drop = find("crossfit/trec"), find("crossfit/ai2_arc"), find("crossfit/drop")
    assert (trec.name, trec.folder) == ("crossfit/trec", "crossfit/trec")
    assert (trec.kind, trec.metrics, trec.shorten) == ("options", ("macro_f1", "accuracy"), "input")
    assert (arc.kind, arc.metrics, arc.shorten) == ("options", ("accuracy",), None)
    assert (drop.kind, drop.metrics, drop.options) == ("text", ("f1", "em"), ())
    assert {task.template for task in (trec, arc, drop)} == {"{{ input }}\n"}
    assert {task.note for task in (trec, arc, drop)} == {trec.note}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chioces": ["a", "b"]}, "did you mean 'choices'"),
        ({"metric": "bleu"}, "did you mean 'metrics'"),
        ({"choices": ["one"]}, "key choices: .*two texts or more"),
        ({"choices": ["same", "same"]}, "all different"),
        ({"choices": ["", "x"]}, "all different"),
        ({"labels": [False, True]}, "key labels: yes, no, .* are truth values in yaml: put quotes around them"),
        ({"choices": [False, True]}, "key choices: .* put quotes around them"),
        ({"options": "options"}, "choices and options cannot both be given"),
        ({"labels": ["0", "1", "2"]}, "labels must be as many as choices"),
        (
            {"choices": [], "options": ["a", "b"], "labels": [1]},
            "labels must be as many as choices, or as fields of options",
        ),
        ({"choices": [], "options": "list", "labels": ["A", "B"]}, "labels must be as many"),
        ({"metrics": ["bleu"]}, "key metrics"),
        ({"metrics": ["accuracy", "em"]}, "em is no metric of a task with choices"),
        ({"choices": [], "options": "o", "metrics": ["f1a"]}, "f1a is no metric of a task with options"),
        ({"choices": []}, "accuracy is no metric of a task with free answers"),
        ({"choices": [], "metrics": ["f1"], "objective": "classification"}, "classification needs choices or options"),
        ({"folder": "../secrets"}, "folder"),
        ({"folder": "/etc"}, "folder"),
        ({"folder": "a//b"}, "folder"),
        ({"packaged": "../definitions"}, "packaged"),
        ({"name": "a/b/c"}, "name"),
        ({"name": "../a"}, "name"),
        ({"template": ""}, "template"),
        ({"template": "x" * (MAX_TEMPLATE + 1)}, "template"),
        ({"template_task": "x" * (MAX_TEMPLATE + 1)}, "template_task"),
        ({"answer": "x" * (MAX_TEMPLATE + 1)}, "answer"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"validation": "file", "test_file": "validation"}, "both"),
        ({"hub": {"id": "a/b", "trust_remote_code": True}}, "hub.trust_remote_code"),
        ({"files": {"test": "x.jsonl"}}, "files.train"),
    ],
)
def test_a_wrong_definition_is_bad_input_that_says_what(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        find(written(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- list", "not a mapping"),
        ("x" * 70000, "not a mapping"),
        ("# " + "x" * MAX_FILE, "larger than"),
        ("a: [", "not readable as YAML"),
        ("!!python/object/apply:os.getcwd []", "not readable as YAML"),
        ("\x00: a", "not readable as YAML"),
        ("about: 2001-99-99", "not readable as YAML"),
    ],
)
def test_a_file_that_is_no_definition_is_bad_input(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=said):
        find(path)


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        find(tmp_path / "none.yaml")


def test_own_files_are_looked_for_beside_the_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text("")
    given = written(tmp_path, files={"train": "rows/train.jsonl", "test": "someone/set"})
    monkeypatch.chdir("/")
    files = find(given).files
    assert files is not None and files.train == str(tmp_path.resolve() / "rows" / "train.jsonl")
    assert (files.test, files.validation) == ("someone/set", None), "what is not there is a hub id"


@pytest.mark.parametrize("name", names())
def test_a_definition_written_out_reads_back(tmp_path: Path, name: str) -> None:
    (tmp_path / "task.yaml").write_text(dump(find(name)), encoding="utf-8")
    assert read(tmp_path / "task.yaml", "x") == find(name)


def test_a_definition_with_everything_given_reads_back(tmp_path: Path) -> None:
    task = Task(
        name="t", template="ä {{ a }}\n", options=("a", "b"), labels=("1", 2), metrics=("f1", "em"), group="g",
        shorten="a", end=True, stop="end", files={"train": "x.csv"}, hub={"id": "a/b", "columns": {"a": "c"}},
    )  # fmt: skip
    (tmp_path / "task.yaml").write_text(dump(task), encoding="utf-8")
    assert read(tmp_path / "task.yaml", "x") == task


def test_words_that_yaml_takes_for_truth_values_are_labels_in_quotes_alone(tmp_path: Path) -> None:
    text = "name: t\nchoices: [bad, good]\nlabels: [{}]\n"
    (tmp_path / "t.yaml").write_text(text.format("no, yes"), encoding="utf-8")
    with pytest.raises(BadInput, match=r"key labels: .* put quotes around them"):
        find(tmp_path / "t.yaml")
    (tmp_path / "t.yaml").write_text(text.format("'no', 'yes'"), encoding="utf-8")
    assert find(tmp_path / "t.yaml").labels == ("no", "yes")
    assert validated({"name": "t", "choices": ["a", "b"], "labels": [0, "1"]}, "x").labels == (0, "1")
