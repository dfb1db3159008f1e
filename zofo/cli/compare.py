"""`zofo compare`: runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from zofo.cli.output import line, plain, refuse_no_picture, table
from zofo.cli.problems import complain
from zofo.cli.target import Dir
from zofo.config import load
from zofo.errors import BadInput
from zofo.methods.table import METHODS
from zofo.report import history, unseen
from zofo.report.words import duration, figure, rows_of, score
from zofo.run import folder
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_object, read_scores
from zofo.run.metrics import read_metrics

COLUMNS = (
    "run", "method", "task", "model", "steps", "training", "forwards", "zero-shot", "p", "s", "theta", "used",
    "moved", "best validation loss or metric",
)  # fmt: skip


def compare(
    *runs: Annotated[
        str, Parameter(help="names of runs (folders in --dir), or their paths; or .json files of results")
    ],
    plot: Annotated[
        str | None, Parameter(metavar="FILE.png|pdf|svg", help="of results: draw every unseen task, before and after")
    ] = None,
    dir: Dir = "runs",
) -> int:
    """Compare runs: what they cost and what they score on the test rows, with standard errors.

    Given .json files that `adapt` or `eval` wrote over a mixture: their tasks side by side, before and after.
    """
    if results := [name for name in runs if name.endswith(".json")]:
        return side_by_side(runs, results, plot)
    if plot is not None:
        raise BadInput(
            f"--plot {plot}", "runs have curves of their own", "give .json files of results, or see curves.png"
        )
    found = [folder.find(name, dir) for name in runs] or [folder.find(name, dir) for name in folder.names(dir)]
    if not found:
        raise BadInput("zofo compare", f"there is no run in {dir} yet", "train one, or say where they are (--dir)")
    table(COLUMNS, [row(run) for run in found])
    warn_unequal(found)
    return 0


def side_by_side(words: Sequence[str], files: Sequence[str], plot: str | None) -> int:
    """Files of results over a mixture, by task."""
    if other := next((word for word in words if word not in files), None):
        raise BadInput(f"zofo compare {other}", "runs and files of results do not stand in one table", "give one kind")
    refuse_no_picture("--plot", plot)
    series = unseen.averaged([one for name in files for one in unseen.read(Path(name))])
    table(*unseen.rows(series))
    if left := unseen.left_out(series):
        line(f"note: not in the mean, which is over the tasks that all files have a score of: {plain(', '.join(left))}")
    if other_rows := unseen.unequal(series):
        complain(plain(f"not tested on the same rows, so their scores do not compare: {', '.join(other_rows)}"))
    if not_said := unseen.unknown(series):
        told = "not every file says on which rows it was tested (write it anew), so scores may not compare"
        complain(plain(f"{told}: {', '.join(not_said)}"))
    if plot is not None:
        unseen.draw(series, Path(plot))
        line(f"drawn in {plot}")
    return 0


def row(run: RunFolder) -> list[str]:
    """A run's line of the table; "-" for what it does not have (yet)."""
    config = load(run.config)
    rows = read_metrics(run.metrics) if run.metrics.exists() else []
    done, checks = history.steps(rows), history.validations(rows)
    evaluated: dict[str, Any] = read_scores(run.eval) if run.eval.exists() else {}
    results, best = evaluated.get("results", {}), history.best(rows)
    last = done[-1] if done else {}
    kind = f" {config.adapter.kind}" if METHODS[config.method.name].uses_adapter(config) else ""
    return [
        run.name,
        f"{config.method.name}{kind}",
        rows_of(config),
        config.model.name,
        f"{last.get('step', 0)} of {config.run.steps}",
        duration(last.get("time", {}).get("train")),
        str(history.passes(rows)[0]),
        *(score(results.get(name)) for name in ("zero-shot", "p", "s", "theta")),
        str(evaluated.get("used") or (checks[-1].get("used") if checks else None) or "-"),
        figure(checks[-1].get("moved") if checks else None),
        figure(history.validation_loss(best) if best else None),
    ]


def warn_unequal(runs: list[RunFolder]) -> None:
    """Say on standard error when the runs were not tested on the same rows."""
    tested = set()
    for run in runs:
        parts = read_object(run.splits).get("parts", {}) if run.splits.exists() else {}
        tested.add(parts.get("test", {}).get("sha256"))
    if len(tested) > 1:
        complain(plain("these runs were not tested on the same rows; their scores do not compare"))
