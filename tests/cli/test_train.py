"""`train` hands over what was typed; --dry-run tells everything and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from zofo.cli import train
from zofo.config import Config, build
from zofo.run.metrics import read_metrics
from zofo.scoring.batch import Encoded

SMALL = ["--data.train_rows", "12", "--data.validation_rows", "6", "--data.test_rows", "8"]


def test_it_makes_a_run(trained: str, home: Path) -> None:
    run = home / "runs" / trained
    for name in ("config.yaml", "environment.json", "splits.json", "metrics.jsonl", "journal", "eval.json"):
        assert (run / name).is_file()
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "README.md").read_text(encoding="utf-8").startswith("---\n")


def test_the_configuration_and_the_typed_keys_reach_the_loop(cli, monkeypatch) -> None:
    import zofo.begin

    seen: dict[str, Any] = {}

    def start(config: Config, given: frozenset[str], show: object, auto_lr: bool, notes: list[str]) -> dict[str, Any]:
        seen.update(config=config, given=given, show=show, auto_lr=auto_lr, notes=notes)
        return {}

    monkeypatch.setattr(zofo.begin, "start", start)
    status, _, err = train_words(cli, "--method.T", "3", "--steps", "4")
    assert status == 0, err
    assert seen["config"].method.T == 3 and seen["config"].run.steps == 4 and not seen["auto_lr"]
    assert seen["given"] == {"model.name", "data.task", "method.T", "run.steps"}
    assert all(hasattr(seen["show"], name) for name in ("note", "phase", "step", "validation", "done"))
    assert train_words(cli, "--auto-lr")[0] == 0 and seen["auto_lr"] and seen["notes"] == []


def test_where_no_preset_is_named_it_is_said_which_a_run_begins_with(cli, model: str) -> None:
    words = ("train", "--model", model, "--task", "reviews", *SMALL, "--dry-run")
    for more, first in (((), True), (("--adapter.kind", "prompt"), True), (("--method.name", "mezo"), False)):
        status, out, err = cli(*words, *more)
        assert status == 0, err
        settings = out[: out.index("# task")].split("\nnote: ")
        assert ("the run begins with --preset bilevel-lora" in settings[-1]) == first
        made = build(flat(yaml.safe_load(settings[0])))
        assert made.method.lr_p == ((1e-2 if more else 1e-3) if first else 5e-4)


def train_words(cli, *more: str) -> tuple[int, str, str]:
    return cli("train", "--preset", "bilevel-lora", "--model", "m", "--task", "reviews", *more)


def test_a_run_that_exists_is_not_begun_again(cli, trained: str, model: str) -> None:
    status, _, err = cli("train", "--model", model, "--task", "reviews", "--run", trained)
    assert status == 2 and f"zofo resume {trained}" in err


def test_dry_run_tells_and_writes_nothing(cli, model: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = ("--data.max_length", "30")
    status, out, err = cli(
        "train", "--preset", "bilevel-lora", "--model", model, "--task", "reviews", *SMALL, *short, "--dry-run"
    )
    assert status == 0, err
    assert list(tmp_path.iterdir()) == []
    told = out.split("\n# ")
    assert [part.split("\n", 1)[0].split(",")[0] for part in told] == [
        "# configuration", "task", "splits", "3 training examples", "memory (before it has run)",
    ]  # fmt: skip
    assert build(flat(yaml.safe_load(told[0]))).method.warmup == 10
    assert "reviews: answers terrible, great (in label order); objective lm" in told[1]
    assert "D_f\t4\ttrain file" in told[2] and "D_p\t8\ttrain file" in told[2] and "test\t8\ttest file" in told[2]
    assert "note: D_p: " in told[2] and "cut at the end of 'sentence' to 30 tokens" in told[2]
    examples = told[3].splitlines()[1:]
    assert len([line for line in examples if "[[ great]]" in line or "[[ terrible]]" in line]) == 3
    assert "weights (fp32)\t" in told[4] and "activations\t" in told[4] and "\ntotal\t" in told[4]
    assert "not estimated" not in told[4]


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, held in tree.items() for key, value in held.items()}


def test_an_example_that_was_cut_says_so() -> None:
    class Tokens:
        def decode(self, ids: tuple[int, ...]) -> str:
            return "".join(map(chr, ids))

    class Example:
        context, answers, label, cut, skip = (97, 98), ((99,), (100,)), 1, True, ()

    assert train.marked(Example(), Tokens()) == "ab[[d]] (cut)"


def test_tokens_of_an_answer_that_belong_to_the_prompt_stand_before_the_brackets() -> None:
    class Tokens:
        def decode(self, ids: tuple[int, ...]) -> str:
            return "".join(map(chr, ids))

    for label, told in ((0, "ab[[c]]"), (1, "abd[[ef]]")):
        example = Encoded((97, 98), ((99,), (100, 101, 102)), label, skip=(0, 1))
        assert train.marked(example, Tokens()) == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "--method.name first-order --objective f1",
            "--objective f1: method first-order needs gradients, and a metric",
        ),
        ("--objective recall", "--method.objective recall: input should be 'auto', 'lm', 'classification', 'accuracy'"),
        ("--task squad --objective classification", "--objective classification: squad has no choices"),
        ("--data.validation mine.jsonl", "no --data.train beside it"),
    ],
)
def test_objectives_and_data_that_cannot_be_are_refused(cli, model: str, home: Path, words: str, told: str) -> None:
    task = [] if "--task" in words or "--data" in words else ["--task", "reviews"]
    status, out, err = cli("train", "--model", model, *task, "--run", "refused", *words.split())
    assert (status, out) == (2, "") and told in err and not (home / "runs" / "refused").exists()


def test_a_metric_as_the_objective_is_what_validation_chooses_by(bare, cli, model: str, home: Path) -> None:
    words = f"train --preset mezo --model {model} --task reviews --objective f1 --run.dir more --run metric --steps 2"
    status, out, err = cli(*words.split(), *SMALL, "--run.eval_every", "1", "--batch", "2", "--run.threads", "1")
    assert status == 0, err
    run = home / "more" / "metric"
    rows = read_metrics(run / "metrics.jsonl")
    checks = [row for row in rows if row["kind"] == "validation"]
    assert [row["by"] for row in checks] == ["macro_f1"] * 2 and all("macro_f1" in row["theta"] for row in checks)
    result = json.loads((run / "eval.json").read_text(encoding="utf-8"))["results"]["theta"]
    assert {"accuracy", "macro_f1", "macro_f1_se"} <= set(result)
    assert all(-1 <= row["A"] <= 0 for row in rows if row["kind"] == "step")
    text = (run / "README.md").read_text(encoding="utf-8")
    assert "| `method.objective` | `f1` | default `auto` |" in text
    assert ("note: c was exactly 0 in" in out) == (sum(row.get("c") == 0 for row in rows) == 2)
