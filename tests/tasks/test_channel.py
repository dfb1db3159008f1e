"""The noisy channel: each choice followed by the input, whose tokens alone are scored, with every kind of choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from films import ROWS
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from zofo import objectives
from zofo.config import DataConfig
from zofo.errors import BadInput
from zofo.measure import evaluate
from zofo.scoring.batch import Encoded, choice_batch, lm_batch
from zofo.scoring.objective import answer_logprobs, choice_losses, read_prefix, row_losses
from zofo.tasks.definition import Task
from zofo.tasks.parts import encode as encode_parts
from zofo.tasks.render import Style, demonstration, encode

CHANNEL = Style(channel=True)
FIXED = Task(
    name="fixed", template="{{ text }} It was", template_free="{{ text }}", choices=("terrible", "great"), shorten="text",
)  # fmt: skip
SHARED = Task(name="shared", template="{{ input }}\n", options="options", label="output", metrics=("macro_f1",))
OWN = Task(name="own", template="{{ q }}?", options=("a", "b"), answer="so {{ choice }}", label="label")
FREE = Task(name="free", template="{{ text }}", metrics=("f1",))
ROW = {
    "fixed": {"text": "a dull film", "label": 1},
    "shared": {"input": "who?", "output": "person", "options": ["place", "person", "time of day"]},
    "own": {"q": "why", "a": "the sun shone", "b": "it", "label": 0},
}
TASKS = {task.name: task for task in (FIXED, SHARED, OWN)}
WHOLE = {  # what stands before the input, for each choice, and the input
    "fixed": (["terrible\n", "great\n"], "a dull film It was"),
    "shared": (["place\n", "person\n", "time of day\n"], "who?"),
    "own": (["so the sun shone\n", "so it\n"], "why?"),
}


@pytest.fixture(scope="module")
def tokenizer(folder: str) -> Any:
    """A token a byte."""
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: str) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(params=sorted(TASKS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def plain(model: nn.Module, tokenizer: Any, before: str, text: str) -> list[float]:
    """log P of each token of a text after what stands before it, a forward pass a token."""
    first, ids = tokenizer(before)["input_ids"], tokenizer(text)["input_ids"]
    found = []
    for k, token in enumerate(ids):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([first + ids[:k]])).logits[0, -1]
        found.append(float(torch.log_softmax(logits.double(), -1)[token]))
    return found


def sums(model: nn.Module, tokenizer: Any, name: str, before: str = "") -> list[float]:
    heads, text = WHOLE[name]
    return [sum(plain(model, tokenizer, before + head, text)) for head in heads]


def made(tokenizer: Any, name: str, shots: Sequence[str] = (), style: Style = CHANNEL, **row: Any) -> Encoded:
    return encode(TASKS[name], ROW[name] | row, tokenizer, style, shots=shots)


# Text


def test_each_choice_stands_before_the_input_which_alone_is_scored(tokenizer: Any, name: str) -> None:
    found, (heads, text) = made(tokenizer, name), WHOLE[name]
    for answer, skip, head in zip(found.answers, found.skip, heads, strict=True):
        assert tokenizer.decode(found.context + answer[:skip]) == head
        assert tokenizer.decode(answer[skip:]) == text
    direct = encode(TASKS[name], ROW[name], tokenizer)
    assert (found.label, found.rights, found.texts) == (direct.label, direct.rights, direct.texts)
    assert found.channel and not direct.channel and not found.cut


def test_without_the_hard_prompt_the_input_stands_alone(tokenizer: Any) -> None:
    found = made(tokenizer, "fixed", style=Style(hard_prompt=False, channel=True))
    assert tokenizer.decode(found.answers[0][found.skip[0] :]) == "a dull film"


def test_a_demonstration_is_the_right_choice_and_its_input(tokenizer: Any, name: str) -> None:
    task, (heads, text) = TASKS[name], WHOLE[name]
    right = encode(task, ROW[name], tokenizer).label
    assert demonstration(task, ROW[name], tokenizer, CHANNEL, "x") == heads[right] + text + task.separator
    shot = demonstration(task, ROW[name], tokenizer, CHANNEL, "x")
    found = made(tokenizer, name, [shot])
    assert tokenizer.decode(found.context).startswith(shot)
    assert tokenizer.decode(found.context + found.answers[right]) == shot + heads[right] + text


def test_a_row_too_long_keeps_its_choice_and_is_cut(tokenizer: Any, name: str) -> None:
    field = {"fixed": "text", "shared": "input", "own": "q"}[name]
    style, row = Style(max_length=40, channel=True), {field: "begin" + "x" * 90 + "end"}
    found, shots = made(tokenizer, name, style=style, **row), ["good\nbye\n\n"]
    assert found.cut and found.length + 1 == 40
    for answer, skip, head in zip(found.answers, found.skip, WHOLE[name][0], strict=True):
        assert tokenizer.decode(found.context + answer[:skip]) == head
    texts = {answer[skip:] for answer, skip in zip(found.answers, found.skip, strict=True)}
    assert len(texts) == 1, "all choices score the same tokens"
    left = tokenizer.decode(texts.pop())
    assert left.startswith("begin") if name == "fixed" else "end" in left
    after = made(tokenizer, name, shots, style, **row)
    assert tokenizer.decode(after.context + after.answers[0][after.skip[0] :]).startswith(shots[0])
    assert after.length == found.length + len(shots[0])


def test_white_space_around_the_input_is_left_out(tokenizer: Any, name: str) -> None:
    """So the newline behind the choice is never a part of what is scored, or cut with it."""
    field = {"fixed": "text", "shared": "input", "own": "q"}[name]
    bare, spaced = (made(tokenizer, name, **{field: text}) for text in ("mat", "\n mat"))
    assert name != "fixed" or bare == spaced
    for answer, skip, head in zip(spaced.answers, spaced.skip or (0,) * 9, WHOLE[name][0], strict=False):
        assert tokenizer.decode(spaced.context + answer[:skip]) == head


def test_a_choice_that_leaves_no_room_for_the_input_is_refused(tokenizer: Any) -> None:
    with pytest.raises(BadInput, match=r"^--data.max_length 10, task shared: no room for an input beside the choice"):
        made(tokenizer, "shared", style=Style(max_length=10, channel=True))


def test_an_input_of_no_token_is_refused(tokenizer: Any) -> None:
    with pytest.raises(BadInput, match=r"^task shared: the input has no token"):
        made(tokenizer, "shared", input="\n")


# Scores, against a forward pass a token


@pytest.mark.parametrize("branched", [False, True])
def test_scores_are_log_probabilities_of_the_input_added_up(
    model: nn.Module, tokenizer: Any, name: str, branched: bool
) -> None:
    shot = demonstration(TASKS[name], ROW[name], tokenizer, CHANNEL, "x") if branched else ""
    found = made(tokenizer, name, [shot] if shot else [])
    with torch.no_grad():
        means = answer_logprobs(model, choice_batch([found], [0], 0, branched))
    wanted = sums(model, tokenizer, name, shot)
    length = len(tokenizer(WHOLE[name][1])["input_ids"])
    assert [float(mean) * length for mean in means] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("branched", [False, True])
def test_scores_after_a_kept_prefix_are_the_same(model: nn.Module, tokenizer: Any, name: str, branched: bool) -> None:
    shot = demonstration(TASKS[name], ROW[name], tokenizer, CHANNEL, "x")
    found = made(tokenizer, name, [shot])
    size = len(found.context) - 1
    past = read_prefix(model, found.context[:size])
    rest = Encoded(**{**vars(found), "context": found.context[size:]})
    with torch.no_grad():
        kept = answer_logprobs(model, choice_batch([rest], [0], 0, branched), past=past)
    length = len(tokenizer(WHOLE[name][1])["input_ids"])
    assert [float(mean) * length for mean in kept] == pytest.approx(sums(model, tokenizer, name, shot), abs=1e-3)


@pytest.mark.parametrize("share", [False, True])
def test_evaluation_chooses_by_the_sum_and_reports_both_losses(
    model: nn.Module, tokenizer: Any, name: str, share: bool
) -> None:
    shot = demonstration(TASKS[name], ROW[name], tokenizer, CHANNEL, "x") * 2
    rows = [made(tokenizer, name, [shot])] * 3
    found = evaluate(model, rows, TASKS[name], predictions=True, share=share)
    wanted = torch.tensor(sums(model, tokenizer, name, shot), dtype=torch.float64)
    right, length = rows[0].label, len(tokenizer(WHOLE[name][1])["input_ids"])
    for scores, choice in zip(found["scores"], found["predictions"], strict=True):
        assert scores == pytest.approx(wanted.tolist(), abs=1e-3) and choice == int(wanted.argmax())
    assert found["loss"] == pytest.approx(-float(wanted[right]) / length, abs=1e-4)
    assert found["choice_loss"] == pytest.approx(-float(torch.log_softmax(wanted, 0)[right]), abs=1e-3)


def test_training_losses_are_the_mean_of_the_input_and_bayes_over_the_choices(
    model: nn.Module, tokenizer: Any, name: str
) -> None:
    found = made(tokenizer, name)
    wanted = torch.tensor(sums(model, tokenizer, name), dtype=torch.float64)
    length = len(tokenizer(WHOLE[name][1])["input_ids"])
    with torch.no_grad():
        lm = row_losses(model, lm_batch([found], [0], 0))
        crossed = choice_losses(model, choice_batch([found], [0], 0))
    assert float(lm) == pytest.approx(-float(wanted[found.label]) / length, abs=1e-4)
    assert float(crossed) == pytest.approx(-float(torch.log_softmax(wanted, 0)[found.label]), abs=1e-3)


def test_the_accuracy_objective_chooses_by_the_same_sums(model: nn.Module, tokenizer: Any, name: str) -> None:
    found = made(tokenizer, name)
    value = objectives.metric_of_choice(model, choice_batch([found], [0], 0), "accuracy", "fp32")
    best = max(range(len(found.answers)), key=sums(model, tokenizer, name).__getitem__)
    assert float(value) == -float(best == found.label)


# A run's rows


def test_every_part_is_rendered_for_the_channel(tokenizer: Any) -> None:
    found = encode_parts(FIXED, ROWS, tokenizer, DataConfig(channel=True, shots=2), 0)
    for rows in found.encoded.values():
        for row in rows:
            text = tokenizer.decode(row.context + row.answers[0])
            assert row.channel and text.count(" It was") == 3 and text.endswith(" It was")


def test_free_answers_and_calibration_are_refused(tokenizer: Any) -> None:
    with pytest.raises(BadInput, match=r"^--data.channel: free has no choices to score its input after; leave it out"):
        encode_parts(FREE, ROWS, tokenizer, DataConfig(channel=True), 0)
    with pytest.raises(BadInput, match=r"^--data.calibration sfc: the channel scores the input of fixed"):
        encode_parts(FIXED, ROWS, tokenizer, DataConfig(channel=True, calibration="sfc"), 0)


def test_cut_rows_are_counted(tokenizer: Any) -> None:
    found = encode_parts(FIXED, ROWS, tokenizer, DataConfig(channel=True, max_length=20), 0)
    assert "D_f: 6 rows cut at the end of 'text' to 20 tokens" in found.notes
