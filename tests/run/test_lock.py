"""One process a run: the second leaves at once, and a dead holder holds nothing. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zofo.errors import BadInput, ZofoError
from zofo.run.folder import RunFolder, create
from zofo.run.lock import lock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from zofo.errors import BadInput
from zofo.run.folder import RunFolder
from zofo.run.lock import lock
try:
    with lock(RunFolder(Path(sys.argv[1]))):
        print("held", flush=True)
        sys.stdin.read()
except BadInput as error:
    print(error, flush=True)
    sys.exit(error.status)
"""


def start(run: RunFolder) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_second_process_leaves_at_once_and_a_kill_frees_the_run(tmp_path):
    run = create(tmp_path, "a")
    with start(run) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with start(run) as second:
            output, _ = second.communicate(timeout=60)
        assert second.returncode == 2
        assert f"run a: process {first.pid} on " in output and "another --run name" in output
        with pytest.raises(BadInput, match=str(first.pid)), lock(run):
            pytest.fail("taken twice")
        first.send_signal(signal.SIGKILL)
    with lock(run):
        assert run.lock.read_text().startswith(f"{os.getpid()} ")
    assert run.lock.read_text() == ""


def test_of_many_that_race_one_wins(tmp_path):
    run = create(tmp_path, "a")
    racers = [start(run) for _ in range(6)]
    said = [racer.stdout.readline() for racer in racers if racer.stdout]
    assert sorted(line == "held\n" for line in said) == [False] * 5 + [True]
    for racer in racers:
        racer.communicate(timeout=60)
    assert sorted(racer.returncode for racer in racers) == [0, 2, 2, 2, 2, 2]


def test_the_same_process_cannot_take_it_twice_and_frees_it_on_an_error(tmp_path):
    run = create(tmp_path, "a")
    with pytest.raises(KeyboardInterrupt), lock(run):
        with pytest.raises(BadInput), lock(run):
            pytest.fail("taken twice")
        raise KeyboardInterrupt
    with lock(run):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    run = create(tmp_path, "a")
    (tmp_path / "outside").write_text("precious")
    run.lock.symlink_to(tmp_path / "outside")
    with pytest.raises(ZofoError), lock(run):
        pytest.fail("followed")
    assert (tmp_path / "outside").read_text() == "precious"
