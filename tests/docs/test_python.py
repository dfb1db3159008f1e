"""docs/python.md: its blocks run as they stand, one after another, on a tiny model in the place of the real one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
FEWER = {
    "steps=60": "steps=2, batch=2, data__train_rows=12, data__validation_rows=4, data__test_rows=6, data__max_length=48"
}
"""Of a run on the page: fewer steps and rows."""


def blocks(folder: str) -> str:
    text = "\n".join(BLOCK.findall(PAGE.read_text(encoding="utf-8"))).replace('"smollm2-135m"', repr(folder))
    for long, short in FEWER.items():
        assert long in text
        text = text.replace(long, short)
    return text


def test_the_page_runs(
    folder: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    import zofo
    from zofo.core.weights import leaves as tree

    monkeypatch.chdir(home)
    held: dict[str, Any] = {}
    exec(compile(blocks(folder), str(PAGE), "exec"), held)
    out = capsys.readouterr().out
    assert "runs/mine" in out and (home / "tickets-adapter" / "adapter_config.json").is_file()
    assert held["found"]["tasks"]["own/tickets"]["drawn"] == "2 examples of each of 3 classes"
    solver, state = held["solver"], torch.load(home / "bilevel.pt", weights_only=True)
    model, _ = zofo.load(folder)
    lora = held["lora"]
    options = {"lam": held["lam"], "T": held["T"], "lr_theta": 1e-6, "lr_p": 5e-4, "lr_s": 5e-4}
    again = zofo.Bilevel(model.requires_grad_(True), lora, loss=held["row_loss"], seed=1, **options)
    again.model.load_state_dict(state["theta, p, s"])
    again.load_state_dict(state["solver"])
    texts = tuple(held["D_f"][:4])
    reports = [one.step([(texts, texts)] * 2, (texts, texts)) for one in (solver, again)]
    assert reports[0].numbers == reports[1].numbers, "as the page says: made anew, it goes on to the same bits"
    pairs = zip(tree.find(solver.model), tree.find(again.model), strict=True)
    assert all(torch.equal(one.data, other.data) for one, other in pairs)


def test_the_page_names_what_is_public() -> None:
    import zofo

    table = PAGE.read_text(encoding="utf-8").partition("\n\n## ")[0]
    named = set(re.findall(r"\| `zofo\.(\w+)", table))
    assert named == set(zofo.__all__) - {"BadInput", "NotFinite", "ZofoError", "__version__"}


def test_dir_lists_what_is_public_and_nothing_else() -> None:
    import zofo

    assert dir(zofo) == sorted(zofo.__all__)
    assert all(getattr(zofo, name) is not None for name in dir(zofo))
