"""A saved adapter: whole or not at all, the same scores when it is loaded, and on no other base."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hushed import hushed
from peft import PeftModel

from zofo import models, named, theta0
from zofo.adapters import stored
from zofo.adapting import base as bases
from zofo.adapting import draws, folder, use
from zofo.adapting.plan import Plan, seeded
from zofo.errors import BadInput
from zofo.run import seam

PLAN = Plan(shots=2, steps=3, draws=1, lr=1e-2)


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_it_scores_the_same_when_it_is_loaded(opened, tmp_path: Path, folder_: str, kind: str) -> None:
    base, ready = opened(PLAN, adapter__kind=kind)
    made = draws.on_task(base, PLAN, ready, base.config)
    size = folder.write(base, PLAN, made.record, made.tensors, tmp_path / "a" / "one")
    assert size == stored.size(tmp_path / "a" / "one")
    saved, found = folder.find(tmp_path / "a" / "one"), named.find(folder_, "none")
    config, rows = use.prepared(found, saved, {})
    used = use.opened(found, saved, {})
    assert draws.measured(used.slots.model, rows, config) == made.record["draws"][0]["result"] == saved.about["after"]
    with torch.no_grad(), hushed():
        ids = torch.arange(5)[None]
        plain = PeftModel.from_pretrained(models.load(found.source, config.model), saved.path)
        assert torch.equal(plain(input_ids=ids).logits, used.slots.model(input_ids=ids).logits)


def test_zofo_json_says_how_it_came_about(opened, tmp_path: Path) -> None:
    base, ready = opened(PLAN)
    made = draws.on_task(base, PLAN, ready, base.config)
    folder.write(base, PLAN, made.record, made.tensors, tmp_path / "one")
    held = json.loads((tmp_path / "one" / folder.ABOUT).read_text(encoding="utf-8"))
    assert (held["theta_sha256"], held["task"], held["shots"], held["steps"]) == (base.sha256, "reviews", 2, 3)
    assert held["seed"] == 0 and held["lr"] == 1e-2 and held["after"] == made.record["draws"][0]["result"]
    kept = {"data.max_length": 48, "data.hard_prompt": True, "data.channel": False, "data.shot_length": 0}
    assert held["data"] == {"data.task": "reviews", "data.test_rows": 6, **kept}, (
        "a run may say otherwise: defaults too"
    )
    assert held["test"] == made.record["test"] and held["test"]["seed"] == 0
    assert json.loads((tmp_path / "one" / stored.CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"] is None


def test_another_base_is_refused(opened, tmp_path: Path, folder_: str) -> None:
    base, ready = opened(PLAN)
    made = draws.on_task(base, PLAN, ready, base.config)
    folder.write(base, PLAN, made.record, made.tensors, tmp_path / "one")
    with torch.no_grad():
        next(iter(base.leaves)).data.view(-1)[0] += 1
    base.model.save_pretrained(tmp_path / "other")
    models.load_tokenizer(named.find(folder_, "none").source).save_pretrained(tmp_path / "other")
    saved = folder.find(tmp_path / "one")
    with pytest.raises(BadInput) as caught:
        use.opened(named.find(str(tmp_path / "other"), "none"), saved, {})
    assert saved.sha256[:12] in caught.value.found and theta0.fingerprint(base.leaves)[:12] in caught.value.found
    assert "zofo adapt" in caught.value.do


@pytest.mark.parametrize("where", ["write_json", "fsync"])
def test_an_interruption_leaves_nothing(opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    base, ready = opened(PLAN)
    made = draws.on_task(base, PLAN, ready, base.config)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*((folder, "write_json") if where == "write_json" else (seam.disk, "rename")), stop)
    with pytest.raises(KeyboardInterrupt):
        folder.write(base, PLAN, made.record, made.tensors, tmp_path / "one")
    assert list(tmp_path.iterdir()) == [] or [p.name for p in tmp_path.iterdir()] == ["cache"]
    assert theta0.fingerprint(base.leaves) == base.sha256


def test_its_bytes_are_on_the_disk_before_it_has_its_name(
    opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, ready = opened(PLAN)
    made, synced, held = draws.on_task(base, PLAN, ready, base.config), set[int](), list[int]()

    class Watching(seam.Disk):
        def fsync(self, file: int) -> None:
            synced.add(os.fstat(file).st_ino)

        def rename(self, old: Path, new: Path) -> None:
            if new == tmp_path / "one":
                held.extend(path.stat().st_ino for path in old.iterdir())
                assert set(held) <= synced
            super().rename(old, new)

    monkeypatch.setattr(seam, "disk", Watching())
    folder.write(base, PLAN, made.record, made.tensors, tmp_path / "one")
    assert len(held) >= 3


def test_what_is_no_adapter_or_is_taken_is_refused(opened, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder; name the folder that `zofo adapt` wrote"):
        folder.find(tmp_path / "none")
    with pytest.raises(BadInput, match=r"no adapter that `zofo adapt` saved: zofo.json is not there"):
        folder.find(tmp_path)
    with pytest.raises(BadInput, match="it exists; name a new folder"):
        folder.refuse_taken(tmp_path)
    for name in (folder.ABOUT, stored.CONFIG, stored.TENSORS):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    for text in ("{}", "[]", "no", '{"adapter": {"r": "x"}, "theta_sha256": "", "base": ""}'):
        (tmp_path / folder.ABOUT).write_text(text, encoding="utf-8")
        with pytest.raises(BadInput, match=r"zofo.json does not say what it should"):
            folder.find(tmp_path)


def test_the_rows_are_those_that_its_examples_were_kept_apart_from(opened, tmp_path: Path, folder_: str) -> None:
    rows = [{"text": f"row {k}", "label": k % 2} for k in range(60)]
    own, test = tmp_path / "own.jsonl", tmp_path / "test.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    test.write_text("".join(json.dumps({**row, "text": f"new {k}"}) + "\n" for k, row in enumerate(rows[:9])), "utf-8")
    base, _ = opened(PLAN)
    found, made = named.find(folder_, "none"), []
    for name, more in (("carved", {}), ("beside", {"data.test": str(test)})):
        flags = {"data.train": str(own), "data.test_rows": 6, **more}
        ready = draws.prepare(seeded(bases.configured(found, flags, PLAN), 7))
        held = replace(base, config=bases.configured(found, flags, PLAN))
        record = draws.on_task(held, PLAN, ready, held.config)
        folder.write(held, PLAN, record.record, record.tensors, tmp_path / name)
        made.append((folder.find(tmp_path / name), ready.splits.record["parts"]["test"]["sha256"]))
    (carved, sha), (beside, _) = made
    for flags in ({}, {"data.train": str(own), "data.test_rows": 6}):
        assert use.prepared(found, carved, flags)[1].splits.record["parts"]["test"]["sha256"] == sha, "the seed of then"
    with pytest.raises(BadInput, match=r"give --data\.test too"):
        use.prepared(found, beside, {"data.train": str(own)})
    other = tmp_path / "other.yaml"
    other.write_text("name: other\nchoices: [a, b]\nfiles: {train: own.jsonl}\n", encoding="utf-8")
    assert len(carved.about["rows"]) == 4
    carved.about["rows"] = list(range(60))
    with pytest.raises(BadInput, match="6 of its 6 test rows, carved from this file, are among those that --adapter"):
        use.prepared(found, carved, {"data.task": str(other)})
    carved.about["rows"] = []
    own.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]), encoding="utf-8")
    with pytest.raises(BadInput, match="are not those that it was scored on; bring back the data"):
        use.prepared(found, carved, {})
    assert use.prepared(found, carved, {"data.test": str(test)})[1].splits.record["parts"]["test"]["rows"] == 9, (
        "a file that is named is taken whole"
    )
