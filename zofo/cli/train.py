"""`zofo train`: make a run, or with --dry-run say what it would be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from zofo.cli.output import line, plain, table
from zofo.config import Config, dump
from zofo.layers import begins, resolve
from zofo.methods.check import check

if TYPE_CHECKING:
    from zofo.prepared import Prepared
    from zofo.scoring.batch import Encoded

EXAMPLES = 3


def train(
    flags: Mapping[str, Any],
    *,
    preset: Annotated[str | None, Parameter(metavar="NAME", help="preset to begin with (`zofo ls presets`)")] = None,
    config: Annotated[str | None, Parameter(metavar="FILE", help="YAML file laid over the preset")] = None,
    auto_lr: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="before the run, choose probe size and rates that are not given, by probing",
        ),
    ] = False,
    dry_run: Annotated[
        bool, Parameter(negative=(), show_default=False, help="say what would be done, and stop")
    ] = False,
) -> int:
    """Fine-tune a model on a task. Flags win over the file, the file over the preset."""
    base, notes = begins(flags, preset, config)
    wanted, given = resolve(flags, base, config)
    check(wanted, given)
    if dry_run:
        return rehearse(wanted, given, auto_lr, notes)
    from zofo import begin
    from zofo.report.terminal import Reporter

    with Reporter(seconds=wanted.run.seconds) as show:
        begin.start(wanted, given, show, auto_lr, notes)
    return 0


def rehearse(config: Config, given: Collection[str], auto_lr: bool = False, notes: Sequence[str] = ()) -> int:
    """Print the resolved configuration, the splits, examples and sizes. Loads no weights, writes no run."""
    from zofo import cap, job, models, objectives
    from zofo.cli import memory, mixture
    from zofo.cli.show import answers
    from zofo.memory.sizes import estimate
    from zofo.memory.work import of_rows
    from zofo.report.words import named

    ready = job.prepare(config, given)
    line("# configuration")
    line(dump(config).rstrip())
    for note in notes:
        line(f"note: {note}")
    if auto_lr:
        line("note: --auto-lr would choose the probe size and the rates that were not given")
    task = ready.task
    line("\n# task")
    if ready.members:
        line(f"{task.name}: {ready.splits.record['source']}; objective {objectives.name_of(config, task)}")
        mixture.members(ready)
    else:
        line(plain(f"{task.name}: answers {answers(task)}; objective {objectives.name_of(config, task)}"))
        line(plain(f"measured: {', '.join(map(named, task.metrics)) or 'loss'}; template: {task.template!r}"))
    line("\n# splits")
    carved(ready.splits.record)
    for note in ready.notes:
        line(f"note: {plain(note)}")
    scored = "the input, after the right answer," if config.data.channel else "the right answer"
    line(f"\n# {EXAMPLES} training examples, as the model reads them; {scored} stands in [[ ]]")
    for example in examples(ready):
        line(marked(example, ready.tokenizer))
    line("\n# memory (before it has run)")
    made, notes = memory.decided(config)
    work = of_rows(made, ready)
    memory.print_sizes(estimate(made, models.skeleton(ready.source), work))
    for note in notes:
        line(f"note: {plain(note)}")
    if cap.streams(config, ready.source):
        line(f"the weights would stay on disk (--memory-cap {config.run.memory_cap})")
    return 0


def examples(ready: Prepared) -> Sequence[Encoded]:
    """The first training rows, with the demonstrations that a step would draw, where it does."""
    if ready.members:
        return examples(ready.of("train")[0])
    held = ready.encoded["p"][:EXAMPLES]
    return held if ready.redraw is None else [ready.redraw.encoded("p", k, "train", 0, k) for k in range(len(held))]


def carved(record: Mapping[str, Any]) -> None:
    """Print each part of the data: its rows, and the file they were taken from."""
    line(f"task {record.get('task')} from {record.get('source')}, seed {record.get('seed')}")
    parts = record.get("parts", {})
    rows = [(name, part["rows"], f"{part['of']} file", part["sha256"][:12]) for name, part in parts.items()]
    table(("part", "rows", "of", "sha256"), rows)


def marked(example: Any, tokenizer: Any) -> str:
    """An encoded example as text, what is scored of its right answer in double brackets, and a word where it was cut."""
    skip = example.skip[example.label] if example.skip else 0
    answer = example.answers[example.label]
    context = tokenizer.decode(example.context + answer[:skip])
    return f"{context}[[{tokenizer.decode(answer[skip:])}]]" + (" (cut)" if example.cut else "")
