"""Where LoRA goes: `all-linear` is what peft means by it, in the last layers too, and a wrong name is told with the linear ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
import yaml
from peft import LoraConfig, get_peft_model
from torch import nn

from zofo import config, train
from zofo.adapters.slots import attach
from zofo.adapters.targets import linear, usual
from zofo.config import AdapterConfig
from zofo.errors import BadInput
from zofo.run.folder import RunFolder

Tiny = Callable[..., nn.Module]
ALL = AdapterConfig(r=2, targets=("all-linear",))


@pytest.mark.parametrize("arch", ["gpt2", "opt", "llama", "llama-tied", "qwen2", "mistral", "gemma", "phi", "gpt-neox"])
def test_all_linear_is_what_peft_means_by_it(tiny: Tiny, arch: str) -> None:
    plain = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", fan_in_fan_out=arch == "gpt2")
    model = get_peft_model(tiny(arch), plain)  # type: ignore[arg-type]
    own = {name.removesuffix(".default.weight") for name, p in model.named_parameters() if p.requires_grad}
    slots = attach(tiny(arch), ALL, ("p", "s"), 0)
    assert {name.removesuffix(".weight") for name in slots.params["p"]} == own
    assert list(slots.params["p"]) == list(slots.params["s"]) and not any("lm_head" in name for name in own)


def test_experts_that_are_one_parameter_are_no_linear_layers(tiny: Tiny) -> None:
    """peft goes to them too, by a table of its own."""
    found = attach(tiny("mixtral"), ALL, ("p",), 0).params["p"]
    assert {name.split(".lora")[0].rpartition(".")[2] for name in found} == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_all_linear_of_a_llama_is_its_seven_names_and_starts_at_the_same_bits(tiny: Tiny) -> None:
    seven = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    named = attach(tiny("llama"), AdapterConfig(r=2, targets=seven), ("p",), 3).tensors("p")
    found = attach(tiny("llama"), ALL, ("p",), 3).tensors("p")
    assert list(named) == list(found) and all(named[name].equal(found[name]) for name in named)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt", "gpt-neox"])
def test_all_linear_in_the_last_layer_alone(tiny: Tiny, arch: str) -> None:
    every, last = attach(tiny(arch), ALL, ("p",), 0), attach(tiny(arch), ALL.model_copy(update={"last": 1}), ("p",), 0)
    wanted = {name for name in every.params["p"] if ".1." in name}
    assert wanted and set(last.params["p"]) == wanted


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_a_wrong_name_is_told_with_linear_modules_alone(tiny: Tiny, arch: str) -> None:
    model = tiny(arch)
    with pytest.raises(BadInput) as error:
        attach(model, AdapterConfig(targets=("zzzz",)), ("p",), 0)
    asked, _, names = error.value.do.partition(": ")
    ends = {name.rpartition(".")[2] for name in linear(model, head=True)}
    assert asked == "choose one of" and set(names.split(", ")) == {"all-linear", *ends}
    assert "lm_head" in ends and not any(name.isdigit() or not name for name in ends)
    with pytest.raises(BadInput, match="did you mean 'all-linear'"):
        attach(model, AdapterConfig(targets=("all_linear",)), ("p",), 0)


def test_a_run_says_what_was_asked_and_is_gone_on_with(folder: str, home: Path) -> None:
    """From YAML, as peft's word; the file keeps the word, and a run that stops and goes on ends with the same bits."""
    from safetensors.torch import load_file

    from zofo.begin import go_on

    (home / "c.yaml").write_text("preset: fo-lora\nadapter: {targets: all-linear, r: 2}\n", encoding="utf-8")

    def made(name: str, steps: int) -> RunFolder:
        return RunFolder(Path(train(
            folder, "reviews", config_file=home / "c.yaml", run=name, steps=steps, batch=2, run__save_every=1, run__threads=1, run__dir=home / "runs",
            dtype="fp32", data__train_rows=12, data__validation_rows=4, data__test_rows=4, data__max_length=48, method__schedule="constant",
        )["run"]))  # fmt: skip

    whole, short = made("whole", 4), made("short", 2)
    held = yaml.safe_load(short.config.read_text(encoding="utf-8"))
    assert held["adapter"]["targets"] == ["all-linear"] and config.load(short.config).adapter.targets == ("all-linear",)
    held["run"]["steps"] = 4
    short.config.write_text(yaml.safe_dump(held), encoding="utf-8")
    go_on(short)
    ends = [next((run.checkpoints / "step-000004").rglob("*adapter*.safetensors")) for run in (whole, short)]
    one, other = (load_file(path) for path in ends)
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


SHAPE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def of(config: Any) -> Any:
    """A model of a configuration."""
    return hf.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (hf.SmolLM3Config(**SHAPE), {"q_proj", "v_proj"}),
        (hf.Phi3Config(**SHAPE), {"qkv_proj"}),
        (hf.Qwen3MoeConfig(**SHAPE, moe_intermediate_size=8, num_experts=2, num_experts_per_tok=1), {"q_proj", "v_proj"}),
        (hf.MixtralConfig(**SHAPE, num_local_experts=2), {"q_proj", "v_proj"}),
        (hf.MambaConfig(**SHAPE, state_size=4), {"in_proj", "x_proj"}),
    ],
)  # fmt: skip
def test_where_peft_knows_no_layers_it_is_queries_and_values(config: Any, names: set[str]) -> None:
    found = attach(of(config), AdapterConfig(r=2), ("p",), 0).params["p"]
    assert {name.split(".lora")[0].rpartition(".")[2] for name in found} == names


def test_where_nothing_is_known_the_layers_are_named(tiny: Tiny) -> None:
    class Odd(nn.Module):
        """A model with layers of other names."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)

    with pytest.raises(BadInput, match=r"not known which layers .*--adapter\.targets \(there are: one, two\)"):
        usual(Odd())


def test_a_router_is_no_linear_layer() -> None:
    """It gives its choice beside its scores, and LoRA would take them for one tensor."""
    model = of(hf.Llama4TextConfig(**SHAPE, head_dim=8, intermediate_size_mlp=16, interleave_moe_layer_step=1))
    assert any("router" in name for name, _ in model.named_modules())
    assert not any("router" in name for name in linear(model))


def test_layers_that_peft_takes_for_experts_are_refused_by_name() -> None:
    """Shared experts are linear layers whose names peft has in its table of what experts were called."""
    shape = SHAPE | {"num_key_value_heads": 2, "num_hidden_layers": 2}
    model = of(
        hf.Glm4MoeConfig(**shape, head_dim=8, moe_intermediate_size=8, n_routed_experts=2, num_experts_per_tok=1)
    )
    assert any("shared_experts.gate_proj" in name for name in linear(model))
    with pytest.raises(BadInput, match=r"on the parameters of the mixture's experts.*; name other modules"):
        attach(model, ALL, ("p",), 0)
    assert not any("lora" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("targets", [(), ("q_proj",), ("all-linear",)])
def test_what_only_pictures_go_through_has_no_adapter(targets: tuple[str, ...]) -> None:
    """Gemma 3 from 4 billion weights on is a model that sees; its tower has a q_proj too."""
    seen = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = hf.Gemma3TextConfig(**SHAPE, head_dim=8)
    model = of(hf.Gemma3Config(text_config=text, vision_config=seen | {"image_size": 16, "patch_size": 8}))
    assert any("vision_tower" in name for name, _ in model.named_modules())
    found = attach(model, AdapterConfig(r=2, targets=targets), ("p",), 0).params["p"]
    assert found and all("language_model" in name for name in found)


def test_a_layer_whose_weight_is_read_around_it_is_left_out_and_refused_by_name() -> None:
    """Jamba's layers multiply by the weight of `dt_proj`: LoRA on it would do nothing."""
    more = {
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "use_mamba_kernels": False,
    }

    def jamba() -> nn.Module:
        return hf.JambaForCausalLM(hf.JambaConfig(**SHAPE | {"num_hidden_layers": 2}, **more)).eval()

    found = {name.split(".lora")[0].rpartition(".")[2] for name in attach(jamba(), ALL, ("p",), 0).params["p"]}
    assert {"in_proj", "x_proj", "out_proj", "q_proj"} < found and "dt_proj" not in found
    with pytest.raises(BadInput, match=r"targets in_proj dt_proj: the layer around .*dt_proj reads its weight"):
        attach(jamba(), AdapterConfig(targets=("in_proj", "dt_proj")), ("p",), 0)
