"""What a step costs: counted in passes exactly, timed in turn."""

from __future__ import annotations

from pathlib import Path

import yaml

from zofo.experiment import costs, reading


def test_turns_take_about_equal_time() -> None:
    """A dear step reads many batches, a cheap one one: their means are over about as many rows."""
    assert [costs.turn(own, 12.0) for own in (12.0, 3.1, 0.6, 0.01)] == [1, 4, 20, costs.MOST]
    assert [costs.turn(own, 12.0, 5) for own in (12.0, 3.1, 0.6)] == [5, 5, 20]


def test_passes_are_those_of_the_steps_and_the_yaml_goes_into_the_file(lab, make, tmp_path: Path) -> None:
    rows = [
        {"name": "fo", "preset": "fo-lora"},
        {"name": "mezo", "preset": "mezo"},
        {"name": "bilevel", "preset": "bilevel-lora", "options": {"method.T": 2, "method.lam_every": 1}},
        {
            "name": "seldom",
            "preset": "bilevel-lora",
            "options": {"method.T": 2, "method.lam_every": 4, "method.coupling": "outer"},
        },
        {"name": "zero-shot", "evaluate": True},
    ]
    said: list[str] = []
    found = costs.measure(make(rows=rows, against="", budget={"seconds": 9}), 2, said.append)
    passes = {name: tasks["reviews"]["passes"] for name, tasks in found.items()}
    assert passes == {"fo": 3, "mezo": 2, "bilevel": 2 * 2 * 3 + 6, "seldom": (2 * 3 + 6 + 6 + 3 * (2 + 3)) / 4}
    assert all(tasks["reviews"]["seconds"] > 0 for tasks in found.values())
    assert (
        "reviews: two steps of fo, mezo, bilevel, seldom; then 2 rounds, and one before them that does not count"
        in said
    )
    turns = [text.split(":")[1].split()[0] for text in said if text.startswith(("reviews, step", "reviews, round"))]
    assert turns == ["fo", "mezo", "bilevel", "seldom"] * 5 and said[-1].startswith("reviews, round 2: seldom ")
    file = tmp_path / "with.yaml"
    kept = (tmp_path / "tiny.yaml").read_text(encoding="utf-8")
    file.write_text(kept + costs.as_yaml(found) + "\n", encoding="utf-8")
    made, _ = reading.read(str(file))
    assert yaml.safe_load(costs.as_yaml(found))["costs"]["fo"]["passes"] == 3 and made.costs["mezo"]
