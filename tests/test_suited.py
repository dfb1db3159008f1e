"""Models that zofo cannot use are one line each, before anything is loaded, and those that it can are taken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import nn

from zofo import models, sources, streamed, suited
from zofo.cli.main import main
from zofo.config import ModelConfig
from zofo.errors import BadInput
from zofo.sources import Source

Tiny = Callable[..., nn.Module]
CPU = ModelConfig(device="cpu")
SHAPE: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


def saved(model: Any, place: Path) -> Source:
    """A model in a folder."""
    with models.quiet():
        model.save_pretrained(place)
    return sources.find(str(place))


def every_load() -> list[Callable[[Source], Any]]:
    """Each way in which a model's configuration is read before it is used."""
    return [lambda source: models.load(source, CPU), models.skeleton, models.positions]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: hf.BertForMaskedLM(hf.BertConfig(**SHAPE)), "BertForMaskedLM"),
        (lambda: hf.BertModel(hf.BertConfig(**SHAPE)), "BertModel"),
        (lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**SHAPE)), "RobertaForSequenceClassification"),
        (lambda: hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=96, d_model=16, d_ff=16, num_layers=1, num_heads=2)), "T5ForConditionalGeneration"),
    ],
)  # fmt: skip
def test_what_is_no_causal_model_is_refused(make: Callable[[], Any], name: str, tmp_path: Path) -> None:
    source = saved(make(), tmp_path / "other")
    for load in every_load():
        with pytest.raises(BadInput, match=rf"{name} is not a causal model.*take a causal one") as error:
            load(source)
        assert "\n" not in str(error.value) and "hub" not in str(error.value)


def test_a_bert_that_decodes_is_a_causal_model(tmp_path: Path) -> None:
    source = saved(hf.BertLMHeadModel(hf.BertConfig(**SHAPE, is_decoder=True)), tmp_path / "decoder")
    for load in every_load():
        load(source)


def test_every_small_model_of_the_tests_is_a_causal_one(tiny: Tiny, arch: str) -> None:
    suited.refuse_other_kinds(Source("x", "folder", "x"), tiny(arch).config)


KINDS = sorted(hf.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.parametrize(
    "kind", ["bert", "electra", "roberta", "xlm-roberta", "camembert", "big_bird", "ernie", "xlm", "xlnet"]
)
def test_the_family_of_bert_sees_both_ways_and_others_do_not(kind: str) -> None:
    """What is checked is transformers' own list: of its causal kinds those alone that can predict masked words too, and decode nothing."""
    config = hf.AutoConfig.for_model(kind)
    assert suited.sees_both_ways(config) and kind in KINDS
    one_way = {"xlm": ("causal", True), "xlnet": ("attn_type", "uni")}
    setattr(config, *one_way.get(kind, ("is_decoder", True)))
    assert not suited.sees_both_ways(config)
    assert not any(suited.sees_both_ways(hf.AutoConfig.for_model(other)) for other in ("bart", "gpt_neox", "opt"))


def test_a_hidden_word_is_seen_by_what_is_refused_and_by_nothing_else(tiny: Tiny, arch: str) -> None:
    """The mathematics of it: another last token changes nothing before it, unless the model sees both ways."""
    ids = torch.arange(1, 7)[None]
    other = torch.cat([ids[:, :-1], torch.tensor([[50]])], 1)
    with torch.random.fork_rng(devices=[]):
        bert = hf.BertLMHeadModel(hf.BertConfig(**SHAPE)).eval()
    for model, seen in ((tiny(arch), False), (bert, True)):
        with torch.no_grad():
            first = [model(input_ids=x, use_cache=False).logits[:, 0] for x in (ids, other)]
        assert torch.allclose(*first) != seen
        assert suited.sees_both_ways(model.config) == seen


def test_pickled_weights_are_named_and_the_hub_is_not(tiny: Tiny, tmp_path: Path) -> None:
    source = saved(tiny("llama"), tmp_path / "old")
    held = tmp_path / "old" / "model.safetensors"
    held.rename(tmp_path / "old" / "pytorch_model.bin")
    for told in (
        r"pickled \(pytorch_model\.bin\).*not read; save it again as safetensors.*`save_pretrained`",
        "no weights",
    ):
        with pytest.raises(BadInput, match=told) as error:
            models.load(source, CPU)
        assert "hub" not in str(error.value)
        (tmp_path / "old" / "pytorch_model.bin").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_folder_without_a_tokenizer_is_told(name: str, tiny: Tiny, tmp_path: Path) -> None:
    """Of GPT-2's kind transformers would make one without a word in it."""
    source = saved(tiny(name), tmp_path / "mute")
    with pytest.raises(BadInput, match="the folder has no tokenizer files; save the model's own there") as error:
        models.load_tokenizer(source)
    assert "hub" not in str(error.value)


def test_training_an_encoder_is_one_line_and_status_2(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(hf.BertForMaskedLM(hf.BertConfig(**SHAPE)), tmp_path / "bert")
    hf.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "bert")
    assert main(["train", "--model", "bert", "--task", "reviews", "--preset", "mezo"]) == 2
    told = capsys.readouterr().err
    assert "BertForMaskedLM is not a causal model" in told and "Traceback" not in told
    assert not (tmp_path / "runs").exists()


def test_an_adapter_beside_a_model_is_refused(tmp_path: Path, folder: str) -> None:
    """transformers puts it on the model by itself: its weights would be moved as theta, left out under a cap, and lost by an export."""
    place = tmp_path / "adapted"
    shutil.copytree(folder, place)
    model = hf.AutoModelForCausalLM.from_pretrained(place)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])).save_pretrained(place)
    source = sources.find(str(place))
    for load in (*every_load(), streamed_config):
        with pytest.raises(BadInput, match=r"a peft adapter lies beside its weights .*; merge the two"):
            load(source)


def streamed_config(source: Source) -> Any:
    """As `--memory-cap` reads a model."""
    return streamed.empty(source, source.place)
