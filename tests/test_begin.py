"""A run begins under a name of its own, from Python too, and not where the method and the rows do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from zofo import begin
from zofo.errors import BadInput
from zofo.layers import resolve
from zofo.report.terminal import Quiet
from zofo.run import folder as runs


def test_train_in_python_takes_the_names_of_the_command_line(folder: str, home: Path) -> None:
    from zofo import train

    done = train(
        folder, "reviews", "bilevel-lora", steps=1, run="py", batch=2, run__dir=str(home / "runs"), method__T=1,
        data__train_rows=12, data__validation_rows=4, data__test_rows=4, data__max_length=48, run__threads=1,
    )  # fmt: skip
    assert done["steps"] == 1 and Path(done["run"]).name == "py"
    with pytest.raises(BadInput, match=r"did you mean 'method.lam'"):
        train(folder, "reviews", "bilevel-lora", method__lamb=3)


def test_paths_may_be_paths(folder: str, home: Path) -> None:
    """Of train, adapt and load alike; the run's folder holds texts, so that it is gone on with."""
    from zofo import adapt, load, train

    rows = home / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"film {k} is {w},{w}\n" for k in range(12) for w in ("good", "bad")))
    (home / "c.yaml").write_text("run: {steps: 1, threads: 1}\n")
    done = train(
        Path(folder), preset="fo-lora", config_file=home / "c.yaml", data__train=rows, run__dir=home / "runs", run="py",
        data__train_rows=12, data__validation_rows=4, data__test_rows=4, batch=2,
    )  # fmt: skip
    assert f"train: {rows}\n" in (home / "runs" / "py" / "config.yaml").read_text()
    out, few = home / "adapter", {"shots": 1, "steps": 1, "draws": 1}
    adapt(Path(done["run"]), data__train=rows, dir=home / "runs", out=out, **few)
    adapt(Path(folder), task_folder(home), **few)
    load(Path(done["run"]), adapter=out, dir=home / "runs")


def task_folder(home: Path) -> Path:
    """A task as a folder."""
    place = home / "task"
    place.mkdir()
    for part in ("train", "test"):
        lines = [
            f'{{"input": "{part} {k} {w}", "output": "{w}", "options": ["up", "down"]}}'
            for k in range(3)
            for w in ("up", "down")
        ]
        (place / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    return place


def test_a_run_without_a_name_gets_one_that_is_free(tmp_path: Path) -> None:
    settings, _ = resolve({"model.name": "some/tiny", "data.task": "reviews", "run.dir": str(tmp_path)}, "mezo")
    first = begin.named(settings, ()).run.name
    assert first == "mezo-full-tiny-reviews"
    for again in (first, f"{first}-2"):
        runs.create(tmp_path, again).config.write_text("{}", encoding="utf-8")
    assert begin.named(settings, ()).run.name == f"{first}-3"
    fixed = settings.model_copy(update={"run": settings.run.model_copy(update={"name": first})})
    assert begin.named(fixed, ("run.name",)).run.name == first  # what the user named is refused later, not renamed
    assert begin.named(fixed, ()).run.name == f"{first}-3"  # what a preset named is not the user's word


@pytest.mark.parametrize("preset", ["meta-lora", "meta-sketch-lora", "reptile-lora"])
def test_methods_over_several_tasks_refuse_one(folder: str, home: Path, preset: str) -> None:
    settings, given = resolve({"model.name": folder, "data.task": "reviews", "run.dir": str(home)}, preset)
    with pytest.raises(BadInput, match=r"learns from several tasks, and reviews is one.*name a --mixture"):
        begin.start(settings, given, Quiet())


def test_an_option_given_under_two_names_is_refused_and_nothing_is_written(home: Path) -> None:
    for twice, told in (
        ({"model__name": "other"}, "model__name: given more than once: 'tiny' and 'other'"),
        ({"steps": 1, "run__steps": 3}, "run__steps: given more than once: 1 and 3"),
    ):
        with pytest.raises(BadInput, match=f"^{told}"):
            begin.train("tiny", "reviews", "fo-lora", run="twice", **twice)
    assert not (home / "runs").exists()
