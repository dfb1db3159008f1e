"""The second tier in accuracy on both tasks (its table has trec in macro-F1): means over seeds, and 95 % of the paired difference to LoRA on q and v.

python benchmarks/evidence/accuracy.py
"""

from __future__ import annotations

import statistics
from pathlib import Path

from zofo.experiment import lines, reading, runner
from zofo.experiment.bootstrap import averaged, draw, interval
from zofo.experiment.lines import Line
from zofo.experiment.store import Store

HERE = Path(__file__).parent


def accuracy(line: Line) -> float:
    """A line's mean over seeds, percent, of the adapter that validation chose."""
    tests = [record["test"] for record in line.done.values()]
    return 100 * statistics.fmean(test["slots"][test["used"]]["accuracy"] for test in tests)


def main() -> None:
    """Print a line for each row that has every seed on both tasks."""
    grid, _ = reading.read(str(HERE / "second.yaml"))
    store = Store(HERE / "second")
    made = lines.lines(grid, store, runner.known(grid, store))
    first = [line for line in made if line.row == grid.against]
    for name in [row.name for row in grid.rows]:
        held = [line for line in made if line.row == name and len(line.done) == len(grid.seeds)]
        if len(held) < len(grid.tasks):
            continue
        means = [accuracy(line) for line in held]
        told = f"{name}: {', '.join(f'{mean:.1f}' for mean in means)}; mean {statistics.fmean(means):.1f}"
        if name != grid.against:
            rows = [
                [
                    100 * (lines.by_row(line.done[seed])["accuracy"] - lines.by_row(other.done[seed])["accuracy"])
                    for seed in grid.seeds
                ]
                for line, other in zip(held, first, strict=True)
            ]
            found = interval(averaged([draw(one, crossed=True, draws=grid.draws) for one in rows]))
            told += f"; {found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
        print(told)


if __name__ == "__main__":
    main()
