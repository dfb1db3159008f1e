"""Adapters as files: what peft reads is what was written, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hushed import hushed
from peft import PeftModel
from safetensors.torch import load_file, save_file

from zofo.adapters import stored
from zofo.adapters.slots import attach, detach
from zofo.config import AdapterConfig
from zofo.errors import BadInput

KINDS = [
    AdapterConfig(kind="lora", r=2),
    AdapterConfig(kind="prefix", tokens=3),
    AdapterConfig(kind="prompt", tokens=3),
]


def filled(tiny: Any, config: AdapterConfig) -> Any:
    slots = attach(tiny("llama"), config, ("p",), 0)
    draw = torch.Generator().manual_seed(4)
    slots.load("p", {name: torch.randn(p.shape, generator=draw) / 4 for name, p in slots.params["p"].items()})
    return slots


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.kind)
def test_peft_and_slots_read_what_was_written(tiny: Any, rows: torch.Tensor, tmp_path: Path, config: Any) -> None:
    slots = filled(tiny, config)
    stored.write(slots, "p", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {stored.CONFIG, stored.TENSORS} <= names and "p" not in names
    assert stored.size(tmp_path / "out") > 0
    again = attach(tiny("llama"), config, ("p",), 1)
    stored.read(again, "p", tmp_path / "out")
    with torch.no_grad(), hushed():
        wanted = slots.model(input_ids=rows).logits
        assert torch.equal(again.model(input_ids=rows).logits, wanted)
        assert torch.equal(PeftModel.from_pretrained(tiny("llama"), tmp_path / "out")(input_ids=rows).logits, wanted)


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.kind)
def test_taken_off_the_base_is_as_it_was(tiny: Any, rows: torch.Tensor, config: Any) -> None:
    base = tiny("llama")
    before = {name: value.clone() for name, value in base.state_dict().items()}
    for _ in range(2):  # again, on what is left
        back = detach(attach(base, config, ("p",), 0))
        assert back is base and list(back.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    with torch.no_grad():
        assert torch.equal(base(input_ids=rows).logits, tiny("llama")(input_ids=rows).logits)


def test_what_is_no_adapter_is_refused(tiny: Any, tmp_path: Path) -> None:
    slots = filled(tiny, KINDS[0])
    with pytest.raises(BadInput, match="cannot be read"):
        stored.read(slots, "p", tmp_path)
    stored.write(slots, "p", tmp_path / "out")
    held = load_file(tmp_path / "out" / stored.TENSORS)
    save_file({name: value[..., :1].contiguous() for name, value in held.items()}, tmp_path / "out" / stored.TENSORS)
    with pytest.raises(BadInput, match="does not fit this model and adapter"):
        stored.read(slots, "p", tmp_path / "out")
    (tmp_path / "out" / stored.TENSORS).write_bytes(b"no")
    with pytest.raises(BadInput, match="cannot be read"):
        stored.read(slots, "p", tmp_path / "out")
