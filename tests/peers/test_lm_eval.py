"""Log-probabilities and accuracies are those of EleutherAI's harness, on the tasks that its configurations can express."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from zofo.measure import evaluate
from zofo.tasks import definition
from zofo.tasks.definition import Task
from zofo.tasks.files import load
from zofo.tasks.render import Style, Written, joined, written

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore"),  # the harness's own and its libraries'
]
ROWS = 20
COPA = "{{ (premise|trim)[:-1] if (premise|trim)[-1:] == '.' else premise|trim }} {{ 'so' if question == 'effect' else 'because' }}"
LOWER = "(CHOICE[0]|lower) ~ CHOICE[1:] if CHOICE[:2] != 'I ' else CHOICE"
TASKS = [
    "sst2", "rte", "cb", "boolq", "wsc", "wic", "multirc", "copa", "crossfit/trec", "crossfit/ag_news", "crossfit/openbookqa",
]  # fmt: skip


def expressed(task: Task, rows: Path) -> dict[str, Any]:
    """A task of ours as a configuration of the harness, written in its own words (jinja, choices, delimiter)."""
    choices: Any = list(task.choices)
    target: Any = task.label
    if task.name == "copa":
        choices = "{{ [" + ", ".join(LOWER.replace("CHOICE", name) for name in ("choice1", "choice2")) + "] }}"
    elif task.options:
        choices, target = "{{ options }}", "{{ options.index(output) }}"
    template = COPA if task.name == "copa" else task.template
    return {
        "task": task.name.replace("/", "-"), "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": template, "doc_to_choice": choices,
        "doc_to_target": target, "target_delimiter": "" if template.endswith("\n") else " ", "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip


def spaced(text: Written) -> Written:
    """A written row as the harness scores it: white space at the prompt's end belongs to the answers."""
    prompt = text.prompt.rstrip()
    space = text.prompt[len(prompt) :]
    return Written(prompt, tuple(space + tail for tail in text.tails), text.held)


@pytest.mark.parametrize("name", TASKS)
def test_log_probabilities_equal_the_harness(
    real: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = pytest.importorskip("lm_eval", reason="pip install -e .[peers]")
    from lm_eval.models.huggingface import HFLM

    task = definition.find(name)
    published = Path(os.environ["ZOFO_DATA"], task.folder or "", f"{task.test_file}.jsonl.gz")
    lines = gzip.decompress(published.read_bytes()).splitlines(keepends=True)[:ROWS]
    rows = tmp_path / "test.jsonl"
    rows.write_bytes(b"".join(lines))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    model = HFLM(pretrained=real.model, tokenizer=real.tokenizer, batch_size=4, device="cpu")
    found = harness.simple_evaluate(
        model=model, tasks=[harness.api.task.ConfigurableTask(config=expressed(task, rows))], log_samples=True,
        bootstrap_iters=0, verbosity="ERROR",
    )  # fmt: skip
    (theirs,) = found["samples"].values()
    theirs.sort(key=lambda sample: sample["doc_id"])
    (accuracy,) = (result["acc,none"] for result in found["results"].values())

    source = load(task)
    assert source.test is not None
    texts = [written(task, row, real.tokenizer, Style(), "row") for row in source.test[:ROWS]]
    encoded = [joined(spaced(text), real.tokenizer, "", "row") for text in texts]
    ours = evaluate(real.model, encoded, task, predictions=True)
    right = 0
    for example, scores, sample in zip(encoded, ours["scores"], theirs, strict=True):
        sums = [score * len(answer) for score, answer in zip(scores, example.answers, strict=True)]
        assert sums == pytest.approx([response[0] for (response,) in sample["resps"]], abs=1e-3)
        right += sums.index(max(sums)) == example.label  # the harness chooses by the sum, zofo by the mean
    assert accuracy == pytest.approx(right / ROWS)
