"""A job's checkpoints: what they hold, and how exactly the same bits come back.

A checkpoint holds the adapters, the learners' moments and the counts (where tasks have their own: a file for each that
was used). theta comes back from the
newest full copy at or before it (or the base) and the journal's steps since; a full copy is made
every `run.snapshot_every` steps, and at every one when a step is more than keys and scalars (Adam, sketches). The best
checkpoint holds theta whole. The journal's length and SHA-256 stand in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from zofo import tensorfile, theta0
from zofo.adapters import bank
from zofo.adapters.slots import Slots
from zofo.core.noise import Law
from zofo.core.weights import move
from zofo.core.weights.leaves import Leaves
from zofo.core.weights.stored import StoredLeaf
from zofo.errors import BadInput, nearest
from zofo.job import Job, Loaded
from zofo.methods import table
from zofo.methods.state import State, from_checkpoint, to_checkpoint
from zofo.run import checkpoint as files
from zofo.run import journal as journals
from zofo.run import manifest, seam
from zofo.run.checkpoint import Checkpoint
from zofo.run.errors import Corrupt
from zofo.run.folder import RunFolder
from zofo.run.journal import Journal
from zofo.run.jsonfile import read_scores
from zofo.run.metrics import Metrics, cut_metrics

PIECE = 1 << 20  # bytes of a file read at a time


@dataclass(frozen=True)
class Progress:
    """What the loop knows beside the method's state, and a resumed run takes up."""

    seconds: float = 0.0  # of training
    forwards: int = 0
    backwards: int = 0
    snapshots: tuple[int, ...] = ()  # steps whose checkpoints hold theta whole; before the first, the base does
    best: dict[str, Any] | None = None  # step, used, loss, rest of the best validation
    validated: int = 0  # last validated step


def theta_tensors(leaves: Leaves) -> files.Group:
    """theta by canonical names: the tensors themselves, on CPU, or a file that comes by pieces of one outside memory."""
    if any(isinstance(leaf, StoredLeaf) for leaf in leaves):
        held = tensorfile.flats(leaves)
        return seam.Parts(sum(flat.nbytes for flat in held.values()), lambda: tensorfile.serialised(held))
    return {leaf.name: leaf.data.cpu().contiguous() for leaf in leaves}


def contents(job: Job, state: State, progress: Progress) -> tuple[dict[str, files.Group], dict[str, Any]]:
    """The tensor groups and JSON state that every checkpoint holds."""
    numbers, moments = to_checkpoint(state, copy=False)
    groups: dict[str, files.Group] = {"optimizer": moments} if moments else {}
    held: dict[str, Any] = {"method": numbers, "progress": vars(progress)}
    if job.problem.bank is not None:
        held["tasks"] = job.problem.bank.named()
        rested = job.problem.bank.groups()
        groups |= {name: seam.Parts(path.stat().st_size, partial(parts_of, path)) for name, path in rested.items()}
    elif job.slots is not None:
        groups |= {f"adapter-{slot}": job.slots.tensors(slot) for slot in job.slots.params}
    return groups, held


def parts_of(path: Path) -> Iterator[bytes]:
    """A file's bytes, a piece at a time."""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def save(job: Job, run: RunFolder, state: State, progress: Progress, journal: Journal, metrics: Metrics) -> Progress:
    """Publish the checkpoint of a step; returns the progress with its snapshot step. Cost: see `contents`."""
    always = not table.replays(job.config)
    again = state.k in progress.snapshots  # saved before at this step, and then validated
    full = job.moves_theta and (always or again or state.k - last(progress) >= job.config.run.snapshot_every)
    if full and not again:
        progress = replace(progress, snapshots=(*needed(run, progress, job.config.run.keep), state.k))
    groups, numbers = contents(job, state, progress)
    if full:
        groups["theta"] = theta_tensors(job.leaves)
    journal.sync()
    metrics.sync()
    length, sha256 = journal.position()
    held = {"journal": {"length": length, "sha256": sha256}, "metrics": {"length": run.metrics.stat().st_size}}
    files.publish(run.checkpoints, state.k, groups, {**numbers, **held})
    files.prune(run.checkpoints, job.config.run.keep, needed(run, progress, job.config.run.keep))
    return progress


def last(progress: Progress) -> int:
    """The step of the newest full copy of theta; 0 is the base."""
    return max(progress.snapshots, default=0)


def needed(run: RunFolder, progress: Progress, keep: int) -> tuple[int, ...]:
    """The full copies that the newest `keep` checkpoints build on: those since the one before the oldest kept."""
    kept = files.listing(run.checkpoints)[-keep:]
    before = [step for step in progress.snapshots if kept and step <= kept[0]]
    return tuple(step for step in progress.snapshots if not before or step >= before[-1])


def save_best(job: Job, run: RunFolder, state: State, progress: Progress) -> None:
    """Publish the best checkpoint, theta whole where the method moves it."""
    groups, numbers = contents(job, state, progress)
    if job.moves_theta:
        groups["theta"] = theta_tensors(job.leaves)
    files.publish_as(run.checkpoints, files.BEST, state.k, groups, numbers)


def newest(run: RunFolder, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole with its part of the journal and its copy of theta; rejected ones are told."""

    def journal_fits(found: Checkpoint) -> None:
        held = found.state["journal"]
        journals.read(run.journal, held["length"], held["sha256"])
        for step in found.state["progress"]["snapshots"][-1:]:
            holder = found if step == found.step else files.read(run.checkpoints / files.step_name(step))
            if "theta" not in holder.names:
                raise Corrupt(f"checkpoint {found.path}", f"step {step} holds no theta", "an older one is needed")

    return files.newest_good(run.checkpoints, journal_fits, say)


def cut_back(run: RunFolder, found: Checkpoint | None, say: Callable[[str], None]) -> None:
    """Cut the journal and the metrics back to a checkpoint (None: to nothing), to the byte; lost rows are told."""
    if run.journal.exists():
        journals.truncate(run.journal, found.state["journal"]["length"] if found else journals.START)
    lost = cut_metrics(run.metrics, found.state["metrics"]["length"] if found else 0)
    if lost is not None:
        say(lost)


def restore(job: Job, run: RunFolder, found: Checkpoint) -> tuple[State, Progress]:
    """Bring a job to a checkpoint: adapters, theta and learners, to the bit. Cost: see `weights`."""
    weights(job, run, found)
    rested(job, found)
    held = found.state["progress"]
    progress = Progress(**{**held, "snapshots": tuple(held["snapshots"])})
    moments = found.load("optimizer") if "optimizer" in found.names else {}
    return from_checkpoint(job.begin(), found.state["method"], moments), progress


def rested(job: Job, found: Checkpoint) -> None:
    """Bring the adapters of several tasks at rest to a checkpoint."""
    if job.problem.bank is not None:
        job.problem.bank.restore({name: found.file(name) for name in found.names})


def weights(held: Loaded, run: RunFolder, found: Checkpoint) -> None:
    """Bring a model's adapters and theta to a checkpoint, to the bit, wherever they stand.

    Cost: reads the checkpoint and one full copy of theta or the base; a noise pass a step replayed.
    """
    if held.slots is None and any(name.startswith("adapter-") for name in found.names):
        told = "the run trained an adapter, and its config.yaml asks for none"
        raise BadInput(
            f"checkpoint {found.path}", told, "write `tune: adapter` there (earlier versions took it as said)"
        )
    if held.slots is not None and not table.apart(held.config):
        for slot in held.slots.params:
            held.slots.load(slot, found.load(f"adapter-{slot}"))
    if held.moves_theta:
        theta(held, run, found)


def theta(held: Loaded, run: RunFolder, found: Checkpoint) -> None:
    """theta of a checkpoint: its own full copy, or the newest one before it (else the base) and the journal since."""
    if "theta" in found.names:
        return copy_theta(held.leaves, found)
    begin = max(found.state["progress"]["snapshots"], default=0)
    if begin:
        copy_theta(held.leaves, files.read(run.checkpoints / files.step_name(begin)))
    else:
        theta0.reset(held.leaves, held.base)
    journal = found.state["journal"]
    for step in journals.read(run.journal, journal["length"], journal["sha256"]):
        if step.step > begin:
            law: Law = step.law  # type: ignore[assignment]
            move.replay(held.leaves, law, step.terms, step.decay)
    return None


def copy_theta(leaves: Leaves, found: Checkpoint) -> None:
    """Write a checkpoint's full copy of theta into the leaves, piece by piece. Raises `Corrupt` where it lacks one."""
    path = found.file("theta")
    there = theta0.located([path], leaves, "")
    if there is None:
        raise Corrupt(f"checkpoint {found.path}", f"{path.name} is not this model's theta", manifest.RESTORE)
    theta0.take(leaves, there)


def ended(run: RunFolder) -> dict[str, Any]:
    """What a finished run says of its end; nothing of one that goes on."""
    return read_scores(run.eval) if run.eval.exists() else {}


def refuse_emptied(run: RunFolder) -> None:
    """Raise BadInput for a finished run whose checkpoints were taken away: it is not what it was before its first step."""
    if step := ended(run).get("step"):
        found = f"it ended, with its best checkpoint at step {step}, and its checkpoints are gone (an experiment's `--lean` takes them away)"
        do = "train it anew under another name, or run `zofo experiment` without `--lean`"
        raise BadInput(f"run {run.name}", found, do)


def refuse_without_best(run: RunFolder) -> None:
    """Raise BadInput where the run's best checkpoint was there when it ended, and is not now."""
    held = ended(run)
    if held.get("checkpoint") == "best":
        found = f"its best checkpoint, of step {held['step']}, is gone"
        raise BadInput(f"run {run.name}", found, "give --which last, or train it anew")


class Use(NamedTuple):
    """What a model was brought to: the checkpoint (None: the base, no step was saved), which it was, the adapter chosen."""

    found: Checkpoint | None
    which: str
    used: str

    @property
    def step(self) -> int:
        """The checkpoint's step."""
        return self.found.step if self.found is not None else 0


def load_for_use(held: Loaded, run: RunFolder, which: str, say: Callable[[str], None]) -> Use:
    """Bring a model to a run's best (or last) checkpoint.

    The choice is that of the best validation; before any, s where it is trained, for it has had more steps.
    Where there is no best checkpoint, the last is taken, and it is said. Raises: BadInput where a finished run had the
    checkpoint, and it is gone. Where tasks have their own, the model has none: "theta".
    """
    found = the_best(held, run) if which == "best" else None
    if found is None:
        last = newest(run, say)
        if last is None:
            refuse_emptied(run)
        if which == "best":
            refuse_without_best(run)
            say("no best checkpoint is there (no finite validation loss yet): the last one is used")
        found, which = last, "last"
        if found is not None:
            weights(held, run, found)
    chosen = found.state["progress"]["best"] if found is not None else None
    slots = list(held.slots.params) if held.slots is not None else ["theta"]
    used = "theta" if table.apart(held.config) else chosen["used"] if chosen else slots[-1]
    return Use(found, which, used)


def the_best(held: Loaded, run: RunFolder) -> Checkpoint | None:
    """Bring a model to a run's best checkpoint, if there is one: all of it from one, where the run goes on and finds a better one meanwhile."""
    path = run.checkpoints / files.BEST
    while exists(path):
        found = files.read(path)
        try:
            weights(held, run, found)
        except Corrupt:
            if files.unchanged(found):
                raise
            continue
        if files.unchanged(found):
            return found
    return None


def own_adapters(slots: Slots, found: Checkpoint | None, task: str) -> None:
    """Load a training task's own adapters, of a run whose tasks have some each. Raises BadInput where it has none there."""
    groups = found.state.get("tasks", {}) if found is not None else {}
    there = {groups[group]: group for group in groups}
    if found is None or task not in there:
        told = f"that checkpoint has adapters of {len(there)} training tasks, and none of that"
        raise BadInput(f"--slot {task}", told, nearest(task, there) if there else "leave it out")
    bank.load(slots, found.load(there[task]))


def exists(path: Path) -> bool:
    """Whether a checkpoint stands under a name (also one that a dying writer set aside)."""
    return path.name in files.standing(path.parent)
