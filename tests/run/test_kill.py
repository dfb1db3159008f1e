"""SIGKILL at every system call of a save, by strace: the reader finds the previous or the new checkpoint."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from zofo.run import checkpoint
from zofo.run.checkpoint import BEST, publish, publish_as

ROOT = Path(__file__).parents[2]
CALLS = (
    "write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,"
    "mkdir,mkdirat,rmdir,ftruncate,chmod,fchmodat"
)


def finish(folder: Path) -> None:
    """The save that is killed: a step, the best, and the pruning."""
    checkpoint.publish(folder, 3, {"t": {"a": torch.full((9,), 3.0)}}, {"step": 3})
    checkpoint.publish_as(folder, "best", 3, {"t": {"a": torch.full((9,), 3.0)}}, {"step": 3})
    checkpoint.prune(folder, 1)


SAVE = f"""
import sys
from pathlib import Path
import torch
from zofo.run import checkpoint
{inspect.getsource(finish)}
finish(Path(sys.argv[1]))
"""


def save(folder: Path, *strace: str) -> int:
    """Run the saver under strace; its status (-9 when killed)."""
    command = ["strace", "-f", "-o", str(folder.parent / "trace"), "-e", f"trace={CALLS}", *strace]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*command, sys.executable, "-c", SAVE, str(folder)], env=environment, timeout=120)
    return ended.returncode


def begin(folder: Path) -> Path:
    for step in (1, 2):
        publish(folder, step, {"t": {"a": torch.full((9,), float(step))}}, {"step": step})
    publish_as(folder, BEST, 2, {"t": {"a": torch.full((9,), 2.0)}}, {"step": 2})
    return folder


def check(folder: Path, found: checkpoint.Checkpoint | None) -> None:
    """That a checkpoint is that of step 2 or 3, all of it."""
    assert found is not None and found.step in (2, 3) and found.state == {"step": found.step}
    assert torch.equal(found.load("t")["a"], torch.full((9,), float(found.step)))


@pytest.mark.slow
def test_kill_at_every_system_call_of_a_save(tmp_path):
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if save(begin(tmp_path / "count")) != 0:
        pytest.skip("strace may not trace here")
    calls = Counter(re.findall(r"^\d+ +(\w+)\(", (tmp_path / "trace").read_text(), re.MULTILINE))
    assert {"fsync", "write", "mkdir", "unlink", "rmdir"} <= calls.keys() and calls["rename"] >= 4
    for call, times in calls.items():
        for n in range(1, times + 1):
            folder = begin(tmp_path / f"{call}-{n}")
            assert save(folder, "-e", f"inject={call}:signal=SIGKILL:when={n}") == -9, (call, n)
            check(folder, checkpoint.newest_good(folder, None, pytest.fail))
            check(folder, checkpoint.read(folder / BEST))
            checkpoint.sweep(folder)
            finish(folder)
            assert checkpoint.listing(folder) == [3] and checkpoint.read(folder / BEST).step == 3
            assert sorted(os.listdir(folder)) == [BEST, "step-000003"]
            shutil.rmtree(folder)
