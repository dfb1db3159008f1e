"""Disks that misbehave, for every test of the run folder."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zofo.run import seam

Hook = Callable[[int, str, Callable[..., Any], tuple[Any, ...]], Any]


class Quick(seam.Disk):
    """A disk that does not wait: what a dead process leaves does not depend on fsync (test_power_cut does)."""

    def fsync(self, file: int) -> None:
        """Ask only whether the file is open."""
        os.fstat(file)

    def fsync_dir(self, folder: Path) -> None:
        """Ask only whether the folder is there."""
        os.listdir(folder)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait for the disk."""
    monkeypatch.setattr(seam, "disk", Quick())


class Hooked:
    """A disk that hands each operation to `hook(number, name, operation, arguments)`."""

    def __init__(self, hook: Hook) -> None:
        self.count, self.hook, self.log = 0, hook, list[str]()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(Quick(), name)

        def call(*arguments: Any) -> Any:
            self.count += 1
            self.log.append(name)
            return self.hook(self.count, name, operation, arguments)

        return call


def half(name: str, operation: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Do half of a write, and nothing of another operation (but close, so that files do not stay open)."""
    if name == "write":
        operation(arguments[0], arguments[1][: len(arguments[1]) // 2])
    if name == "close":
        operation(*arguments)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, bool], Hooked]:
    """Make operation n, and with `on` all operations after it, fail with an errno (n = 0: none)."""

    def install(n: int, number: int, on: bool = False) -> Hooked:
        def hook(count: int, name: str, operation: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
            if n and (count == n or (on and count > n)):
                half(name, operation, arguments)
                raise OSError(number, os.strerror(number))
            return operation(*arguments)

        disk = Hooked(hook)
        monkeypatch.setattr(seam, "disk", disk)
        return disk

    return install


@pytest.fixture
def killed() -> Callable[[int, Callable[[], Any]], bool]:
    """Run a function in a forked child that dies by SIGKILL at operation n; True if it died."""

    def run(n: int, work: Callable[[], Any]) -> bool:
        def hook(count: int, name: str, operation: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
            if count == n:
                half(name, operation, arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments)

        child = os.fork()
        if child == 0:
            status = 1
            try:
                seam.disk = Hooked(hook)  # type: ignore[assignment]
                work()
                status = 0
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        assert os.WIFSIGNALED(ended) or os.waitstatus_to_exitcode(ended) == 0
        return os.WIFSIGNALED(ended)

    return run
