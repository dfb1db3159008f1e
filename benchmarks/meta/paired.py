"""Paired differences of two rows of an experiment over a mixture: draw by draw of the shots, over the training seeds that both have.

python benchmarks/meta/paired.py FOLDER/cells ROW OTHER [after|zero-shot] [OTHERS/cells]      rows by the beginning of their files' names

`after` is with the steps on a draw's examples, or behind its demonstrations, as the row meets unseen tasks; OTHERS, where OTHER stands elsewhere.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from zofo import spread


def scores(cells: Path, row: str, slot: str) -> dict[int, list[float]]:
    """By seed, a row's mean score over the unseen tasks in each draw."""
    found = {}
    for file in sorted(cells.glob("*.json")):
        name = re.fullmatch(rf"{re.escape(row)}-class-to-class-(\d+)-[0-9a-f]+", file.stem)
        test = json.loads(file.read_text(encoding="utf-8")).get("test") if name else None
        if name and test:
            wanted = test["used"] if slot == "after" else slot
            found[int(name[1])] = [100 * value for value in test["slots"][wanted]["by_row"]["macro_f1"]]
    return found


def main(cells: str, row: str, other: str, slot: str = "after", others: str = "") -> None:
    """Print each seed's means and differences, and the interval over seeds and draws."""
    a, b = scores(Path(cells), row, slot), scores(Path(others or cells), other, slot)
    seeds = sorted({*a} & {*b})
    groups = [[x - y for x, y in zip(a[seed], b[seed], strict=True)] for seed in seeds]
    for seed, group in zip(seeds, groups, strict=True):
        means = [sum(held[seed]) / len(held[seed]) for held in (a, b)]
        print(f"seed {seed}: {means[0]:.1f} against {means[1]:.1f}; by draw {', '.join(f'{d:+.1f}' for d in group)}")
    if groups:
        found = spread.nested(groups)
        print(f"seeds {seeds}: {found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
