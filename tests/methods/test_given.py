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


def tokens(model: nn.Module, ids: torch.Tensor, shape: tuple[int, ...] = (-1,)) -> torch.Tensor:
    """The losses of all tokens, with zeros for padding, as `cross_entropy(reduction="none", ignore_index=-100)` gives them."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    wanted = ids[:, 1:].masked_fill(ids[:, 1:] == 0, -100)
    each = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=-100)
    return each.reshape(shape)


def stepped(tiny: Tiny, fn: Callable[..., torch.Tensor], batch: Any, **options: Any) -> dict[str, Any]:
    """The numbers of a step on a batch."""
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=fn, T=1, **options)
    return solver.step([(batch, batch)], (batch, batch)).numbers


@pytest.mark.parametrize("lower", ["first-order", "zeroth-order"])
@pytest.mark.parametrize(
    ("shape", "told"),
    [((-1,), "18 losses, and the batch has 3 rows"), ((3, -1), r"shape \(3, 6\)"), ((3, 6, 1), r"\(3, 6, 1\)")],
)
def test_losses_of_tokens_are_refused(
    tiny: Tiny, rows: torch.Tensor, lower: str, shape: tuple[int, ...], told: str
) -> None:
    batches = [rows, {"ids": rows, "mask": rows > 0}, (rows, rows[:, 0])]
    for batch in batches if shape == (-1,) else batches[:1]:
        with pytest.raises(BadInput, match=rf"{told}; return the losses, a row each, shape \(rows,\), or their mean"):
            stepped(tiny, lambda model, given: tokens(model, rows, shape), batch, lower=lower)


def test_logits_are_no_losses_and_a_row_alone_has_one(tiny: Tiny, rows: torch.Tensor) -> None:
    with pytest.raises(BadInput, match=r"a tensor of shape \(3, 96\)"):
        stepped(tiny, lambda model, ids: model(input_ids=ids).logits[:, -1], rows)
    with pytest.raises(BadInput, match="6 losses, and the batch has 1 row;"):
        stepped(tiny, tokens, rows[:1])
    with pytest.raises(BadInput, match="18 losses, and the batch has 3 rows"):
        stepped(tiny, lambda model, texts: tokens(model, rows), ("one", "two", "three"))


class Odd:
    """A batch of nobody's kind."""


@pytest.mark.parametrize(
    ("n", "batch"),
    [
        (3, torch.ones(3, 7)),
        (0, torch.ones(3, 7)),  # a mean: no dimension
        (1, torch.ones(3, 7)),
        (2, torch.ones(4, 7)),  # one a pair, as preferences have
        (3, torch.ones(7)),  # a stream of tokens, of rows that nothing tells
        (5, (torch.ones(30), torch.tensor([0, 6, 12, 18, 24]))),
        (3, {"ids": torch.ones(3, 7), "pixels": torch.ones(5, 4)}),
        (3, (torch.ones(1, 7), torch.ones(1, 9), torch.ones(1, 4))),  # a tensor a row
        (4, (torch.ones(2, 7), torch.ones(2, 7))),  # two halves, as one has them of D_f and D_p
        (3, ("a", "b", "c")),
        (3, (["a", "b", "c"], [0, 1, 1])),
        (3, ({"text": "a"}, {"text": "b"}, {"text": "c"})),
        (3, {"text": ["a", "b", "c"]}),
        (3, Odd()),
        (3, 7),
    ],
)
def test_lawful_losses_are_taken_whatever_the_batch(tiny: Tiny, rows: torch.Tensor, n: int, batch: Any) -> None:
    def fn(model: nn.Module, given: Any) -> torch.Tensor:
        found = loss(model, rows).mean()
        return found.expand(n) if n else found

    assert stepped(tiny, fn, batch)["A"] == pytest.approx(stepped(tiny, loss, rows)["A"])
