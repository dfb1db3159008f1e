"""The machine in words."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from zofo import machine as machines


def test_the_processor_is_named_where_the_system_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "CPUINFO", tmp_path / "cpuinfo")
    assert machines.processor() == platform.processor(), "there is no such file"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU: 9\nflags\t: x\n", encoding="utf-8")
    assert machines.processor() == "Some CPU: 9"


def test_it_says_system_processor_and_instructions() -> None:
    said = machines.machine()
    assert said.startswith(f"{platform.system()} {platform.machine()}") and machines.processor() in said
