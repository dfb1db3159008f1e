"""Evaluation is the scoring path plus counting, whatever the order and the batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from zofo.core.streams import generator, seeded
from zofo.evaluate import evaluate
from zofo.scoring.batch import Encoded, choice_batch
from zofo.scoring.objective import answer_logprobs, row_losses
from zofo.tasks.definition import Task, find

TASK = find("sst2")


@pytest.fixture(scope="module")
def model() -> Any:
    with seeded(1, "evaluate test"):
        made = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=64, attention_dropout=0.5, initializer_range=0.5,
            )
        )  # fmt: skip
    return made.double()


def examples(count: int = 23, seed: int = 0) -> list[Encoded]:
    """Contexts of 2 to 12 tokens; choices of one token, and of one and two."""
    draw = generator(seed, "evaluate test")
    found = []
    for k in range(count):
        context = tuple(draw.integers(3, 64, int(draw.integers(2, 13))).tolist())
        answers = ((10,), (11,)) if k % 2 else ((10, 12), (11,), (10, 13))
        found.append(Encoded(context, answers, int(draw.integers(0, len(answers)))))
    return found


def test_predictions_and_losses_are_those_of_rows_scored_alone(model: Any) -> None:
    rows = examples()
    found = evaluate(model, rows, TASK, batch_rows=4, predictions=True)
    model.eval()
    with torch.no_grad():
        alone = [answer_logprobs(model, choice_batch(rows, [k], 0)) for k in range(len(rows))]
        losses = torch.cat([row_losses(model, choice_batch(rows, [k], 0)) for k in range(len(rows))])
    assert found["predictions"] == [int(scores.argmax()) for scores in alone]
    assert found["losses"] == pytest.approx(losses.tolist(), abs=1e-12)
    right = sum(p == row.label for p, row in zip(found["predictions"], rows, strict=True))
    assert (found["accuracy"], found["n"]) == (right / 23, 23)
    assert found["loss"] == pytest.approx(float(losses.mean()), abs=1e-12)


def test_order_and_batch_size_do_not_matter(model: Any) -> None:
    rows = examples()
    first = evaluate(model, rows, TASK, batch_rows=5)
    for other in (evaluate(model, rows[::-1], TASK, batch_rows=5), evaluate(model, rows, TASK, batch_rows=100)):
        assert other == pytest.approx(first, abs=1e-12)
    assert set(first) == {"loss", "accuracy", "se", "n"}


def test_ties_go_to_the_first_choice(model: Any) -> None:
    found = evaluate(model, [Encoded((5, 6), ((7,), (7,), (7,)), 2)], TASK, predictions=True)
    assert found["predictions"] == [0]


def test_a_task_may_ask_for_f1(model: Any) -> None:
    task = Task(**(TASK.model_dump() | {"metric": "f1"}))
    assert 0 <= evaluate(model, examples(), task)["f1"] <= 1


def test_dropout_is_off_and_every_mode_comes_back(model: Any) -> None:
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    assert evaluate(model, examples(), TASK) == evaluate(model, examples(), TASK)
    assert [module.training for module in model.modules()] == before


def test_check_runs_between_batches_and_may_stop_it(model: Any) -> None:
    model.train()
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, examples(), TASK, batch_rows=4, check=check)
    assert len(calls) == 3 and all(module.training for module in model.modules())


def test_progress_counts_rows_up_to_all(model: Any) -> None:
    told: list[tuple[int, int]] = []
    evaluate(model, examples(), TASK, batch_rows=10, progress=lambda done, of: told.append((done, of)))
    assert told == [(10, 23), (20, 23), (23, 23)]


def test_no_gradients_are_kept_and_long_rows_go_first(model: Any) -> None:
    lengths: list[int] = []

    def see(_: nn.Module, args: Any, kwargs: Any) -> None:
        assert not torch.is_grad_enabled()
        lengths.append(kwargs["input_ids"].shape[1])

    handle = model.register_forward_pre_hook(see, with_kwargs=True)
    evaluate(model, examples(), TASK, batch_rows=4)
    handle.remove()
    assert lengths == sorted(lengths, reverse=True)


def test_no_rows_is_an_error(model: Any) -> None:
    with pytest.raises(ValueError, match="0 labels"):
        evaluate(model, [], TASK)
