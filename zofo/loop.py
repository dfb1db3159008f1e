"""THE loop: train, validate, save, and at the end test. `zofo.begin` enters it, by `work`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from zofo import cap, checkpoints, config, errors, example, theta0
from zofo.checkpoints import Progress
from zofo.errors import NotFinite, ZofoError
from zofo.job import Job, adapter_of, described
from zofo.memory import resident, taken
from zofo.methods import table, undo
from zofo.methods.state import Report, State
from zofo.report import advice, card, history, plots, terminal, words
from zofo.report.advice import Advice
from zofo.run import checkpoint as files
from zofo.run import seam
from zofo.run.folder import RunFolder
from zofo.run.journal import Applied, Journal
from zofo.run.jsonfile import read_object, read_scores, write_json
from zofo.run.metrics import Metrics, read_metrics
from zofo.run.signals import Interrupted, Stop


class Show(Protocol):
    """Where a run tells what it does."""

    def note(self, text: str) -> None: ...
    def phase(self, text: str) -> None: ...
    def step(self, row: Mapping[str, Any], of: int) -> None: ...
    def validation(self, row: Mapping[str, Any]) -> None: ...
    def done(self, summary: Mapping[str, Any]) -> None: ...


@dataclass
class Running:
    """A job with its open run folder: what the phases of the loop share. `standing`: bytes taken before training; `said`: advice."""

    job: Job
    run: RunFolder
    journal: Journal
    metrics: Metrics
    stop: Stop
    show: Show
    gauge: resident.Gauge
    standing: int = 0
    said: set[str] = field(default_factory=set)

    @property
    def settings(self) -> config.RunConfig:
        """The run's own section of the configuration."""
        return self.job.config.run


def loop(r: Running, state: State, progress: Progress) -> tuple[State, Progress]:
    """Train from `state` to the last step or the end of the budget, and return where it ended.

    Raises: NotFinite when a method gives up, Interrupted when a signal stopped the run; the state before is saved (`going`).
    """
    saved = state.k
    while True:
        signal, last = r.stop.check(), finished(r, state, progress)
        if signal is None and state.k > progress.validated and due(state.k, r.settings.eval_every, last):
            with going(r, state, progress, saved, moves=False):
                progress = validate(r, state, progress)
            saved = -1
        if state.k != saved and (signal or due(state.k, r.settings.save_every, last)):
            progress = checkpoints.save(r.job, r.run, state, progress, r.journal, r.metrics)
            saved = state.k
        if signal is not None:
            raise Interrupted(signal)
        if last:
            return state, progress
        r.gauge.start()
        began = time.perf_counter()
        with going(r, state, progress, saved):
            state, report = r.job.method.step(r.job.problem, state, r.job.batches)
        progress = spent(progress, report, time.perf_counter() - began)
        record(r, state, report, progress)


@contextmanager
def going(r: Running, state: State, progress: Progress, saved: int, moves: bool = True) -> Iterator[None]:
    """A block that changes nothing unless it ends: the state before it is saved where its losses are not finite, it is stopped at the edge of a pass, or it fails and is undone (`moves` false: nothing was to be).

    Cut short elsewhere (a signal after its grace, a second one) it may be in the midst of anything: nothing is saved.
    """
    try:
        yield
    except NotFinite:
        keep(r, state, progress, saved)
        raise
    except Interrupted as stopped:
        if stopped.edge:
            keep(r, state, progress, saved)
        raise
    except Exception as error:
        if undo.undone(error) or not moves:
            with suppress(OSError, ZofoError):  # a full disk may be what it failed of
                keep(r, state, progress, saved)
        raise


def keep(r: Running, state: State, progress: Progress, saved: int) -> None:
    """Save a state, unless it is the one that was saved last."""
    if state.k != saved:
        checkpoints.save(r.job, r.run, state, progress, r.journal, r.metrics)


@contextmanager
def noted(r: Running) -> Iterator[None]:
    """A block whose errors say, in a note, which step is saved and what can be done with it."""
    try:
        yield
    except (Exception, Interrupted) as error:
        steps, name = files.listing(r.run.checkpoints), terminal.named(str(r.run.path))
        do = f"zofo eval {name} --which last" if isinstance(error, NotFinite) else f"zofo resume {name}"
        errors.note(error, f"step {steps[-1]} is saved: {do}" if steps else "no step was saved")
        raise


def due(k: int, every: int, last: bool) -> bool:
    """Whether something that happens every so many steps (0: at the end only) happens after step k."""
    return last or (every > 0 and k % every == 0)


def finished(r: Running, state: State, progress: Progress) -> bool:
    """Whether the steps are done or the seconds are spent."""
    return state.k >= r.settings.steps or 0 < r.settings.seconds <= progress.seconds


def spent(progress: Progress, report: Report, seconds: float) -> Progress:
    """Add a step's cost to the totals."""
    return replace(
        progress,
        seconds=progress.seconds + seconds,
        forwards=progress.forwards + report.forwards,
        backwards=progress.backwards + report.backwards,
    )


def record(r: Running, state: State, report: Report, progress: Progress) -> None:
    """Write a step to the journal (as applied) and to the metrics, and show it."""
    moved = report.moved
    applied = Applied(state.k) if moved is None else Applied(state.k, moved.terms, moved.decay, moved.law, moved.replay)
    r.journal.append(applied)
    row = {"kind": "step", "step": state.k, **report.numbers}
    row |= {"forwards": progress.forwards, "backwards": progress.backwards}
    row |= {"time": {"train": progress.seconds}, "memory": {r.gauge.key: r.gauge.peak() / 1e6}}
    r.metrics.append(row)
    r.show.step(row, r.settings.steps)
    for note in report.notes:
        r.show.note(note)
    if advice.due(state.k, finished(r, state, progress)):
        advise(r, state.k, advice.of_steps(read_metrics(r.run.metrics), r.job.config))


def advise(r: Running, k: int, found: Iterable[Advice]) -> None:
    """Say what is wrong with the run, each thing once, and write it to the metrics."""
    for one in found:
        if one.about not in r.said:
            r.said.add(one.about)
            r.metrics.append({"kind": "advice", "step": k, **vars(one)})
            r.show.note(one.text)


def contestants(job: Job, part: str) -> dict[str, str | None]:
    """What is evaluated: the adapters by name, or theta alone (unseen tasks have none of the training tasks' own)."""
    if job.slots is None or (part == "test" and table.apart(job.config)):
        return {"theta": None}
    return {slot: slot for slot in job.slots.params}


def score(job: Job, part: str, slot: str | None) -> dict[str, Any]:
    """Evaluate one adapter (or theta alone) on a part of the rows: of the task, or of each task of the mixture."""
    if job.slots is not None and slot is not None:
        job.slots.use(slot)
    alone = job.slots.off() if job.slots is not None and slot is None else nullcontext()
    write = part == "test" or job.objective.higher  # free answers cost a generation each: else their loss serves
    with job.problem.standing_still(), alone:
        return job.scorer(job.model, part, write)


def validate(r: Running, state: State, progress: Progress) -> Progress:
    """Score p and s (or theta) on the validation rows; keep the best checkpoint by what the objective goes by.

    Also measures how far theta has moved. Returns the progress with the best so far.
    """
    r.gauge.start()
    began = time.perf_counter()
    results = {name: score(r.job, "validation", slot) for name, slot in contestants(r.job, "validation").items()}
    used = choose(r.job, results)
    loss = r.job.objective.standing(results[used])
    better = math.isfinite(loss) and (progress.best is None or loss < progress.best["loss"])
    row: dict[str, Any] = {"kind": "validation", "step": state.k, **results, "used": used, "best": better}
    row["by"] = r.job.objective.by
    if r.job.moves_theta:
        row["moved"] = theta0.moved(r.job.leaves, r.job.base)
    progress = replace(progress, validated=state.k)
    if better:
        progress = replace(progress, best={"step": state.k, "used": used, "loss": loss})
        checkpoints.save_best(r.job, r.run, state, progress)
    row["time"] = {"seconds": time.perf_counter() - began, "train": progress.seconds}
    row["memory"] = {r.gauge.key: r.gauge.peak() / 1e6}
    resident.settle()  # what scoring took is not a step's
    r.metrics.append(row)
    r.show.validation(row)
    advise(r, state.k, advice.of_validations(read_metrics(r.run.metrics), r.job.config))
    return progress


def choose(job: Job, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The adapter with the lower validation loss (or the better metric), unless `inference_adapter` fixes it."""
    fixed = job.config.method.inference_adapter
    if fixed in results:
        return fixed
    standing = {name: job.objective.standing(result) for name, result in results.items()}
    return min(results, key=lambda name: (not math.isfinite(standing[name]), standing[name], name))


def conclude(r: Running, state: State, progress: Progress) -> dict[str, Any]:
    """Test the best checkpoint (unless the run leaves the test rows unread), and write eval.json, the curves and the model card."""
    if r.settings.test:
        r.show.phase("testing the best checkpoint")
    held = checkpoints.load_for_use(r.job, r.run, "best", r.show.note)
    results = tested(r) if r.settings.test else {}
    if results and table.apart(r.job.config):
        r.show.note(
            "unseen tasks are scored by theta alone, without an adapter: `zofo adapt` gives each one of its own"
        )
    summary = evaluation(r.job, results) | {"checkpoint": held.which, "step": held.step, "used": held.used}
    rows = read_metrics(r.run.metrics)
    summary["memory"] = taken.summary(
        r.job.config, r.job.prepared, rows, r.gauge, r.standing, outside=r.job.hooks is not None
    )
    if note := history.still(rows):
        r.show.note(note)
    plots.curves(rows, r.run.curves, r.run.name, results.get("zero-shot"))
    write_card(r, summary, progress, state)
    write_json(r.run.eval, summary)
    return totals(r, summary, state, progress)


def tested(r: Running) -> dict[str, Any]:
    """Scores on the test rows: the one before training, and what every adapter (or theta) scores now."""
    held = read_scores(r.run.eval)["results"] if r.run.eval.exists() else {}
    before = {name: held[name] for name in ("zero-shot",) if name in held}
    return before | {name: score(r.job, "test", slot) for name, slot in contestants(r.job, "test").items()}


def concluded(r: Running) -> bool:
    """Whether a run's last word is written: its eval.json, by `conclude` (the score before training, and what `zofo eval` adds, have no memory)."""
    return r.run.eval.exists() and "memory" in read_scores(r.run.eval)


def totals(r: Running, summary: dict[str, Any], state: State, progress: Progress) -> dict[str, Any]:
    """A summary with the run's place, steps and training seconds, a prompt to try it on; `untested`, why there was nothing to score; `mixture`, whose unseen tasks may be adapted to."""
    if r.job.prepared.members and r.job.prepared.encoded["test"]:
        summary = {**summary, "mixture": r.job.config.data.mixture}
    if not r.job.prepared.encoded["test"]:
        summary = {**summary, "untested": "the mixture has no unseen tasks"}
    tried = example.of(r.job.prepared, r.job.config.data.hard_prompt)
    return {**summary, "run": str(r.run.path), "steps": state.k, "seconds": progress.seconds, "example": tried}


def evaluation(job: Job, results: Mapping[str, Any]) -> dict[str, Any]:
    """The frame of eval.json."""
    cut = sum(row.cut for row in job.prepared.encoded["test"])
    return described(job.config, job.prepared, "test", adapter_of(job)) | {"results": dict(results), "truncated": cut}


def write_card(r: Running, summary: dict[str, Any], progress: Progress, state: State) -> None:
    """Write the model card."""
    text = card.render(
        config=r.job.config,
        environment=read_object(r.run.environment, "base"),
        splits=read_object(r.run.splits, "parts"),
        evaluation=summary,
        metrics=read_metrics(r.run.metrics),
        totals={"steps": state.k, **vars(progress)},
        name=r.run.name,
    )
    seam.write_file(r.run.card, text.encode())


def zero_shot(r: Running, state: State) -> None:
    """Score the untouched base on the test rows, once, and write it to eval.json. Nothing is chosen on it."""
    if r.run.eval.exists() or not r.settings.test:
        return
    if state.k:
        r.show.note("eval.json is gone, and the weights have moved: the score before training is left out")
        return
    r.show.phase("scoring the model before training (test rows)")
    result = score(r.job, "test", None)
    write_json(
        r.run.eval, evaluation(r.job, {"zero-shot": result}) | {"checkpoint": "base", "step": 0, "used": "zero-shot"}
    )
    what = words.primary(result)
    value = words.score(result) if what else words.figure(result["loss"])
    shots = r.job.config.data.shots
    r.show.note(
        f"{f'{shots}-shot, untrained:' if shots else 'zero-shot'} test {words.named(what)} {value} (n = {result['n']})"
    )


def work(job: Job, run: RunFolder, state: State, progress: Progress, show: Show) -> dict[str, Any]:
    """Score before, train, test after, with the run's files open and signals caught."""
    with ExitStack() as stack:
        stop = stack.enter_context(Stop())
        stack.callback(job.problem.model.register_forward_pre_hook(lambda *_: stop.edge()).remove)
        rows, steps = Metrics(run.metrics), Journal(run.journal)
        stack.callback(rows.close)
        stack.callback(steps.close)
        r = Running(job, run, steps, rows, stop, show, resident.of(next(job.model.parameters()).device))
        r.said = {row["about"] for row in history.advice(read_metrics(run.metrics))}
        zero_shot(r, state)
        if finished(r, state, progress) and concluded(r):
            more = f"zofo train --config {run.config} --steps N --run NAME"
            show.note(f"this run is finished; more steps are another run: {more}")
            return totals(r, read_scores(run.eval), state, progress)
        show.phase("training")
        resident.settle()
        r.standing = r.gauge.now()
        with noted(r):
            state, progress = loop(r, state, progress)
        summary = conclude(r, state, progress)
        if note := cap.kept(job.config):
            show.note(note)
        show.done(summary)
        return summary
