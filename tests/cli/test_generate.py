"""`generate` continues a text with a run or a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"


def test_run_and_model(cli, trained: str, model: str) -> None:
    status, out, err = cli("generate", trained, "The film", "--max-new-tokens", "5")
    assert status == 0, err
    assert out.endswith("\n") and "The film" not in out
    assert cli("generate", trained, "The film", "--max-new-tokens", "5")[1] == out
    assert cli("generate", model, "The film", "--max-new-tokens", "2")[0] == 0


def test_a_text_that_begins_with_a_dash(cli, trained: str) -> None:
    assert cli("generate", trained, "-3 stars", "--max-new-tokens", "1", "--temperature", "0.7")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        "{model} x --slot p", "{model} x --which last", "nosuch/../x y", "{run}", "{model} x --temperature -1",
        "{model} x --temperature 1e-300", "{run} x --max-new-tokens 0",
    ],
)  # fmt: skip
def test_bad_input(cli, trained: str, model: str, words: str) -> None:
    status, _, err = cli("generate", *words.format(model=model, run=trained).split())
    assert status == 2 and err.count("\n") == 1


@pytest.fixture
def chatty(at_home: Path, model: str) -> str:
    """The tiny model with a chat template."""
    place = at_home / "chatty"
    if not place.exists():
        shutil.copytree(model, place)
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(place)
    return str(place)


@pytest.fixture
def talked(cli, chatty: str, at_home: Path) -> str:
    """A run on conversations."""
    if not (at_home / "runs" / "talked").exists():
        talk = [[{"role": "user", "content": f"say {k}"}, {"role": "assistant", "content": f"{k}"}] for k in range(20)]
        text = "".join(json.dumps({"messages": messages}) + "\n" for messages in talk)
        (at_home / "talk.jsonl").write_text(text, encoding="utf-8")
        words = f"train --preset mezo --model {chatty} --data.train talk.jsonl --run talked --steps 1 --run.threads 1"
        status, out, err = cli(*words.split(), "--batch", "2", "--run.eval_every", "0", "--data.max_length", "64")
        assert status == 0, err
        assert "  zofo generate talked 'say " in out and "zofo predict" not in out
    return "talked"


def written(cli, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[str, str]:
    """The text that is continued, and what is said on standard error."""
    seen: list[str] = []

    def keep(model: Any, tokenizer: Any, text: str, **_: Any) -> str:
        seen.append(text)
        return ""

    monkeypatch.setattr("zofo.scoring.generation.generate", keep)
    status, _, err = cli("generate", *words)
    assert status == 0, err
    return seen[0], err


def test_a_run_on_messages_is_asked_in_its_chat_template(cli, talked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(cli, monkeypatch, talked, "say 7") == ("[user]say 7<end>[assistant]", "")
    assert written(cli, monkeypatch, talked, "say 7", "--no-chat") == ("say 7", "")


def test_a_model_is_asked_as_it_stands_and_told_of_its_template_once(
    cli, chatty: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, err = written(cli, monkeypatch, chatty, "hi")
    assert text == "hi" and err.count("\n") == 1 and "note: " in err and "--chat would use" in err
    assert written(cli, monkeypatch, chatty, "hi", "--chat") == ("[user]hi<end>[assistant]", "")
    assert written(cli, monkeypatch, chatty, "hi", "--no-chat") == ("hi", "")
    assert written(cli, monkeypatch, model, "hi") == ("hi", ""), "no template, no note"


def test_a_run_on_plain_rows_is_asked_as_it_was_trained(cli, trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(cli, monkeypatch, trained, "hi") == ("hi", "")


def test_a_tokenizer_without_a_template_is_told(cli, trained: str, model: str) -> None:
    for target in (trained, model):
        status, out, err = cli("generate", target, "hi", "--chat")
        assert (status, out) == (2, "") and err.count("\n") == 1
        assert "--chat: this model's tokenizer has no chat template; leave it out" in err


def test_a_run_on_messages_answers_in_predict_too(cli, talked: str, at_home: Path) -> None:
    row = {"messages": [{"role": "user", "content": "say 7"}], "id": 1}
    (at_home / "asked.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    words = ["predict", talked, "asked.jsonl", "--max-new-tokens", "3", "--out", "answers.jsonl"]
    status, _, err = cli(*words)
    assert status == 0, err
    found = json.loads((at_home / "answers.jsonl").read_text(encoding="utf-8"))
    out = cli("generate", talked, "say 7", "--max-new-tokens", "3")[1]
    assert found == {**row, "predicted": out.strip()}


def test_a_text_that_is_no_utf8_is_one_line(cli, model: str) -> None:
    status, out, err = cli("generate", model, "a\udcffb")
    assert (status, out) == (2, "") and "it holds bytes that are no UTF-8" in err and err.count("\n") == 1
