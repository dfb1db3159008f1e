"""A saved adapter: whole or not at all, the same scores when it is loaded, and on no other base."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from zofo import models, named
from zofo.adapters import stored
from zofo.adapters.slots import quiet
from zofo.adapting import draws, folder, use
from zofo.adapting.plan import Plan
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
    chosen = use.options(saved, {})
    config, rows = use.prepared(found, saved, chosen)
    used = use.opened(found, saved, chosen)
    assert draws.measured(used.slots.model, rows, config) == made.record["draws"][0]["result"] == saved.about["after"]
    with torch.no_grad(), quiet():
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
    assert held["data"] == {"data.task": "reviews", "data.test_rows": 6, "data.max_length": 48}
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
    assert saved.sha256[:12] in caught.value.found and models.fingerprint(base.leaves)[:12] in caught.value.found
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
    assert models.fingerprint(base.leaves) == base.sha256


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
