"""What training minimises: the LM loss, the classification loss, or (zeroth order alone) a metric that has no gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zofo.config import Config
from zofo.errors import BadInput
from zofo.scoring import generation
from zofo.scoring.batch import Batch, Encoded, choice_batch, frugal_batch, lm_batch
from zofo.scoring.metrics import Answered, exact_match, macro_f1, token_f1
from zofo.scoring.objective import answer_logprobs, by_example, choice_losses, compared, row_losses
from zofo.tasks.definition import Metric, Task

Loss = Callable[[nn.Module, Any], Tensor]
Cut = Callable[[Sequence[Encoded], Sequence[int], int], Batch]


@dataclass(frozen=True)
class Objective:
    """A run's objective.

    loss: a loss a row, differentiable; upper: what the zeroth-order level minimises instead (None: the loss);
    cut: rows into a batch for both; by: the key of evaluation results that decides between checkpoints and
    adapters, the lower the better, or (`higher`) the higher.
    """

    name: str
    loss: Loss
    upper: Loss | None
    cut: Cut
    by: str
    higher: bool = False

    def standing(self, result: Mapping[str, Any]) -> float:
        """A result as a number that is lower for the better one."""
        value = float(result[self.by])
        return -value if self.higher else value


def name_of(config: Config, task: Task) -> str:
    """The objective that a configuration and a task ask for. Raises: BadInput where the task cannot have it."""
    asked = config.method.objective
    name = task.objective if asked == "auto" else asked
    if name == "classification" and task.kind == "text":
        raise BadInput("--objective classification", f"{task.name} has no choices", "take lm, or f1")
    if name in ("accuracy", "f1") and task.chat is not None:
        raise BadInput(f"--objective {name}", f"{task.name} is made of conversations", "take lm")
    return name


def metric_of(name: str, task: Task) -> Metric:
    """The metric that objective "accuracy" or "f1" means for a task."""
    if name == "accuracy":
        return "em" if task.kind == "text" else "accuracy"
    return "f1" if task.kind == "text" or "f1" in task.metrics else "macro_f1"


def measured(config: Config, task: Task) -> Task:
    """The task with the objective's metric among its own, so that validation can choose by it."""
    name = name_of(config, task)
    if name in ("lm", "classification") or (metric := metric_of(name, task)) in task.metrics:
        return task
    return task.model_copy(update={"metrics": (*task.metrics, metric)})


def build(config: Config, task: Task, tokenizer: Any, share: bool = False) -> Objective:
    """The objective of a run; `share`: choices may go on from their context's keys and values. Raises: BadInput as `name_of`."""
    name, dtype = name_of(config, task), config.model.dtype
    every = frugal_batch if share else choice_batch

    def lm(model: nn.Module, batch: Batch) -> Tensor:
        return row_losses(model, batch, dtype)

    def classification(model: nn.Module, batch: Batch) -> Tensor:
        return choice_losses(model, batch, dtype)

    if name == "lm":
        return Objective(name, lm, None, lm_batch, "loss")
    if name == "classification":
        return Objective(name, classification, None, every, "choice_loss")
    metric = metric_of(name, task)
    if task.kind == "text":
        written = partial(metric_of_text, tokenizer=tokenizer, task=task, metric=metric, dtype=dtype)
        return Objective(name, lm, written, lm_batch, metric, higher=True)
    chosen = partial(metric_of_choice, metric=metric, dtype=dtype)
    return Objective(name, lm, chosen, every, metric, higher=True)


def metric_of_text(model: nn.Module, batch: Batch, tokenizer: Any, task: Task, metric: Metric, dtype: str) -> Tensor:
    """Minus the F1 or exact match of each example's generated answer, (E,). Cost: a generation of the batch."""
    line = task.stop == "newline"
    said = generation.answers(model, tokenizer, batch.examples, task.max_new_tokens, line, None, dtype)
    value = token_f1 if metric == "f1" else exact_match
    return -torch.tensor([value(text, e.texts) for text, e in zip(said, batch.examples, strict=True)])


def metric_of_choice(model: nn.Module, batch: Batch, metric: Metric, dtype: str) -> Tensor:
    """Minus a metric of the likeliest choices, (E,): of each row, or (macro-F1) of the micro-batch, the same for each row.

    Cost: a forward pass. Its values are steps: most probes see no change, and then c is 0.
    """
    batch = batch.to(next(model.parameters()).device)
    scores = by_example(compared(answer_logprobs(model, batch, dtype), batch), batch, -torch.inf)
    rows = [answered(e, k) for e, k in zip(batch.examples, scores.argmax(1).tolist(), strict=True)]
    if metric == "accuracy":
        return -torch.tensor([float(row.choice in row.right) for row in rows])
    if metric == "f1":
        return -torch.tensor([token_f1(row.text, row.accepted) for row in rows])
    return -torch.full((len(rows),), macro_f1(rows)[0])


def answered(example: Encoded, choice: int) -> Answered:
    """An example with a choice made."""
    return Answered(example.texts[choice], tuple(example.texts[k] for k in example.rights), choice, example.rights)
