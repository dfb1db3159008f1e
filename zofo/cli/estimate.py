"""`zofo bench estimate`: how good projected gradients are, and whole estimates of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from json import dumps
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from zofo.cli.counts import refuse_below_one
from zofo.cli.output import line, plain, table
from zofo.cli.problems import complain
from zofo.cli.target import Dir
from zofo.errors import BadInput
from zofo.run import folder

ESTIMATES = ("where", "objective", "dtype", "eps", "error", "se", "smallest", "in goal", "rms error", "|grad|", "n")
COSINES = ("where", "objective", "estimator", "dtype", "eps", "cosine", "se", "variance", "se", "formula", "n")
READ = ("data.", "adapter.", "model.name", "model.device", "method.objective", "method.lam", "method.weighting",
    "method.init", "method.accumulate_upper", "run.seed", "run.threads")  # fmt: skip
"""Options of the configuration (or their beginnings) that `bench estimate` reads."""
UNREAD = ("data.calibration", "adapter.dropout")
"""Those of them that act elsewhere only: in evaluation, in lower-level steps."""


def key_is_read(key: str) -> bool:
    """Whether an option of the configuration has an effect on `bench estimate`."""
    return key not in UNREAD and any(key == name or (name.endswith(".") and key.startswith(name)) for name in READ)


def estimate(
    flags: Mapping[str, Any],
    *,
    run: Annotated[
        str | None, Parameter(metavar="RUN", help="a run: its options, at its start and after its last checkpoint")
    ] = None,
    preset: Annotated[str | None, Parameter(metavar="NAME", help="without a run (none: bilevel-lora)")] = None,
    eps: Annotated[
        tuple[float, ...], Parameter(metavar="EPS...", consume_multiple=True, negative=(), help="probe sizes")
    ] = (3e-4, 1e-3, 3e-3, 1e-2),
    seeds: Annotated[int, Parameter(help="how many z, for each batch")] = 8,
    batches: Annotated[int, Parameter(help="how many batches")] = 2,
    dtype: Annotated[
        tuple[Literal["fp32", "bf16", "fp16"], ...],
        Parameter(consume_multiple=True, negative=(), help="computing dtypes"),
    ] = ("fp32", "bf16"),
    noise: Annotated[Literal["rademacher", "gaussian", "sphere"], Parameter(help="law of z")] = "gaussian",
    kinds: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="KIND...",
            consume_multiple=True,
            negative=(),
            help="cosines too: all, central, forward-sphere, sketch, ...",
        ),
    ] = (),
    keys: Annotated[int, Parameter(help="with --kinds: how many z or R, for each batch")] = 4,
    rank: Annotated[int, Parameter(help="with --kinds: rank of a sketch")] = 8,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="print JSON")] = False,
    dir: Dir = "runs",
) -> int:
    """Compare projected gradients c with the exact <grad, z>, for A, G = A + lambda (B - C), and G's parts.

    Error: the mean of (c - <grad, z>)^2 divided by |grad|^2, which is the variance of <grad, z> over z.
    With --kinds, for estimators (central, forward, sketch; by law of z or R, and a sketch by side), for A and G: the cosine of
    the whole estimate and the gradient, and |estimate - grad|^2 / |grad|^2 beside the formula of its mean. It costs, for each
    place, batch, key, dtype and kind, eight forward passes an eps (a sketch: four forward and backward); all: twelve kinds.
    Without a run: smollm2-135m on sst2 at its start. Needs one gradient of model size beside a step's memory.
    """
    refuse_below_one({"--seeds": seeds, "--batches": batches, "--keys": keys, "--rank": rank})
    found_run = place(eps, run, dir, [*flags, *(["preset"] if preset else [])])
    from zofo.bench import cosine
    from zofo.bench import estimate as bench

    found = bench.main(
        flags, preset or bench.PRESET, found_run, eps=tuple(dict.fromkeys(eps)), seeds=seeds, batches=batches,
        dtypes=tuple(dict.fromkeys(dtype)), noise=noise, say=complain, kinds=cosine.chosen(kinds), keys=keys, rank=rank,
    )  # fmt: skip
    if json:
        line(dumps(found, indent=1))
        return 0
    tell_estimates(found)
    if found["cosines"]:
        tell_cosines(found)
    return 0


def place(eps: Sequence[float], run: str | None, dir: str, given: Sequence[str]) -> folder.RunFolder | None:
    """The run to measure, if one is named; probe sizes are above 0, and a run has its own options."""
    for value in eps:
        if not 0 < value < math.inf:
            raise BadInput(f"--eps {value}", "not a number above 0", "give probe sizes such as 1e-3")
    if run is None:
        return None
    found = folder.find(run, dir)
    if given:
        raise BadInput(f"--{given[0]}", "a run has its own", "leave it out, or leave --run out")
    return found


def tell_estimates(found: Mapping[str, Any]) -> None:
    """Print what was measured, what the error is, and a line for each place, objective, dtype and eps."""
    what = f"{found['model']}, {found['task']}" + (f", run {found['run']}" if found["run"] else "")
    over = f"{len(found['seeds'])} {found['noise']} z on each of {found['batches']} batches of {found['batch']} rows"
    line(plain(f"{what}, {found['objective']} loss, {found['adapter']}; {over}; {found['threads']} threads"))
    weighed = [place for place in found["places"] if place["lambda"] is not None]
    where = ", ".join(f"{place['lambda']:.3g} at {place['where']}" for place in weighed)
    total = f"G = A + lambda (B - C), lambda {where}; c of a term is before its weight" if where else "G = A"
    line(plain(total))
    line(f"error: {found['error']}; goal: <= {found['goal']}")
    table(ESTIMATES, map(estimated, found["results"]))


def estimated(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the table; "-" where there is no number (|grad| 0, or losses that are not finite)."""

    def shown(key: str, form: str = ".3g") -> str:
        return "-" if row[key] is None else format(row[key], form)

    marks = ("*" if row["best"] else "", "yes" if row["goal"] else "no" if row["error"] is not None else "-")
    figures = (shown("error"), shown("error_se", ".2g"), *marks, shown("rms_error"), shown("grad_norm"), counted(row))
    return (row["where"], row["objective"], row["dtype"], f"{row['eps']:g}", *figures)


def tell_cosines(found: Mapping[str, Any]) -> None:
    """Print a line for each place, objective, estimator, dtype and eps."""
    line(f"whole estimates g over {len(found['keys'])} keys on each batch, sketches of rank {found['rank']}:")
    line("cosine <g, grad> / (|g| |grad|); variance |g - grad|^2 / |grad|^2, and the formula of its mean")
    table(COSINES, map(compared_whole, found["cosines"]))


def compared_whole(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the table of cosines; "-" where there is no number."""

    def shown(key: str, form: str = ".3g") -> str:
        return "-" if row[key] is None else format(row[key], form)

    figures = (shown("cosine"), shown("cosine_se", ".2g"), shown("variance", ".4g"), shown("variance_se", ".2g"))
    where = (row["where"], row["objective"], row["kind"], row["dtype"], shown("eps", "g"))
    return (*where, *figures, shown("formula", ".4g"), counted(row))


def counted(row: Mapping[str, Any]) -> str:
    """How many numbers a row is over, and how many of them are not finite."""
    return str(row["n"]) if row["finite"] == row["n"] else f"{row['n']}, {row['n'] - row['finite']} not finite"
