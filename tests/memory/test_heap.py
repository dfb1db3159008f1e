"""malloc keeps freed memory, or gives it back, as it is told."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys

import pytest

from zofo.memory import heap

FAULTS = """
import resource, torch
from zofo.memory import heap, resident
assert heap.{how}()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(4_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults(), resident.status("VmRSS"), *[resident.settle(), resident.status("VmRSS")][1:])
"""

pytestmark = pytest.mark.skipif(heap.tuner() is None, reason="malloc is not glibc's")


def told(how: str) -> tuple[int, int, int]:
    """Page faults of making 16 MB twenty times, and resident memory before and after freed memory is given back."""
    out = subprocess.run([sys.executable, "-c", FAULTS.format(how=how)], capture_output=True, text=True, check=True)
    faults, before, after = map(int, out.stdout.split())
    return faults, before, after


def test_kept_memory_is_used_again_and_given_back_when_asked() -> None:
    page = resource.getpagesize()
    faults, before, after = told("keep")
    assert faults < 16_000_000 // page, "less than one piece's pages for twenty pieces"
    assert before - after > 14_000_000


def test_given_back_memory_is_faulted_in_each_time() -> None:
    page = resource.getpagesize()
    faults, before, after = told("give_back")
    assert faults > 15 * 16_000_000 // page
    assert abs(before - after) < 4_000_000


def test_few_kernels_are_remembered_unless_the_user_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(heap.KERNELS, raising=False)
    heap.keep()
    assert os.environ[heap.KERNELS] == heap.FEW
    monkeypatch.setenv(heap.KERNELS, "7")
    heap.keep()
    assert os.environ[heap.KERNELS] == "7"


def test_where_there_is_no_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not heap.keep() and not heap.give_back()
