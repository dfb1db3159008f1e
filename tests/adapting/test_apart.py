"""Rows that a run was trained on are not scored as test rows, however they are carved; rows it set apart are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zofo.adapting import apart, draws
from zofo.adapting.folder import Saved
from zofo.config import AdapterConfig, build
from zofo.errors import BadInput
from zofo.job import Prepared, prepare, recorded, texts
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import write_json

Rows = Callable[..., Prepared]
TASK = "name: other\ntemplate: '{{ input }}'\nlabel: output\noptions: options\nfiles: {train: one/train.jsonl}\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Folders of tasks: `one` with training rows alone, `two` with a validation file too; `m.yaml` trains on both."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for part, most in (("train", 40), *((("validation", 6),) if name == "two" else ())):
            rows = [{"input": f"{name} {part} {k}", "output": "xy"[k % 2], "options": ["x", "y"]} for k in range(most)]
            (tmp_path / name / f"{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    (tmp_path / "m.yaml").write_text("train: [./one, ./two]\n", encoding="utf-8")
    (tmp_path / "unseen.yaml").write_text("test: [./one, ./two]\n", encoding="utf-8")
    (tmp_path / "other.yaml").write_text(TASK, encoding="utf-8")
    return tmp_path


@pytest.fixture
def rows(folder: str, place: Path, cache: Path) -> Rows:
    """Rows of a task or mixture in `place`: `rows("one/train.jsonl", seed=1)`."""

    def made(name: str, seed: int = 0, wanted: tuple[str, ...] = ("test",), **more: Any) -> Prepared:
        kind = "data.train" if name.endswith("jsonl") else "data.mixture" if name[0] in "mu" else "data.task"
        return prepare(build({"model.name": folder, kind: str(place / name), "run.seed": seed, **more}), wanted=wanted)

    return made


def run_on(place: Path, ready: Prepared) -> RunFolder:
    """What a run on these rows leaves of them."""
    (place / "run").mkdir()
    write_json(place / "run" / "splits.json", recorded(ready))
    return RunFolder(place / "run")


EVERY = ("f", "p", "validation", "test")


@pytest.mark.parametrize(
    ("name", "seed", "split"),
    [
        ("one/train.jsonl", 1, "test"),
        ("other.yaml", 0, "test"),
        ("one", 1, "test"),
        ("one/train.jsonl", 1, "validation"),
    ],
)
def test_another_carving_of_a_runs_file_is_refused(rows: Rows, place: Path, name: str, seed: int, split: str) -> None:
    run = run_on(place, rows("one/train.jsonl", wanted=EVERY))
    told = rf"one/train\.jsonl: \d+ of its \d+ {split} rows, .* run run was made on; .* give --data\.{split} too"
    with pytest.raises(BadInput, match=told):
        apart.refuse_carved(run, rows(name, seed, (split,)), split)


def test_the_same_carving_is_not(rows: Rows, place: Path) -> None:
    run = run_on(place, rows("one/train.jsonl", wanted=EVERY))
    for name in ("one/train.jsonl", "one"):
        apart.refuse_carved(run, rows(name))
    apart.refuse_carved(run, rows("one", wanted=("validation",)), "validation")
    few = draws.prepare(build({"model.name": rows("one").source.name, "data.task": str(place / "one"), "data.train_rows": 10**9, "data.validation_rows": 1}))  # fmt: skip
    apart.refuse_carved(run, few)


def test_a_validation_file_left_out_carves_anew(rows: Rows, place: Path) -> None:
    own = {"data.validation": str(place / "v.jsonl")}
    (place / "v.jsonl").write_text((place / "one" / "train.jsonl").read_text("utf-8").split("\n")[0] + "\n", "utf-8")
    run = run_on(place, rows("one/train.jsonl", wanted=EVERY, **own))
    apart.refuse_carved(run, rows("one/train.jsonl", **own))
    with pytest.raises(BadInput, match="test rows, carved from this file"):
        apart.refuse_carved(run, rows("one/train.jsonl"))


def test_of_a_mixture_the_rows_set_apart_of_each_training_task_are_scored_and_no_others(
    rows: Rows, place: Path
) -> None:
    """With a validation file and without one: a fifth of either training file was set apart."""
    run = run_on(place, rows("m.yaml", wanted=EVERY))
    for name in ("one", "two", "unseen.yaml"):
        apart.refuse_carved(run, rows(name))
        with pytest.raises(BadInput, match="test rows, carved from this file"):
            apart.refuse_carved(run, rows(name, seed=1))


def test_test_rows_that_chose_the_checkpoint_are_told(rows: Rows, place: Path) -> None:
    """A mixture's training task is validated on rows of its test file."""
    held = [{"input": f"one test {k}", "output": "xy"[k % 2], "options": ["x", "y"]} for k in range(9)]
    (place / "one" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held), encoding="utf-8")
    run = run_on(place, rows("m.yaml", wanted=EVERY, **{"data.validation_rows": 4}))
    told = "test: 4 of the 9 rows of own/one chose the run's checkpoint: it was validated on them"
    for name in ("one", "unseen.yaml"):
        ready = rows(name)
        assert apart.noted(run, ready).notes == [*ready.notes, told] and apart.noted(None, ready) is ready
    assert apart.noted(run, rows("two")).notes == rows("two").notes


def test_test_rows_whose_text_another_task_was_trained_on_are_told(rows: Rows, place: Path) -> None:
    """The run never heard of the task, and yet it has read some of its rows."""
    ready = rows("m.yaml", wanted=EVERY)
    run = run_on(place, ready)
    write_json(run.texts, texts(ready))
    seen = [member.splits for member in ready.members if member.side == "train"]
    held = [{"input": str(row["input"]).upper(), "output": "x", "options": ["x", "y"]} for row in (seen[0].D_p[0], seen[0].D_f[0], seen[1].validation[0])]  # fmt: skip
    held += [{"input": f"three {k}", "output": "y", "options": ["x", "y"]} for k in range(3)]
    (place / "three").mkdir()
    for name in ("train", "test"):
        found = held if name == "test" else [{**row, "input": f"other {k}"} for k, row in enumerate(held)]
        (place / "three" / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in found), encoding="utf-8"
        )
    three = rows("three")
    assert apart.noted(run, three).notes == [
        *three.notes,
        "test: 2 of the 6 rows of own/three have a text that the run was trained on, under another task's name",
        "test: 1 of the 6 rows of own/three chose the run's checkpoint: it was validated on them",
    ]
    assert apart.noted(run, rows("one")).notes == rows("one").notes, "a task's own rows are apart as they are"


def leaking(place: Path, seen: list[dict[str, Any]]) -> str:
    """A test file of these rows and two others."""
    fresh = [{"input": f"fresh {k}", "output": "x", "options": ["x", "y"]} for k in range(2)]
    (place / "leak.jsonl").write_text("".join(json.dumps(row) + "\n" for row in seen + fresh), encoding="utf-8")
    return str(place / "leak.jsonl")


def test_rows_of_another_test_file_that_the_run_was_trained_on_are_told(rows: Rows, place: Path) -> None:
    """Beside the run's own training file too, and nothing of the run's own test rows."""
    ready = rows("one/train.jsonl", wanted=EVERY)
    run = run_on(place, ready)
    write_json(run.texts, texts(ready))
    leak = leaking(place, [*ready.splits.D_f[:3], *ready.splits.D_p[:5]])
    other = rows("one/train.jsonl", **{"data.test": leak})
    told = "test: 8 of the 10 rows of own/one have a text that the run was trained on"
    assert apart.noted(run, other).notes == [*other.notes, told]
    own = rows("one/train.jsonl")
    assert apart.noted(run, own).notes == own.notes
    (place / "copy.jsonl").write_bytes((place / "one" / "train.jsonl").read_bytes())
    copied = rows("copy.jsonl", **{"data.test": leak})
    assert apart.noted(run, copied).notes[-1] == told.replace("own/one", "own/copy") + ", under another task's name"


def test_test_rows_that_an_adapters_examples_are_of_are_told(rows: Rows, place: Path) -> None:
    own = rows("one/train.jsonl")
    record, named = own.splits.record, [*own.splits.D_f[:2], own.splits.D_p[0]]
    numbers = record["parts"]["D_f"]["indices"][:2] + record["parts"]["D_p"]["indices"][:1]
    test = {"source": record["source"], "of": "train", "sha256": record["parts"]["test"]["sha256"], "seed": 0}
    saved = Saved(place, AdapterConfig(), "", "", test, {"rows": numbers})
    assert apart.with_examples(saved, own) is own
    other = rows("one/train.jsonl", **{"data.test": leaking(place, named)})
    told = "test: 3 of the 5 rows have the text of an example that the adapter was made from"
    assert apart.with_examples(saved, other).notes == [*other.notes, told]
    fresh = rows("one/train.jsonl", **{"data.test": leaking(place, [])})
    assert apart.with_examples(saved, fresh) is fresh
