"""How a run begins, and begins again: options, rows and model checked and put together before `loop` goes on with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from zofo import checkpoints, config, layers, settled, theta0
from zofo.checkpoints import Progress
from zofo.config import Config
from zofo.errors import BadInput
from zofo.guest import SHORT, guest
from zofo.job import Job, Prepared, assemble, environment, prepare, recorded, same_rows, texts, written
from zofo.loop import Show, work
from zofo.methods.table import METHODS
from zofo.report.terminal import Quiet
from zofo.run import checkpoint as files
from zofo.run import folder, seam
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_object, write_json
from zofo.run.lock import lock
from zofo.scoring.objective import objective_note
from zofo.tasks import mixture
from zofo.tune import rates


def named(settings: Config, given: Collection[str]) -> Config:
    """The configuration with a run name. One that the user did not give gets a number where it is taken."""
    name = settings.run.name
    if not name:
        adapter = METHODS[settings.method.name].uses_adapter(settings)
        kind = [settings.method.name, settings.adapter.kind if adapter else "full"]
        task = settings.data.mixture or settings.data.task or settings.data.train
        name = "-".join([*kind, Path(settings.model.name).name, Path(task).name.split(".")[0]])
    if "run.name" not in given:
        taken = set(folder.names(settings.run.dir))
        name = next(n for n in chain([name], (f"{name}-{i}" for i in count(2))) if n not in taken)
    return settings.model_copy(update={"run": settings.run.model_copy(update={"name": name})})


def start(
    settings: Config,
    given: Collection[str] = (),
    show: Show | None = None,
    auto_lr: bool = False,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Make a new run folder and train in it; returns the results and where they are.

    Args: given, the keys that the user gave; auto_lr, choose rates and probe size that were not given by probing (`zofo.tune`); notes, what is to be said before the run's own.
    Raises: BadInput before anything is written for bad options, model, task or an existing folder.
    """
    show = show or Quiet()
    settings = named(settings, given)
    folder.refuse_begun(RunFolder(Path(settings.run.dir) / folder.check_name(settings.run.name)))
    folder.refuse_no_place(f"--run.dir {settings.run.dir}", Path(settings.run.dir))
    if auto_lr:
        rates.refuse(settings)
    prepared = prepare(settings, given)
    settings, left = untested(settings, prepared)
    settings, chosen = settled.types(settings, prepared.task)
    for note in (*notes, *prepared.notes, *left, *chosen):
        show.note(note)
    job, chosen = settled.stacked(assembled(settings, prepared, show))
    for note in chosen:
        show.note(note)
    if auto_lr:
        job = rates.choose(job, given, show)
    run = folder.create(settings.run.dir, settings.run.name)
    with lock(run):
        folder.refuse_begun(run)  # two starts may have raced to here
        write_json(run.environment, environment(job))
        write_json(run.splits, recorded(prepared))
        write_json(run.texts, texts(prepared))
        seam.write_file(run.task, written(prepared).encode())
        seam.write_file(run.config, config.dump(job.config).encode())  # last: a folder with it is a run
        return work(job, run, job.begin(), Progress(), show)


def untested(settings: Config, prepared: Prepared) -> tuple[Config, list[str]]:
    """The configuration without testing where there are no test rows (a mixture without unseen tasks), and what to tell."""
    if prepared.encoded["test"] or not settings.run.test:
        return settings, []
    run = settings.run.model_copy(update={"test": False})
    return settings.model_copy(update={"run": run}), ["the mixture has no unseen tasks: nothing is tested"]


def assembled(settings: Config, prepared: Prepared, show: Show) -> Job:
    """Load the model and join everything; says where scoring costs more than it should."""
    show.phase(f"loading {settings.model.name}")
    job = assemble(settings, prepared)
    for note in (objective_note(job.model), job.outside):
        if note:
            show.note(note)
    return job


def go_on(run: RunFolder, show: Show | None = None) -> dict[str, Any]:
    """Go on with a run from its newest whole checkpoint; a finished one is left as it is.

    Raises: BadInput when another process works on it; Corrupt when no checkpoint is whole; ZofoError
    when the base model is not the one that the run was made on.
    """
    show = show or Quiet()
    with lock(run):
        seam.sweep(run.path)
        settings = settled.plain(config.load(run.config))
        prepared = prepare(settings, task=mixture.reread(run.task, f"run {run.name}"))
        same_rows(read_object(run.splits, "parts"), prepared)
        job = assembled(settings, prepared, show)
        differences(read_object(run.environment, "base"), environment(job), show)
        found = checkpoints.newest(run, show.note)
        if found is None:
            checkpoints.refuse_emptied(run)
        step = found.step if found else 0
        state, progress = checkpoints.restore(job, run, found) if found else (job.begin(), Progress())
        checkpoints.cut_back(run, found, show.note)
        files.cut(run.checkpoints, step, show.note)
        show.note(f"resuming run {run.name} after step {step}")
        return work(job, run, state, progress, show)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], show: Show) -> None:
    """Tell what changed since the run began (the bits may differ then); refuse another base model."""
    theta0.same_base(now["base"]["sha256"], before["base"]["sha256"], before["base"]["name"])
    for key in before:
        if key != "base" and before[key] != now.get(key):
            show.note(f"{key} was {before[key]}, is {now.get(key)}: the result may differ in its last bits")


def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Options by dotted key. Raises: BadInput for one that is given more than once, under whatever name."""
    counts = Counter(key for key, _ in pairs)
    if twice := next((key for key, count in counts.items() if count > 1), None):
        values = " and ".join(repr(value) for key, value in pairs if key == twice)
        raise BadInput(f"--{twice}", f"given more than once: {values}", "give it once")
    return dict(pairs)


@guest()
def train(
    model: str | Path | None = None,
    task: str | Path | None = None,
    preset: str | None = None,
    *,
    config_file: str | Path | None = None,
    show: Show | None = None,
    auto_lr: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Fine-tune a model on a task, as `zofo train` does; returns the results and the run's folder.

    Args: model, task, preset (none, nor a file or `method__name`: bilevel-lora), config_file, auto_lr, as on the command line; options, by dotted key with `__` for
    the dot (`method__lam=10`) or by the short names steps, seed, seconds, batch, dtype, run, shots, channel, objective, memory_cap, mixture.
    Raises: BadInput; KeyboardInterrupt at Ctrl-C, with the state saved. Cost: see the method's docstring.
    """
    short = {"steps": "run.steps", "seed": "run.seed", "seconds": "run.seconds", "run": "run.name"}
    short |= {"mixture": "data.mixture", "shots": "data.shots"} | SHORT
    first = [(key, value) for key, value in (("model.name", model), ("data.task", task)) if value is not None]
    flags = once([*first, *((short.get(key, key.replace("__", ".")), value) for key, value in options.items())])
    file = None if config_file is None else str(config_file)
    base, notes = layers.begins(flags, preset, file)
    return start(*layers.resolve(flags, base, file), show, auto_lr, notes)


@guest()
def resume(run: str | Path, *, show: Show | None = None, dir: str | Path = "runs") -> dict[str, Any]:
    """Go on with a run that was stopped, as `zofo resume` does; returns the results and the run's folder, as `train`.

    Args: run, a name in `dir` or a path; a finished one is left as it is. Raises: BadInput, Corrupt, ZofoError, as `go_on`;
    KeyboardInterrupt at Ctrl-C, with the state saved. Cost: see the method's docstring.
    """
    return go_on(folder.find(str(run), str(dir)), show)
