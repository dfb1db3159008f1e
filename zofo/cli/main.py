"""The entry point `zofo`. Everything heavy is imported inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App

import zofo
from zofo.cli import bench, compare, evaluate, export, flags, generate, ls, resume, show, train
from zofo.cli.problems import guarded

ABOUT = "Fine-tune all weights of a language model for about the memory of running it."


def build() -> App:
    """Make the command line's parser."""
    app = App(name="zofo", help=ABOUT, version=zofo.__version__, help_format="plaintext", result_action="return_value")
    app.command(flags.with_flags(train.train), name="train")
    app.command(resume.resume, name="resume")
    app.command(evaluate.evaluate, name="eval")
    app.command(generate.generate, name="generate")
    app.command(export.export, name="export")
    app.command(compare.compare, name="compare")
    app.command(ls.ls, name="ls")
    app.command(show.show, name="show")
    app.command(bench.build(), name="bench")
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status (0 done, 1 failed, 2 bad input, 130 or 143 stopped).

    Args: argv, the words after `zofo` (the process's own when None).
    """
    words = flags.joined(list(sys.argv[1:] if argv is None else argv))
    return guarded(lambda: build()(words, exit_on_error=False, print_error=False))


if __name__ == "__main__":
    sys.exit(main())
