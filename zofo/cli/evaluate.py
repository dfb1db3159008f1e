"""`zofo eval`: a run's best checkpoint, or a model as it is, on a task's rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from zofo.cli import demonstrated, mixture
from zofo.cli.output import line, plain, table
from zofo.cli.problems import complain
from zofo.cli.target import Adapter, Dir, Slot, Target, Which, find
from zofo.errors import BadInput
from zofo.report.words import LOSSES, duration, figure, measured, named, score
from zofo.run import outfile

if TYPE_CHECKING:
    from zofo.evaluating.found import Evaluation

SamplesFile = Annotated[
    str | None,
    Parameter(
        metavar="FILE", help="write a JSON line a row and adapter: columns, right and predicted answer, loss, scores"
    ),
]
OTHER_PARTS = {"train", "validation", "test"}
"""What a note about rows may begin with; those of rows that are not scored go unsaid."""


def evaluate(
    flags: Mapping[str, Any],
    target: Target,
    /,
    *,
    which: Which = "best",
    slot: Slot = None,
    adapter: Adapter = None,
    split: Annotated[Literal["test", "validation"], Parameter(help="which rows")] = "test",
    side: Annotated[
        Literal["train", "test"], Parameter(help="of a mixture: its unseen tasks, or those it trains on")
    ] = "test",
    draws: Annotated[
        int | None, Parameter(help="draws of the demonstrations (--shots): mean, spread and interval over them")
    ] = None,
    out: Annotated[str | None, Parameter(metavar="FILE", help="write the results as JSON too")] = None,
    samples: SamplesFile = None,
    dir: Dir = "runs",
) -> int:
    """Score a run or a model on a task; a run's test results at its best checkpoint go to its eval.json.

    Without options a run is scored on its own task, as it was trained.
    """
    outfile.refuse("--out", out)
    outfile.refuse("--samples", samples)
    if out is not None and samples is not None and outfile.written_to(out) == outfile.written_to(samples):
        raise BadInput(f"--samples {samples}", "--out is the same file", "name another for one of the two")
    found = find(target, dir)
    from zofo.evaluating import run
    from zofo.evaluating.found import Asked
    from zofo.run.jsonfile import write_json

    asked = Asked(split, side, which, slot, adapter, samples)
    if draws is not None:
        return demonstrated.evaluate(target, flags, asked, draws, out, dir)
    results = run.of(found, target, flags, asked, complain)
    tell(results)
    if out is not None:
        write_json(outfile.written_to(out), results.record())
    return 0


def tell(found: Evaluation) -> None:
    """Print what was measured."""
    ready, data = found.ready, found.config.data
    for note in ready.notes:
        others = (OTHER_PARTS - {found.split}) & {*note.split(": ")[:2]}  # tasks of a mixture stand first
        if not others or data.shots:
            line(f"note: {plain(note)}")
    calibrated = f", calibrated ({data.calibration})" if ready.nulls else ""
    line(plain(f"{found.what}, {ready.task.name}, {found.split} rows{calibrated}, {duration(found.seconds)}"))
    if ready.members:
        mixture.results(found.results, found.used)
    else:
        of_task(found.results, found.used if set(found.results) != {"adapter"} else None)


def of_task(results: Mapping[str, Any], used: str | None) -> None:
    """Print one task's results, a line each."""
    metrics = list(dict.fromkeys(name for result in results.values() for name in measured(result)))
    losses = [key for key in LOSSES if any(key in result for result in results.values())]
    rows = [
        (
            name + (" (used)" if name == used else ""),
            *(score(r, m) for m in metrics),
            *(figure(r.get(k)) for k in losses),
            r["n"],
        )
        for name, r in results.items()
    ]
    table(("what", *map(named, metrics), *(LOSSES[key] for key in losses), "rows"), rows)
