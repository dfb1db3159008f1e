"""Tasks of MetaICL that are on the hub alone: every name of the lists has a kind, and files of its own there."""

from __future__ import annotations

from typing import Any

import pytest

from zofo.tasks import definition, files, metaicl, mixture

ROW = {"task": "wiki_qa", "input": "i", "output": "true", "options": ["false", "true"]}


def test_every_task_of_the_papers_lists_is_defined_or_on_the_hub() -> None:
    for name in mixture.names():
        _, _, listing = mixture.listed(name, "")
        for entry in (*listing.train, *listing.test):
            assert (entry in definition.names()) != metaicl.on_hub(entry), entry


def test_a_side_has_its_own_files_and_a_training_task_no_test_file() -> None:
    task = metaicl.from_hub("crossfit/unifiedqa-drop", "train")
    assert task.hub is not None and task.hub.files == {
        "train": "data/unifiedqa:drop/unifiedqa:drop_16384_100_train.jsonl"
    }
    assert task.hub.test is None and task.kind == "text"
    task = metaicl.from_hub("crossfit/wiki_qa", "test")
    assert task.hub is not None and set(task.hub.files) == {"train", "test"} and task.metrics[0] == "macro_f1"


def test_rows_come_from_the_hubs_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load_dataset(*words: Any, **named: Any) -> list[dict[str, Any]]:
        asked.append((words, named))
        return [ROW]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(files, "reachable", lambda id: True)
    found = files.load(metaicl.from_hub("crossfit/wiki_qa", "test"))
    assert found.train == [ROW] == found.test and found.validation is None
    assert [named["split"] for _, named in asked] == ["train", "test"]
    assert asked[1][1]["data_files"]["test"] == "data/wiki_qa/wiki_qa_16_100_test.jsonl"


def test_a_list_is_taken_from_a_hub_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "reachable", lambda id: True)
    found = mixture.find("class-to-class-paper")
    assert (len(found.train), len(found.test)) == (43, 20)
    assert found.train[0].name.startswith("crossfit/") and all(task.kind == "options" for _, task in found.sides())
