"""Errors in three parts: what was asked, what was found, what to do. Everything may import this."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZofoError(Exception):
    """A failure told in one line: `asked` as the user typed it, `found`, and what to `do`.

    `status` is the exit status the command line ends with: 1 failed, 2 bad input.
    """

    status = 1

    def __init__(self, asked: str, found: str, do: str) -> None:
        super().__init__(asked, found, do)
        self.asked, self.found, self.do = asked, found, do

    def __str__(self) -> str:
        return f"{self.asked}: {self.found}; {self.do}"


class BadInput(ZofoError):
    """The user asked for something that cannot be done as asked (exit status 2)."""

    status = 2


class NotFinite(ZofoError):
    """Losses or gradients were not finite too many times in a row (exit status 1)."""


def note(error: BaseException, text: str) -> None:
    """Add a note to an exception on its way, once: the task it was in, which step is saved."""
    if text not in notes(error):
        error.add_note(text)


def notes(error: BaseException) -> list[str]:
    """What was noted on an exception on its way."""
    return list(getattr(error, "__notes__", ()))


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return a hint for a misspelt name: `did you mean 'x'?`, else `otherwise`, or the list of known names."""
    known = sorted(known)
    if not known:
        return "there is none"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else otherwise or "choose one of: " + ", ".join(known)
