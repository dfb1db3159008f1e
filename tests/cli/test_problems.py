"""Every ending of a command has its status and its line."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zofo.cli.problems import ELSEWHERE, guarded
from zofo.errors import BadInput, NotFinite, ZofoError
from zofo.run.signals import Interrupted

ENDINGS = [
    (ZofoError("a", "b", "c"), 1, "zofo: a: b; c\n"),
    (BadInput("a", "b", "c"), 2, "zofo: a: b; c\n"),
    (NotFinite("a", "b\nb", "c"), 1, "zofo: a: b b; c\n"),
    (Interrupted(signal.SIGTERM), 143, "zofo: stopped by SIGTERM; "),
    (Interrupted(signal.SIGINT), 130, "zofo: stopped by SIGINT; "),
    (KeyboardInterrupt(), 130, "zofo: stopped\n"),
]


@pytest.mark.parametrize(
    "words",
    ["show LONG", "eval LONG --task reviews", "eval MODEL --task LONG", "eval MODEL --mixture LONG", "experiment LONG"],
)
def test_a_name_that_is_too_long_for_a_file_is_one_line(cli, model: str, words: str) -> None:
    status, _, err = cli(*words.replace("LONG", "x" * 300).replace("MODEL", model).split())
    assert status == 2 and len(err.splitlines()) == 1 and err.startswith("zofo: ")


def test_what_other_tools_call_an_option_leads_to_options_that_there_are(cli) -> None:
    known = {name for command in ("train", "adapt") for name in re.findall(r"--[\w.]+", cli(command, "--help")[1])}
    named = {name for said in ELSEWHERE.values() for name in re.findall(r"--[\w.]+", said)}
    assert named <= known


@pytest.mark.parametrize(("error", "status", "told"), ENDINGS)
def test_status_and_line(capsys, error: BaseException, status: int, told: str) -> None:
    def fail() -> None:
        raise error

    assert guarded(fail) == status
    err = capsys.readouterr().err
    assert err.startswith(told) and err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotFinite("a", "b", "c"), "a: b; c; in task x; step 3 is saved: zofo resume r\n"),
        (Interrupted(signal.SIGTERM), "stopped by SIGTERM; in task x; step 3 is saved: zofo resume r\n"),
        (MemoryError("none left"), "zofo memory; in task x; step 3 is saved: zofo resume r\n"),
    ],
)
def test_what_was_noted_on_the_way_is_told_in_the_line(capsys, error: BaseException, told: str) -> None:
    def fail() -> None:
        error.add_note("in task x")
        error.add_note("step 3 is saved: zofo resume r")
        raise error

    assert guarded(fail) == getattr(error, "status", 1)
    err = capsys.readouterr().err
    assert err.endswith(told) and err.count("\n") == 1


def test_another_exception_shows_its_traceback(capsys) -> None:
    assert guarded(lambda: 1 / 0) == 1
    assert "Traceback" in (err := capsys.readouterr().err) and "ZeroDivisionError" in err


def test_success_is_0() -> None:
    assert guarded(lambda: None) == 0
    assert guarded(lambda: 3) == 3


def test_a_reader_that_went_away_is_no_noise(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    script = f"'{sys.executable}' -m zofo.cli.main train --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(root)}, check=True
    )
    assert done.stderr == "" and done.stdout.strip() in ("0", "1")
