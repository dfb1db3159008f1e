"""`zofo resume`: go on with a run."""

from __future__ import annotations

from zofo.cli.target import Dir, Run
from zofo.run import folder


def resume(run: Run, /, *, dir: Dir = "runs") -> int:
    """Go on with a run that was stopped, from its newest good checkpoint, to the same bits as one never stopped."""
    found = folder.find(run, dir)
    from zofo import begin, config
    from zofo.report.terminal import Reporter

    with Reporter(seconds=config.load(found.config).run.seconds) as show:
        begin.go_on(found, show)
    return 0
