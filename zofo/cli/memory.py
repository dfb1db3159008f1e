"""`zofo memory`: what a run as configured would need, told before it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from zofo.cli.output import line, table
from zofo.config import Config
from zofo.errors import BadInput
from zofo.layers import begins, resolve
from zofo.methods.check import check
from zofo.methods.table import KIND, METHODS

if TYPE_CHECKING:
    from zofo.memory.sizes import Size
    from zofo.memory.work import Work
    from zofo.sources import Source
    from zofo.tasks.definition import Task

COLUMNS = (
    "method", "weights", "adapters and optimizers", "scratch", "forward and backward pass", "forward pass", "scoring",
    "above the weights", "total",
)  # fmt: skip


def memory(
    flags: Mapping[str, Any],
    *,
    preset: Annotated[str | None, Parameter(metavar="NAME", help="preset to begin with (`zofo ls presets`)")] = None,
    config: Annotated[str | None, Parameter(metavar="FILE", help="YAML file laid over the preset")] = None,
    all: Annotated[bool, Parameter(negative=(), show_default=False, help="a line for each method and adapter")] = False,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="print JSON, sizes in bytes")] = False,
) -> int:
    """Say what a run would need in memory, without its weights. Options as for `train`; without a task, rows of --data.max_length tokens, demonstrations (--shots) in front."""
    base, told = begins(flags, preset, config)
    wanted, given = resolve(flags, base, config)
    source, decided, work, notes = begun(wanted, given)
    rows, tokens = work(decided).shape
    where = f"{wanted.model.name}, {decided.model.dtype}, {rows} rows of {tokens} tokens"
    notes += outside(decided, source) + told
    if all:
        compared(where, {name: sized(made, source, work) for name, made in variants(decided)}, notes, json)
    else:
        one(f"{where}, {wanted.method.name}", sized(decided, source, work), notes, json)
    return 0


def outside(config: Config, source: Source) -> list[str]:
    """A note of a cap that the weights do not fit under: that they would stay on disk, or why a run would be refused."""
    from zofo import cap

    limit = config.run.memory_cap
    try:
        if not limit or not cap.streams(config, source):
            return []
    except BadInput as error:
        return [f"{error.asked}: {error.found}"]
    return [
        f"under --memory-cap {limit} these weights would stay on disk, and come into memory a module at a time (docs/streaming.md)"
    ]


def begun(config: Config, given: Collection[str]) -> tuple[Source, Config, Callable[[Config], Work], list[str]]:
    """The model's source, the configuration as decided, and what gives one's largest batches: of the task's rows, or (no task) of rows as long as the options allow."""
    check(config, given)
    from zofo import job, models, sources
    from zofo.memory import work

    if config.data.mixture or config.data.task or config.data.train:
        ready = job.prepare(config, given)
        config, notes = decided(config, ready.task)
        return ready.source, config, lambda made: work.of_rows(made, ready), notes
    source, (config, notes) = sources.find(config.model.name), decided(config)
    positions = models.positions(source)
    room = positions - job.virtual(config) if positions else None
    return source, config, lambda made: work.of_shape(made, work.row(made, room)), notes


def decided(config: Config, task: Task | None = None) -> tuple[Config, list[str]]:
    """The configuration with every `auto` decided as a run would, by measuring, but for `stack`: on, which takes more."""
    from zofo import settled
    from zofo.methods.table import effective

    made, notes = settled.types(config, task)
    if made.method.stack != "auto":
        return made, notes
    if "method.stack" in effective(made):
        notes = [
            *notes,
            "two points a pass are counted where rows can be stacked, as --method.stack auto may choose; one takes less",
        ]
    return with_keys(made, method={"stack": "on"}), notes


def variants(config: Config) -> Iterator[tuple[str, Config]]:
    """Every method with every adapter that it can have, otherwise as configured."""
    for name, row in METHODS.items():
        named = with_keys(config, method={"name": name})
        tunes = ("full", "adapter") if "tune" in row.options(named) else (config.method.tune,)
        for tuned in (with_keys(named, method={"tune": tune}) for tune in tunes):
            kinds = list(KIND) if row.uses_adapter(tuned) else [config.adapter.kind]
            for made in (with_keys(tuned, adapter={"kind": kind}) for kind in kinds):
                yield f"{name}, {made.adapter.kind if row.uses_adapter(made) else 'full'}", made


def with_keys(config: Config, **changed: dict[str, Any]) -> Config:
    """A configuration with some keys of its sections changed."""
    return config.model_copy(update={k: getattr(config, k).model_copy(update=v) for k, v in changed.items()})


def sized(config: Config, source: Source, work: Callable[[Config], Work]) -> list[Size] | str:
    """A configuration's sizes, or why it cannot be."""
    from zofo import models
    from zofo.memory.sizes import estimate

    try:
        check(config, ())
        return estimate(config, models.skeleton(source), work(config))
    except BadInput as error:
        return f"{error.asked}: {error.found}"


def one(title: str, sizes: list[Size] | str, notes: Sequence[str], json: bool) -> None:
    """Print one configuration's sizes."""
    if isinstance(sizes, str):
        raise BadInput("zofo memory", sizes, "change these options")
    if json:
        line(dumps({**as_json(sizes), "notes": list(notes)}, indent=1))
        return
    line(title)
    print_sizes(sizes)
    for note in notes:
        line(f"note: {note}")


def as_json(sizes: list[Size]) -> dict[str, Any]:
    """Sizes in bytes (null: not estimated), their total, and whether that is all of it."""
    from zofo.memory.sizes import UNKNOWN, total, whole

    known = [vars(size) | ({"bytes": None} if size.bytes == UNKNOWN else {}) for size in sizes]
    return {"sizes": known, "total": total(sizes), "whole": whole(sizes)}


def print_sizes(sizes: list[Size]) -> None:
    """Print sizes as a table, with their total."""
    from zofo.memory.sizes import WHEN

    rows = [(size.name, told(size.bytes), WHEN[size.when]) for size in sizes]
    table(("what", "size", "when"), [*rows, ("total", of_all(sizes), "what stays, and the largest pass")])
    line("counted: what torch allocates; Python with its libraries and what malloc adds come on top")


def compared(title: str, found: Mapping[str, list[Size] | str], notes: Sequence[str], json: bool) -> None:
    """Print a line a configuration; those that cannot be are named below."""
    made = {name: sizes for name, sizes in found.items() if not isinstance(sizes, str)}
    refused = {name: why for name, why in found.items() if isinstance(why, str)}
    if json:
        parts = {name: as_json(sizes) for name, sizes in made.items()}
        line(dumps({"configurations": parts, "refused": refused, "notes": list(notes)}, indent=1))
        return
    line(title)
    table(COLUMNS, [summed(name, sizes) for name, sizes in made.items()])
    for note in [*(f"{name}: {why}" for name, why in refused.items()), *notes]:
        line(f"note: {note}")


def summed(name: str, sizes: list[Size]) -> tuple[str, ...]:
    """A configuration's line of the table."""
    from zofo.memory.sizes import UNKNOWN, total

    def of(*when: str, scratch: bool = False, weights: bool = False) -> str:
        chosen = [s for s in sizes if s.when in when and s.name.startswith("scratch") == scratch]
        chosen = [s for s in chosen if s.name.startswith("weights") == weights]
        return told(UNKNOWN if any(s.bytes == UNKNOWN for s in chosen) else sum(s.bytes for s in chosen))

    weights = next(s.bytes for s in sizes if s.name.startswith("weights"))
    there = {s.when for s in sizes}
    backwards = next((when for when in ("sketching", "descending") if when in there), "learning")  # the largest
    passes = (of(backwards), of("probing"), of("scoring"))
    above = told(total(sizes) - weights)
    return (name, told(weights), of("before", "steps"), of("steps", scratch=True), *passes, above, of_all(sizes))


def told(count: int) -> str:
    """A size, or that it is not estimated."""
    from zofo.report.words import size

    return size(count) if count > 0 else "-" if count == 0 else "not estimated"


def of_all(sizes: list[Size]) -> str:
    """The total, or the least that it can be."""
    from zofo.memory.sizes import total, whole

    return f"{'' if whole(sizes) else 'at least '}{told(total(sizes))}"
