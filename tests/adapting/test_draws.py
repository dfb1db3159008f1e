"""A task's draws: the base is never touched, losses fall, counts are those that are said, a draw is a function of its seed."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from zofo.adapting import draws
from zofo.adapting.plan import Plan
from zofo.cli import drawn
from zofo.methods import first_order
from zofo.run.jsonfile import read_json, write_json
from zofo.tasks import shots
from zofo.theta0 import fingerprint


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "seconds"}


@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
def test_the_bases_bits_stay_and_ten_steps_lower_the_loss(opened, kind: str) -> None:
    plan = Plan(shots=2, draws=1, lr=1e-2)
    base, ready = opened(plan, adapter__kind=kind)
    bits = {name: value.clone() for name, value in base.model.state_dict().items()}
    record = draws.on_task(base, plan, ready, base.config).record
    (draw,) = record["draws"]
    assert len(draw["losses"]) == 10 and draw["losses"][-1] < draw["losses"][0] and draw["skipped"] == 0
    assert list(base.model.state_dict()) == list(bits), "the adapter is off again"
    assert all(torch.equal(value, bits[name]) for name, value in base.model.state_dict().items())
    assert fingerprint(base.leaves) == base.sha256
    again = draws.measured(base.model, ready, base.config)
    assert again == record["before"]


def test_an_interruption_leaves_the_base_as_it_was(opened, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(shots=1, draws=1)
    base, ready = opened(plan)
    before, step = draws.measured(base.model, ready, base.config), first_order.step

    def stopped(problem: Any, state: Any, source: Any) -> Any:
        if state.k == 2:
            raise KeyboardInterrupt
        return step(problem, state, source)

    monkeypatch.setattr(first_order, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        draws.on_task(base, plan, ready, base.config)
    assert fingerprint(base.leaves) == base.sha256
    assert not any("lora" in name for name in base.model.state_dict())
    assert draws.measured(base.model, ready, base.config) == before


def test_a_draw_is_a_function_of_seed_and_number(opened) -> None:
    base, ready = opened(Plan())
    two = draws.on_task(base, Plan(shots=2, steps=2, draws=2, seed=3), ready, base.config).record["draws"]
    one = draws.on_task(base, Plan(shots=2, steps=2, draws=1, seed=3), ready, base.config).record["draws"]
    assert untimed(two[0]) == untimed(one[0])
    assert two[0]["rows"] != two[1]["rows"] and two[0]["seed"] != two[1]["seed"]
    other = draws.on_task(base, Plan(shots=2, steps=2, draws=1, seed=4), ready, base.config).record["draws"]
    assert other[0]["rows"] != one[0]["rows"]


@pytest.mark.parametrize(("shots_", "batch", "micro"), [(2, 8, 1), (6, 8, 1), (6, 12, 2), (6, 100, 2)])
def test_passes_are_those_that_are_counted(opened, shots_: int, batch: int, micro: int) -> None:
    plan = Plan(shots=shots_, steps=3, draws=1, batch=batch)
    base, ready = opened(plan)
    found = shots.pool(ready.task, ready.splits)
    rows = draws.encoded(ready, base.config, found, shots.drawn(found, shots_, 0))
    passes: list[int] = []
    with base.adapted(0) as slots:
        slots.model.register_forward_pre_hook(
            lambda _, args, options: passes.append(len(options["input_ids"])), with_kwargs=True
        )
        record = draws.trained(base, slots, plan, ready, base.config, rows, 0)
    assert record["forwards"] == record["backwards"] == len(passes) == 3 * micro
    assert sum(passes) == 3 * min(batch, 2 * shots_), "a step reads so many rows"


def test_rows_come_in_a_fresh_order_each_time_through(opened) -> None:
    plan = Plan(shots=6, batch=8)
    base, ready = opened(plan)
    found = shots.pool(ready.task, ready.splits)
    rows = draws.encoded(ready, base.config, found, shots.drawn(found, 6, 0))
    few = draws.Few({"all": rows}, 8, 0, 7, lambda examples, index, pad: [examples[k].context for k in index], take=8)  # type: ignore[arg-type,return-value]
    read = [context for step in range(3) for batch in few.batch("all", "train", step, 1) for context in batch]  # type: ignore[attr-defined]
    assert len(read) == 24 and {read.count(row.context) for row in rows} == {2}
    assert sorted(read[:12]) == sorted(row.context for row in rows) and read[:12] != read[12:]


def test_the_record_says_what_was_drawn_and_its_spread(opened) -> None:
    plan = Plan(shots=2, steps=1, draws=3)
    base, ready = opened(plan)
    made = draws.on_task(base, plan, ready, base.config)
    record, scores = made.record, [draw["result"]["accuracy"] for draw in made.record["draws"]]
    assert record["metric"] == "accuracy" and record["drawn"] == "2 examples of each of 2 classes"
    assert (record["after"]["n"], record["after"]["mean"]) == (3, statistics.fmean(scores))
    own = ready.splits.record
    about = {"of": own["parts"]["test"]["of"], "source": own["source"], "seed": own["seed"]}
    assert record["test"] == {"rows": 6, "sha256": own["parts"]["test"]["sha256"], **about}
    assert all(len(draw["rows"]) == 4 for draw in record["draws"]) and set(made.tensors)
    assert not any(note.startswith(("train", "validation")) for note in record["notes"])


def test_examples_that_were_cut_are_counted_and_told(opened) -> None:
    plan = Plan(shots=2, steps=1, draws=2)
    counts = {}
    for length in (128, 16):
        base, ready = opened(plan, data__max_length=length)
        record = draws.on_task(base, plan, ready, base.config).record
        counts[length] = cut = max(draw["cut"] for draw in record["draws"])
        assert f"up to {cut} examples of a draw cut to fit" in drawn.remarks(record)
        assert all(f"{d['cut']} of its 4 rows cut to fit" in drawn.learned(d) for d in record["draws"])
        for draw in record["draws"]:
            draw["cut"] = 0
        assert "cut to fit" not in " ".join([*drawn.remarks(record), *map(drawn.learned, record["draws"])])
    assert counts == {128: 1, 16: 4}


def test_a_draw_whose_loss_is_not_finite_leaves_a_record(
    opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = Plan(shots=1, steps=1, draws=2)
    base, ready = opened(plan)
    ready, losses = replace(ready, task=ready.task.model_copy(update={"metrics": ()})), iter([1.0, math.nan, 2.0])
    monkeypatch.setattr(draws, "measured", lambda *_: {"loss": next(losses), "n": 6})
    record = draws.on_task(base, plan, ready, base.config).record
    assert record["metric"] == "loss" and math.isnan(record["after"]["mean"]) and record["after"]["low"] is None
    write_json(tmp_path / "a.json", record)
    assert read_json(tmp_path / "a.json")["after"]["mean"] == "nan"
    assert drawn.after(record) == drawn.after(read_json(tmp_path / "a.json")) == "nan"
    drawn.task({"start": "fresh", "tasks": {"reviews": record}})


def test_the_test_rows_do_not_hang_on_the_seed_of_the_draws(opened) -> None:
    (_, one), (_, other) = opened(Plan(seed=1)), opened(Plan(seed=2))
    assert one.splits.record == other.splits.record
