"""A tiny model in a folder, and one tiny run that the commands are tried on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    "--data.train_rows", "12", "--data.validation_rows", "6", "--data.test_rows", "8", "--batch", "2",
    "--data.max_length", "64",
]  # fmt: skip


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of its own to work in."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder and zofo's cache are in `home`."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("ZOFO_CACHE", str(home / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    return home


@pytest.fixture(scope="session")
def model(home: Path) -> str:
    """A llama of some thousand weights with a tokenizer trained on the packaged reviews; its folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from zofo.core.streams import seeded

    text = (ROOT / "zofo/tasks/data/reviews/train.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<end>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    sentences = [json.loads(line)["sentence"] + " It was terrible great" for line in text]
    tokenizer.train_from_iterator(
        sentences, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>").save_pretrained(
        home / "tiny"
    )
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    with seeded(0, "tiny", 0):
        made = LlamaForCausalLM(
            LlamaConfig(vocab_size=400, num_key_value_heads=1, max_position_embeddings=128, **shape)
        )
    made.save_pretrained(home / "tiny")
    return str(home / "tiny")


Words = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(at_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Words:
    """Run a command line in this process, whose malloc stays as it is: (exit status, standard output, standard error)."""
    from zofo.cli.main import heap, main

    monkeypatch.setattr(heap, "keep", lambda: None)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(list(words))
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


@pytest.fixture
def trained(cli: Words, model: str, home: Path, ends: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a run of two steps, made once a session by the command line."""
    if not (home / "runs" / "tiny-run").exists():
        monkeypatch.setattr(ends, "whole", True)
        status, _, err = cli(
            *f"train --preset bilevel-lora --model {model} --task reviews --run tiny-run --steps 2".split(),
            *["--method.T", "1", "--method.lam_every", "1", "--run.eval_every", "1", "--run.threads", "1"],
            *SMALL,
        )
        assert status == 0, err
    return "tiny-run"


def in_process(*words: str, cwd: Path | None = None, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `zofo WORDS` (or Python code) in a process of its own."""
    start = ["-c", code] if code is not None else ["-m", "zofo.cli.main", *words]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *start], capture_output=True, text=True, cwd=cwd, env=env, check=False)


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`in_process`."""
    return in_process
