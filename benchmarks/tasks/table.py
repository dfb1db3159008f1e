"""The table of this folder's results: `python benchmarks/tasks/table.py > benchmarks/tasks/README.md`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zofo.report.words import duration, measured, named, score
from zofo.tasks import definition

HERE = Path(__file__).parent
HEAD = """# SmolLM2-135M without training

    benchmarks/tasks/run.sh && python benchmarks/tasks/table.py > benchmarks/tasks/README.md

Score +- standard error over test rows, in percent (at most 1,000 rows, fewer where a row takes long, sampled with seed 0); bf16 computing over fp32 weights; prompts of
the task files; the 8 demonstrations are drawn once from the training rows (seed 0), so the 8-shot column has one draw's luck in it. Times are those of
scoring alone, on two x86-64 cores that tests and edits shared: orders of magnitude, not a benchmark (that is `zofo bench eval`); SQuAD's 8-shot time holds a pause of a minute and a half. Which files are not
the standard split: [docs/tasks.md](../../docs/tasks.md). A JSON a task stands beside this file.
"""


def read(shots: int, name: str) -> dict[str, Any] | None:
    """A task's results, or None."""
    path = HERE / f"{shots}-shot" / f"{name.replace('/', '-')}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def cells(found: dict[str, Any] | None) -> tuple[str, str]:
    """Scores and time of one way to prompt."""
    if found is None:
        return "", ""
    (result,) = found["results"].values()
    told = [f"{named(metric)} {score(result, metric).replace(' %', '')}" for metric in measured(result)]
    return ", ".join(told), duration(found["seconds"])


def row(name: str) -> str:
    """A task's line."""
    zero = read(0, name)
    eight = read(8, name)
    return "| " + " | ".join([f"`{name}`", rows(zero), *cells(zero), rows(eight), *cells(eight)]) + " |"


def rows(found: dict[str, Any] | None) -> str:
    """How many rows were scored, and cut."""
    if found is None:
        return ""
    cut = f" ({found['truncated']} cut)" if found["truncated"] else ""
    return str(next(iter(found["results"].values()))["n"]) + cut


def main() -> None:
    """Print the page."""
    lines = ["| task | rows | zero-shot | time | rows | 8-shot | time |", "|---|---|---|---|---|---|---|"]
    print("\n".join([HEAD, *lines, *(row(name) for name in definition.names())]))


if __name__ == "__main__":
    main()
