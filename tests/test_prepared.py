"""What `prepare` makes of one task stands alone; what a run keeps of it comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zofo.config import resolve
from zofo.job import prepare
from zofo.prepared import of_task, recorded, written
from zofo.tasks.mixture import find, reread


def test_one_task_is_prepared_as_by_the_job(folder: str, small: dict[str, Any]) -> None:
    settings, given = resolve(small | {"model.name": folder})
    whole = prepare(settings, given)
    alone = of_task(settings, whole.task, whole.source, whole.tokenizer)
    assert alone.encoded == whole.encoded and recorded(alone) == recorded(whole)
    assert not whole.members and whole.side is None and whole.of("train") == ()


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
