"""SIGTERM and SIGINT: the step in progress may end, but not for longer than a grace."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """Stop now. No `Exception`, so that nothing on the way mistakes it for a failure and goes on.

    edge: whether it was raised at the edge of a pass, where a step can be given up, and not wherever the program was.
    """

    def __init__(self, signum: int, edge: bool = False) -> None:
        super().__init__(signum)
        self.signum, self.edge = signum, edge

    @property
    def status(self) -> int:
        """The exit status: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}"


class Stop:
    """Catch SIGTERM and SIGINT while a block runs (in the main thread; elsewhere it does nothing).

    After the first signal the step in progress has half of `grace` seconds to reach `check`, then the rest to reach
    `edge`, the beginning of its next pass, which raises `Interrupted`: the step is given up and the state before it can
    be saved. After the grace, or at a second signal at once, it is raised where the program is. (Python raises between
    bytecodes: a single call into C ends first.) A timer of the caller's own waits for the block's end, and fires then if it was due.
    """

    def __init__(self, grace: float = 6.0) -> None:
        self.grace = grace
        self.signal: int | None = None
        self.since = 0.0
        self._before: dict[int, Any] = {}
        self._timer = (0.0, 0.0)
        self._entered = 0.0

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                self._before[number] = signal.signal(number, self._first)
            self._timer, self._entered = signal.setitimer(signal.ITIMER_REAL, 0), time.monotonic()
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._late)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        theirs = bool(self._before) and self._timer[0] > 0
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if theirs:
            left = self._timer[0] - (time.monotonic() - self._entered)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), self._timer[1])

    def _first(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise Interrupted(number)
        self.signal, self.since = number, time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, self.grace)

    def _late(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise Interrupted(self.signal)

    def check(self) -> int | None:
        """At a step's edge: the signal that came, or None; stops the timer, so that a save is not cut short."""
        if self.signal is not None and self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return self.signal

    def edge(self) -> None:
        """At the beginning of a pass: raise `Interrupted` where a signal came half of the grace ago; no timer cuts what follows."""
        if self.signal is not None and self._before and time.monotonic() - self.since > self.grace / 2:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Interrupted(self.signal, edge=True)
