"""`zofo bench`: what steps and scoring cost on this machine, and how good projected gradients are."""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from zofo import config
from zofo.cli.counts import refuse_below_one, refuse_free_answers
from zofo.cli.estimate import estimate, key_is_read
from zofo.cli.flags import with_flags
from zofo.cli.icl import icl
from zofo.cli.output import line, plain, refuse_no_picture, table
from zofo.cli.problems import complain

Laws = tuple[Literal["rademacher", "gaussian", "sphere", "low-rank-8"], ...]
Kinds = tuple[Literal["forward", "forward-full", "forward-bf16", "zofo", "zofo-stacked", "zofo-bf16", "zofo-bf16-stacked", "mezo", "noise", "noise-ready", "noise-randn", "peft", "first-order", "peft-all", "first-order-all", "sketch", "upper-plain", "upper", "upper-stacked", "upper-bf16-plain", "upper-bf16", "upper-bf16-stacked", "iteration-plain", "iteration-bf16", "iteration-bf16-stacked"], ...]  # fmt: skip
KINDS: Kinds = ("forward", "forward-full", "forward-bf16", "zofo", "zofo-stacked", "zofo-bf16", "zofo-bf16-stacked", "mezo", "noise", "noise-ready", "noise-randn", "peft", "first-order", "peft-all", "first-order-all", "sketch", "upper-plain", "upper", "upper-stacked", "upper-bf16-plain", "upper-bf16", "upper-bf16-stacked", "iteration-plain", "iteration-bf16", "iteration-bf16-stacked")  # fmt: skip
STEPS = (
    "what", "median, s", "min, s", "max, s", "in plain forward passes", "memory above the weights",
    "in plain forwards with all logits", "resident", "in the same",
)  # fmt: skip

COLUMNS = (
    "task", "rows", "candidates", "one by one, s", "zofo, s", "times faster", "same predictions", "log-probabilities differ by",
)  # fmt: skip
WHOLE = (
    "iteration of", "dtype", "mean, s", "min, s", "max, s", "of the first", "forward", "backward", "memory of a step",
)  # fmt: skip


def as_json(result: dict[str, Any]) -> str:
    """A result as JSON text."""
    return dumps(result, indent=1)


def build(rank: int) -> App:
    """The `bench` commands, at a place in the list of commands."""
    app = App(
        name="bench",
        help="Measure what steps and scoring cost on this machine, and how good projected gradients are.",
        help_format="plaintext",
        sort_key=rank,
    )
    app.command(step, name="step")
    app.command(with_flags(train, key_trains), name="train")
    app.command(evaluate, name="eval")
    app.command(icl, name="icl")
    app.command(drift, name="drift")
    app.command(large, name="large")
    app.command(with_flags(estimate, key_is_read), name="estimate")
    return app


def step(
    *,
    model: Annotated[str, Parameter(metavar="MODEL", help="as --model of train takes it")] = "smollm2-135m",
    noise: Annotated[Laws, Parameter(consume_multiple=True, negative=(), help="laws")] = (
        "rademacher",
        "gaussian",
    ),
    rows: Annotated[int, Parameter(help="rows a batch")] = 8,
    tokens: Annotated[int, Parameter(help="tokens a row")] = 64,
    rounds: Annotated[int, Parameter(help="rounds, interleaved in one process")] = 9,
    dtype: Annotated[Literal["fp32", "bf16"], Parameter(help="computing dtype")] = "fp32",
    full: Annotated[bool, Parameter(negative=(), show_default=False, help="logits of all positions")] = False,
    methods: Annotated[
        Kinds, Parameter(consume_multiple=True, negative=(), help="kinds of step (forward passes always)")
    ] = KINDS,
    plot: Annotated[str, Parameter(metavar="FILE.png|pdf|svg", show_default=False, help="draw the result too")] = "",
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="print JSON")] = False,
) -> int:
    """Compare steps in time and in peak memory with a plain forward pass of the same batch: zeroth order over all weights, MeZO's loop, LoRA by backpropagation."""
    refuse_below_one({"--rows": rows, "--tokens": tokens, "--rounds": rounds})
    refuse_no_picture("--plot", plot or None)
    from zofo.bench import step as bench

    found = bench.main(model, noise, rows, tokens, rounds, dtype, full, methods)
    if plot:
        from zofo.bench import plot as drawing

        drawing.step(found, Path(plot))
    if json:
        line(as_json(found))
        return 0
    line(f"{found['model']}, {rows} x {tokens} tokens, {dtype}, head: {found['head']}, {found['threads']} threads")
    table(STEPS, [measured(name, result) for name, result in found["results"].items()])
    return 0


def key_trains(key: str) -> bool:
    """Whether `bench train` reads an option: all but those of the run folder and its rhythm."""
    return not key.startswith("run.") or key == "run.seed"


def train(
    flags: Mapping[str, Any],
    *names: Annotated[str, Parameter(metavar="PRESET|FILE...", help="presets or YAML files; the first is the unit")],
    rounds: Annotated[int, Parameter(help="rounds, interleaved in one process")] = 5,
    steps: Annotated[int, Parameter(help="iterations of each a round")] = 8,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="print JSON")] = False,
) -> int:
    """Compare whole training iterations of several configurations, on a task's own rows (sst2), interleaved in one process: what an iteration costs here."""
    refuse_below_one({"--rounds": rounds, "--steps": steps})
    from zofo.bench import whole
    from zofo.report.words import size

    found = whole.main(names, flags, rounds, steps, complain)
    if json:
        line(as_json(found))
        return 0
    line(plain(f"{found['model']}, {found['task']}, batch {found['batch']}, {found['threads']} threads"))
    rows = [
        (
            name,
            r["dtype"],
            *(f"{r[key]:.3f}" for key in ("mean_s", "min_s", "max_s", "ratio")),
            f"{r['forwards']:g}",
            f"{r['backwards']:g}",
            size(r["allocated_bytes"]),
        )
        for name, r in found["results"].items()
    ]
    table(WHOLE, rows)
    return 0


def drift(
    *,
    model: Annotated[str, Parameter(metavar="MODEL", help="as --model of train takes it")] = "smollm2-135m",
    weights: Annotated[
        tuple[Literal["fp32", "bf16", "fp16"], ...],
        Parameter(consume_multiple=True, negative=(), help="types that matrices are held in"),
    ] = ("fp32", "bf16"),
    estimates: Annotated[int, Parameter(help="estimates by exact probing")] = 1000,
    walks: Annotated[int, Parameter(help="estimates by MeZO's walk in place")] = 200,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="print JSON")] = False,
) -> int:
    """Count the weights that estimates leave with other bits: none by exact probing, many by MeZO's walk."""
    refuse_below_one({"--estimates": estimates, "--walks": walks})
    from zofo.bench import drift as bench

    found = bench.main(model, weights, estimates, walks)
    if json:
        line(as_json(found))
        return 0
    shown = [
        (name, str(r["estimates"]), f"{r['changed']:,}", f"{r['share']:.1%}", f"{r['drift']:.2g}")
        for name, r in found["results"].items()
    ]
    table(("weights", "estimates", "changed", "share", "|change| / |weights|"), shown)
    return 0


def measured(name: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    """A kind of step's line of the table."""
    from zofo.report.words import figure, size

    times = [f"{result[key]:.3f}" for key in ("median_s", "min_s", "max_s")]
    allocated = (size(result["allocated_bytes"]), f"{result['allocated_ratio']:.2f}")
    return (
        name,
        *times,
        f"{result['forwards']:.2f}",
        *allocated,
        size(result["resident_bytes"]),
        figure(result["resident_ratio"]),
    )


def evaluate(
    *,
    model: Annotated[str, Parameter(metavar="MODEL", help="as --model of train takes it")] = "smollm2-135m",
    task: Annotated[
        tuple[str, ...], Parameter(metavar="TASK...", consume_multiple=True, negative=(), help="tasks with choices")
    ] = ("sst2", "copa"),
    rows: Annotated[int, Parameter(help="test rows at most")] = 1000,
    rounds: Annotated[int, Parameter(help="rounds, interleaved in one process")] = 3,
    dtype: Annotated[Literal["fp32", "bf16"], Parameter(help="computing dtype")] = "fp32",
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="print JSON")] = False,
) -> int:
    """Compare scoring test rows with scoring one candidate at a time with logits at every position."""
    refuse_below_one({"--rows": rows, "--rounds": rounds})
    refuse_free_answers(task)
    from zofo.bench import evaluate as bench

    found = bench.main(model=model, tasks=task, rows=rows, rounds=rounds, dtype=dtype)
    if json:
        line(as_json(found))
        return 0
    line(f"{found['model']}, {dtype}, {found['threads']} threads, median of {rounds} rounds")
    table(COLUMNS, [compared(name, result) for name, result in found["results"].items()])
    return 0


def large(
    *,
    folder: Annotated[
        str, Parameter(metavar="DIR", help="a model's folder; made where there is none (1.1 billion weights, 4.4 GB)")
    ] = "llama-1b",
    cap: Annotated[str, Parameter(metavar="SIZE", help="as --memory-cap of train takes it")] = "2GB",
    steps: Annotated[int, Parameter(help="MeZO steps")] = 2,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="print JSON")] = False,
) -> int:
    """Train a model that is larger than a memory cap with the cap and without, and compare the bits."""
    refuse_below_one({"--steps": steps})
    config.build({"run.memory_cap": cap})
    from zofo.bench import large as bench

    found = bench.main(Path(folder), cap, steps)
    if json:
        line(as_json(found))
        return 0
    equal = ", ".join(f"{name} {'equal' if same else 'DIFFERENT'}" for name, same in found["equal"].items())
    line(plain(f"{found['model']}, {steps} MeZO steps of 2 rows: {equal}"))
    rows = [
        (
            name,
            f"{r['peak_mb']} MB",
            f"{r['step_seconds']:.1f}",
            f"{r['seconds']:.0f}",
            f"{r['cpu_seconds']:.0f}",
            f"{r['losses'][-1]:.6f}",
        )
        for name, r in found["results"].items()
    ]
    table(("what", "peak resident memory", "a step, s", "the run, s", "of the processor, s", "last loss"), rows)
    return 0


def compared(name: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    """A task's line of the table."""
    times = (f"{result['one_by_one_s']:.2f}", f"{result['zofo_s']:.2f}", f"{result['ratio']:.2f}")
    same = "yes" if result["equal_predictions"] else "NO"
    return (
        name,
        str(result["rows"]),
        str(result["candidates"]),
        *times,
        same,
        f"{result['max_logprob_difference']:.1e}",
    )
