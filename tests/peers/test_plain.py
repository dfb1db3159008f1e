"""Every task's log-probabilities are those of a scorer of thirty lines that knows nothing of zofo's batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zofo import job
from zofo.config import build
from zofo.measure import evaluate
from zofo.tasks import definition
from zofo.tasks.answers import answers
from zofo.tasks.template import fill

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::FutureWarning")]
ROWS = 4  # of each of the 54 tasks: 216 examples


def texts(task: definition.Task, row: dict[str, Any]) -> tuple[str, list[str]]:
    """A row's prompt and its candidates (of a free answer the first accepted one), as text."""
    found = answers(task, row, "row")
    choices = found.choices[:1] if task.kind == "text" else found.choices
    prompt = fill(task, task.template, row, "row")
    gap = "" if not prompt or prompt[-1].isspace() else " "
    end = "\n" if task.kind == "text" else ""  # what generation stops at
    return prompt, [gap + fill(task, task.answer, {**row, "choice": choice}, "row") + end for choice in choices]


@torch.no_grad()
def plain(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    """Mean log-probability of the tokens of prompt + answer that reach beyond the prompt; one row, all logits."""
    made = tokenizer(prompt + answer, add_special_tokens=False, return_offsets_mapping=True)
    ids, ends = made["input_ids"], [end for _, end in made["offset_mapping"]]
    start = next(k for k, end in enumerate(ends) if end > len(prompt))
    if start == 0:
        ids, start = [tokenizer.bos_token_id, *ids], 1
    scores = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
    return float(scores[torch.arange(start - 1, len(ids) - 1), torch.tensor(ids[start:])].mean())


@pytest.mark.parametrize("name", definition.names())
def test_log_probabilities_equal_those_of_a_plain_scorer(real: Any, name: str) -> None:
    config = build({"model.name": "smollm2-135m", "data.task": name, "data.test_rows": ROWS, "data.max_length": 4096})
    ready = job.prepare(config, wanted=("test",))
    task = ready.task.model_copy(update={"metrics": ()}) if ready.task.kind == "text" else ready.task
    found = evaluate(real.model, ready.encoded["test"], task, predictions=True)
    assert len(ready.splits.test) == ROWS
    for row, scores, loss in zip(ready.splits.test, found["scores"] or [None] * ROWS, found["losses"], strict=True):
        prompt, tails = texts(ready.task, row)
        wanted = [plain(real.model, real.tokenizer, prompt, tail) for tail in tails]
        assert (scores or [-loss]) == pytest.approx(wanted, abs=1e-4)
