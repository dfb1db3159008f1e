"""The model card says how the run was made and what it scored."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from zofo.layers import presets, resolve
from zofo.methods.table import METHODS, effective
from zofo.report.card import hub_id, render

ENVIRONMENT = {
    "zofo": "0.1",
    "torch": "2.13",
    "python": "3.11",
    "machine": "Linux x86_64",
    "device": "cpu",
    "threads": 2,
}
BASE = {"name": "smollm2-135m", "sha256": "ab" * 32}
ROWS = {"D_f": 40, "D_p": 80, "validation": 30, "test": 200}
SPLITS = {
    "task": "reviews", "source": "packaged reviews", "seed": 3, "notes": ["validation: 30 rows taken"],
    "parts": {part: {"rows": n, "of": "train", "sha256": "c" * 64} for part, n in ROWS.items()},
}  # fmt: skip


def card(metrics: Any, summary: Any, preset: str = "quickstart", method: str = "bilevel", **flags: Any) -> str:
    wanted = {
        "model.name": "smollm2-135m",
        "data.task": "reviews",
        "run.seed": 3,
        "run.steps": 40,
        "run.name": "x",
        **flags,
    }
    return render(
        config=resolve({key.replace("__", "."): value for key, value in wanted.items()}, preset)[0],
        environment={**ENVIRONMENT, "base": BASE},
        splits=SPLITS,
        evaluation=summary,
        metrics=metrics(method),
        totals={"steps": 30, "seconds": 90.0, "forwards": 780, "backwards": 600},
        name="x",
    )


def test_front_matter(metrics, summary) -> None:
    _, front, body = card(metrics, summary).split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["zofo", "bilevel", "zeroth-order", "lora"],
    }
    alone = card(metrics, summary, "fo-lora", "first-order")
    assert yaml.safe_load(alone.split("---\n")[1])["library_name"] == "peft", "the adapter fits the base as published"
    assert body.lstrip().startswith("# x\n")


def test_a_score_with_demonstrations_is_not_called_zero_shot(metrics, summary) -> None:
    text = card(metrics, summary, data__shots=4)
    assert "| 4-shot, untrained | 55.0 %" in text and "zero-shot" not in text.split("## Results")[1].split("##")[0]


def test_all_parts_are_there(metrics, summary) -> None:
    text = card(metrics, summary)
    for part in (
        BASE["sha256"], "| D_p | 80 |", "| D_f | 40 |", "validation: 30 rows taken", "A + lambda (B - C)",
        "arXiv 2502.03604", "| seed | 3 |", "torch 2.13", "Linux x86_64, cpu, 2 threads", "| steps | 30 of 40 |",
        "1 min 30 s", "780 and 600", "| zero-shot | 55.0 % +- 1.5 | 0.9 | 500 |", "| p (used) | 87.1 % +- 1.5 |",
        "`s`: the lowest loss on the validation rows. At the best step, 20", "zofo resume x", "zofo eval x",
        "zofo export x", "from_pretrained", "licence",
    ):  # fmt: skip
        assert part in text, part
    heads = ["Base model", "Data", "Method", "Training", "Results", "Which adapter is used", "How to use it"]
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [*heads, "Limits and licence"]


@pytest.mark.parametrize("preset", presets())
def test_only_options_with_an_effect_are_listed(metrics, summary, preset: str) -> None:
    config, _ = resolve({"model.name": "m", "data.task": "reviews"}, preset)
    method = config.method.name
    text = card(metrics, summary, preset, method)
    listed = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    used = {key for key in effective(config) if key.split(".")[0] != "run"} - {"model.name"}
    assert listed == used
    assert METHODS[method].equations in text


def test_changed_options_show_the_default(metrics, summary) -> None:
    assert "| `method.lam` | `3` | default `10` |" in card(metrics, summary, method__lam=3)


def test_which_adapter(metrics, summary) -> None:
    assert "set by `method.inference_adapter`" in card(metrics, summary, method__inference_adapter="s")
    assert "This run has no adapter" in card(metrics, summary, "mezo", "mezo")
    assert "`p`: the only adapter." in card(metrics, summary, "fo-lora", "first-order")
    lagging = lambda method: [*metrics(method), {**metrics(method)[-1], "p": {"accuracy": 0.5, "loss": 1.0}}]  # noqa: E731
    assert "Note: p lags behind s" in card(lagging, summary)


def test_every_metric_has_a_column_with_its_own_error_and_cut_rows_are_told(metrics, summary) -> None:
    summary["results"]["p"] |= {"macro_f1": 0.5, "macro_f1_se": 0.021}
    summary["truncated"] = 7
    text = card(metrics, summary)
    head = "| what | accuracy +- standard error | macro-F1 +- standard error | loss (nats a token) | rows |"
    assert head in text and "| p (used) | 87.1 % +- 1.5 | 50.0 % +- 2.1 | 0.31 | 500 |" in text
    assert "| zero-shot | 55.0 % +- 1.5 | - | 0.9 | 500 |" in text
    assert "7 of the rows were cut" in text


def test_a_run_that_measures_losses_alone_has_no_column_of_a_metric(metrics, summary) -> None:
    summary["results"] = {"p": {"n": 5, "loss": 0.5, "loss_se": 0.1}}
    assert "| what | loss (nats a token) | rows |\n| --- | --- | --- |\n| p (used) | 0.5 | 5 |" in card(
        metrics, summary
    )


@pytest.mark.parametrize(
    ("by", "told"),
    [
        ("loss", "the lowest loss on the validation rows. At the best step, 20, the validation losses: p 0.4044 (acc"),
        (
            "choice_loss",
            "the lowest loss on the validation rows. At the best step, 20, the validation losses: p 0.1972 (acc",
        ),
        ("accuracy", "the highest accuracy on the validation rows. At the best step, 20, the values: p 0.8133 (acc"),
    ],
)
def test_the_card_says_by_what_the_adapter_was_chosen(metrics, summary, by: str, told: str) -> None:
    assert told in card(lambda method: [{**row, "by": by} for row in metrics(method)], summary)


def test_a_mixture_without_unseen_tasks_is_not_said_to_be_tested(
    metrics, summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPLITS["parts"], "test", {"rows": 0, "of": "each task's own", "sha256": "c" * 64})
    text = card(metrics, summary | {"results": {}, "task": "toy"})
    assert "The mixture `toy` has no unseen tasks, so nothing was tested." in text and "left unread" not in text
    assert "zofo eval x --side train\n" in text


def test_of_a_mixture_no_more_is_said_to_be_apart_than_is(metrics, summary, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "seed 3; no text stands in two splits.\n" in card(metrics, summary)
    monkeypatch.setitem(SPLITS, "members", {"a": {"side": "train", "parts": {}}})
    assert "no text stands in two splits of one task, and no training row's among" in card(metrics, summary)


def test_hub_ids(tmp_path) -> None:
    assert hub_id("facebook/opt-125m") == "facebook/opt-125m"
    for name in ("./a", "/a/b", "a", "x/y.gguf", "a/b/c"):
        assert hub_id(name) is None


MEMORY = {
    "standing_mb": 1000.0, "peak_mb": 1500.0, "estimated_mb": 1040.0, "estimated_above_mb": 502.0,
    "measured_by": "a thermometer",
}  # fmt: skip


def test_memory_is_told_where_it_was_measured(metrics, summary) -> None:
    assert "memory" not in card(metrics, summary)
    text = card(metrics, summary | {"memory": MEMORY})
    assert "1 GB before training, 1.5 GB at the peak of its steps (500 MB more); a thermometer |" in text
    assert "| memory estimated | 1.04 GB, of which 502 MB in its steps" in text
    less = {key: value for key, value in MEMORY.items() if "estimated" not in key}
    assert "memory estimated" not in card(metrics, summary | {"memory": less})
