"""Mixtures: what ships, what a YAML or a folder becomes, and bad input in one line."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from zofo.config import DataConfig
from zofo.errors import BadInput
from zofo.tasks import definition, files, mixture
from zofo.tasks.definition import Task
from zofo.tasks.mixture import Mixture, asked_for, dump, find, reread

HERE = {"class-to-class": (20, 7), "non-class-to-class": (3, 7), "qa-to-qa": (4, 5), "non-qa-to-qa": (10, 5)}
PAPER = {"class-to-class": (43, 20), "non-class-to-class": (37, 20), "qa-to-qa": (36, 22), "non-qa-to-qa": (33, 22)}

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub does not answer."""
    monkeypatch.setattr(files, "reachable", lambda id: False)


@pytest.fixture
def write(mixed: Path, tmp_path: Path) -> Write:
    """Write a mixture's YAML beside links to the toy tasks' folders."""

    def written(text: str) -> Path:
        for folder in mixed.parent.iterdir():
            if folder.is_dir():
                (tmp_path / folder.name).symlink_to(folder)
        (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "m.yaml"

    return written


def test_the_settings_of_metaicl_ship_at_both_sizes() -> None:
    assert mixture.names() == sorted([*HERE, *(f"{name}-paper" for name in HERE)])
    for name, sizes in HERE.items():
        found = find(name)
        assert (len(found.train), len(found.test)) == sizes
        assert not {t.name for t in found.train} & {t.name for t in found.test}
    for name, sizes in PAPER.items():
        _, _, listing = mixture.listed(f"{name}-paper", "")
        assert (len(listing.train), len(listing.test)) == sizes


def test_class_to_class_is_of_classification_tasks_alone() -> None:
    found = find("class-to-class")
    assert found.kind == "classification" and all(task.kind != "text" for _, task in found.sides())


def test_tasks_that_share_sentences_stand_on_one_side() -> None:
    """`Beware of common origin` of the data's SOURCES.md."""
    together = [
        {"crossfit/glue-sst2", "crossfit/rotten_tomatoes", "sst2"},
        {"crossfit/trec", "crossfit/trec-finegrained"},
    ]
    for name in HERE:
        found = find(name)
        train, test = ({task.name for task in side} for side in (found.train, found.test))
        assert not any(group & train and group & test for group in together)


def test_a_list_of_the_papers_names_every_task_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOFO_DATA", raising=False)
    with pytest.raises(BadInput, match=r"--mixture qa-to-qa-paper: 51 of its 58 tasks cannot be had: biomrc, .*, wiqa"):
        find("qa-to-qa-paper")


def test_a_task_in_metaicls_form_under_zofo_data_is_taken_by_its_name(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crossfit").mkdir()
    (tmp_path / "crossfit" / "wiki_qa").symlink_to(mixed.parent / "a")
    (tmp_path / "m.yaml").write_text("[crossfit/wiki_qa]", encoding="utf-8")
    monkeypatch.setenv("ZOFO_DATA", str(tmp_path))
    (task,) = find(tmp_path / "m.yaml").train
    assert task.name == "crossfit/wiki_qa" and task.kind == "options"


def test_a_plain_list_is_of_training_tasks(write: Write) -> None:
    found = find(write("[a, reviews, ./free]"))
    assert [task.name for task in found.train] == ["own/a", "reviews", "own/free"] and not found.test
    assert found.name == "m" and found.train[1] == definition.find("reviews")


def test_a_mapping_has_sides(mixed: Path) -> None:
    found = find(mixed)
    assert [(side, task.name) for side, task in found.sides()] == [
        ("train", "own/a"), ("train", "own/b"), ("train", "own/four"), ("train", "own/free"), ("test", "own/c"), ("test", "own/d"),
    ]  # fmt: skip
    assert found.about == "Toy tasks." and found.kind == "any"


def test_paths_are_taken_from_the_files_folder_wherever_one_works(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mixed.parent)
    here = find(mixed.name)
    monkeypatch.chdir("/")
    assert find(os.path.relpath(mixed)) == here == find(mixed)


def test_a_folder_of_folders_is_a_mixture_of_training_tasks(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "all" / name).mkdir(parents=True)
        row = json.dumps({"input": "i", "output": "x", "options": ["x", "y"]}).encode()
        for part in ("train", "test"):
            (tmp_path / "all" / name / f"{part}.jsonl.gz").write_bytes(gzip.compress(row))
    found = find(tmp_path / "all")
    assert [task.name for task in found.train] == ["own/one", "own/two"] and found.name == "all" and not found.test
    assert mixture.is_one(tmp_path / "all") and not mixture.is_one(tmp_path)


def test_any_file_name_makes_a_name(tmp_path: Path) -> None:
    for word, name in (("_my list", "my-list"), ("\u00e4\u00f6", "mixture"), ("v1.2_a", "v1.2_a")):
        (tmp_path / f"{word}.yaml").write_text("[reviews]", encoding="utf-8")
        assert find(tmp_path / f"{word}.yaml").name == name


def test_a_yaml_is_told_from_a_tasks(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("name: t\ntemplate: '{{ text }}'\n", encoding="utf-8")
    assert (
        mixture.is_one(mixed)
        and not mixture.is_one(tmp_path / "task.yaml")
        and not mixture.is_one(tmp_path / "no.yaml")
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a, b, a]", r"train task 3, a: it is listed twice \(also train task 1\)"),
        ("train: [a, b]\ntest: [c, b]", r"test task 2, b: it stands on both sides \(also train task 2\)"),
        ("[a, ./a]", r"train task 2 \(./a\): its name is own/a, which train task 1 \(a\) has too"),
        ("train: [a]\nverify: [b]", r"m\.yaml, verify: no such key; choose one of: about, kind, test, train"),
        ("train: [a, 3]", r"m\.yaml, train\.1: input should be a valid string"),
        ("train: a", r"m\.yaml, train: input should be a valid tuple"),
        ("about: nothing", r"m\.yaml: it lists no task"),
        ("", r"m\.yaml: it lists no task"),
        ("[a, revews]", r"train task 2 \(revews\): --task revews: no such task; did you mean 'reviews'"),
        ("[a, gone.yaml]", r"train task 2 \(gone\.yaml\): --task gone\.yaml: no such file"),
        (
            "[a, crossfit/trecc]",
            r"train task 2 \(crossfit/trecc\): --task crossfit/trecc: no such task; did you mean 'crossfit/trec'",
        ),
        (
            "[a, ./gone]",
            r"train task 2 \(./gone\): --task ./gone: no such task, and no such folder; `zofo ls tasks` lists",
        ),
        ("[a: 1", r"not readable as YAML"),
        ("kind: other\ntrain: [a]", r"m\.yaml, kind: input should be 'any' or 'classification'"),
    ],
)
def test_bad_lists_name_the_entry(write: Write, text: str, told: str) -> None:
    with pytest.raises(BadInput, match=told) as error:
        find(write(text))
    assert "\n" not in str(error.value)


def test_bad_files_of_a_task_name_the_task_too(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "train.jsonl").write_text("", encoding="utf-8")
    (tmp_path / "m.yaml").write_text("[one]", encoding="utf-8")
    with pytest.raises(BadInput, match=r"train task 1 \(one\): --data\.train .*one/train\.jsonl: no rows"):
        find(tmp_path / "m.yaml")
    with pytest.raises(BadInput, match=r"no such mixture, YAML file or folder; did you mean 'class-to-class'"):
        find("class-to-clas")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="the folder holds no folder"):
        find(tmp_path / "empty")


def test_a_mixture_is_asked_for_alone(mixed: Path) -> None:
    assert isinstance(asked_for(DataConfig(mixture=str(mixed))), Mixture)
    assert isinstance(asked_for(DataConfig(task="reviews")), Task)
    for other in ({"task": "reviews"}, {"train": "x.csv"}, {"text_column": "text"}):
        with pytest.raises(BadInput, match="brings tasks of its own; give one of the two"):
            asked_for(DataConfig(mixture=str(mixed), **other))  # type: ignore[arg-type]


def test_a_mixture_comes_back_from_what_a_run_keeps(mixed: Path, tmp_path: Path) -> None:
    found = find(mixed)
    (tmp_path / "task.yaml").write_text(dump(found), encoding="utf-8")
    assert reread(tmp_path / "task.yaml", "run r") == found
    task = definition.find("reviews")
    (tmp_path / "task.yaml").write_text(definition.dump(task), encoding="utf-8")
    assert reread(tmp_path / "task.yaml", "run r") == task
    (tmp_path / "task.yaml").write_text("train: []\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"run r: task\.yaml is damaged"):
        reread(tmp_path / "task.yaml", "run r")
