"""Kill real training processes with SIGKILL, resume them, and compare with a run that was never stopped.

Run by `tests/test_loop.py` in a process of its own: `python killing.py MODEL FOLDER CASE...`, where CASE/few
is killed at a few points. It forks a child for every run and imports before that what the first had to, so
that a run costs its steps and not its imports. Prints one JSON line: the kills made and the differences found.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from zofo import begin, loop
from zofo.core import noise
from zofo.layers import resolve
from zofo.report.terminal import Quiet
from zofo.run.folder import RunFolder

STEPS = 12
COMMON = {
    "data.task": "reviews", "data.train_rows": 20, "data.validation_rows": 6, "data.test_rows": 8, "data.batch": 2,
    "data.max_length": 48, "run.steps": STEPS, "run.eval_every": 2, "run.save_every": 3, "run.threads": 1,
    "run.keep": 2, "model.dtype": "fp32",  # and `stack` is said too: nothing hangs on what is faster at the moment
}  # fmt: skip
THETA = {"method.lr_theta": 1e-4, "run.snapshot_every": 5}  # a full copy of theta at steps 6 and 12
ALONE = THETA | {"method.stack": "off"}
SKETCH = {"method.noise": "rademacher", "method.rank": 4}
MIXTURE = "tasks.yaml"  # three tasks to train on and one that is not seen, written by `tasks`
AMONG: dict[str, Any] = {"data.task": None, "data.mixture": MIXTURE, "method.tasks": 2}
CASES: dict[str, dict[str, Any]] = {
    "bilevel": ALONE | {"method.T": 2, "method.noise": "rademacher"},
    "bilevel-outer": {
        "method.lr_theta": 1e-4, "method.stack": "off", "method.coupling": "outer", "method.T": 1, "method.rule": "adam", "adapter.dropout": 0.2,
        "method.s_start": "from-p", "method.init": "independent",
    },
    "bilevel-prefix": ALONE | {"adapter.kind": "prefix", "method.T": 1, "method.lr_p": 1e-2},
    "mezo": ALONE | {"method.name": "mezo", "method.rule": "scalar-adaptive", "method.decay": 0.1},
    "mezo-lora": {"method.name": "mezo", "method.tune": "adapter", "method.lr_theta": 1e-3, "method.q": 2},
    "bilevel-half": THETA | {  # half-precision weights, two points a pass
        "model.dtype": "auto", "model.weights": "bf16", "method.stack": "on", "method.T": 1, "method.decay": 0.1,
    },
    "bilevel-bf16": THETA | {"model.dtype": "bf16", "method.stack": "on", "method.T": 1, "method.noise": "low-rank"},
    "sketch": SKETCH | {
        "method.name": "sketch", "method.rule": "adam", "method.nu": 4, "method.lr_theta": 1e-3, "method.clip_theta": 1,
    },
    "bilevel-sketch": SKETCH | {
        "method.upper": "sketch", "method.rule": "momentum", "method.nu": 4, "method.transfer": True, "method.coupling": "outer",
        "method.T": 1, "method.lr_theta": 1e-2, "method.schedule_theta": "linear",
    },
    "first-order-full": {
        "method.name": "first-order", "method.tune": "full", "method.lr_theta": 1e-3, "method.decay": 0.1,
        "method.schedule_theta": "linear", "method.warmup": 2,
    },
    "two-stage": THETA | {"method.name": "two-stage", "method.stage_one": 4, "method.lr_p": 1e-2, "method.decay": 0.1},
    "addax": {"method.lr_theta": 1e-4, "method.stack": "off", "method.name": "addax", "method.alpha": 0.1, "method.short_tokens": 46},
    "meta": ALONE | AMONG | {"method.name": "meta", "method.T": 1, "method.schedule": "linear", "adapter.dropout": 0.2},
    "meta-sketch": SKETCH | AMONG | {
        "method.name": "meta", "method.upper": "sketch", "method.rule": "momentum", "method.nu": 2, "method.coupling": "outer",
        "method.T": 1, "method.lr_theta": 1e-2, "method.sampling": "size",
    },
    "meta-shared": ALONE | AMONG | {"method.name": "meta", "method.T": 1, "method.adapters": "shared"},
    "reptile": AMONG | {"method.name": "reptile", "method.T": 2, "method.lr_p": 1e-2, "method.lr_outer": 0.5},
    "first-order": {"method.name": "first-order", "adapter.dropout": 0.2, "method.schedule": "cosine", "method.warmup": 3},
}  # fmt: skip
SHORT = {"run.steps": 8, "run.eval_every": 4, "run.save_every": 2}
SNAPSHOT = {"run.snapshot_every": 3}  # a full copy of theta at steps 4 and 8, where one is not made at every save
FEW = [
    ("step", 1),  # before anything was saved
    ("validation", 4),  # the best is new, the step is not saved
    ("step", 7),  # resumed from step 6: the full copy of step 4, and the journal since
    ("testing the best checkpoint", 8),  # nothing is left to do but to test
]


def tasks(folder: Path) -> None:
    """Write a mixture of small tasks: is a word long or short, early or late in the alphabet, ..."""
    words = [a + b * n for n in (1, 4) for a in "bdfgklmnprst" for b in ("a", "o")]
    asks: dict[str, tuple[Callable[[str], bool], str, str]] = {
        "length": (lambda w: len(w) > 3, "long", "short"), "order": (lambda w: w < "m", "early", "late"),
        "sound": (lambda w: w[1] == "a", "open", "round"), "first": (lambda w: w[0] in "bdg", "soft", "hard"),
    }  # fmt: skip
    for name, (right, yes, no) in asks.items():
        rows = [{"input": w, "output": yes if right(w) else no, "options": [yes, no]} for w in words]
        own = rows if name != "first" else [row | {"input": f"{row['input']}!"} for row in rows]
        (folder / name).mkdir(parents=True)
        for part, held in (("train", own[::2]), ("test", own[1::2])):
            text = "".join(json.dumps(row) + "\n" for row in held)
            (folder / name / f"{part}.jsonl").write_text(text)
    (folder / MIXTURE).write_text("train: [length, order, sound]\ntest: [first]\n")


class Killer(Quiet):
    """Kills its own process after a step's record (`step`), after its validation (`validation`), or when the test begins."""

    def __init__(self, phase: str, at: int) -> None:
        super().__init__()
        self.where, self.at = phase, at

    def phase(self, text: str) -> None:
        if self.where == text:
            os.kill(os.getpid(), signal.SIGKILL)

    def step(self, row: Mapping[str, Any], of: int) -> None:
        if self.where == "step" and row["step"] == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def validation(self, row: Mapping[str, Any]) -> None:
        if self.where == "validation" and row["step"] == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], object]) -> int:
    """Run something in a child; returns its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def ended(start: Callable[[], object], listing: Path) -> None:
    """Run to the end, and list what was imported on the way."""
    start()
    listing.write_text("\n".join(sys.modules))


def warm(listing: Path) -> None:
    """Import what an earlier child listed, and load the kernels: the children after it need not."""
    for name in listing.read_text().splitlines():
        with suppress(Exception):  # some are no files
            importlib.import_module(name)
    noise.perturb(torch.zeros(9), torch.zeros(9), noise.Direction("gaussian", 1), 1.0, 1)
    gc.freeze()  # what imports made is not looked through at every collection


def without_time(tree: Any) -> Any:
    """A JSON tree without its fields of time and memory."""
    if isinstance(tree, dict):
        return {k: without_time(v) for k, v in tree.items() if k not in ("time", "memory", "seconds")}
    return tree


def picture(run: RunFolder) -> dict[str, Any]:
    """Everything of a run that must not depend on having been killed."""
    found: dict[str, Any] = {"journal": hashlib.sha256(run.journal.read_bytes()).hexdigest()}
    found["metrics"] = [without_time(json.loads(line)) for line in run.metrics.read_text().splitlines()]
    found["eval"] = without_time(json.loads(run.eval.read_text()))
    for path in sorted(run.checkpoints.rglob("*")):
        name = str(path.relative_to(run.checkpoints))
        if path.suffix == ".safetensors":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "state.json":
            state = without_time(json.loads(path.read_text()))
            state["progress"].pop("seconds", None)
            state.pop("metrics", None)  # bytes: the fields of time vary in length
            found[name] = state
    return found


def check(model: str, work: Path, case: str, few: bool) -> dict[str, Any]:
    """Kill at every step, and after every validation (or at the `FEW` points); resume; compare."""
    work.mkdir(parents=True)
    flags = COMMON | CASES[case] | {"model.name": model, "run.dir": str(work)}
    if few:
        flags |= SHORT | (SNAPSHOT if "run.snapshot_every" in flags else {})
    if "data.mixture" in flags:
        tasks(work / "data")
        flags["data.mixture"] = str(work / "data" / MIXTURE)
    flags = {key: value for key, value in flags.items() if value is not None}

    def started(name: str, show: Quiet) -> Callable[[], object]:
        return lambda: begin.start(*resolve(flags | {"run.name": name}), show)

    assert forked(lambda: ended(started("whole", Quiet()), work / "modules")) == 0
    warm(work / "modules")
    whole, differ, kills = picture(RunFolder(work / "whole")), [], 0
    points = [("step", k) for k in range(1, STEPS + 1)]
    points += [("validation", k) for k in range(2, STEPS + 1, 2)] if case != "mezo" else []
    points = FEW if few else points
    for phase, k in points:
        name = f"{phase}-{k}"
        status = forked(started(name, Killer(phase, k)))
        kills += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        run = RunFolder(work / name)
        resumed = forked(lambda run=run: begin.go_on(run, Quiet()))
        again = picture(run) if resumed == 0 else {"resumed": resumed}
        differ += [f"{name}: {key}" for key in whole.keys() | again.keys() if whole.get(key) != again.get(key)]
    return {"kills": kills, "points": len(points), "differ": differ}


def main(model: str, work: Path, cases: list[str]) -> None:
    """Check each case, in a folder of its own."""
    torch.set_num_threads(1)
    loop.plots.curves, loop.taken.estimated = (lambda *_: None), (lambda *_: [])  # not compared, slower than the steps
    found = {case: check(model, work / case, case.removesuffix("/few"), case.endswith("/few")) for case in cases}
    print(json.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
