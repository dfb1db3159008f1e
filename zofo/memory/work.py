"""What a run computes at its largest: the micro-batch of its longest rows, and the first batch of rows to score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

from torch import Tensor, nn

from zofo import models
from zofo.config import Config
from zofo.measure import Reading, batches, scored, width
from zofo.objectives import Cut, Objective, name_of
from zofo.prepared import Prepared
from zofo.problem import built
from zofo.scoring.batch import Batch, Encoded, cheapest, frugal_batch, lm_batch, tokens
from zofo.scoring.objective import answer_logprobs, row_losses
from zofo.scoring.past import can_share
from zofo.scoring.tokens import pad_id
from zofo.tasks.definition import Task
from zofo.tasks.redraw import Size

Score = Callable[[nn.Module, Sequence[Encoded]], Tensor]
ROWS = 32  # examples that are scored together, at most (`zofo.measure.evaluate`)


@dataclass(frozen=True)
class Work:
    """What is minimised (`above`: by zeroth order instead), the largest micro-batch, how rows are scored and which.

    score: None where no rows are known. written: tokens whose keys and values are kept at once while answers are
    generated, by pass ("probing", "scoring"). short: the largest of rows that are short enough for a gradient of all
    weights (None: `largest`); whole: where `largest` reads contexts once, the largest that does not, so can be stacked. It is a `Source`, which gives its micro-batch again and again.
    """

    objective: Objective
    largest: Batch
    above: Any = None
    score: Score | None = None
    rows: Sequence[Encoded] = ()
    written: Mapping[str, int] = field(default_factory=dict)
    short: Batch | None = None
    whole: Batch | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and tokens of the micro-batch."""
        rows, tokens = self.largest.input_ids.shape
        return int(rows), int(tokens)

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[Batch]:
        """The micro-batch, as often as is asked for."""
        return [self.short if part == "short" and self.short is not None else self.largest] * micro

    def mixed(self, stream: str, step: int, micro: int, share: float) -> list[Batch]:
        """The same."""
        return [self.largest] * micro


def of_shape(config: Config, tokens: int) -> Work:
    """A batch of `--batch` rows of some tokens with one answer token each: what is known without a task."""

    def batch(length: int) -> Batch:
        rows = [Encoded((0,) * length, ((0,),), 0)] * config.data.batch
        return lm_batch(rows, range(len(rows)), 0)

    limit, (dtype, probes) = config.method.short_tokens, dtypes(config)
    short = batch(min(tokens, limit)) if limit else None
    above = None if probes == dtype else partial(row_losses, dtype=probes)
    objective = Objective("lm", partial(row_losses, dtype=dtype), None, lm_batch, "loss")
    return Work(objective, batch(tokens), above, short=short)


def row(config: Config, room: int | None) -> int:
    """Tokens of a row as long as the options allow, its demonstrations in front; at most `room` of them (None: no limit is known)."""
    shots = config.data.shots * (config.data.shot_length or config.data.max_length)
    return min(config.data.max_length + shots, room or config.data.max_length + shots)


def dtypes(config: Config) -> tuple[str, str]:
    """The computing dtype, and that of theta's probes."""
    probes = config.method.probe_dtype
    return config.model.dtype, config.model.dtype if probes == "auto" else probes


def of_rows(config: Config, ready: Prepared) -> Work:
    """The longest rows of a task's training, in one micro-batch, and those of its validation and test.

    Of a mixture: the largest training rows of all tasks, and the task with the largest first batch to score.
    """
    task, tokenizer = ready.task, ready.tokenizer
    (objective, above), pad = built(config, task, tokenizer, models.skeleton(ready.source)), pad_id(tokenizer)
    n = config.data.batch
    size = read(objective.cut, n)
    rows_of = (trained(m, n, size) for m in ready.members or (ready,))
    ordered = sorted(chain.from_iterable(rows_of), key=lambda e: -size(e))
    longest = ordered[:n]
    fits = [row for row in ordered if row.length <= config.method.short_tokens][:n]
    short = objective.cut(fits, range(len(fits)), pad) if fits else None
    task, rows = heaviest(ready)
    batch = objective.cut(longest, range(len(longest)), pad)
    score = scorer(task, config.model.dtype, pad)
    whole = [row for row in ordered if cheapest([row], n) == n * tokens([row])][:n] if batch.tails is not None else []
    stacked = objective.cut(whole, range(len(whole)), pad) if whole else None
    return Work(objective, batch, above, score, rows, written(config, task, longest, rows), short, stacked)


def read(cut: Cut, n: int) -> Size:
    """Tokens that n rows like one have the model read, with all its choices where they are trained on."""
    if cut is lm_batch:
        return lambda e: n * e.length
    return lambda e: cheapest([e], n) if cut is frugal_batch else n * tokens([e])


def trained(ready: Prepared, n: int, size: Size) -> Sequence[Encoded]:
    """A task's training rows; where a step draws their demonstrations, the n largest of each level behind the longest."""
    return ready.redraw.longest(ready.encoded, n, size) if ready.redraw else (*ready.encoded["f"], *ready.encoded["p"])


def heaviest(ready: Prepared) -> tuple[Task, Sequence[Encoded]]:
    """The rows that are the largest to score, with their task: of validation or test, and of a mixture's tasks."""
    parts = [(m.task, m.encoded[part]) for m in (ready.members or (ready,)) for part in ("validation", "test")]

    def size(held: tuple[Task, Sequence[Encoded]]) -> tuple[int, int]:
        most = max(held[1], key=lambda e: e.length)
        return (most.length * width(most), most.length) if ready.members else (most.length, 0)

    return max((held for held in parts if held[1]), key=size)


def scorer(task: Task, dtype: str, pad: int) -> Score:
    """Score the first batch of some rows as `zofo.measure` does, without writing answers."""

    def score(model: nn.Module, rows: Sequence[Encoded]) -> Tensor:
        reading = Reading(model, dtype, pad, can_share(model))
        _, part, past = next(batches(reading, rows, ROWS, task.max_new_tokens if writes(task) else 0))
        if task.kind == "text":
            return answer_logprobs(model, lm_batch(part, range(len(part)), pad), dtype, past)
        return scored(reading, part, past)[1]

    return score


def writes(task: Task) -> bool:
    """Whether scoring generates answers."""
    return task.kind == "text" and bool(task.metrics)


def written(config: Config, task: Task, longest: Sequence[Encoded], rows: Sequence[Encoded]) -> dict[str, int]:
    """Tokens kept while answers are generated: by the probes of a metric of free text, and by scoring."""
    if not writes(task):
        return {}
    probing = name_of(config, task) in ("accuracy", "f1")
    first = sorted(rows, key=lambda e: -e.length)[:ROWS]
    kept = {"probing": longest if probing else [], "scoring": first}
    most = {name: max((len(e.context) for e in part), default=0) + task.max_new_tokens for name, part in kept.items()}
    return {name: most[name] * len(part) for name, part in kept.items() if part}
