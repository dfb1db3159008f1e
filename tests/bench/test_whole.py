"""Whole iterations of configurations, as a run takes them (no time is asserted)."""

from __future__ import annotations

from pathlib import Path

import pytest

from zofo.bench import whole
from zofo.errors import BadInput

SMALL = {
    "data.task": "reviews", "data.train_rows": 12, "data.validation_rows": 4, "data.test_rows": 4, "data.batch": 2,
    "data.max_length": 48,
}  # fmt: skip


@pytest.mark.usefixtures("cache")
def test_passes_and_order_are_those_of_the_configurations(folder: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: bilevel-sketch-lora\nmethod: {coupling: outer, T: 1, lam_every: 2}\n")
    names = ("fo-lora", "mezo", str(file))
    found = whole.main(names, {"model.name": folder, **SMALL}, rounds=2, steps=1)
    assert found["task"] == "reviews" and tuple(found["results"]) == names
    results = found["results"].values()
    assert [(r["forwards"], r["backwards"]) for r in results] == [(1, 1), (2, 0), (2.5, 2.5)], (
        "whole periods: four passes, then one"
    )
    assert next(iter(results))["ratio"] == 1 and all(r["min_s"] <= r["mean_s"] <= r["max_s"] for r in results)
    assert all(r["allocated_bytes"] > 0 for r in results)


@pytest.mark.usefixtures("cache")
def test_an_iteration_is_a_runs_own(folder: str) -> None:
    """Rounds and the one that does not count go on where the last ended: rows are a run's, in its order."""
    one = whole.started("mezo", {"model.name": folder, **SMALL}, lambda _: None)
    one.steps(3)()
    assert one.state.k == 3


@pytest.mark.parametrize("names", [(), ("mezo", "mezo")])
def test_each_is_measured_once(names: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match="each is measured once; name presets or YAML files"):
        whole.main(names)


def test_an_option_without_effect_on_one_of_them_is_refused(folder: str) -> None:
    with pytest.raises(BadInput, match=r"--method\.T"):
        whole.main(("fo-lora",), {"model.name": folder, **SMALL, "method.T": 3})


@pytest.mark.usefixtures("cache")
def test_of_two_stages_it_is_said_that_one_cost_does_not_hold(folder: str) -> None:
    said: list[str] = []
    whole.started("two-stage", {"model.name": folder, **SMALL}, said.append)
    whole.started("mezo", {"model.name": folder, **SMALL}, said.append)
    assert [note for note in said if "two stages" in note] == [
        "two-stage: it has two stages, and what is measured begins with the first; one cost does not hold for both"
    ]
