"""In-context learning over draws: other demonstrations in each, the same test rows, nothing trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from zofo import job
from zofo.adapting import draws, shown
from zofo.adapting.plan import Plan
from zofo.adapting.run import Asked
from zofo.adapting.show import Quiet
from zofo.errors import BadInput
from zofo.tasks import parts
from zofo.theta0 import fingerprint


def test_each_draw_is_what_eval_gives_with_its_demonstrations(opened) -> None:
    plan = Plan(shots=1, draws=4)
    base, ready = opened(plan, data__max_length=24)
    record = shown.on_task(base, plan, ready, base.config)
    assert record["before"] == draws.measured(base.model, ready, base.config)
    assert record["drawn"] == "1 demonstrations" and record["after"]["n"] == 4
    for draw in record["draws"]:
        data = base.config.data.model_copy(update={"shots": 1})
        room = job.room(base.config, ready.task, ready.source)
        made = parts.encode(ready.task, ready.splits, ready.tokenizer, data, draw["seed"], room, ("test",))
        assert draw["result"] == draws.measured(base.model, replace(ready, encoded=made.encoded), base.config)
        assert draw["fewer"] == sum(row.left_out > 0 for row in made.encoded["test"])
    held = [draw["result"]["loss"] for draw in record["draws"] if draw["fewer"] < 6]
    assert held and len({*held, record["before"]["loss"]}) == len(held) + 1, "other demonstrations, other losses"
    assert fingerprint(base.leaves) == base.sha256


@pytest.mark.usefixtures("cache")
def test_demonstrations_are_cut_as_asked_and_calibration_sees_them(folder: str, flags: dict[str, Any]) -> None:
    plan = Plan(shots=2, draws=2)
    whole = shown.alone(Asked(folder, options=flags), plan, Quiet())["tasks"]["reviews"]
    cut = shown.alone(Asked(folder, options=flags | {"data.shot_length": 24}), plan, Quiet())["tasks"]["reviews"]
    assert cut["before"] == whole["before"] and cut["draws"][0]["result"]["loss"] != whole["draws"][0]["result"]["loss"]
    assert any("where they are demonstrations" in note for note in cut["notes"])


@pytest.mark.usefixtures("cache")
def test_calibration_sees_the_demonstrations_of_each_draw(
    folder: str, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[str, list[int]] = {"sfc": [], "icl-sfc": []}
    for way, held in sizes.items():

        def watched(model: Any, ready: Any, config: Any, held: list[int] = held) -> dict[str, Any]:
            held.append(max(len(null.context) for null in ready.nulls["test"]))
            return draws.measured(model, ready, config)

        monkeypatch.setattr(shown, "measured", watched)
        options = flags | {"data.shot_length": 24, "data.calibration": way}
        shown.alone(Asked(folder, options=options), Plan(shots=1, draws=1), Quiet())
    (plain, also), (before, after) = sizes["sfc"], sizes["icl-sfc"]
    assert plain == also == before < after, "without demonstrations the two are the same"


def test_more_demonstrations_than_rows_are_refused(opened) -> None:
    plan = Plan(shots=10**6)
    base, ready = opened(plan)
    with pytest.raises(BadInput, match=r"--data.shots 1000000: D_p has .* training rows"):
        shown.on_task(base, plan, ready, base.config)
