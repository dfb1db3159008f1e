"""`zofo.load` gives the model that `zofo eval` scores, in eval mode, with the adapter that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import zofo
from zofo.errors import BadInput

SMALL: dict[str, Any] = {
    "batch": 2, "data__train_rows": 12, "data__validation_rows": 4, "data__test_rows": 4, "data__max_length": 48,
    "run__threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loading")


@pytest.fixture(scope="module")
def run(folder: str, place: Path) -> str:
    """A bilevel run whose theta, p and s have all moved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOFO_CACHE", str(place / "cache"))
        options = SMALL | {"method__lr_theta": 1e-3, "method__T": 2, "method__lr_p": 1e-2}
        return str(
            zofo.train(folder, "reviews", "bilevel-lora", steps=3, run__dir=str(place / "runs"), **options)["run"]
        )


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=torch.arange(1, 9)[None]).logits
    return out


def test_a_runs_theta_and_adapters(folder: str, run: str) -> None:
    base, tokenizer = zofo.load(folder)
    chosen, own = zofo.load(run)
    p, s = (zofo.load(run, slot=slot)[0] for slot in "ps")
    assert tokenizer("a fine film")["input_ids"] == own("a fine film")["input_ids"]
    assert not any(model.training for model in (base, chosen, p, s))
    assert not torch.equal(logits(p), logits(s)) and not torch.equal(logits(base), logits(p))
    assert any(torch.equal(logits(chosen), logits(model)) for model in (p, s))
    last = zofo.load(run, which="last", slot="p")[0]
    with last.disable_adapter():  # type: ignore[operator]
        assert not torch.equal(logits(base), logits(last)), "theta has moved"


def test_an_adapter_that_was_made_from_a_few_examples(folder: str, run: str, place: Path, cache: None) -> None:
    out = place / "adapter"
    zofo.adapt(run, "reviews", draws=1, steps=2, out=str(out), data__test_rows=4, data__max_length=48)
    adapted, plain = zofo.load(run, adapter=out)[0], zofo.load(run)[0]
    assert not adapted.training and not torch.equal(logits(adapted), logits(plain))
    with pytest.raises(BadInput, match="base"):
        zofo.load(folder, adapter=out)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"which": "first"}, r"load\(which='first'\): unknown; choose one of: best, last"),
        ({"slot": "q"}, "--slot q: this run has no such adapter"),
        ({"slot": "p", "adapter": "x"}, "--adapter names another one"),
        ({"adapter": "nosuch"}, "nosuch"),
    ],
)
def test_bad_input(run: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        zofo.load(run, **options)


@pytest.mark.parametrize(
    ("options", "told"), [({"slot": "p"}, "it has no adapters"), ({"which": "last"}, "it has no checkpoints")]
)
def test_a_model_has_neither_adapters_nor_checkpoints(folder: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        zofo.load(folder, **options)
