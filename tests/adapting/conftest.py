"""A tiny base opened for adapting, and its rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zofo import named
from zofo.adapting import base as bases
from zofo.adapting import draws
from zofo.adapting.base import Base
from zofo.adapting.plan import Plan
from zofo.job import Prepared

FLAGS: dict[str, Any] = {"data.task": "reviews", "data.test_rows": 6, "data.max_length": 48}
Opened = Callable[..., tuple[Base, Prepared]]


@pytest.fixture
def flags() -> dict[str, Any]:
    """Options of small data."""
    return dict(FLAGS)


@pytest.fixture
def opened(folder: str, cache: Path) -> Opened:
    """A tiny model as a base, and the rows of `reviews`: `opened(plan, adapter__kind="prefix")`."""

    def make(plan: Plan, **options: Any) -> tuple[Base, Prepared]:
        flags = FLAGS | {key.replace("__", "."): value for key, value in options.items()}
        base = bases.opened(named.find(folder, "none"), flags, plan)
        return base, draws.prepare(base.config)

    return make


@pytest.fixture
def folder_(folder: str) -> str:
    """The tiny model's folder, by a name that is no module's."""
    return folder
