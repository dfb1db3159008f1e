"""Flags are the dotted keys; only what was typed is taken; nothing is added unnoticed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App
from cyclopts.exceptions import UnknownOptionError

from zofo.cli import flags
from zofo.config import Config, flatten, keys
from zofo.elsewhere import scores_with
from zofo.layers import resolve

OPTIONS = Path(__file__).parent / "options.txt"


@functools.cache
def app(wanted: Callable[[str], bool]) -> App:
    """A command that returns what was typed."""

    def command(given: dict[str, Any]) -> Any:
        return given

    made = App(result_action="return_value")
    made.default(flags.with_flags(command, wanted))
    return made


def typed(*words: str, wanted: Callable[[str], bool] = flags.every) -> dict[str, Any]:
    return dict(app(wanted)(flags.joined(list(words)), exit_on_error=False, print_error=False))


def test_the_options_are_those_of_the_list() -> None:
    """An option that comes or goes changes this committed list."""
    assert keys() == OPTIONS.read_text(encoding="utf-8").split()


def test_every_key_is_a_flag_under_its_own_name() -> None:
    """All at once, each with a value of its own (a truth value: alone)."""
    switches = {key for key, value in flatten(Config().model_dump(), "").items() if isinstance(value, bool)}
    found = typed(*(f"--{key}" if key in switches else f"--{key}={number}" for number, key in enumerate(keys())))
    assert list(found) == keys()
    for number, key in enumerate(keys()):
        assert found[key] in ([True] if key in switches else [str(number), (str(number),)]), key


def test_a_command_has_the_options_that_it_reads_and_no_others() -> None:
    data = {key for key in keys() if key.startswith("data.")} - {"data.batch", "data.redraw"}
    assert {key for key in keys() if scores_with(key)} == data | {"model.dtype", "run.seed"}
    assert typed("--shots", "3", "--seed", "1", wanted=scores_with) == {"data.shots": "3", "run.seed": "1"}
    for words in (["--method.T", "3"], ["--run.steps", "4"], ["--objective", "lm"], ["--model.name", "m"]):
        with pytest.raises(UnknownOptionError):
            typed(*words, wanted=scores_with)


def test_only_what_was_typed_is_taken() -> None:
    assert typed() == {}
    assert typed("--method.T", "10") == {"method.T": "10"}  # the default too, when it was typed


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("--model m", "model.name", "m"),
        ("--task t", "data.task", "t"),
        ("--run r", "run.name", "r"),
        ("--run.name r", "run.name", "r"),
        ("--seed 3", "run.seed", "3"),
        ("--steps 4", "run.steps", "4"),
        ("--seconds 5", "run.seconds", "5"),
        ("--memory-cap 2GB", "run.memory_cap", "2GB"),
        ("--batch 6", "data.batch", "6"),
        ("--dtype bf16", "model.dtype", "bf16"),
        ("--shots 3", "data.shots", "3"),
        ("--calibration sfc", "data.calibration", "sfc"),
        ("--objective f1", "method.objective", "f1"),
        ("--method.lambda 7", "method.lam", "7"),
        ("--method.lr-p 1e-3", "method.lr_p", "1e-3"),
        ("--method.lam -3", "method.lam", "-3"),
        ("--method.lam=-3e-4", "method.lam", "-3e-4"),
        ("--data.hard_prompt false", "data.hard_prompt", False),
        ("--data.hard-prompt false", "data.hard_prompt", False),
        ("--data.hard_prompt=no", "data.hard_prompt", False),
        ("--no-data.hard_prompt", "data.hard_prompt", False),
        ("--model.activation_checkpointing", "model.activation_checkpointing", True),
        ("--no-model.shadow", "model.shadow", False),
        ("--model.activation_checkpointing TRUE", "model.activation_checkpointing", True),
        ("--adapter.targets q_proj v_proj", "adapter.targets", ("q_proj", "v_proj")),
        ("--adapter.targets q --adapter.targets v", "adapter.targets", ("q", "v")),
        ("--adapter.targets all-linear", "adapter.targets", ("all-linear",)),
    ],
)
def test_spellings(words: str, key: str, value: object) -> None:
    assert typed(*words.split()) == {key: value}


def test_flags_win_over_the_file_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("preset: bilevel-lora\nmethod: {T: 7, lam: 3}\n", encoding="utf-8")
    config, given = resolve(typed("--method.T", "10", "--adapter.targets", "a", "b"), None, str(file))
    assert (config.method.T, config.method.lam, config.method.warmup) == (10, 3.0, 10)
    assert config.adapter.targets == ("a", "b")
    assert given == {"method.T", "method.lam", "adapter.targets"}


def test_help_lists_sections_descriptions_choices_and_defaults(cli) -> None:
    status, out, _ = cli("train", "--help")
    text = " ".join(out.replace("\u2502", " ").split())
    assert status == 0
    assert all(f" {name} \u2500" in out for name in flags.sections())
    for part in (
        "--method.lam --method.lambda FLOAT",
        "[bilevel | mezo | first-order | sketch | two-stage | addax | meta | reptile]",
        "[default: 10]",
        "D_f (upper level)",
    ):
        assert part in text
