"""Evaluation is the scoring path plus counting, whatever the order, the batches and what is shared."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import zofo.measure as room
import zofo.scoring.batch as made_of
from zofo.core.streams import generator, seeded
from zofo.measure import evaluate
from zofo.scoring.batch import Encoded, choice_batch, lm_batch
from zofo.scoring.generation import answers
from zofo.scoring.metrics import right
from zofo.scoring.objective import answer_logprobs, choice_losses, row_losses
from zofo.tasks.definition import Task

TASK = Task(name="words", template="{{ text }}", choices=("bad", "good"), metrics=("accuracy",))
FREE = Task(name="free", template="{{ text }}", metrics=("f1", "em"), max_new_tokens=5)
OPTIONS = Task(name="options", template="{{ text }}", options="options", metrics=("accuracy", "em"))
HEAD = tuple(range(3, 43))  # 40 tokens that many rows begin with


def llama(vocabulary: int, name: str, **options: Any) -> Any:
    with seeded(1, name):
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=128, attention_dropout=0.5, initializer_range=0.5, **options,
            )
        ).double()  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    return llama(64, "evaluate test")


@pytest.fixture(scope="module")
def spelling(folder: str) -> Any:
    """A byte-level tokenizer."""
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def writer(spelling: Any) -> Any:
    """A model that writes bytes."""
    return llama(len(spelling), "evaluate test, bytes", bos_token_id=None, eos_token_id=0, pad_token_id=0)


def examples(count: int = 23, seed: int = 0, head: tuple[int, ...] = ()) -> list[Encoded]:
    """Contexts of 2 to 12 tokens after `head`; choices of one token, and of one and two, at times several right."""
    draw = generator(seed, "evaluate test")
    found = []
    for k in range(count):
        context = head + tuple(draw.integers(3, 64, int(draw.integers(2, 13))).tolist())
        own = ((10,), (11,)) if k % 2 else ((10, 12), (11,), (10, 13))
        label = int(draw.integers(0, len(own)))
        right = (label, (label + 1) % 3) if k % 6 == 0 else (label,)
        found.append(Encoded(context, own, label, right=right, texts=tuple("xyz"[: len(own)])))
    return found


def texts(spelling: Any, count: int = 9, head: str = "") -> list[Encoded]:
    """Free answers to prompts of several lengths."""
    made = []
    for k in range(count):
        context = tuple(spelling(f"{head}prompt {'x' * (5 * k % 7)}{k}")["input_ids"])
        made.append(Encoded(context, (tuple(spelling(f" answer{k}")["input_ids"]),), 0, texts=(f"answer{k}", "other")))
    return made


@contextmanager
def passes(model: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """The shape of the rows of each forward pass."""
    seen: list[tuple[int, ...]] = []

    def see(_: nn.Module, args: Any, kwargs: Any) -> None:
        assert not torch.is_grad_enabled()
        seen.append(tuple(kwargs["input_ids"].shape))

    handle = model.register_forward_pre_hook(see, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@torch.no_grad()
def alone(model: Any, rows: Sequence[Encoded], score: Callable[..., torch.Tensor]) -> list[list[float]]:
    """Scores or losses of every row in a batch of its own."""
    model.eval()
    return [score(model, choice_batch(rows, [k], 0)).tolist() for k in range(len(rows))]


def flat(values: Sequence[Sequence[float]]) -> list[float]:
    return [value for row in values for value in row]


def best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=lambda k: scores[k])


def test_predictions_losses_and_scores_are_those_of_rows_scored_alone(model: Any) -> None:
    rows = examples()
    found = evaluate(model, rows, TASK, batch_rows=4, predictions=True)
    scores, losses = alone(model, rows, answer_logprobs), flat(alone(model, rows, row_losses))
    assert [len(row) for row in found["scores"]] == [len(row.answers) for row in rows]
    assert flat(found["scores"]) == pytest.approx(flat(scores), abs=1e-6)
    assert found["predictions"] == [best(row) for row in scores]
    assert found["losses"] == pytest.approx(losses, abs=1e-6)
    right = sum(p in row.rights for p, row in zip(found["predictions"], rows, strict=True))
    assert (found["accuracy"], found["n"]) == (right / 23, 23) and 0 < right < 23
    assert found["by_row"] == {"accuracy": [p in row.rights for p, row in zip(found["predictions"], rows, strict=True)]}
    assert found["loss"] == pytest.approx(sum(losses) / 23, abs=1e-6)


def test_the_choice_loss_is_the_mean_classification_loss(model: Any) -> None:
    rows = examples()
    losses = torch.tensor(flat(alone(model, rows, choice_losses)), dtype=torch.float64)
    found = evaluate(model, rows, TASK, batch_rows=4)
    assert found["choice_loss"] == pytest.approx(float(losses.mean()), abs=1e-6)
    assert found["choice_loss_se"] == pytest.approx(float(losses.std(correction=0)) / 23**0.5, abs=1e-6)


def test_order_and_batch_size_do_not_matter(model: Any) -> None:
    rows = examples()
    first = evaluate(model, rows, TASK, batch_rows=5)
    for other in (evaluate(model, rows[::-1], TASK, batch_rows=5), evaluate(model, rows, TASK, batch_rows=100)):
        assert other == pytest.approx(first, abs=1e-6)
    names = ("loss", "choice_loss", "accuracy")
    assert set(first) == {"n", *names, *(f"{name}_se" for name in names)}


def test_ties_go_to_the_first_choice(model: Any) -> None:
    found = evaluate(model, [Encoded((5, 6), ((7,), (7,), (7,)), 2)], TASK, predictions=True)
    assert found["predictions"] == [0] and found["accuracy"] == 0


@pytest.mark.parametrize(
    ("scores", "choice"), [([math.nan, math.nan], -1), ([math.nan, -2.0], 1), ([-1.0, math.nan], 0)]
)
def test_a_choice_without_a_number_is_never_the_answer(scores: list[float], choice: int) -> None:
    """A model that computes NaN is not right wherever the first choice is."""
    example = Encoded((1,), ((2,), (3,)), 0)
    said = room.chosen(example, scores)
    assert said.choice == choice and (said.text == "") == (choice < 0)
    assert right(said) == float(choice == 0)


def test_a_task_says_which_metrics_are_computed(model: Any) -> None:
    rows = examples()
    task = TASK.model_copy(update={"metrics": ("macro_f1", "f1a")})
    found = evaluate(model, rows, task)
    assert {"macro_f1", "macro_f1_se", "f1a", "f1a_se"} < set(found) and "accuracy" not in found


def test_options_are_judged_by_their_texts(model: Any) -> None:
    rows = [replace(row, texts=("The cat", "cat", "dog")[: len(row.answers)], right=(0,)) for row in examples()]
    found = evaluate(model, rows, OPTIONS, predictions=True)
    assert found["accuracy"] == sum(p == 0 for p in found["predictions"]) / 23
    assert found["em"] == sum(p in (0, 1) for p in found["predictions"]) / 23


def test_calibration_picks_the_highest_score_over_the_null_prompts(model: Any) -> None:
    rows = examples()
    nulls = [replace(row, context=(5 + k % 3, 7)) for k, row in enumerate(rows)]
    scores, bases = alone(model, rows, answer_logprobs), alone(model, nulls, answer_logprobs)
    wanted = [best([s - b for s, b in zip(*pair, strict=True)]) for pair in zip(scores, bases, strict=True)]
    found = evaluate(model, rows, TASK, batch_rows=4, predictions=True, nulls=nulls)
    assert found["predictions"] == wanted != [best(row) for row in scores]
    assert flat(found["ranked"]) == pytest.approx(
        [s - b for s, b in zip(flat(scores), flat(bases), strict=True)], abs=1e-5
    )
    plain = evaluate(model, rows, TASK, batch_rows=4, predictions=True)
    for name in ("scores", "losses", "loss", "choice_loss"):
        assert found[name] == plain[name], "calibration changes what is chosen, nothing else"


def test_equal_null_prompts_are_scored_once(model: Any) -> None:
    rows, told = examples(), list[tuple[int, int]]()
    nulls = [replace(row, context=(5, 7)) for row in rows]
    with passes(model) as plain:
        evaluate(model, rows, TASK, batch_rows=100, share=False)
    with passes(model) as seen:
        evaluate(model, rows, TASK, 100, share=False, nulls=nulls, progress=lambda done, of: told.append((done, of)))
    assert len(seen) == len(plain) + 1
    assert seen[-1] == (3, 3)  # one row for two words; two for (10, 12), (10, 13) and (11,)
    assert told == [(23, 23)], "null prompts are no rows"


def test_each_row_needs_its_null_prompt(model: Any) -> None:
    with pytest.raises(ValueError, match="zip"):
        evaluate(model, examples(), TASK, nulls=examples()[:5])


@pytest.mark.parametrize("head", [(), HEAD])
def test_what_is_shared_changes_cost_and_not_results(
    model: Any, head: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kept prefix, and contexts read once for all their choices."""
    monkeypatch.setattr(made_of, "PASS", -1000)
    rows = examples(head=head)
    nulls = [replace(row, context=(*head, 5)) for row in rows]
    with passes(model) as whole:
        wanted = evaluate(model, rows, TASK, 5, predictions=True, nulls=nulls, share=False)
    with passes(model) as shared:
        found = evaluate(model, rows, TASK, 5, predictions=True, nulls=nulls)
    for key in ("scores", "ranked"):
        assert flat(found.pop(key)) == pytest.approx(flat(wanted.pop(key)), abs=1e-5)
    assert found.pop("losses") == pytest.approx(wanted.pop("losses"), abs=1e-5)
    assert [found.pop(key) for key in ("predictions", "by_row")] == [
        wanted.pop(key) for key in ("predictions", "by_row")
    ]
    assert found == pytest.approx(wanted, abs=1e-5)
    assert sum(r * n for r, n in shared) < sum(r * n for r, n in whole)
    assert ((1, len(head)) in shared) == bool(head)


def test_one_row_that_begins_another_keeps_a_token_of_its_own(model: Any) -> None:
    rows = [Encoded(HEAD + (5,) * k, ((10,), (11, 12)), 0) for k in range(3)]
    with passes(model) as seen:
        found = evaluate(model, rows, TASK, predictions=True)
    assert seen[0] == (1, len(HEAD) - 1)
    assert flat(found["scores"]) == pytest.approx(flat(alone(model, rows, answer_logprobs)), abs=1e-5)


def test_short_common_beginnings_are_not_kept(model: Any) -> None:
    with passes(model) as seen:
        evaluate(model, examples(head=HEAD[: room.WORTH - 1]), TASK, batch_rows=100)
    assert len(seen) <= 2 and all(rows > 1 for rows, _ in seen)


@pytest.mark.parametrize("share", [False, True])
def test_every_row_is_read_exactly_once(model: Any, share: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are told apart by their last context token."""
    read: list[int] = []

    name = "frugal_batch" if share else "choice_batch"
    made = getattr(made_of, name)

    def see(examples: Sequence[Encoded], *args: Any) -> Any:
        read.extend(example.context[-1] for example in examples)
        return made(examples, *args)

    monkeypatch.setattr(room, name, see)
    rows = [replace(row, context=(*row.context, k + 3)) for k, row in enumerate(examples(40, head=HEAD))]
    evaluate(model, rows, TASK, batch_rows=7, share=share)
    assert sorted(read) == list(range(3, 43))


def test_free_answers_are_generated_and_compared(writer: Any, spelling: Any) -> None:
    rows = texts(spelling)
    writer.eval()
    wanted = [answers(writer, spelling, [row], 5)[0] for row in rows]
    rows[2] = replace(rows[2], texts=("nothing", wanted[2] + " "))
    found = evaluate(writer, rows, FREE, batch_rows=4, tokenizer=spelling, predictions=True)
    assert found["predictions"] == wanted and len(set(wanted)) > 3
    assert found["em"] == sum(w in row.texts or w + " " in row.texts for w, row in zip(wanted, rows, strict=True)) / 9
    assert found["f1"] >= found["em"] >= 1 / 9
    assert {name: sum(values) / 9 for name, values in found["by_row"].items()} == pytest.approx(
        {name: found[name] for name in ("f1", "em")}
    )
    names = ("loss", "f1", "em")
    assert set(found) - set(room.BY_ROW) == {
        "n", *names, *(f"{name}_se" for name in names)
    }  # fmt: skip


def test_the_loss_of_a_free_answer_is_that_of_the_first_accepted(writer: Any, spelling: Any) -> None:
    rows = texts(spelling)
    found = evaluate(writer, rows, FREE, batch_rows=4, predictions=True)
    with torch.no_grad():
        wanted = torch.cat([row_losses(writer.eval(), lm_batch(rows, [k], 0)) for k in range(len(rows))])
    assert found["losses"] == pytest.approx(wanted.tolist(), abs=1e-6)
    assert found["loss"] == pytest.approx(float(wanted.mean()), abs=1e-6)


def test_without_a_tokenizer_or_metrics_free_answers_have_a_loss_only(writer: Any, spelling: Any) -> None:
    rows = texts(spelling)
    with passes(writer) as seen:
        assert set(evaluate(writer, rows, FREE)) == {"n", "loss", "loss_se"}
    silent = FREE.model_copy(update={"metrics": ()})
    with passes(writer) as also:
        assert set(evaluate(writer, rows, silent, tokenizer=spelling)) == {"n", "loss", "loss_se"}
    assert len(seen) == len(also) == 1, "nothing is generated"


def test_free_answers_are_the_same_with_a_kept_prefix(writer: Any, spelling: Any) -> None:
    rows = texts(spelling, head="a demonstration that all rows begin with: ")
    with passes(writer) as seen:
        found = evaluate(writer, rows, FREE, 4, tokenizer=spelling, predictions=True)
    wanted = evaluate(writer, rows, FREE, 4, tokenizer=spelling, predictions=True, share=False)
    assert seen[0][0] == 1 and seen[0][1] >= room.WORTH
    assert found["predictions"] == wanted["predictions"]
    assert found["losses"] == pytest.approx(wanted["losses"], abs=1e-5)


def test_generation_leaves_no_remark_and_every_mode_comes_back(
    writer: Any, spelling: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    writer.train()
    evaluate(writer, texts(spelling), FREE, tokenizer=spelling)
    logger.removeHandler(caplog.handler)
    assert not caplog.records and all(module.training for module in writer.modules())


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


@pytest.mark.parametrize("head", [(), HEAD])
def test_progress_counts_rows_up_to_all(model: Any, head: tuple[int, ...]) -> None:
    told: list[tuple[int, int]] = []
    evaluate(model, examples(head=head), TASK, batch_rows=10, progress=lambda done, of: told.append((done, of)))
    assert told == [(10, 23), (20, 23), (23, 23)]


def test_no_gradients_are_kept_and_long_rows_go_first(model: Any) -> None:
    with passes(model) as seen:
        evaluate(model, examples(), TASK, batch_rows=4, share=False)
    lengths = [length for _, length in seen]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) > 2


def test_a_batch_holds_no_more_tokens_than_it_may(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "TOKENS", 60)
    rows = [Encoded((5,) * (4 + k), ((10,), (11,)), 0) for k in range(20)]
    with passes(model) as seen:
        evaluate(model, rows, TASK, share=False)
    assert max(count * length for count, length in seen) <= 60
    assert len(seen) < 20 and sum(count for count, _ in seen) == 20


def test_a_batch_holds_no_more_tokens_than_it_may_where_later_rows_have_more_choices(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "TOKENS", 60)
    many = tuple((10 + k, 11) for k in range(5))
    rows = [Encoded((5,) * 10, ((10,), (11,)), 0), *[Encoded((5,) * 6, many, 0) for _ in range(6)]]
    with passes(model) as seen:
        evaluate(model, rows, TASK, share=False)
    assert max(count * length for count, length in seen) <= 60


def test_no_rows_is_an_error(model: Any) -> None:
    for task in (TASK, FREE):
        with pytest.raises(ValueError, match=r"\[0\] rows"):
            evaluate(model, [], task)
