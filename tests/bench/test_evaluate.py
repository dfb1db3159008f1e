"""The scoring benchmark compares like with like: both ways give the same scores (no time is asserted)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zofo.bench import evaluate as bench
from zofo.config import build
from zofo.job import Prepared, prepare
from zofo.scoring.batch import Encoded, choice_batch
from zofo.scoring.objective import answer_logprobs


@pytest.fixture
def ready(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    return prepare(build({"model.name": folder, "data.task": "reviews", "data.test_rows": 7, "data.max_length": 60}))


def rows() -> list[Encoded]:
    """Answers of one and several tokens; some begin with tokens of the prompt."""
    return [
        Encoded((5, 6, 7), ((8,), (9, 10)), 0),
        Encoded((5, 6), ((7, 8, 9), (7, 10), (11,)), 1, skip=(2, 1, 0)),
        Encoded((12,), ((13, 14, 15), (13, 16)), 1, skip=(1, 1)),
    ]


def test_one_candidate_at_a_time_gives_the_scores_of_the_scoring_path(model: nn.Module) -> None:
    found = bench.one_by_one(model, rows(), "fp32")
    assert [len(row) for row in found] == [2, 3, 2]
    with torch.no_grad():
        wanted = answer_logprobs(model, choice_batch(rows(), range(3), 0)).tolist()
    assert [score for row in found for score in row] == pytest.approx(wanted, abs=1e-5)


def test_tokens_that_belong_to_the_prompt_are_not_scored(model: nn.Module) -> None:
    ((first, second),) = bench.one_by_one(model, [Encoded((5, 6), ((7, 8, 9), (7, 10)), 0, skip=(2, 1))], "fp32")
    ((alone,),) = bench.one_by_one(model, [Encoded((5, 6, 7, 8), ((9,),), 0)], "fp32")
    ((other,),) = bench.one_by_one(model, [Encoded((5, 6, 7), ((10,),), 0)], "fp32")
    assert (first, second) == pytest.approx((alone, other), abs=1e-6)
    ((whole, _),) = bench.one_by_one(model, [Encoded((5, 6), ((7, 8, 9), (7, 10)), 0)], "fp32")
    assert abs(whole - first) > 1e-3


def test_each_candidate_is_a_pass_of_its_own_with_logits_everywhere(model: nn.Module) -> None:
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    model.register_forward_hook(
        lambda _, args, kwargs, out: seen.append((tuple(kwargs["input_ids"].shape), tuple(out.logits.shape[:2]))),
        with_kwargs=True,
    )
    bench.one_by_one(model, rows()[:2], "fp32")
    assert seen == [(size, size) for size in ((1, 4), (1, 5), (1, 5), (1, 4), (1, 3))]


def test_both_ways_agree_and_their_times_are_a_ratio(model: nn.Module, ready: Prepared) -> None:
    found = bench.measure(model, ready, 3, "fp32")
    assert (found["rows"], found["candidates"]) == (7, 14)
    assert found["equal_predictions"] is True and found["max_logprob_difference"] < 1e-4
    assert 0 < found["ratio_min"] <= found["ratio"] <= found["ratio_max"]
    assert found["one_by_one_s"] > 0 and found["zofo_s"] > 0


def test_ratios_are_those_of_each_round(model: nn.Module, ready: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"one by one": [4.0, 9.0, 1.0], "zofo": [2.0, 1.0, 4.0]}

    def once(kinds: dict[str, Any], rounds: int) -> dict[str, list[float]]:
        for run in kinds.values():
            run()
        return {name: times[name][:rounds] for name in kinds}

    monkeypatch.setattr(bench, "interleaved", once)
    found = bench.measure(model, ready, 3, "fp32")
    assert (found["ratio_min"], found["ratio"], found["ratio_max"]) == (0.25, 2.0, 9.0)
    assert (found["one_by_one_s"], found["zofo_s"]) == (4.0, 2.0)


def test_ways_that_do_not_agree_are_told(model: nn.Module, ready: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    right = bench.one_by_one

    def wrong(*args: Any) -> list[list[float]]:
        first, *others = right(*args)
        return [[first[1] - 1.0, first[0] - 1.0], *others]

    monkeypatch.setattr(bench, "one_by_one", wrong)
    found = bench.measure(model, ready, 1, "fp32")
    assert found["equal_predictions"] is False and found["max_logprob_difference"] > 0.5


def test_ties_go_to_the_first_candidate() -> None:
    assert bench.best([[-1.0, -1.0], [-2.0, -1.0, -1.0]]) == [0, 1]
    assert bench.apart([[1.0, 2.0], [3.0]], [[1.5, 2.0], [2.25]]) == 0.75


def test_the_report_names_what_the_times_depend_on(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    found = bench.main(folder, ("reviews",), rows=4, rounds=1)
    assert set(found["results"]) == {"reviews"} and found["results"]["reviews"]["rows"] == 4
    assert (found["model"], found["dtype"], found["rounds"]) == (folder, "fp32", 1)
    assert found["threads"] == torch.get_num_threads() and found["torch"] == torch.__version__ and found["machine"]
