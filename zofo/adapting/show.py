"""Where adapting tells what it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from zofo.adapting.base import Base
from zofo.adapting.plan import Plan
from zofo.job import Prepared


class Show(Protocol):
    """Where adapting tells what it does."""

    def note(self, text: str) -> None: ...
    def begin(self, base: Base, plan: Plan, ready: Prepared) -> None: ...
    def draw(self, record: Mapping[str, Any], metric: str, of: int) -> None: ...
    def task(self, record: Mapping[str, Any], number: int, of: int) -> None: ...


class Quiet:
    """Says nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def begin(self, base: Base, plan: Plan, ready: Prepared) -> None:
        """Say nothing."""

    def draw(self, record: Mapping[str, Any], metric: str, of: int) -> None:
        """Say nothing."""

    def task(self, record: Mapping[str, Any], number: int, of: int) -> None:
        """Say nothing."""
