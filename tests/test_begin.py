"""A run begins under a name of its own, from Python too, and not where the method and the rows do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from zofo import begin
from zofo.config import resolve
from zofo.errors import BadInput
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
