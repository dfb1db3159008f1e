"""What a run, or a saved adapter, was trained on stays apart from what it is tested on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zofo.adapting import base as bases
from zofo.adapting.folder import Saved
from zofo.adapting.options import ROWS
from zofo.errors import BadInput
from zofo.job import Prepared
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_json
from zofo.tasks.mixture import Mixture


def refuse_seen(run: RunFolder | None, asked: Mixture) -> None:
    """Raise BadInput where a run was trained on unseen tasks of a mixture, naming them all."""
    trained = bases.trained_on(run)
    seen = [task.name for task in asked.test if task.name in trained]
    if run is not None and seen:
        found = f"run {run.name} was trained on {', '.join(seen)}, unseen tasks of it"
        raise BadInput(f"--mixture {asked.name}", found, "take another mixture, or a run that was not")


def refuse_carved(run: RunFolder | None, ready: Prepared) -> None:
    """Raise BadInput where test rows were carved from a file that a run trained on all of, having a test file beside it."""
    if run is None or not run.splits.exists():
        return
    record = read_json(run.splits)
    own = [held for held in record.get("members", {}).values() if held["side"] == "train"] or [record]
    whole = {held["source"] for held in own if tested_of(held["parts"]) != "train"}
    for member in ready.members or (ready,):
        refuse_whole(whole, member.splits.record, f"run {run.name}")


def tested_of(parts: Mapping[str, Any]) -> str:
    """Which file the rows come from that a task is tested on (of a mixture's training task, that it is validated on)."""
    return str(parts.get("test", parts["validation"])["of"])


def refuse_whole(whole: set[str], record: Mapping[str, Any], who: str) -> None:
    """Raise BadInput where test rows were carved from one of some files."""
    source = record["source"]
    if source in whole and record["parts"].get("test", {}).get("of") == "train":
        found = f"{who} was made on this file with a test file beside it: test rows carved from it may be among those it was trained on"
        raise BadInput(f"--data.train {source}", found, "give --data.test too")


def refuse_other(saved: Saved, ready: Prepared, flags: Mapping[str, Any]) -> None:
    """Raise BadInput where an adapter's test rows are no longer those that its examples were kept apart from, and no others were named."""
    record, asked = ready.splits.record, f"--adapter {saved.path}"
    refuse_whole({saved.test["source"]} if saved.test["of"] != "train" else set(), record, asked)
    if not (ROWS | {"data.test_rows"}) & set(flags) and record["parts"]["test"]["sha256"] != saved.test["sha256"]:
        found = f"the test rows of {ready.task.name} are not those that it was scored on"
        raise BadInput(asked, found, "bring back the data, or name other rows: --task, --data.test")
