"""The benchmark reports every kind against the plain forward passes (no time is asserted)."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from zofo.bench import step
from zofo.bench.how import How, batch
from zofo.bench.kinds import KINDS, chosen
from zofo.bench.peak import Peak
from zofo.errors import BadInput

pytestmark = pytest.mark.filterwarnings("ignore:Adapter name")


@pytest.mark.slow  # every kind, and the memory of each
@pytest.mark.parametrize("full", [False, True])
def test_it_reports_every_kind_against_the_plain_forward(folder: str, full: bool) -> None:
    found = step.main(model=folder, noise=("rademacher",), rows=2, tokens=8, rounds=2, full=full)
    plain, whole = "plain forward", "plain forward, logits at all positions"
    laws = {label: kind for label, kind, _ in chosen(tuple(KINDS), ("rademacher",), How())}
    assert list(found["results"]) == list(laws) and len(laws) == len(KINDS)
    assert found["results"][plain]["forwards"] == found["results"][whole]["allocated_ratio"] == 1.0
    noise = {label for label, kind in laws.items() if kind.label.startswith("a z")}  # adding it takes no memory
    assert all(row["allocated_bytes"] > 0 for label, row in found["results"].items() if label not in noise)
    assert found["weights"] > 0
    at_one, everywhere = (found["results"][name]["allocated_bytes"] for name in (plain, whole))
    assert (at_one == everywhere) if full else (at_one < everywhere)


def test_kinds_can_be_chosen(folder: str) -> None:
    found = step.main(model=folder, rows=2, tokens=8, rounds=1, methods=("peft",))
    assert len(found["results"]) == 3 and "first-order LoRA, peft and torch.optim" in found["results"]


def test_memory_counts_what_is_kept_between_steps(folder: str) -> None:
    """Adam's moments and the adapter itself stand above the weights too."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    made = batch(model, 1, 1)
    peft = step.memory(KINDS["peft"], model, made, How()).allocated
    adapter = 4 * 2 * 8 * (16 + 16 + 16 + 8)  # bytes of LoRA r 8 on q and v of two layers
    assert peft > 4 * adapter  # the adapter, two moments, a gradient


def test_ratios() -> None:
    assert step.taken(Peak(30, 10, ""), Peak(60, 40, "")) == {
        "allocated_bytes": 10, "resident_bytes": 30, "allocated_ratio": 0.25, "resident_ratio": 0.5,
    }  # fmt: skip
    assert step.taken(Peak(30, 10, ""), Peak(0, 40, ""))["resident_ratio"] is None
    assert step.timed([1.0, 3.0, 2.0], [4.0]) == {"median_s": 2.0, "min_s": 1.0, "max_s": 3.0, "forwards": 0.5}


def test_rounds_are_interleaved_and_the_first_does_not_count() -> None:
    calls: list[str] = []
    told: list[tuple[int, str]] = []
    kinds = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = step.interleaved(kinds, 2, lambda r, name, seconds: told.append((r, name)))
    assert calls == ["a", "b"] * 3 and [len(t) for t in times.values()] == [2, 2]
    assert torch.tensor(list(times.values())).min() >= 0


def test_rows_longer_than_the_model_reads_are_refused(folder: str) -> None:
    with pytest.raises(BadInput, match=r"--tokens 129: .* reads 128 at most"):
        step.main(model=folder, rows=1, tokens=129, rounds=1, methods=("zofo",))
