"""Errors of what is read back from a run folder."""

from __future__ import annotations

from zofo.errors import ZofoError


class Corrupt(ZofoError):
    """What is on disk is not what was written (exit status 2)."""

    status = 2


class Newer(Corrupt):
    """What is on disk is whole, in a format of a newer zofo: nothing older is taken in its place."""
