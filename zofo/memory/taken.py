"""What a run took in memory, beside what it was estimated to take: the `memory` of eval.json and of the model card."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from zofo import models
from zofo.config import Config
from zofo.memory.resident import Gauge
from zofo.memory.sizes import Size, by_kind, estimate, total, whole
from zofo.memory.work import of_rows
from zofo.prepared import Prepared


def summary(
    config: Config,
    ready: Prepared,
    rows: Sequence[Mapping[str, Any]],
    gauge: Gauge,
    standing: int,
    outside: bool = False,
) -> dict[str, Any]:
    """In MB: what stood before training, the peaks of training steps and of validations, and the estimates for steps.

    Measured is the whole process, Python and libraries too (on CUDA: torch's allocator); estimated, what torch
    allocates. So what a step takes above what stands compares best: `peak_mb - standing_mb` to `estimated_above_mb`.
    Args: rows, the run's metrics; a resumed run's peaks are those of all its processes; outside, whether the weights
    were outside memory: nothing is estimated then.
    """
    found: dict[str, Any] = {"standing_mb": standing / 1e6}
    for name, kind in (("peak_mb", "step"), ("validation_peak_mb", "validation")):
        measured = [row["memory"][gauge.key] for row in rows if row["kind"] == kind and gauge.key in row["memory"]]
        found |= {name: max(measured)} if measured else {}
    if not outside and (sizes := estimated(config, ready)):
        found |= {"estimated_mb": total(sizes, steps_only=True) / 1e6}
        found |= {"estimated_above_mb": total(sizes, steps_only=True, above=True) / 1e6}
        found |= {f"estimated_{kind}_mb": size / 1e6 for kind, size in by_kind(sizes).items()}
    return found | {"measured_by": gauge.by}


def estimated(config: Config, ready: Prepared) -> list[Size]:
    """The sizes that `zofo memory` tells, without scoring; empty where not all are known (a run does not fail by it)."""
    with contextlib.suppress(Exception):
        work = replace(of_rows(config, ready), score=None)
        sizes = estimate(config, models.skeleton(ready.source), work)
        return sizes if whole(sizes) else []
    return []
