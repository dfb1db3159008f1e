"""`zofo compare`: runs side by side."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from zofo.cli.output import plain, table
from zofo.cli.problems import complain
from zofo.cli.target import Dir
from zofo.config import load
from zofo.methods.table import METHODS
from zofo.report import history
from zofo.report.words import duration, figure, rows_of, score
from zofo.run import folder
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_json
from zofo.run.metrics import read_metrics

COLUMNS = (
    "run", "method", "task", "model", "steps", "training", "forwards", "zero-shot", "p", "s", "theta", "used",
    "moved", "best validation loss or metric",
)  # fmt: skip


def compare(
    *runs: Annotated[str, Parameter(help="names of runs (folders in --dir), or their paths")],
    dir: Dir = "runs",
) -> int:
    """Compare runs: what they cost and what they score on the test rows, with standard errors."""
    found = [folder.find(name, dir) for name in runs] or [folder.find(name, dir) for name in folder.names(dir)]
    if not found:
        folder.find("", dir)
    table(COLUMNS, [row(run) for run in found])
    warn_unequal(found)
    return 0


def row(run: RunFolder) -> list[str]:
    """A run's line of the table; "-" for what it does not have (yet)."""
    config = load(run.config)
    rows = read_metrics(run.metrics) if run.metrics.exists() else []
    done, checks = history.steps(rows), history.validations(rows)
    evaluated: dict[str, Any] = read_json(run.eval) if run.eval.exists() else {}
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
        parts = read_json(run.splits).get("parts", {}) if run.splits.exists() else {}
        tested.add(parts.get("test", {}).get("sha256"))
    if len(tested) > 1:
        complain(plain("these runs were not tested on the same rows; their scores do not compare"))
