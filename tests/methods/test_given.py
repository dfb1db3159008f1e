"""What users give `zofo.Bilevel` is refused in words of Python, and losses that are one a row are taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn

import zofo
from zofo.config import AdapterConfig
from zofo.errors import BadInput

Tiny = Callable[..., nn.Module]


def loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return -out[:, -2].log_softmax(-1).gather(1, ids[:, -1:]).squeeze(1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"lr": 1e-3}, r"Bilevel\(lr=\.\.\.\): no such option; did you mean lr_p or lr_s or lr_theta\?$"),
        ({"lamb": 3.0}, r"Bilevel\(lamb=\.\.\.\): no such option; did you mean lam\b"),
        ({"zzz": 3.0}, r"Bilevel\(zzz=\.\.\.\): no such option; choose of: T, clip, "),
        ({"lam": -1.0}, r"Bilevel\(lam=-1\.0\): input should be greater than or equal to 0; see docs/methods\.md"),
        ({"weighting": "normalised", "lam_every": 2}, r"Bilevel\(lam_every=2\): .*; give lam_every=1 \("),
        ({"rule": "momentum"}, r"Bilevel\(rule=momentum\): a zeroth-order upper level has none such"),
    ],
)
def test_a_wrong_option_is_told_in_words_of_python(tiny: Tiny, options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=rf"^{told}") as error:
        zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, **options)
    assert "--method" not in str(error.value)


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        ({"r": 4}, r"Bilevel\(adapter\): a dict is no configuration of an adapter; give one of peft's, LoraConfig"),
        (LoraConfig, r"Bilevel\(adapter\): a type is no configuration"),
        (None, r"Bilevel\(adapter\): a NoneType is no configuration"),
    ],
)
def test_what_is_no_configuration_of_an_adapter_is_refused(tiny: Tiny, adapter: Any, told: str) -> None:
    with pytest.raises(BadInput, match=rf"^{told}"):
        zofo.Bilevel(tiny("llama"), adapter, loss=loss)


def test_what_is_no_module_is_refused() -> None:
    name: Any = "gpt2"
    with pytest.raises(BadInput, match=r"^Bilevel\(model\): a str is no module; .*zofo\.load"):
        zofo.Bilevel(name, AdapterConfig(r=2), loss=loss)


@pytest.mark.parametrize("arch", ["llama", "llama-tied"])
@pytest.mark.parametrize("module", ["lm_head", "embed_tokens", "no_such"])
def test_copies_of_whole_modules_are_refused_before_the_model_is_changed(tiny: Tiny, arch: str, module: str) -> None:
    """peft's own way with a tied head was a TypeError, and a name that fits nothing was passed over."""
    model = tiny(arch)
    modules = list(model.modules())
    with pytest.raises(BadInput, match=rf"adapter: modules_to_save \['{module}'\]: .*; leave it out"):
        zofo.Bilevel(model, LoraConfig(task_type="CAUSAL_LM", modules_to_save=[module]), loss=loss)
    assert modules == list(model.modules())
