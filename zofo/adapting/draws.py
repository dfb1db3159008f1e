"""One task: a few of its rows, a few steps of a fresh adapter, the score of its test rows; and that again for each draw."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from zofo import job, spread
from zofo.adapters.slots import Slots
from zofo.adapting.base import Base
from zofo.adapting.plan import MICRO, Plan, seeded
from zofo.config import Config
from zofo.job import Prepared
from zofo.measure import evaluate
from zofo.methods import table
from zofo.problem import built, joined
from zofo.scoring.batch import Batch, Encoded
from zofo.scoring.tokens import pad_id
from zofo.tasks import parts, shots
from zofo.tasks.batches import Batches, walk
from zofo.tasks.definition import Task
from zofo.tasks.shots import Pool

Told = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Few(Batches):
    """Batches of `take` of the drawn rows, in a fresh order each time through, in micro-batches of `rows`."""

    take: int = 1

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[Batch]:
        """The rows of a step."""
        examples = self.parts[part]
        return self.cut(examples, walk(self.seed, f"rows-{stream}", step * self.take, self.take, len(examples)))


@dataclass(frozen=True)
class Adapted:
    """A task's record (fit for JSON), and the adapter of its first draw."""

    record: dict[str, Any]
    tensors: Mapping[str, Tensor]


def prepare(config: Config, given: Sequence[str] = (), task: Task | None = None) -> Prepared:
    """The task's test rows in tokens, and its rows to draw from; notes about the others' number are left out. Raises: BadInput."""
    ready = job.prepare(config, given, task, ("test",))
    kept = [note for note in ready.notes if note.partition(":")[0] not in ("train", "validation")]
    return replace(ready, notes=kept)


def on_task(
    base: Base,
    plan: Plan,
    ready: Prepared,
    config: Config,
    told: Told | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
) -> Adapted:
    """Score the base as it is, then adapt and score it for each draw.

    Args: config, with the seed that `ready` was made by; told, called with each draw's record; keep, with the task's record of the draws so far. The base ends as it began, also on an exception.
    Raises: BadInput where a class has too few rows; NotFinite. Cost: (draws + 1) evaluations; draws x steps forward and backward passes a micro-batch.
    """
    found = shots.pool(ready.task, ready.splits)
    shots.refuse_few(found, plan.shots)
    with base.lent() as model:
        before = measured(model, ready, config)
    made: list[tuple[dict[str, Any], Mapping[str, Tensor]]] = []
    for draw in range(plan.draws):
        record, tensors = one(base, plan, ready, config, found, draw)
        made.append((record, tensors if draw == 0 else {}))
        if told is not None:
            told(record)
        so_far = summary(ready, found.words(plan.shots), before, [held for held, _ in made])
        if keep is not None:
            keep(so_far)
    return Adapted(so_far, made[0][1])


def measured(model: nn.Module, ready: Prepared, config: Config) -> dict[str, Any]:
    """The test rows' metrics: the one scoring path."""
    return evaluate(
        model, ready.encoded["test"], ready.task, dtype=config.model.dtype, pad=pad_id(ready.tokenizer),
        nulls=ready.nulls.get("test", ()), tokenizer=ready.tokenizer,
    )  # fmt: skip


def one(
    base: Base, plan: Plan, ready: Prepared, config: Config, found: Pool, draw: int
) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """One draw: its record, and its adapter."""
    seed = plan.seed_of(draw)
    index = shots.drawn(found, plan.shots, seed)
    rows = encoded(ready, config, found, index)
    with base.adapted(seed) as slots:
        began = time.perf_counter()
        steps = trained(base, slots, plan, ready, config, rows, seed)
        steps["seconds"] = time.perf_counter() - began
        result = measured(slots.model, ready, config)
        tensors = slots.tensors("p")
    where = [found.index[k] for k in index]
    cut = sum(row.cut for row in rows)
    return {"draw": draw + 1, "seed": seed, "rows": where, "cut": cut, **steps, "result": result}, tensors


def encoded(ready: Prepared, config: Config, found: Pool, index: Sequence[int]) -> tuple[Encoded, ...]:
    """The drawn rows in tokens, read as training rows are."""
    splits = shots.lower(ready.splits, found, index)
    room = job.room(config, ready.task, ready.source)
    return parts.encode(ready.task, splits, ready.tokenizer, config.data, config.run.seed, room, ("p",)).encoded["p"]


def trained(
    base: Base, slots: Slots, plan: Plan, ready: Prepared, config: Config, rows: tuple[Encoded, ...], seed: int
) -> dict[str, Any]:
    """The steps: p <- p - lr Adam(clip(grad_p F(theta, p; batch))); theta stands still. Returns losses and counts.

    Raises: NotFinite.
    """
    take = plan.take(len(rows))
    micro = -(-take // MICRO)
    method = config.method.model_copy(update={"accumulate_lower": micro})
    config = seeded(config.model_copy(update={"method": method}), seed)
    objective, above = built(config, ready.task, ready.tokenizer, slots.model)
    problem = joined(config, slots.model, base.leaves, slots, objective, above)
    source = Few({"all": rows}, min(take, MICRO), pad_id(ready.tokenizer), seed, objective.cut, take=take)
    learner = table.METHODS[config.method.name].load()
    state, reports = learner.init(problem), []
    for _ in range(plan.steps):
        state, report = learner.step(problem, state, source)
        reports.append(report)
    passes = {name: sum(getattr(report, name) for report in reports) for name in ("forwards", "backwards")}
    return {"losses": [report.numbers["loss_p"] for report in reports], "skipped": state.bad, **passes}


def metric_of(task: Task) -> str:
    """What a task is measured by first."""
    return task.metrics[0] if task.metrics else "loss"


def summary(ready: Prepared, drawn: str, before: dict[str, Any], draws: list[dict[str, Any]]) -> dict[str, Any]:
    """A task's record: what was drawn (in words), the score before, each draw, and their mean, spread and interval."""
    metric = metric_of(ready.task)
    record = ready.splits.record
    held = {key: record["parts"]["test"][key] for key in ("rows", "of", "sha256")}
    return {
        "task": ready.task.name,
        "metric": metric,
        "drawn": drawn,
        "test": held | {"seed": record["seed"], "source": record["source"]},
        "notes": ready.notes,
        "before": before,
        "draws": draws,
        "after": asdict(spread.of([draw["result"][metric] for draw in draws])),
        "seconds": sum(draw["seconds"] for draw in draws) / len(draws),
    }
