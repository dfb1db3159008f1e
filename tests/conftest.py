"""Tiny models of many architectures, made from their configurations: nothing is downloaded, nothing is trained."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foreign
import pytest
import torch
import transformers as hf
from torch import nn

from zofo.report.terminal import Quiet

VOCAB = 96
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GPT2 = {
    "vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
OPT = {
    "vocab_size": VOCAB, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "init_std": 0.3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NEO = {key: value for key, value in COMMON.items() if key != "num_key_value_heads"}

SMALL: dict[str, Any] = {
    "data.task": "reviews", "data.train_rows": 20, "data.validation_rows": 4, "data.test_rows": 4, "data.batch": 2,
    "data.max_length": 48,
}  # fmt: skip

MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gpt2": (hf.GPT2Config, GPT2),
    "opt": (hf.OPTConfig, OPT),
    "llama": (hf.LlamaConfig, COMMON),
    "llama-tied": (hf.LlamaConfig, COMMON | {"tie_word_embeddings": True}),
    "qwen2": (hf.Qwen2Config, COMMON | {"tie_word_embeddings": True}),
    "mistral": (hf.MistralConfig, COMMON),
    "gemma": (hf.GemmaConfig, COMMON | {"head_dim": 8}),
    "phi": (hf.PhiConfig, COMMON),
    "gpt-neox": (hf.GPTNeoXConfig, NEO),
    "mixtral": (hf.MixtralConfig, COMMON | {"num_local_experts": 4, "num_experts_per_tok": 2}),
}

Tiny = Callable[..., nn.Module]


def pytest_collection_finish(session: pytest.Session) -> None:
    """What imports made stays: collecting garbage, which runs do, does not look through it again and again.

    torch's backward passes know the devices that there are at the first of them: the stand-in has to be there before.
    """
    if any(item.path.name == "test_device.py" for item in session.items):
        foreign.register()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """Make a tiny causal model by name, in eval mode, the same weights each time: `tiny("gpt2")`."""

    def make(name: str, **options: Any) -> nn.Module:
        kind, config = MODELS[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            return hf.AutoModelForCausalLM.from_config(kind(**(config | options))).eval()

    return make


@pytest.fixture(params=sorted(MODELS))
def arch(request: pytest.FixtureRequest) -> str:
    """Each architecture by name."""
    return str(request.param)


@pytest.fixture(scope="session")
def rows() -> torch.Tensor:
    """Token ids, (3, 7): some repeat, and one row is padded with id 0."""
    ids = torch.randint(1, VOCAB, (3, 7), generator=torch.Generator().manual_seed(3))
    ids[1, 4:] = 0
    return ids


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny llama (tied head, GQA) in a folder, with a byte-level tokenizer: a model as a user would name it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    place = tmp_path_factory.mktemp("model") / "tiny-llama"
    vocabulary = {token: i for i, token in enumerate(["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>").save_pretrained(place)
    shape = COMMON | {"vocab_size": len(vocabulary), "max_position_embeddings": 128, "tie_word_embeddings": True}
    shape |= {"bos_token_id": None, "eos_token_id": 0, "hidden_size": 16, "intermediate_size": 24}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        hf.LlamaForCausalLM(hf.LlamaConfig(**shape)).save_pretrained(place)
    return str(place)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reaches for a network fails, as where there is none."""

    def connect(self: socket.socket, address: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def save(tmp_path: Path, tiny: Tiny) -> Callable[..., Path]:
    """Save a tiny model: `save("gpt2")` -> folder."""
    from zofo import models

    def make(name: str, edit: Callable[[nn.Module], Any] = lambda model: model, **options: Any) -> Path:
        model = tiny(name)
        edit(model)
        with models.quiet():
            model.save_pretrained(tmp_path / name, **options)
        return tmp_path / name

    return make


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """zofo's cache is in a folder of the test's own."""
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small(cache: Path) -> dict[str, Any]:
    """Options of a small task."""
    return SMALL


@pytest.fixture
def made(small: dict[str, Any]) -> Callable[..., Any]:
    """Make the job of a small run from the model's folder and options: `made(folder, method__name="mezo")`."""
    from zofo.job import assemble, prepare
    from zofo.layers import resolve

    def make(folder: str, **flags: Any) -> Any:
        settings, given = resolve(small | {"model.name": folder} | {k.replace("__", "."): v for k, v in flags.items()})
        return assemble(settings, prepare(settings, given))

    return make


@pytest.fixture(autouse=True)
def _one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` measures is the same on every machine that tests run on: fp32 is the fastest type, stacking does not pay."""
    from zofo import settled

    monkeypatch.setattr(settled, "products", lambda device: {"fp32": 1e-3, "bf16": 2e-3})
    monkeypatch.setattr(settled, "GAIN", 0.0)


SHOWN = ("tests/cli/test_train.py", "tests/docs", "tests/memory", "tests/report")
"""Tests that look at a run's picture, or at its memory."""


class Ends:
    """Whether runs end as they do for users (`whole`), where that is not seen by the test's name."""

    whole = False


@pytest.fixture(scope="session", autouse=True)
def ends() -> Iterator[Ends]:
    """Elsewhere a run's picture is not drawn, and its memory is estimated once for runs of a shape: they are two thirds of a tiny run's time."""
    from zofo.memory import taken
    from zofo.report import plots

    made = Ends()
    draw, estimate, held = plots.curves, taken.estimated, dict[str, Any]()

    def looked_at() -> bool:
        return made.whole or os.environ.get("PYTEST_CURRENT_TEST", "").startswith(SHOWN)

    def curves(*given: Any) -> None:
        if looked_at():
            draw(*given)

    def estimated(config: Any, ready: Any) -> Any:
        if looked_at():
            return estimate(config, ready)
        method = {key: value for key, value in config.method if not key.startswith("lr_")}
        shape = repr((method, config.model, config.adapter, config.data))
        if shape not in held:
            held[shape] = estimate(config, ready)
        return held[shape]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "curves", curves)
        patch.setattr(taken, "estimated", estimated)
        yield made


class Told(Quiet):
    """Keeps the notes."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def told() -> Told:
    """Who a run speaks to, quiet but for its notes: `told.notes`."""
    return Told()


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process end without what takes longer than their steps: curves drawn, memory estimated."""
    from zofo import loop
    from zofo.memory.sizes import Size

    monkeypatch.setattr(loop.plots, "curves", lambda *_: None)
    monkeypatch.setattr(loop.taken, "estimated", lambda *_: [Size("weights", 1, "before")])


@pytest.fixture
def home(bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with a cache of its own; threads are put back."""
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a module's tests share."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def there(bare: None, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder is there, with zofo's cache in it."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("ZOFO_CACHE", str(place / "cache"))


def rows_of_task(name: str, options: list[str], n: int) -> list[dict[str, Any]]:
    """Rows in MetaICL's form whose answers go round the options (no options: free answers)."""
    found = []
    for k in range(n):
        answer = options[k % len(options)] if options else f"no {k}"
        found.append({"task": name, "input": f"{name} row {k}", "output": answer, "options": options})
    return found


TOY = {
    "a": ["x", "y"],
    "b": ["x", "y"],
    "four": ["p", "q", "r", "s"],
    "free": [],
    "c": ["no", "yes"],
    "d": ["1", "2", "3"],
}
"""Tasks of the toy mixture, and their options."""


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of toy tasks as a YAML file: a, b, four and free to train on, c and d unseen; their folders stand beside it."""
    import json

    place = tmp_path_factory.mktemp("mixed")
    for name, options in TOY.items():
        (place / name).mkdir()
        rows = rows_of_task(name, options, 20)
        for part, held in (("train", rows[:12]), ("test", rows[12:])):
            text = "".join(json.dumps(row) + "\n" for row in held)
            (place / name / f"{part}.jsonl").write_text(text, encoding="utf-8")
    (place / "toy.yaml").write_text("about: Toy tasks.\ntrain: [a, b, four, free]\ntest: [c, d]\n", encoding="utf-8")
    return place / "toy.yaml"
