"""The largest batches: the longest rows of training, and the first batch of rows to score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from zofo.config import build
from zofo.job import prepare
from zofo.layers import resolve
from zofo.memory.work import Work, of_rows, of_shape, row, written
from zofo.scoring import batch as made_of
from zofo.scoring.batch import Encoded
from zofo.tasks import definition

SMALL: dict[str, Any] = {
    "data.task": "reviews", "data.train_rows": 20, "data.validation_rows": 4, "data.test_rows": 6, "data.batch": 3,
    "data.max_length": 48,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))


def made(folder: str, **flags: Any) -> tuple[Work, dict[str, tuple[Encoded, ...]]]:
    config = build(SMALL | {"model.name": folder} | {key.replace("__", "."): value for key, value in flags.items()})
    ready = prepare(config)
    return of_rows(config, ready), ready.encoded


def test_the_micro_batch_is_of_the_longest_rows(folder: str) -> None:
    work, encoded = made(folder)
    lengths = sorted((e.length for e in (*encoded["f"], *encoded["p"])), reverse=True)
    assert work.shape == (3, lengths[0])
    assert [e.length for e in work.largest.examples] == lengths[:3]
    assert len(work.rows) in (4, 6) and not work.written


def test_an_objective_over_choices_takes_a_row_a_choice(folder: str) -> None:
    """In bytes " terrible" and " great" share no more than the space."""
    lm, choices = (made(folder, method__objective=name)[0] for name in ("lm", "classification"))
    assert (lm.shape[0], choices.shape[0]) == (3, 6)


def test_where_choices_share_their_context_the_largest_rows_are_those_that_read_most(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_of, "PASS", 0)
    work, encoded = made(folder, method__objective="classification")
    assert work.largest.tails is not None and work.shape[0] == 3
    sizes = sorted((made_of.tokens([e], branched=True) for e in (*encoded["f"], *encoded["p"])), reverse=True)
    assert [made_of.cheapest([e]) for e in work.largest.examples] == sizes[:3]


def test_rows_are_scored_as_evaluate_scores_them(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    from zofo.measure import evaluate

    model, (work, _) = AutoModelForCausalLM.from_pretrained(folder).eval(), made(folder)
    found = evaluate(model, work.rows, definition.find("reviews"), predictions=True)
    assert work.score is not None
    with torch.no_grad():
        scores = work.score(model, work.rows).tolist()
    assert sorted(scores) == pytest.approx(sorted(s for row in found["scores"] for s in row), abs=1e-5)


def test_without_a_task_the_batch_has_the_shape_that_is_given() -> None:
    work = of_shape(build({"data.batch": 5}), 17)
    assert work.shape == (5, 17) and work.score is None and work.largest.token.shape == (5,)
    assert work.batch("all", "train", 3, 2) == [work.largest] * 2 == work.mixed("mixed", 3, 2, 0.1)


def test_demonstrations_stand_in_front_of_a_row_as_far_as_the_model_reads() -> None:
    config, _ = resolve({"model.name": "m"}, "metaicl")
    assert (config.data.shots, row(config, None), row(config, 2048)) == (16, 4352, 2048)
    assert row(build({"data.max_length": 64, "data.shots": 4, "data.shot_length": 10}), 9999) == 104
    assert row(build({"data.max_length": 64}), None) == 64


def test_probes_in_another_dtype_have_a_loss_of_their_own(folder: str) -> None:
    other = {"model.dtype": "bf16", "method.probe_dtype": "fp32"}
    assert of_shape(build({"data.batch": 2}), 8).above is None is made(folder)[0].above
    assert of_shape(build({"data.batch": 2} | other), 8).above.keywords == {"dtype": "fp32"}
    assert made(folder, **{key.replace(".", "__"): value for key, value in other.items()})[0].above is not None


def test_answers_that_are_written_keep_their_tokens() -> None:
    task = definition.find("squad")
    rows = [Encoded((1,) * n, ((2, 3),), 0) for n in (4, 9, 6)]
    assert written(build({}), task, rows[:1], rows) == {"scoring": 3 * (9 + task.max_new_tokens)}
    found = written(build({"method.objective": "f1"}), task, rows[:1], rows)
    assert found["probing"] == 4 + task.max_new_tokens
    assert written(build({}), definition.find("reviews"), rows, rows) == {}
