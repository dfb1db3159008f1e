"""`memory` tells sizes before a run, of one configuration or of all methods, without weights."""

from __future__ import annotations

import json

import pytest

from zofo.cli import memory
from zofo.config import build
from zofo.memory.sizes import UNKNOWN, Size

SMALL = ["--data.train_rows", "12", "--data.validation_rows", "6", "--data.test_rows", "8", "--batch", "2"]


def rows(out: str) -> list[list[str]]:
    return [line.split("\t") for line in out.splitlines() if "\t" in line]


def test_one_configuration(cli, model: str) -> None:
    status, out, err = cli("memory", "--preset", "bilevel-lora", "--model", model, "--task", "reviews", *SMALL)
    assert status == 0, err
    head, *found, last = rows(out)
    assert head == ["what", "size", "when"] and last[0] == "total"
    names = [name for name, _, _ in found]
    assert names[:2] == ["weights (fp32)", "adapters (2)"] and "scratch for probing" in names
    times = {when for _, _, when in found}
    assert {"an adapter's forward and backward pass", "a forward pass of the zeroth-order level"} <= times
    assert "not estimated" not in out and out.splitlines()[0].startswith(f"{model}, fp32, 2 rows of ")


def test_sizes_in_bytes_add_up(cli, model: str) -> None:
    words = ["--preset", "fo-lora", "--model", model, "--data.max_length", "16", "--batch", "2"]
    status, out, err = cli("memory", *words, "--json")
    assert status == 0, err
    found = json.loads(out)
    learning = sum(size["bytes"] for size in found["sizes"] if size["when"] == "learning")
    assert found["total"] == learning + sum(s["bytes"] for s in found["sizes"] if s["when"] in ("before", "steps"))
    assert "scoring" not in {size["when"] for size in found["sizes"]}  # no task, so no rows to score


@pytest.mark.slow
def test_all_methods(cli, model: str) -> None:
    status, out, err = cli("memory", "--all", "--model", model, "--data.max_length", "16", "--batch", "2")
    assert status == 0, err
    head, *found = rows(out)
    assert head[0] == "method" and head[-1] == "total" and "2 rows of 16 tokens" in out
    methods = [row[0] for row in found]
    assert methods[:4] == ["bilevel, lora", "bilevel, prefix", "bilevel, prompt", "mezo, full"]
    assert methods[-1] == "reptile, prompt" and len(methods) == 22
    assert {"sketch, full", "first-order, full", "first-order, prompt", "two-stage, prompt"} <= set(methods)
    by_name = {row[0]: dict(zip(head, row, strict=True)) for row in found}
    assert by_name["mezo, full"]["forward and backward pass"] == "-" == by_name["mezo, full"]["adapters and optimizers"]
    assert by_name["first-order, lora"]["scratch"] == "-"
    assert not any(cell == "not estimated" for row in found for cell in row)


@pytest.mark.parametrize(
    "some", [("bilevel, lora", "bilevel, prefix", "mezo, full"), pytest.param((), marks=pytest.mark.slow, id="every")]
)
def test_all_as_json_and_what_cannot_be_is_named(
    cli, model: str, monkeypatch: pytest.MonkeyPatch, some: tuple[str, ...]
) -> None:
    sized, held, every = memory.sized, [], memory.variants
    monkeypatch.setattr(memory, "variants", lambda config: ((n, c) for n, c in every(config) if not some or n in some))
    monkeypatch.setattr(memory, "sized", lambda *given: held.append(sized(*given)) or held[-1])
    words = ["--all", "--model", model, "--data.max_length", "16", "--batch", "2", "--model.activation_checkpointing"]
    status, out, err = cli("memory", *words)
    assert status == 0, err
    assert "note: bilevel, prefix: --model.activation_checkpointing: peft refuses it with a prefix" in out
    assert "bilevel, prefix" not in [row[0] for row in rows(out)]
    again = iter(held)  # the same sizes, not estimated twice
    monkeypatch.setattr(memory, "sized", lambda *given: next(again))
    found = json.loads(cli("memory", *words, "--json")[1])
    assert set(found["configurations"]) >= {"bilevel, lora", "mezo, full"} and all(
        one["whole"] for one in found["configurations"].values()
    )
    assert "peft refuses it with a prefix" in found["refused"]["bilevel, prefix"]
    assert any("two points a pass" in note for note in found["notes"])


def test_a_cap_that_the_weights_do_not_fit_under_is_told(cli, model: str) -> None:
    words = ["--preset", "mezo", "--model", model, "--data.max_length", "16", "--batch", "2", "--memory-cap"]
    assert "note: under --memory-cap 1MB these weights would stay on disk" in cli("memory", *words, "1MB")[1]
    assert any("stay on disk" in note for note in json.loads(cli("memory", *words, "1MB", "--json")[1])["notes"])
    assert "stay on disk" not in cli("memory", *words, "1TB")[1]
    kept = ["--preset", "fo-lora", *words[2:]]
    assert "note: --memory-cap 1MB: about " in cli("memory", *kept, "1MB")[1], "a run would be refused"


def test_a_size_that_is_not_estimated_is_null_in_json() -> None:
    found = memory.as_json([Size("weights", 8, "before", "weights"), Size("a pass", UNKNOWN, "probing")])
    assert [size["bytes"] for size in found["sizes"]] == [8, None] and (found["total"], found["whole"]) == (8, False)


def test_rows_are_no_longer_than_the_model_reads(cli, model: str) -> None:
    words = f"memory --model {model} --preset bilevel-prefix --batch 2 --data.max_length 4000 --adapter.tokens 8"
    assert "2 rows of 120 tokens" in cli(*words.split())[1]  # 128 positions


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("memory --model ./nosuch", "--model ./nosuch"),
        ("memory --model nosuch --method.tune full", "--method.tune: it has no effect for method bilevel"),
        ("memory --preset mezi", "--preset mezi: no such preset; did you mean 'mezo'?"),
    ],
)
def test_bad_input(cli, words: str, told: str) -> None:
    status, out, err = cli(*words.split())
    assert (status, out) == (2, "") and told in err and err.count("\n") == 1


def test_variants_keep_everything_else_as_configured() -> None:
    config = build({"method.name": "mezo", "method.q": 3, "adapter.r": 2})
    made = dict(memory.variants(config))
    assert all((c.method.q, c.adapter.r) == (3, 2) for c in made.values())
    assert (made["mezo, full"].method.tune, made["mezo, lora"].method.tune) == ("full", "adapter")


def test_sizes_are_told_in_words() -> None:
    assert [memory.told(count) for count in (538_000_000, 0, -1)] == ["538 MB", "-", "not estimated"]
