"""`zofo bench icl`: what demonstrations in the prompt cost, their keys and values kept."""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from zofo.cli.counts import refuse_below_one, refuse_free_answers
from zofo.cli.output import line, plain, table

COLUMNS = (
    "task", "what", "kept tokens", "rows a pass", "a row, ms", "of the first", "least", "most", "read once, ms",
    "memory of a pass", "kept",
)  # fmt: skip
Counts = Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative=(), metavar="K...")]


def icl(
    *,
    model: Annotated[str, Parameter(metavar="MODEL", help="as --model of train takes it")] = "smollm2-135m",
    task: Annotated[
        tuple[str, ...], Parameter(metavar="TASK...", consume_multiple=True, negative=(), help="tasks with choices")
    ] = ("sst2",),
    shots: Annotated[Counts, Parameter(help="demonstrations")] = (16,),
    a_class: Annotated[Counts, Parameter(help="demonstrations a choice of the task")] = (4,),
    rows: Annotated[int, Parameter(help="test rows at most")] = 64,
    batch: Annotated[Counts, Parameter(help="rows a pass at most")] = (1, 32),
    rounds: Annotated[int, Parameter(help="rounds, interleaved in one process")] = 5,
    dtype: Annotated[Literal["fp32", "bf16"], Parameter(help="computing dtype")] = "fp32",
    lora: Annotated[
        bool, Parameter(negative=(), show_default=False, help="rows as they stand through an unmerged LoRA too")
    ] = False,
    channel: Annotated[bool, Parameter(negative=(), show_default=False, help="score by the noisy channel")] = False,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="print JSON")] = False,
) -> int:
    """Compare answering rows as they stand with answering them after demonstrations, whose keys and values are computed once, before the clock runs."""
    refuse_below_one({"--rows": rows, "--rounds": rounds, "--shots": shots, "--a-class": a_class, "--batch": batch})
    refuse_free_answers(task)
    from zofo.bench import icl as bench

    found = bench.main(model, task, shots, a_class, rows, batch, rounds, dtype, lora, channel)
    if json:
        line(dumps(found, indent=1))
        return 0
    form = ", channel" if channel else ""
    line(plain(f"{found['model']}, {dtype}{form}, {found['threads']} threads, median of {rounds} rounds"))
    for name, result in found["results"].items():
        for way in result["ways"]:
            if way["shots"] < way["shots_asked"]:
                lost = f"{way['shots']} of {way['shots_asked']} demonstrations (the model reads no more)"
                line(plain(f"note: {name}, {way['what']}, {way['batch']} a pass: {lost}"))
    table(COLUMNS, [told(name, way) for name, result in found["results"].items() for way in result["ways"]])
    return 0


def told(task: str, way: Mapping[str, Any]) -> tuple[str, ...]:
    """A way's line of the table."""
    from zofo.report.words import size

    read = f"{way['read_s'] * 1e3:.0f}" if "read_s" in way else "-"
    times = (f"{way['row_s'] * 1e3:.2f}", *(f"{way[key]:.2f}" for key in ("ratio", "ratio_min", "ratio_max")))
    memory = (size(way["allocated_bytes"]), size(way["kept_bytes"]))
    return (task, way["what"], str(way["kept_tokens"]), str(way["batch"]), *times, read, *memory)
