"""What a run, or a saved adapter, was trained on stays apart from what it is tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from zofo.adapting import base as bases
from zofo.adapting.folder import Saved
from zofo.adapting.options import ROWS
from zofo.errors import BadInput
from zofo.job import Prepared
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_object
from zofo.tasks import files, origin
from zofo.tasks.mixture import Mixture


def refuse_seen(run: RunFolder | None, asked: Mixture) -> None:
    """Raise BadInput where a run was trained on unseen tasks of a mixture, naming them all."""
    trained = bases.trained_on(run)
    seen = [task.name for task in asked.test if task.name in trained]
    if run is not None and seen:
        found = f"run {run.name} was trained on {', '.join(seen)}, unseen tasks of it"
        raise BadInput(f"--mixture {asked.name}", found, "take another mixture, or a run that was not")


def refuse_carved(run: RunFolder | None, ready: Prepared, split: str = "test") -> None:
    """Raise BadInput where rows of a split were carved from a file that a run trained on: from one with a test file beside it, or rows that it used."""
    if run is None or not run.splits.exists():
        return
    own, who = trained_records(run), f"run {run.name}"
    whole = {held["source"] for held in own if tested_of(held["parts"]) == "test"}
    for member in ready.members or (ready,):
        asked = member.splits.record
        if split == "test":
            refuse_whole(whole, asked, who)
        for held in own:
            if held["source"] == asked["source"]:
                refuse_used(used(held["parts"], split), asked, split, who)


def trained_records(run: RunFolder) -> list[Mapping[str, Any]]:
    """What a run's splits.json says of each task that it was trained on."""
    record = read_object(run.splits, "parts")
    return [held for held in record.get("members", {}).values() if held["side"] == "train"] or [record]


def noted(run: RunFolder | None, ready: Prepared) -> Prepared:
    """The same with a note of each task, some of whose test rows a run was validated on (of a mixture's training task, rows of its test file), or trained on."""
    if run is None or not run.splits.exists():
        return ready
    own, notes = trained_records(run), []
    known = (
        read_object(run.texts, "trained", "validated") if run.texts.exists() else {"trained": [], "validated": []}
    )  # older runs have none
    trained, validated = set(known["trained"]), set(known["validated"])
    for member in ready.members or (ready,):
        asked = member.splits.record
        names = [origin.hashed(origin.text(member.task, row)) for row in member.splits.test]
        held = [one for one in own if one["source"] == asked["source"]]
        rows = {k for one in held for k in validated_on(one)}
        test = asked["parts"].get("test", {"of": ""})
        numbers = test["indices"] if test["of"] == "test" else [None] * len(names)
        of = f"of the {len(names)} rows of {asked['task']}"
        if not own_rows(held, member) and (n := sum(name in trained for name in names)):
            other = "" if asked["task"] in {one["task"] for one in own} else ", under another task's name"
            notes.append(f"test: {n} {of} have a text that the run was trained on{other}")
        if n := sum(k in rows or name in validated for k, name in zip(numbers, names, strict=True)):
            notes.append(f"test: {n} {of} chose the run's checkpoint: it was validated on them")
    return replace(ready, notes=[*ready.notes, *notes])


def own_rows(held: Sequence[Mapping[str, Any]], ready: Prepared) -> bool:
    """Whether test rows are apart from training rows of the same source as they are: those that a run recorded as its own, or of a data set that is published with both."""
    tested = ready.splits.record["parts"].get("test", {}).get("sha256")
    return any(ready.task.files is None or one["parts"].get("test", {}).get("sha256") == tested for one in held)


def with_examples(saved: Saved, ready: Prepared) -> Prepared:
    """The same with a note of test rows, other than those an adapter was scored on, that have the text of its examples. Cost: reads the data once."""
    record, rows = ready.splits.record, saved.about.get("rows", ())
    if record["source"] != saved.test["source"] or record["parts"]["test"]["sha256"] == saved.test["sha256"]:
        return ready
    train = files.load(ready.task).train
    shown = {origin.text(ready.task, train[k]) for k in rows if k < len(train)}
    if not (n := sum(origin.text(ready.task, row) in shown for row in ready.splits.test)):
        return ready
    note = f"test: {n} of the {len(ready.splits.test)} rows have the text of an example that the adapter was made from"
    return replace(ready, notes=[*ready.notes, note])


def validated_on(held: Mapping[str, Any]) -> list[int]:
    """The numbers, in the test file, of the rows that a training task was validated on."""
    part = held["parts"]["validation"]
    return list(part["indices"]) if part["of"] == "test" else []


def used(parts: Mapping[str, Any], split: str) -> set[int]:
    """The numbers, in the training file, of the rows that a task was trained on; where test rows are asked for, also of those that it was validated on."""
    held = [parts[part] for part in ("D_f", "D_p", *(("validation",) if split == "test" else ()))]
    return {k for part in held if part["of"] == "train" for k in part["indices"]}


def refuse_used(rows: set[int], record: Mapping[str, Any], split: str, who: str) -> None:
    """Raise BadInput where a split was carved from the training file and holds some of these of its rows."""
    part = record["parts"].get(split, {"of": split})
    if part["of"] == "train" and (both := rows & set(part["indices"])):
        found = f"{len(both)} of its {part['rows']} {split} rows, carved from this file, are among those that {who} was made on"
        do = f"leave out what carves them anew (--seed, another task or file), or give --data.{split} too"
        raise BadInput(f"task {record['task']}, --data.train {record['source']}", found, do)


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
    if record["source"] == saved.test["source"]:
        refuse_used(set(saved.about.get("rows", ())), record, "test", asked)
    if not (ROWS | {"data.test_rows"}) & set(flags) and record["parts"]["test"]["sha256"] != saved.test["sha256"]:
        found = f"the test rows of {ready.task.name} are not those that it was scored on"
        raise BadInput(asked, found, "bring back the data, or name other rows: --task, --data.test")
