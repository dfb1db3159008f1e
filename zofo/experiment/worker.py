"""The process of one run: `python -m zofo.experiment.worker JOB.json`, started by `zofo experiment`.

A process a run, because a run may end it: the system kills what takes too much memory, and a library may abort. The
experiment goes on, and the row stays in the table with the reason. When the experiment itself dies, its end of
this process's standard input closes; the run then stops as at SIGTERM, its state safe.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from zofo import begin
from zofo.config import build, flatten
from zofo.errors import BadInput, ZofoError
from zofo.experiment import cosines, record, unseen
from zofo.experiment.store import DONE
from zofo.machine import machine
from zofo.memory import heap
from zofo.report.terminal import Reporter
from zofo.run import seam
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_json, write_json
from zofo.run.lock import lock
from zofo.run.signals import Interrupted

FULL = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
PATIENCE = 60.0
"""Seconds that a run is waited for which a process of an experiment that died still saves."""


def main(path: str) -> int:
    """Do a job and return the exit status: 0 done, 1 failed (the record says why), 130 or 143 stopped."""
    watch()
    heap.keep()
    return perform(Path(path))


def perform(path: Path) -> int:
    """Do a job, and write how it ended."""
    order = read_json(path)
    warnings.simplefilter("ignore", FutureWarning)  # libraries telling each other's authors
    result, draft = Path(order["result"]), Path(order["draft"])
    before = read_json(result).get("wall", 0.0) if result.exists() else 0.0  # trained then, tested now
    began = time.perf_counter()

    def keep(file: Path, found: dict[str, Any]) -> None:
        frame = {**{key: order[key] for key in ("name", "digest", "evaluate")}, "machine": machine()}
        wall = before + time.perf_counter() - began
        write_json(file, {**frame, **found, "wall": wall, "options": flatten(order["config"], "")})

    try:
        found = {"status": DONE} | work(order)
        if order["cosines"] and not order["evaluate"] and cosines.measurable(build(flatten(order["config"], ""))):
            keep(draft, found)  # the run is whole without them, also where measuring them ends this process
            found |= compared(RunFolder(Path(order["run"])), order["cosines"])
    except (Interrupted, KeyboardInterrupt) as error:
        return error.status if isinstance(error, Interrupted) else 130
    except Exception as error:
        found = so_far(order) | failure(error)
    keep(result, found)
    if found["status"] != DONE:
        return 1
    Path(order["tasks"]).unlink(missing_ok=True)
    return 0


def work(order: dict[str, Any]) -> dict[str, Any]:
    """Train (or go on), and test where the job says so."""
    settings, met, file = build(flatten(order["config"], "")), order["unseen"], Path(order["tasks"])
    if order["evaluate"]:
        return unseen.as_it_is(settings, met, file) if met else record.as_it_is(settings)
    run = RunFolder(Path(order["run"]))
    wait_for(run)
    if order["test"] and lean(run):
        print(
            f"note: the checkpoints of {run.name} were taken away when it was tested (--lean): it is trained anew",
            flush=True,
        )
        seam.retire(run.path)
    if not run.eval.exists():  # written last
        with Reporter() as show:
            if run.config.exists():
                begin.go_on(run, show)
            else:
                begin.start(settings, {"run.name"}, show)
    if not order["test"]:
        return record.trained(run)
    tested = unseen.by_run(run, settings, met, file) if met else record.tested(run)
    return record.trained(run) | {"test": tested}


def lean(run: RunFolder) -> bool:
    """Whether a run was trained to its end and has no checkpoint left to test."""
    return run.eval.exists() and not (run.checkpoints.is_dir() and any(run.checkpoints.iterdir()))


def so_far(order: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run that was trained to its end, whose test failed: choices go by its validation."""
    run = RunFolder(Path(order["run"]))
    return record.trained(run) if run.eval.exists() else {}


def compared(run: RunFolder, keys: int) -> dict[str, Any]:
    """A run's cosines; why there are none where measuring them failed, for the run itself is whole without them."""
    try:
        return {"cosines": cosines.of(run, keys)}
    except Exception as error:
        return {"notes": [f"no cosine: {failure(error)['reason']}"]}


def wait_for(run: RunFolder) -> None:
    """Wait while another process holds the run: one whose experiment died lets go in seconds."""
    until = time.monotonic() + PATIENCE
    while run.path.exists():
        try:
            with lock(run):
                return
        except BadInput:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def failure(error: Exception) -> dict[str, Any]:
    """How a run failed, for its record; the traceback goes to the log."""
    if not isinstance(error, ZofoError):
        import traceback

        traceback.print_exc()
    text = str(error) or type(error).__name__
    full = isinstance(error, MemoryError) or any(word in text.lower() for word in FULL)
    reason = text if isinstance(error, ZofoError) else f"{type(error).__name__}: {text}"
    return {"status": "out of memory" if full else "failed", "reason": " ".join(reason.split())[:400]}


def watch() -> None:
    """Stop this process as SIGTERM would when the other end of standard input closes."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
