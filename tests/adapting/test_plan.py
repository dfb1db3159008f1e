"""Plans are checked; the configuration of adapting is first-order steps of an adapter at a constant rate."""

from __future__ import annotations

from typing import Any

import pytest

from zofo.adapting.options import KEPT
from zofo.adapting.plan import ALL, RATES, Plan, settings
from zofo.config import build
from zofo.errors import BadInput


@pytest.mark.parametrize("name", ["shots", "steps", "draws", "batch"])
def test_numbers_from_one(name: str) -> None:
    with pytest.raises(BadInput, match=f"--{name} 0: not 1 or more"):
        Plan(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [{"lr": -1.0}, {"lr": float("nan")}, {"seed": -1}])
def test_rates_and_seeds(values: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Plan(**values)


def test_every_draw_has_a_seed_of_its_own() -> None:
    seeds = [Plan(seed=s).seed_of(d) for s in range(3) for d in range(5)]
    assert len(set(seeds)) == 15 and seeds == [Plan(seed=s, shots=9).seed_of(d) for s in range(3) for d in range(5)]


@pytest.mark.parametrize("kind", sorted(RATES))
def test_the_rate_goes_by_the_kind_unless_given(kind: str) -> None:
    made = settings({"adapter.kind": kind}, Plan())
    assert made.method.lr_p == RATES[kind] and made.method.name == "first-order"
    assert (made.method.schedule, made.method.warmup, made.method.optimizer) == ("constant", 0, "adam")
    assert settings({"adapter.kind": kind}, Plan(lr=0.5)).method.lr_p == 0.5
    assert (made.data.train_rows, made.run.steps) == (ALL, 10)


def test_a_run_lends_its_model_adapter_and_way_of_reading() -> None:
    own = build({"model.name": "m", "adapter.r": 3, "data.task": "sst2", "data.max_length": 99, "method.lr_p": 9.0})
    made = settings({"data.task": "rte", "adapter.dropout": 0.1}, Plan(), own)
    assert (made.model.name, made.adapter.r, made.adapter.dropout) == ("m", 3, 0.1)
    assert (made.data.task, made.data.max_length, made.data.test_rows) == ("rte", 99, 1000)
    assert settings({}, Plan(), build({"data.shot_length": 7})).data.shot_length == 7
    assert "data.max_length" in KEPT and made.method.lr_p == RATES["lora"]
