"""A saved adapter on the command line: `--adapter FOLDER` of `zofo eval` and `zofo generate`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from zofo.cli.output import line, plain, table
from zofo.cli.problems import complain
from zofo.cli.target import Found
from zofo.errors import BadInput
from zofo.report.words import duration, figure, measured, named, score

Adapter = Annotated[
    str | None,
    Parameter(name="--adapter", metavar="FOLDER", help="an adapter that `zofo adapt` saved, on the base it fits"),
]


def refuse(split: str, flags: Mapping[str, Any], side: str, draws: int | None) -> None:
    """Raise where an option does not go with a saved adapter."""
    if draws is not None:
        raise BadInput(f"--draws {draws}", "a saved adapter is of one draw", "leave one of the two out")
    if split != "test":
        raise BadInput(f"--split {split}", "a saved adapter may have been trained on these rows", "leave it out")
    if side != "test" or "data.mixture" in flags:
        asked = f"--side {side}" if side != "test" else f"--mixture {flags['data.mixture']}"
        raise BadInput(asked, "a saved adapter is scored on one task", "leave it out, or name a --task")
    if "run.seed" in flags:
        found = "the test rows of a saved adapter are those that `zofo adapt` takes"
        raise BadInput(f"--seed {flags['run.seed']}", found, "leave it out")


def evaluate(
    found: Found, flags: Mapping[str, Any], which: str, adapter: str, out: str | None, samples: str | None
) -> int:
    """Score a saved adapter; without other rows, on the task it was made for."""
    from zofo.adapting import folder, use
    from zofo.cli.evaluate import sampling, scored
    from zofo.job import described
    from zofo.run.jsonfile import write_json

    saved = folder.find(adapter)
    config, ready = use.prepared(found, saved, flags)
    used = use.opened(found, saved, flags, which, complain)
    began = time.perf_counter()
    with sampling(samples) as rows:
        result = scored(used.slots.model, ready, config, "test", "adapter", rows)
    seconds = time.perf_counter() - began
    for note in ready.notes:
        line(f"note: {plain(note)}")
    what = f"{used.base.name} with {adapter}"
    line(plain(f"{what}, {ready.task.name}, test rows, {duration(seconds)}"))
    metrics = measured(result)
    row = ("adapter", *(score(result, m) for m in metrics), figure(result["loss"]), result["n"])
    table(("what", *map(named, metrics), "loss", "rows"), [row])
    if out is not None:
        held = described(config, ready, "test", saved.adapter.kind) | {"what": what, "used": "adapter"}
        write_json(Path(out), held | {"notes": ready.notes, "seconds": seconds, "results": {"adapter": result}})
    return 0
