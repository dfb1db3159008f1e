"""`zofo.load` gives the model that `zofo eval` scores, in eval mode, with the adapter that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import zofo
from zofo import loading
from zofo.errors import BadInput

SMALL: dict[str, Any] = {
    "batch": 2, "data__train_rows": 12, "data__validation_rows": 4, "data__test_rows": 4, "data__max_length": 48,
    "run__threads": 1,
}  # fmt: skip


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


def test_an_adapter_that_was_made_from_a_few_examples(folder: str, run: str, place: Path, cache: Path) -> None:
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
        ({"slot": "q"}, "slot=q: this run has no such adapter"),
        ({"slot": "p", "adapter": "x"}, "slot=p: `adapter` names another one"),
        ({"adapter": "nosuch"}, "nosuch"),
        ({"dtype": "bf8"}, r"load\(dtype='bf8'\): unknown; choose one of: fp32, bf16, fp16"),
        ({"device": "tpu"}, r"load\(device='tpu'\): .*; choose one of: auto, cpu, cuda, mps"),
        ({"device": "cuda"}, r"load\(device='cuda'\): this machine has none that torch can use; use cpu"),
    ],
)
def test_bad_input(run: str, options: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=told):
        zofo.load(run, **options)


@pytest.mark.parametrize(
    ("options", "told"), [({"slot": "p"}, "it has no adapters"), ({"which": "last"}, "it has no checkpoints")]
)
def test_a_model_has_neither_adapters_nor_checkpoints(folder: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        zofo.load(folder, **options)


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_the_type_of_all_weights_can_be_chosen(folder: str, run: str, name: str, dtype: torch.dtype) -> None:
    for target in (folder, run):
        model, plain = zofo.load(target, dtype=name)[0], zofo.load(target)[0]
        own = dict(model.named_parameters())
        assert {p.dtype for p in own.values()} == {dtype} and logits(model).dtype == dtype
        assert all(torch.equal(own[n], p.to(dtype)) for n, p in plain.named_parameters())
        assert {p.dtype for p in plain.parameters()} == {torch.float32}, "as it was"
        rotary = {n: b for n, b in model.named_buffers() if n.endswith("inv_freq")}
        assert rotary and all(torch.equal(b, dict(plain.named_buffers())[n]) for n, b in rotary.items())


def test_a_run_of_another_device_is_loaded_where_it_is_wanted(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was trained on cuda: what it asks for is not there, and need not be."""
    config = Path(run) / "config.yaml"
    before = config.read_text(encoding="utf-8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    try:
        config.write_text(before.replace("device: auto", "device: cuda"), encoding="utf-8")
        with pytest.raises(BadInput, match=r"model__device=cuda: this machine has none"):
            zofo.load(run)
        model, _ = zofo.load(run, device="cpu")
    finally:
        config.write_text(before, encoding="utf-8")
    assert torch.equal(logits(model), logits(zofo.load(run)[0]))


def test_notes_are_warnings_that_name_options_as_python_has_them() -> None:
    with pytest.warns(UserWarning, match="^note: `chat` would use it$"):
        loading.warned("note: --chat would use it")
