"""What `prepare` makes of one task stands alone; what a run keeps of it comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from zofo.errors import BadInput
from zofo.job import prepare
from zofo.layers import resolve
from zofo.prepared import of_task, recorded, written
from zofo.tasks.mixture import find, reread


def test_one_task_is_prepared_as_by_the_job(folder: str, small: dict[str, Any]) -> None:
    settings, given = resolve(small | {"model.name": folder})
    whole = prepare(settings, given)
    alone = of_task(settings, whole.task, whole.source, whole.tokenizer)
    assert alone.encoded == whole.encoded and recorded(alone) == recorded(whole)
    assert not whole.members and whole.side is None and whole.of("train") == ()


@pytest.mark.parametrize("token", ["<pad>", "It was"])
def test_a_token_that_the_model_does_not_embed_is_refused(
    token: str, folder: str, small: dict[str, Any], tmp_path: Path
) -> None:
    """Added to the tokenizer, as a pad token or as a word, and the embeddings left as they were."""
    place = Path(shutil.copytree(folder, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.add_special_tokens({"pad_token": token}) if token == "<pad>" else tokenizer.add_tokens([token])
    tokenizer.save_pretrained(place)
    held = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(held | {"vocab_size": len(tokenizer) - 1}))
    settings, given = resolve(small | {"model.name": str(place)})
    with pytest.raises(BadInput, match=rf"the token '{token}', number .*resize_token_embeddings"):
        prepare(settings, given)


def test_what_a_run_keeps_of_its_task_or_mixture_prepares_the_same_rows(
    folder: str, small: dict[str, Any], mixed: Path, tmp_path: Path
) -> None:
    for flags in (small, {"data.mixture": str(mixed)}):
        settings, given = resolve({**flags, "model.name": folder})
        ready = prepare(settings, given)
        (tmp_path / "task.yaml").write_text(written(ready), encoding="utf-8")
        kept = reread(tmp_path / "task.yaml", "run r")
        assert recorded(prepare(settings, task=kept)) == recorded(ready)
    assert kept.name == find(mixed).name
