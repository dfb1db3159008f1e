"""Paired differences of test accuracy between two rows of different experiments, over the seeds and test rows that both have.

python benchmarks/compare/paired.py ROW OTHER [SLOT]      rows by the beginning of their files' names, FOLDER/ROW where several folders have one;
SLOT: p, s (none: what validation chose)
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np

from zofo.experiment.bootstrap import Array, averaged, draw, interval

HERE = Path(__file__).parent
TASKS = ("sst2", "trec", "tweet_eval-emotion")
FOLDERS = ("sst2", "trec", "emotion", "all-layers", "penalty")


def answers(row: str, task: str, slot: str = "") -> dict[int, tuple[str, Array]]:
    """By seed: which test rows, and 1 for each that a row of a table answers right."""
    found: dict[int, tuple[str, Array]] = {}
    only, _, start = row.rpartition("/")
    for folder in [only] if only else FOLDERS:
        for file in sorted((HERE / folder / "cells").glob("*.json")):
            name = re.fullmatch(rf"{re.escape(start)}-{re.escape(task)}-(\d+)-[0-9a-f]+", file.stem)
            test = json.loads(file.read_text(encoding="utf-8")).get("test") if name else None
            if name and test:
                if int(name[1]) in found:
                    sys.exit(f"{row}: seed {name[1]} of {task} stands in several folders; name one, as {folder}/{row}")
                held = test["slots"][slot or test["used"]]["by_row"]
                rights = held if isinstance(held, list) else held["accuracy"]  # older runs hold accuracy alone
                found[int(name[1])] = test["rows_sha256"], np.array(rights, float)
    return found


def main(row: str, other: str, slot: str = "") -> None:
    """Print scores, differences and intervals, a line a task, and of their mean."""
    drawn = []
    for task in TASKS:
        a, b = answers(row, task, slot), answers(other, task)
        seeds = [seed for seed in sorted({*a} & {*b}) if a[seed][0] == b[seed][0]]
        if not seeds:
            continue
        crossed = len({a[seed][0] for seed in seeds}) == 1
        drawn.append(draw([a[seed][1] - b[seed][1] for seed in seeds], crossed, 4000))
        means = [100 * np.mean([held[seed][1].mean() for seed in seeds]) for held in (a, b)]
        told(f"{task}, seeds {seeds}: {means[0]:.1f} against {means[1]:.1f}", drawn[-1:])
    told("mean over tasks", drawn)


def told(what: str, drawn: list) -> None:
    """Print a difference with its interval."""
    if drawn:
        found = interval(averaged(drawn))
        print(f"{what}: {100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
