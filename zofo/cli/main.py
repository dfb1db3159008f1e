"""The entry point `zofo`. Everything heavy is imported inside the commands."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Sequence

from cyclopts import App

import zofo
from zofo.adapting import options
from zofo.cli import (
    adapt,
    bench,
    compare,
    evaluate,
    experiment,
    export,
    flags,
    generate,
    ls,
    memory,
    predict,
    resume,
    show,
    train,
    waiting,
)
from zofo.cli.problems import guarded
from zofo.elsewhere import scores_with
from zofo.memory import heap

ABOUT = """Fine-tune all weights of a language model in the memory of training an adapter, or (mezo) of running it.

To begin: zofo train --preset quickstart"""
COMMANDS: dict[str, Callable[..., int]] = {
    "train": flags.with_flags(train.train),
    "resume": resume.resume,
    "eval": flags.with_flags(evaluate.evaluate, scores_with),
    "adapt": flags.with_flags(adapt.adapt, options.key_is_read),
    "predict": flags.with_flags(predict.predict, predict.key_is_read),
    "generate": generate.generate,
    "export": export.export,
    "compare": compare.compare,
    "ls": ls.ls,
    "show": show.show,
    "memory": flags.with_flags(memory.memory),
    "experiment": experiment.experiment,
}


def build() -> App:
    """Make the command line's parser."""
    app = App(name="zofo", help=ABOUT, version=zofo.__version__, help_format="plaintext", result_action="return_value")
    for rank, (name, command) in enumerate(COMMANDS.items()):
        app.command(command, name=name, sort_key=rank)
    app.command(bench.build(len(COMMANDS)))
    return app


def lenient() -> None:
    """A sign that the terminal's encoding has not is printed as a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status (0 done, 1 failed, 2 bad input, 130 or 143 stopped).

    Args: argv, the words after `zofo` (the process's own when None).
    """
    words = flags.joined(list(sys.argv[1:] if argv is None else argv))
    heap.keep()
    waiting.patient()
    lenient()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # libraries telling each other's authors
        return guarded(lambda: build()(words, exit_on_error=False, print_error=False))


if __name__ == "__main__":
    sys.exit(main())
