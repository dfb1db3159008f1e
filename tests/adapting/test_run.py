"""`zofo.adapt` on a model, a run and a mixture; what cannot be done is said before the weights are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import zofo
from zofo import named
from zofo.adapting import base as bases
from zofo.adapting import draws, run, use
from zofo.adapting import folder as adapters
from zofo.adapting.base import Base
from zofo.adapting.plan import Plan
from zofo.errors import BadInput

QUICK: dict[str, Any] = {"shots": 1, "steps": 1, "draws": 2}


def task(folder: Path, name: str, counts: dict[str, int]) -> Path:
    place = folder / name
    place.mkdir(parents=True)
    for part, n in (("train", 1), ("test", 0)):
        rows = [
            {"input": f"{part} {c} {k}", "output": c, "options": list(counts)}
            for c, most in counts.items() for k in range(most if n else 2)
        ]  # fmt: skip
        (place / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return place


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """Three unseen tasks; the second has a class of one row."""
    names = {"hot": {"yes": 5, "no": 5}, "few": {"up": 5, "down": 2}, "cold": {"red": 4, "blue": 4, "green": 4}}
    for name, counts in names.items():
        task(tmp_path / "tasks", name, counts)
    file = tmp_path / "tasks" / "m.yaml"
    file.write_text("test: [./hot, ./few, ./cold]\n", encoding="utf-8")
    return file


@pytest.mark.usefixtures("cache")
def test_every_unseen_task_and_one_that_fails(
    folder: str, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(tmp_path / "tasks" / "few")
    task(tmp_path / "tasks", "few", {"up": 5, "down": 3})
    whole = draws.on_task

    def torn(base: Any, plan: Any, ready: Any, *rest: Any) -> Any:
        if ready.task.name == "own/few":
            raise MemoryError("none left")
        return whole(base, plan, ready, *rest)

    monkeypatch.setattr(draws, "on_task", torn)
    found = zofo.adapt(Path(folder), mixture=mixture, out=tmp_path / "out", shots=3, steps=2, draws=2, adapter__r=2)
    assert list(found["tasks"]) == ["own/hot", "own/few", "own/cold"]
    assert found["tasks"]["own/few"]["failed"] == "MemoryError: none left"
    assert (found["mean"]["tasks"], found["mean"]["of"], found["mean"]["after"]["n"]) == (2, 3, 2)
    cold = found["tasks"]["own/cold"]
    assert all(len(draw["rows"]) == 9 for draw in cold["draws"]) and cold["metric"] == "macro_f1"
    assert {path.name for path in (tmp_path / "out" / "own").iterdir()} == {"hot", "cold"}
    assert found["adapter"]["r"] == 2 and found["plan"]["lr"] > 0 and found["kind"] == "adapt"
    json.dumps(found)


@pytest.mark.usefixtures("cache")
def test_a_class_with_too_few_rows_is_told_before_anything_is_loaded(
    folder: str, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zofo.models.load", None)
    found = r"mixture=m, task own/few: shots=3: class 'down' of own/few has 2 training rows \(.*few/train.jsonl, row 7, and 1 more\), a draw takes 3; ask for at most 2"
    with pytest.raises(BadInput, match=found):
        zofo.adapt(Path(folder), mixture=mixture, out=tmp_path / "out", shots=3)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "no task was named for it; add task=NAME"),
        ({"task": "revews"}, "task=revews: no such task; did you mean 'reviews'?"),
        ({"task": "reviews", "shots": 0}, "shots=0: not 1 or more"),
        ({"task": "reviews", "steps": 0}, "steps=0: not 1 or more"),
        (
            {"task": "reviews", "shots": 100000},
            "class 'terrible' of reviews has .* training rows .*, a draw takes 100000",
        ),
        ({"task": "reviews", "mixture": "class-to-class"}, "a mixture names its tasks itself"),
        ({"mixture": "qa-to-qa", "data__test": "x.csv"}, "data__test=x.csv: a mixture names its tasks itself"),
        ({"mixture": "qa-to-qa", "data__text_column": "a"}, "data__text_column=a: a mixture names its tasks itself"),
        ({"task": "reviews", "data__train_rows": 9}, "data__train_rows=9: it has no effect"),
        ({"task": "reviews", "method__lr_p": 0.1}, "method__lr_p=0.1: it has no effect on adapting; give lr="),
        ({"task": "reviews", "method__warmup": 3}, "method__warmup=3: it has no effect on adapting; leave it out"),
        ({"task": "reviews", "adapter_r": 4}, "option adapter_r: no such option"),
        ({"mixture": "class-to-clas"}, "no such mixture"),
        ({"task": "reviews", "out": "."}, "it exists; name a new folder"),
        ({"task": "reviews", "start": "run"}, "is a model, it has no adapter"),
        ({"task": "reviews", "which": "last"}, "is a model, it has no checkpoints"),
        ({"task": "reviews", "shots": 2.0}, "shots=2.0: not 1 or more; give a whole number"),
        ({"task": "reviews", "adapter__kind": "prefix", "adapter__r": 4}, "adapter__r: it has no effect"),
    ],
)
def test_bad_input_is_said_before_the_weights_are_read(
    folder: str, options: dict[str, Any], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases.models, "load", lambda *_: pytest.fail("the weights were read"))
    with pytest.raises(BadInput, match=match):
        zofo.adapt(folder, **{"draws": 1, "data__test_rows": 4} | options)


def test_an_adapter_is_saved_only_where_asked(opened, folder: str, tmp_path: Path) -> None:
    found = zofo.adapt(folder, "reviews", data__test_rows=4, data__max_length=48, **QUICK)
    assert found["bytes"] is None and list(found["tasks"]) == ["reviews"]
    found = zofo.adapt(folder, "reviews", data__test_rows=4, data__max_length=48, out=str(tmp_path / "a"), **QUICK)
    assert found["bytes"] > 0 and (tmp_path / "a" / "zofo.json").is_file()


@pytest.mark.usefixtures("cache")
def test_an_adapter_of_a_mixtures_own_task_is_scored_on_the_task_and_rows_it_was_made_for(
    folder: str, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture.write_text("test: [./hot]\n", encoding="utf-8")
    monkeypatch.chdir(mixture.parent)
    record = zofo.adapt(folder, mixture="m.yaml", out=str(tmp_path / "b"), **QUICK)["tasks"]["own/hot"]
    monkeypatch.chdir(tmp_path)
    saved, found = adapters.find(tmp_path / "b" / "own" / "hot"), named.find(folder, "none")
    assert use.prepared(found, saved, {})[1].splits.record["parts"]["test"]["sha256"] == record["test"]["sha256"]
    other = str(mixture.parent / "cold" / "test.jsonl")
    ready = use.prepared(found, saved, {"data.test": other})[1]
    assert (ready.task.name, [row["output"] for row in ready.splits.test[:2]]) == ("own/hot", ["red", "red"])


@pytest.mark.usefixtures("cache")
def test_a_save_that_fails_loses_no_scores(
    folder: str, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.folder, "write", full)
    kept: list[dict[str, Any]] = []
    asked = run.Asked(folder, options={"data.task": str(mixture.parent / "hot")})
    found = run.alone(asked, Plan(**QUICK), tmp_path / "a", run.Quiet(), lambda held: kept.append(dict(held)))
    assert found["bytes"] is None and "No space left" in found["unsaved"] and kept[-1]["tasks"] == found["tasks"]
    assert [len(held["tasks"]["own/hot"]["draws"]) for held in kept] == [1, 2], "an interruption loses one draw"
    mixture.write_text("test: [./hot]\n", encoding="utf-8")
    record = zofo.adapt(folder, mixture=str(mixture), out=str(tmp_path / "b"), **QUICK)["tasks"]["own/hot"]
    assert "failed" not in record and record["bytes"] is None and "No space left" in record["unsaved"]


def test_rows_of_a_trained_task_are_parted_by_the_runs_seed(opened, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    base, ready = opened(Plan())
    assert isinstance(base, Base) and ready.task.name == "reviews"
    monkeypatch.setattr(run.draws, "prepare", lambda config, *_: seen.append(config.run.seed))
    asked = run.Asked("x", options={})
    for trained in ({}, {"reviews": 7}, {"other": 7}):
        monkeypatch.setattr(run.bases, "trained_on", lambda _, held=trained: held)
        run.prepared(base.config, asked, ready.task, None)
    assert seen == [0, 7, 0]


def test_a_task_without_options_is_no_part_of_a_classification_mixture(folder: str, mixture: Path) -> None:
    free = mixture.parent / "free"
    free.mkdir()
    for part in ("train", "test"):
        rows = [{"input": f"{part} {k}", "output": f"answer {k}", "options": []} for k in range(6)]
        (free / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    mixture.write_text("kind: classification\ntest: [./hot, ./free]\n", encoding="utf-8")
    with pytest.raises(BadInput, match="task own/free: it has no options, and the mixture is of classification tasks"):
        zofo.adapt(folder, mixture=str(mixture))
    mixture.write_text("train: [./hot]\n", encoding="utf-8")
    with pytest.raises(BadInput, match="it has no unseen tasks"):
        zofo.adapt(folder, mixture=str(mixture))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"which": "bset"}, r"adapt\(which='bset'\): unknown; choose one of: best, last"),
        ({"start": "rnu"}, "run, fresh"),
    ],
)
def test_a_word_that_is_not_known_is_refused(tmp_path: Path, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        zofo.adapt(tmp_path / "base", "reviews", **keys)
