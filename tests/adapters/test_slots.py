"""p and s over peft: two copies, one base, on models with and without grouped queries."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from peft import IA3Config, LoraConfig, PeftConfig, PrefixTuningConfig
from torch import nn

from zofo.adapters.slots import Slots, attach
from zofo.config import AdapterConfig
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput

Tiny = Callable[..., nn.Module]
KINDS = ("lora", "prefix", "prompt")
ARCHITECTURES = ("gpt2", "opt", "llama", "qwen2", "mistral")


def made(tiny: Tiny, arch: str, kind: str, shared: bool = True) -> Slots:
    model = tiny(arch).requires_grad_(False)
    return attach(model, AdapterConfig(kind=kind, r=2), ("p", "s"), 3, shared)  # type: ignore[arg-type]


def logits(slots: Slots, rows: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = slots.model(input_ids=rows, attention_mask=(rows != 0).long(), use_cache=False).logits
    return out[:, -rows.shape[1] :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_p_and_s_start_equal_and_move_apart(tiny: Tiny, rows: torch.Tensor, arch: str, kind: str) -> None:
    slots = made(tiny, arch, kind)
    p, s = slots.tensors("p"), slots.tensors("s")
    assert p.keys() == s.keys() and all(torch.equal(p[name], s[name]) for name in p)
    assert not any(".p." in name or ".s." in name for name in p)
    with torch.no_grad():
        slots.use("s")
        before = logits(slots, rows)
        slots.use("p")
        for param in slots.list("p"):
            param.add_(0.1)
        assert not torch.equal(logits(slots, rows), before)
        slots.use("s")
        assert torch.equal(logits(slots, rows), before)
        slots.copy("s", "p")
        slots.use("p")
        assert torch.equal(logits(slots, rows), before)


def test_a_slot_that_there_is_not_is_told(tiny: Tiny) -> None:
    with pytest.raises(BadInput, match="slot 'q': there is no such adapter; choose one of: p, s"):
        made(tiny, "llama", "lora").use("q")


@pytest.mark.parametrize("kind", KINDS)
def test_independent_starts_differ_and_come_from_the_seed(tiny: Tiny, kind: str) -> None:
    one, two = made(tiny, "llama", kind, shared=False), made(tiny, "llama", kind, shared=False)
    assert any(not torch.equal(a, b) for a, b in zip(one.list("p"), one.list("s"), strict=True))
    for slot in ("p", "s"):
        assert all(torch.equal(a, b) for a, b in zip(one.list(slot), two.list(slot), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_off_is_the_base_model(tiny: Tiny, rows: torch.Tensor, kind: str) -> None:
    slots, plain = made(tiny, "llama", kind), tiny("llama")
    with torch.no_grad(), slots.off():
        assert torch.equal(logits(slots, rows), plain(input_ids=rows, attention_mask=(rows != 0).long()).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_active_slot_and_nothing_else(tiny: Tiny, rows: torch.Tensor, kind: str) -> None:
    slots = made(tiny, "llama", kind)
    for slot in ("p", "s", "p"):
        slots.use(slot)
        grads = torch.autograd.grad(logits(slots, rows).square().mean(), slots.list(slot))
        assert any(g.abs().max() > 0 for g in grads)
    theta = tree.find(slots.model, keep=lambda p: all(p is not q for s in "ps" for q in slots.list(s)))
    assert not any(leaf.param.requires_grad for leaf in theta)


def test_a_prefix_starts_from_keys_and_values_of_real_tokens(tiny: Tiny, rows: torch.Tensor) -> None:
    """With such a prefix the model answers as if the tokens stood in front: the loss stays in its range."""
    from zofo.core import streams

    slots = made(tiny, "llama", "prefix")
    drawn = streams.generator(3, "prefix", 0).integers(0, 96, 5)
    ids = torch.cat([torch.from_numpy(drawn)[None].expand(1, -1), rows[:1]], dim=1)
    with torch.no_grad():
        with slots.off():
            real = slots.model(input_ids=ids, use_cache=False).logits[:, 5:]
        slots.use("p")
        torch.testing.assert_close(logits(slots, rows[:1]), real, atol=1e-4, rtol=1e-4)


def test_loading_another_adapters_tensors_is_refused(tiny: Tiny) -> None:
    lora, prompt = made(tiny, "llama", "lora"), made(tiny, "llama", "prompt")
    with pytest.raises(BadInput, match="does not fit this model and adapter"):
        lora.load("p", prompt.tensors("p"))


def test_unknown_targets_are_refused_in_one_line(tiny: Tiny) -> None:
    with pytest.raises(BadInput, match=r"--adapter.targets"):
        attach(tiny("llama"), AdapterConfig(targets=("no_such_module",)), ("p",), 0)
    with pytest.raises(BadInput, match=r"no module 'gate_prj'; did you mean 'gate_proj'"):
        attach(tiny("llama"), AdapterConfig(targets=("q_proj", "gate_prj")), ("p",), 0)


def test_an_fp64_base_gets_fp64_adapters(tiny: Tiny) -> None:
    for kind in KINDS:
        model = tiny("opt").double().requires_grad_(False)
        slots = attach(model, AdapterConfig(kind=kind), ("p",), 0)  # type: ignore[arg-type]
        assert {p.dtype for p in slots.list("p")} == {torch.float64}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_said_where_adapters_are_put_on(tiny: Tiny, kind: str) -> None:
    """peft warns of short names, and calls a name that transformers has renamed: neither is the user's to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(tiny, "llama", kind)


class Net(nn.Module):
    """A model whose own modules are called p and s."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.s = (nn.ModuleDict({"q": nn.Linear(4, 4)}) for _ in "ps")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.s["q"](self.p["q"](x))
        return out


def test_a_model_may_have_modules_of_the_slots_names() -> None:
    slots = attach(Net(), LoraConfig(target_modules=["q"], r=2), ("p", "s"), 0)
    assert set(slots.params["p"]) == set(slots.params["s"]) and len(slots.params["p"]) == 4
    assert not {id(w) for w in slots.list("p")} & {id(w) for w in slots.list("s")}


def test_a_model_that_no_adapter_begins_on_has_none_left(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    model = tiny("llama")
    monkeypatch.setattr(Slots, "copy", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        attach(model, AdapterConfig(r=2), ("p", "s"), 0)
    monkeypatch.undo()
    assert attach(model, AdapterConfig(r=2), ("p", "s"), 0).params["p"]


@pytest.mark.parametrize(
    "config",
    [
        IA3Config(task_type="CAUSAL_LM"),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, prefix_projection=True),
        LoraConfig(task_type="CAUSAL_LM", r=2, modules_to_save=["lm_head"]),
    ],
    ids=lambda config: type(config).__name__,
)
def test_an_adapter_that_trains_more_than_a_slot_holds_is_refused(tiny: Tiny, config: PeftConfig) -> None:
    with pytest.raises(BadInput, match="use plain LoRA"):
        attach(tiny("llama").requires_grad_(False), config, ("p", "s"), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_only_lora_goes_by_row(tiny: Tiny, kind: str) -> None:
    assert made(tiny, "llama", kind).by_row == (kind == "lora")


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("tied", [False, True])
def test_lora_on_the_output_head_does_not(tiny: Tiny, tied: bool) -> None:
    """The head sees the wanted positions of all rows, not a row each."""
    model = tiny("llama-tied" if tied else "llama")
    slots = attach(model, AdapterConfig(r=2, targets=("lm_head", "q_proj")), ("p", "s"), 0, True)
    assert not slots.by_row


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_row_goes_through_the_slot_that_is_named_for_it(tiny: Tiny, rows: torch.Tensor, arch: str) -> None:
    slots = made(tiny, arch, "lora", shared=False)
    slots.model.eval()  # peft refuses names of rows in train mode
    with torch.no_grad():
        for i, param in enumerate([*slots.list("p"), *slots.list("s")]):
            param.add_(0.1 * torch.randn(param.shape, generator=torch.Generator().manual_seed(i)))
        want = {}
        for slot in ("p", "s"):
            slots.use(slot)
            want[slot] = logits(slots, rows)
        held = {slot: slots.tensors(slot) for slot in ("p", "s")}
        for names in (("p", "s", "p"), ("s", "s", "p"), ("s", "s", "s")):
            with slots.rows(names):
                found = logits(slots, rows)
            for i, name in enumerate(names):
                torch.testing.assert_close(found[i], want[name][i], rtol=1e-5, atol=1e-5)
        assert float((want["p"] - want["s"]).abs().amax((1, 2)).min()) > 1e-2
        slots.use("p")
        assert torch.equal(logits(slots, rows), want["p"]), "the hook is gone"
    for slot, tensors in held.items():
        assert all(torch.equal(param, tensors[name]) for name, param in slots.params[slot].items())


def test_the_names_of_rows_are_gone_after_an_exception(tiny: Tiny, rows: torch.Tensor) -> None:
    slots = made(tiny, "llama", "lora")
    with pytest.raises(KeyboardInterrupt), slots.rows(["p", "s", "p"]):
        raise KeyboardInterrupt
    assert not slots.model._forward_pre_hooks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_half_precision_matrices_get_fp32_adapters_that_start_where_fp32s_do(
    tiny: Tiny, arch: str, dtype: torch.dtype, kind: str
) -> None:
    """A prefix is computed by the base, so in the half type: near fp32's, not equal."""
    model = tiny(arch).requires_grad_(False)
    for param in model.parameters():
        param.data = param.data.to(dtype) if param.dim() > 1 else param.data
    slots = attach(model, AdapterConfig(kind=kind, r=2), ("p", "s"), 3)  # type: ignore[arg-type]
    assert {param.dtype for slot in ("p", "s") for param in slots.list(slot)} == {torch.float32}
    for name, start in made(tiny, arch, kind).tensors("p").items():
        scale = float(start.abs().max())
        for slot in ("p", "s"):
            assert float((slots.tensors(slot)[name] - start).abs().max()) <= 0.05 * scale


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_lora_in_the_last_layers_alone_keeps_nothing_of_those_below(arch: str, tiny: Callable[..., nn.Module]) -> None:
    """Its parameters are there and nowhere else, and the layers below are outside of the backward pass."""
    model = tiny(arch, **({"n_layer": 3} if arch == "gpt2" else {"num_hidden_layers": 3})).requires_grad_(False)
    slots = attach(model, AdapterConfig(r=2, last=1), ("p",), 0)
    layers = {int(re.search(r"\.(\d+)\.", name).group(1)) for name in slots.params["p"]}  # type: ignore[union-attr]
    assert layers == {2}
    kept: list[bool] = []
    blocks = next(m for m in slots.model.modules() if isinstance(m, nn.ModuleList))
    for block in blocks:
        block.register_forward_hook(lambda _, args, out: kept.append((out[0] if isinstance(out, tuple) else out).requires_grad))  # fmt: skip
    slots.model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False)
    assert kept == [False, False, True]


def test_more_layers_than_there_are(tiny: Callable[..., nn.Module]) -> None:
    with pytest.raises(BadInput, match=r"--adapter\.last 9: the model has 2 layers"):
        attach(tiny("llama"), AdapterConfig(last=9), ("p",), 0)


SHAPE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MLA: dict[str, Any] = {
    "kv_lora_rank": 4, "q_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4,
    "first_k_dense_replace": 2, "num_key_value_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config", "found"),
    [
        ("prefix", lambda: hf.Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"]), "no keys and values"),
        ("prefix", lambda: hf.RwkvConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2), "no keys and values"),
        ("prefix", lambda: hf.DeepseekV3Config(**SHAPE | MLA), "another shape"),
        ("prefix", lambda: hf.FalconConfig(**{k: v for k, v in SHAPE.items() if k != "num_key_value_heads"}), "another shape"),
        ("prompt", lambda: hf.Gemma3nTextConfig(**SHAPE | {"intermediate_size": [16, 16]}, head_dim=8, hidden_size_per_layer_input=4, vocab_size_per_layer_input=40, num_kv_shared_layers=0, layer_types=["full_attention"] * 2, activation_sparsity_pattern=[0.0, 0.0], laurel_rank=2), "in every layer"),
    ],
)  # fmt: skip
def test_virtual_tokens_that_a_model_cannot_have_are_refused_and_leave_nothing(
    kind: Any, config: Any, found: str
) -> None:
    model = hf.AutoModelForCausalLM.from_config(config())
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(BadInput, match=rf"adapter: {kind}: .*{found}.*; use LoRA"):
        attach(model, AdapterConfig(kind=kind), ("p", "s"), 0)
    assert [name for name, _ in model.named_parameters()] == names


@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
def test_an_mpt_takes_every_adapter_and_its_rows_none_of_several(kind: Any) -> None:
    """It says how many heads it has by another name; and peft drops `adapter_names` of it without a word."""
    mpt = hf.MptConfig(vocab_size=40, d_model=16, n_layers=1, n_heads=2, max_seq_len=32)
    slots = attach(hf.AutoModelForCausalLM.from_config(mpt).eval(), AdapterConfig(kind=kind, r=2), ("p", "s"), 0)
    assert not slots.by_row


def test_rows_that_failed_leave_no_names_behind(tiny: Tiny, rows: torch.Tensor) -> None:
    """peft's hooks stay after a pass that did not end, and would send the next one's rows through others' adapters."""
    slots = made(tiny, "llama", "lora")
    slots.model.eval()
    want = logits(slots, rows)
    layer = slots.model.get_base_model().model.layers[1].mlp

    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    handle = layer.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no"), slots.rows(["p", "s", "p"]):
        logits(slots, rows)
    handle.remove()
    assert torch.equal(logits(slots, rows), want)
    logits(slots, rows[:2])  # of another number, which the names would not fit
