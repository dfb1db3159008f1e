"""Exit statuses, help, version, and what is not imported."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from zofo.cli import main

HEAVY = ("torch", "transformers", "numba", "matplotlib", "datasets", "peft", "sklearn")
LIGHT = [
    "--help",
    "--version",
    "train --help",
    "predict --help",
    "memory --help",
    "ls tasks",
    "ls presets",
    "ls models",
    "ls runs",
    "show reviews",
    "show mezo",
]
COMMANDS = [
    "train",
    "resume",
    "eval",
    "adapt",
    "predict",
    "generate",
    "export",
    "compare",
    "ls",
    "show",
    "memory",
    "experiment",
    "bench",
]


def test_light_commands_import_nothing_heavy(process, tmp_path: Path) -> None:
    """One after another in one process: what any of them imports is there at its end."""
    lines = [*LIGHT, "train --method.lam -3", "train --preset mezi", "resume nosuch"]
    code = (
        "import sys\nfrom zofo.cli.main import main\n"
        f"for words in {[words.split() for words in lines]!r}:\n"
        "    main(words)\n"
        f"    assert not set(sys.modules) & set({HEAVY!r}), (words, set(sys.modules) & set({HEAVY!r}))"
    )
    done = process(code=code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_help_lists_the_commands(cli) -> None:
    status, out, err = cli("--help")
    assert status == 0 and not err
    assert all(f"\u2502 {name} " in out for name in COMMANDS)
    assert cli()[1] == out


def test_version(cli) -> None:
    import zofo as package

    assert cli("--version") == (0, f"{package.__version__}\n", "")


BAD = [
    ("foo", "no such command"),
    ("trian --model x", "no such command; did you mean 'train'?"),
    ("train --metod.lam 3", "--metod.lam: no such option; did you mean '--method.lam'?"),
    ("train --lam 3", "--lam: no such option; did you mean '--method.lam'?"),
    (
        "train --learning-rate 3",
        "--learning-rate: no such option; here it is --method.lr_p (the adapter), --method.lr_theta",
    ),
    ("adapt x --learning_rate 3", "--learning_rate: no such option; here it is --lr"),
    ("eval x --lr 3", "--lr: no such option; see `zofo eval --help`"),
    ("help train", "zofo help: no such command; try `zofo --help`, or `zofo COMMAND --help`"),
    ("train --method.t 3", "no such option; did you mean '--method.T'?"),
    ("train --method.lam", "no value was given"),
    ("train --method.lam --run x", "--method.lam"),
    ("train --seed 1 --seed 2", "--seed: given more than once; give it once"),
    ("train x", "one word too many"),
    ("train --data.hard_prompt=perhaps", "--data.hard_prompt perhaps: not true or false"),
    ("ls nothing", "no such choice; choose one of: experiments, mixtures, models, presets, runs, tasks"),
    ("ls preset", "did you mean 'presets'?"),
    ("eval", "RUN|MODEL: no value was given"),
    ("export x", "--out: no value was given"),
    ("generate x y --seed q", "--seed q: not a whole number"),
    ("bench step --rows 0", "--rows 0: not 1 or more"),
    ("predict x", "zofo predict FILE: no value was given"),
    ("predict x new.csv --out x.txt", "--out x.txt: no format of rows; end its name in .jsonl or .csv"),
    ("predict x new.csv --out nosuch/x.csv", "--out nosuch/x.csv: its folder does not exist"),
    ("predict x new.csv --data.test y", "--data.test: no such option"),
    ("resume nosuch", "no such run"),
    ("compare", "zofo compare: there is no run in runs yet"),
    ("show nosuch", "no such run, task, mixture or preset"),
    ("train --preset quikstart", "--preset quikstart: no such preset; did you mean 'quickstart'?"),
    ("train --config nosuch.yaml", "--config nosuch.yaml: no such file"),
    ("train --method.lam -3", "--method.lam -3: input should be greater than or equal to 0"),
    ("train --method.lam -1e3", "--method.lam -1e3: input should be greater"),
    ("train --method.lam nan", "--method.lam nan: input should be a finite number"),
    ("train --method.T 2.5", "--method.T 2.5: input should be a valid integer"),
    (
        "train --method.name mezzo",
        "--method.name mezzo: input should be 'bilevel', 'mezo', 'first-order', 'sketch', 'two-stage', 'addax', 'meta' or 'reptile'",
    ),
    ("train --method.tune full", "--method.tune: it has no effect for method bilevel"),
]


@pytest.mark.parametrize(("words", "told"), BAD)
def test_bad_input_is_one_line_and_status_2(cli, tmp_path, monkeypatch, words: str, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = cli(*words.split())
    assert (status, out) == (2, "")
    assert err.startswith("zofo: ") and err.count("\n") == 1 and err.endswith("\n")
    assert told in err and "; " in err and "\u2502" not in err and "Traceback" not in err


def test_bad_input_stays_one_line_whatever_was_typed(cli) -> None:
    status, _, err = cli("train", "--task", "a\nb\x1b[31m", "--model", "smollm2-135m")
    assert status == 2 and err.count("\n") == 1 and "\x1b" not in err


@pytest.mark.parametrize(
    ("words", "status"), [("--version", 0), ("ls nothing", 2), ("resume nosuch", 2), ("--nosuch", 2)]
)
def test_the_process_ends_with_the_status(process, tmp_path: Path, words: str, status: int) -> None:
    done = process(*words.split(), cwd=tmp_path)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == (1 if status else 0)


def test_a_sign_that_the_terminals_encoding_has_not_is_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_ = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_, encoding="ascii"))
    main.lenient()
    sys.stdout.write("caf\u00e9\n")
    sys.stdout.flush()
    assert bytes_.getvalue() == b"caf?\n"
