"""Every way a command can end: one line on standard error, and an exit status."""

from __future__ import annotations

import difflib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, get_args, get_origin

from cyclopts import App, CycloptsError
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from zofo.cli.output import plain
from zofo.errors import BadInput, ZofoError, nearest, notes

ELSEWHERE = {
    "learning_rate": "--lr | --method.lr_p (the adapter), --method.lr_theta (the weights)",
    "lr": "--lr | --method.lr_p (the adapter), --method.lr_theta (the weights)",
    "epochs": "--steps (of the optimizer, not epochs)",
    "num_epochs": "--steps (of the optimizer, not epochs)",
    "num_train_epochs": "--steps (of the optimizer, not epochs)",
    "max_steps": "--steps",
    "per_device_train_batch_size": "--batch",
    "model_name_or_path": "--model",
    "model_name": "--model",
    "train_file": "--data.train",
    "dataset": "--task, or --data.train",
    "output_dir": "--run (its name), --run.dir (the folder of runs)",
    "lora_r": "--adapter.r",
    "lora_rank": "--adapter.r",
    "lora_alpha": "--adapter.alpha",
    "lora_dropout": "--adapter.dropout",
    "max_seq_length": "--data.max_length",
    "bf16": "--dtype bf16",
    "fp16": "--dtype fp16",
    "save_steps": "--run.save_every",
    "eval_steps": "--run.eval_every",
}
"""What options of transformers' and peft's scripts are called here; of several, the first that a command has."""


def guarded(work: Callable[[], object]) -> int:
    """Run a command to its exit status: 0, 1 failed, 2 bad input, 130 or 143 stopped by a signal."""
    from zofo.run.signals import Interrupted

    try:
        result = work()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        return told(as_input(error))
    except ZofoError as error:
        return told(error, notes(error))
    except Interrupted as error:
        goes_on = notes(error) or ["a run that had begun goes on with `zofo resume` and its name"]
        complain("; ".join([str(error), *goes_on]))
        return error.status
    except KeyboardInterrupt:
        complain("stopped")
        return 130
    except BrokenPipeError:
        hush()
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            asked = f"{str(error.filename)[:60]}..."
            return told(BadInput(asked, "it is longer than a file's name may be", "give a shorter one"))
        if "torch" in sys.modules and (line := full(error)):
            return told(line, notes(error))
        traceback.print_exc()
        return 1


def full(error: Exception) -> ZofoError | None:
    """What to say where memory, or a device's, is used up, in the first sentence of torch's own words; None where it is not."""
    from zofo.unread import used_up

    if not used_up(error):
        return None
    found = " ".join(str(error).split()).split(". ")[0] or type(error).__name__
    do = "take a smaller --batch or --data.max_length, --model.weights bf16, or look where it goes: zofo memory"
    return ZofoError("memory", found, do)


def told(error: ZofoError, more: Sequence[str] = ()) -> int:
    """Write an error's line, with what was noted on its way, and return its status."""
    complain("; ".join([str(error), *more]))
    return error.status


def complain(text: str) -> None:
    """Write `zofo: TEXT` as one line on standard error."""
    with suppress(BrokenPipeError):
        print(f"zofo: {plain(text)}", file=sys.stderr, flush=True)


def hush() -> None:
    """The reader of standard output has gone: keep Python's own flush at exit from complaining."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def as_input(error: CycloptsError) -> BadInput:
    """Turn a parser's error into asked, found, do."""
    chain = " ".join(["zofo", *(error.command_chain or ())])
    look = f"see `{chain} --help`"
    if isinstance(error, UnknownOptionError):
        word = (error.token.keyword or error.token.value).split("=", 1)[0]
        known = {name for argument in error.argument_collection for name in argument.names}
        return BadInput(word, "no such option", similar(word, known) or look)
    if isinstance(error, UnknownCommandError):
        word = (error.unused_tokens or [""])[0]
        if word == "help":
            return BadInput(f"{chain} help", "no such command", f"try `{chain} --help`, or `{chain} COMMAND --help`")
        return BadInput(f"{chain} {word}", "no such command", nearest(word, commands(error.app)))
    if isinstance(error, UnusedCliTokensError):
        return BadInput(" ".join(error.unused_tokens or ()), "one word too many", look)
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.keyword or error.argument.name
        return BadInput(f"{chain} {name}", "no value was given", look)
    if isinstance(error, RepeatArgumentError):
        return BadInput(str(error.token.keyword), "given more than once", "give it once")
    if isinstance(error, CoercionError) and error.token is not None and error.msg is None:
        return mistyped(error, chain)
    error.verbose = False
    return BadInput(chain, str(error).rstrip("."), look)


def mistyped(error: CoercionError, chain: str) -> BadInput:
    """A value that is none of the choices, or no number."""
    token, kind = error.token, error.target_type
    assert token is not None
    asked = f"{token.keyword or chain} {token.value}"
    if get_origin(kind) is Literal:
        return BadInput(asked, "no such choice", nearest(token.value, get_args(kind)))
    what = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind or str, "a value that fits")
    return BadInput(asked, f"not {what}", f"give {what}")


def similar(word: str, known: set[str]) -> str | None:
    """A hint at the nearest option, also by its last part (`--lam` for `--method.lam`); None when there is none."""
    tail = word.lstrip("-").rsplit(".", 1)[-1].replace("-", "_").lower()
    for ours in ELSEWHERE.get(tail, "").split(" | "):
        if ours.split(" ")[0].rstrip(",") in known:
            return f"here it is {ours}"
    ends = sorted(name for name in known if name.rsplit(".", 1)[-1].lower() == tail and "." in name)
    exact = [name for name in ends if name.lower() == word.lower()] or ends
    if exact:
        return f"did you mean '{exact[0]}'?"
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"did you mean '{close[0]}'?" if close else None


def commands(app: App | None) -> list[str]:
    """The names of an app's commands."""
    return [name for name in app if not name.startswith("-")] if app is not None else []
