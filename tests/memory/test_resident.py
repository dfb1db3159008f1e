"""Gauges of resident memory see a peak that is gone by the time they are read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from zofo.memory import resident
from zofo.memory.resident import Gauge, HighWater, Sampled

BIG = 64 << 20  # bytes


def gauges() -> list[Gauge]:
    try:
        return [HighWater(), Sampled()]
    except OSError:
        return [Sampled()]


@pytest.mark.parametrize("gauge", gauges(), ids=lambda g: type(g).__name__)
def test_a_peak_is_seen_though_it_is_gone(gauge: Gauge) -> None:
    resident.settle()
    before = gauge.now()
    gauge.start()
    held = torch.ones(BIG // 4)
    for _ in range(5):
        held += 1  # long enough to be sampled
    del held
    assert 0.9 * BIG < gauge.peak() - before < 1.5 * BIG


@pytest.mark.parametrize("gauge", gauges(), ids=lambda g: type(g).__name__)
def test_start_forgets(gauge: Gauge) -> None:
    gauge.start()
    torch.ones(BIG // 4)
    first = gauge.peak()
    gauge.start()
    assert gauge.peak() < first - BIG / 2 and gauge.key == "rss_mb"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_highest_of_a_life_outlives_a_reset() -> None:
    gauge = HighWater()
    torch.ones(BIG // 4)
    highest = gauge.ever()
    gauge.start()
    assert gauge.ever() == HighWater.before == highest > gauge.peak() + BIG / 2


def test_sampling_leaves_no_thread() -> None:
    import threading

    gauge = Sampled()
    gauge.start(), gauge.start(), gauge.peak()
    assert not [t for t in threading.enumerate() if t.name == "zofo-memory"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_best_there_is_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "high-water" in resident.of("cpu").by
    monkeypatch.setattr(resident, "SELF", tmp_path / "nothing")
    assert "sampled" in resident.of("cpu").by


def test_cuda_is_asked_of_its_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name, value in {"memory_allocated": 5, "max_memory_allocated": 9, "reset_peak_memory_stats": None}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name, value=value: (calls.append(name), value)[1])
    gauge = resident.of("cuda:0")
    gauge.start()
    assert (gauge.now(), gauge.peak(), gauge.key) == (5, 9, "cuda_mb")
    assert calls == ["reset_peak_memory_stats", "memory_allocated", "max_memory_allocated"]
