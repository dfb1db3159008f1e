"""`zofo adapt`: a small adapter on a frozen base, from a few examples of a new task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from zofo.cli import drawn
from zofo.cli.output import line, plain
from zofo.cli.target import Dir, Target, Which
from zofo.report.words import duration, size
from zofo.run import outfile

FOLDER = "adapters"


def adapt(
    flags: Mapping[str, Any],
    target: Target,
    /,
    *,
    mixture: Annotated[str | None, Parameter(metavar="NAME", help="adapt to every unseen task of a mixture")] = None,
    shots: Annotated[int, Parameter(help="training examples a class")] = 4,
    steps: Annotated[int, Parameter(help="steps of the adapter")] = 10,
    draws: Annotated[int, Parameter(help="draws of the examples, each with an adapter of its own")] = 5,
    batch: Annotated[int, Parameter(help="rows a step (all that were drawn, where they are fewer)")] = 8,
    lr: Annotated[float, Parameter(help="learning rate (0: the default of the adapter's kind)")] = 0.0,
    seed: Annotated[int, Parameter(help="seed of the draws; test rows do not hang on it")] = 0,
    start: Annotated[
        Literal["run", "fresh"] | None,
        Parameter(help="begin from the run's adapter, or a fresh one (none: the run's where all its tasks share one)"),
    ] = None,
    which: Which = "best",
    out: Annotated[
        str | None,
        Parameter(metavar="FOLDER", help="new folder for the first draw's adapter (a mixture: none unless given)"),
    ] = None,
    json: Annotated[str | None, Parameter(metavar="FILE", help="write the results, draw by draw, as JSON")] = None,
    dir: Dir = "runs",
) -> int:
    """Adapt a run or a model to a task from a few examples a class: a small adapter, the base frozen.

    Prints the test rows' score before, for every draw, and over the draws: mean, sd, and a 95 % interval by Student's t.
    """
    outfile.refuse("--json", json)
    from zofo.adapting import run
    from zofo.adapting.plan import Plan
    from zofo.run.jsonfile import write_json

    plan = Plan(shots, steps, draws, batch, lr, seed)
    asked, show = run.Asked(target, which, start, dir, flags), drawn.Show(alone=mixture is None)
    keep = drawn.keeping(json, show)
    if mixture is not None:
        found = run.over(asked, plan, mixture, Path(out) if out else None, show, keep)
        drawn.mixture(found)
    else:
        place = Path(out) if out else free(target, flags)
        found = run.alone(asked, plan, place, show, keep)
        drawn.task(found)
        told(found, place)
    if json is not None:
        write_json(outfile.written_to(json), found)
    return int(any({"failed", "unsaved"} & set(record) for record in (found, *found["tasks"].values())))


def free(target: str, flags: Mapping[str, Any]) -> Path:
    """A name for a saved adapter, made from the base's and the task's; it gets a number where it is taken."""
    words = (Path(target).name, str(flags.get("data.task") or Path(str(flags.get("data.train", "rows"))).stem))
    name = "-".join(re.sub(r"[^\w.-]+", "-", Path(word).name.removesuffix(".yaml")).strip("-.") for word in words)
    return next(p for n in chain([name], (f"{name}-{i}" for i in count(2))) if not (p := Path(FOLDER) / n).exists())


def told(found: Mapping[str, Any], place: Path) -> None:
    """Say how long it took, and where the adapter is."""
    (record,) = found["tasks"].values()
    line(f"adapting took {duration(record['seconds'])} a draw ({record['drawn']})")
    if found["bytes"] is None:
        return
    line(plain(f"the first draw's adapter ({size(found['bytes'])}) is in {place}; use it: --adapter {place}"))
