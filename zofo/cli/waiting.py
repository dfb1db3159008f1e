"""How torch's threads wait for one another on a CPU: said to its OpenMP before torch is loaded, so by the command line alone."""

from __future__ import annotations

import os

THEIRS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SPINS = "1000"
"""Turns of a waiting loop before a thread sleeps (GNU's OpenMP, which torch ships, takes 300,000 by itself)."""


def patient() -> None:
    """Let a thread that waits for its team sleep soon, unless the user's environment says how it waits; no number changes.

    A pass has thousands of places where threads wait. Where another program has one of the cores, the thread that shares it comes late to
    each, and one that spins meanwhile keeps the core from it: beside one busy loop a step took 3.5 to 6 times as long, with this twice (docs/speed.md).
    """
    if not any(name in os.environ for name in THEIRS):
        os.environ["GOMP_SPINCOUNT"] = SPINS
