"""Rows as they stand and rows after demonstrations are answered alike: the keys and values are kept, the answers are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zofo.bench import icl as bench
from zofo.config import Config, build
from zofo.errors import BadInput
from zofo.measure import Reading, among, evaluate


@pytest.fixture
def config(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    wanted = {
        "model.name": folder,
        "model.dtype": "fp32",
        "data.task": "reviews",
        "data.test_rows": 5,
        "data.max_length": 40,
    }
    return build(wanted | {"data.train_rows": 60, "data.shot_length": 40})


def test_demonstrations_are_kept_and_answers_are_those_of_evaluation(model: nn.Module, config: Config) -> None:
    ready, shots = bench.fitting(config, 1)
    rows = ready.encoded["test"]
    held = bench.way(model, rows, "fp32", 0, shots, 1)
    assert shots == 1 and held.tokens > 32 and bench.kept(held.reading.past) > 0
    for batch in (1, 4):
        found: Any = bench.answer(held, batch)()
        wanted = evaluate(model, rows, ready.task, predictions=True, share=False)
        for one, other in zip(found.scores, wanted["scores"], strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_a_kept_prefix_is_not_read_again(model: nn.Module, config: Config) -> None:
    ready, _ = bench.fitting(config, 1)
    held = bench.way(model, ready.encoded["test"], "fp32", 0)
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, a, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    bench.answer(held, 32)()
    assert held.tokens not in seen and seen
    bench.reading_once(held)()
    assert seen[-1] == held.tokens
    with torch.no_grad():
        among(Reading(model), ready.encoded["test"], 32)
    assert seen.count(held.tokens) == 2, "without a kept prefix each call reads it"


def test_what_does_not_fit_before_the_longest_row_is_left_out_for_all(config: Config) -> None:
    ready, shots = bench.fitting(config, 12)
    assert 0 <= shots < 12 and all(row.left_out == 0 for row in ready.encoded["test"])
    if shots:
        assert len({row.context[:8] for row in ready.encoded["test"]}) == 1


def test_a_model_without_a_plain_cache_is_refused(config: Config, tiny: Any) -> None:
    ready, _ = bench.fitting(config, 0)
    with pytest.raises(BadInput, match="rows cannot go on from kept keys and values"):
        bench.way(tiny("mistral"), ready.encoded["test"], "fp32", 0)


def test_ratios_are_those_of_each_round(model: nn.Module, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, _ = bench.fitting(config, 1)
    rows = ready.encoded["test"]
    ways = {"plain": bench.way(model, rows, "fp32", 0), "shots": bench.way(model, rows, "fp32", 0, 1, 2)}
    seconds = {"plain, 4": [1.0, 2.0, 4.0], "shots, 4": [3.0, 2.0, 16.0], "shots, once": [5.0, 6.0, 7.0]}
    monkeypatch.setattr(bench, "interleaved", lambda kinds, rounds: {name: seconds[name] for name in kinds})
    plain, shots = bench.measure(ways, (4,), 3)
    assert (plain["ratio"], plain["ratio_min"], plain["ratio_max"]) == (1.0, 1.0, 1.0) and "read_s" not in plain
    assert (shots["ratio"], shots["ratio_min"], shots["ratio_max"]) == (3.0, 1.0, 4.0)
    assert shots["row_s"] == 3.0 / 5 and shots["read_s"] == 6.0 and (shots["shots"], shots["shots_asked"]) == (1, 2)
    assert shots["allocated_bytes"] > 0 and shots["kept_bytes"] > 0


def test_the_report_has_every_way_and_what_it_depends_on(config: Config) -> None:
    name = config.model.name
    found = bench.main(name, ("reviews",), (1,), (1,), rows=3, batches=(2,), rounds=1, lora=True)
    ways = found["results"]["reviews"]["ways"]
    assert [way["what"] for way in ways] == [
        "no demonstrations", "no demonstrations, LoRA apart", "1 demonstrations", "1 a class demonstrations",
    ]  # fmt: skip
    assert found["results"]["reviews"]["classes"] == 2 and ways[-1]["shots_asked"] == 2
    assert found["threads"] == torch.get_num_threads() and found["torch"] == torch.__version__
