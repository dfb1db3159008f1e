"""The model card, README.md of a run folder: what was made, how, what it scores, how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from zofo.config import Config, flatten
from zofo.methods.table import METHODS, apart, effective, lends, moves_theta, zeroth
from zofo.report import history
from zofo.report.words import LOSSES, ZERO_SHOT, duration, figure, measured, named, primary, rows_of, score, size

HUB_IDS = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Hub ids of the models that zofo knows by names of its own."""

ROLES = {
    "D_f": "training, upper level",
    "D_p": "training, lower level",
    "validation": "validation (everything is chosen on it)",
    "test": "test (nothing is chosen on it)",
}

VERSIONS = ("zofo", "python", "torch", "transformers", "peft", "numpy", "numba")

LOADED = {
    True: "What was exported loads with `transformers.AutoModelForCausalLM.from_pretrained(FOLDER)`.",
    False: "What was exported loads with `AutoModelForCausalLM.from_pretrained(FOLDER/base)` (transformers) and, "
    "around it, `PeftModel.from_pretrained(base, FOLDER/adapter)` (peft).",
}

LIMITS = """\
- One seed, one split: the standard errors are those of the test rows alone, not of other seeds or other data.
- The model was trained to choose this task's answers; what it writes otherwise may have become worse.
- What the base model gets wrong, and the biases of its data, are still there.
- The base model's licence holds for these weights, and the data's licence may restrict their use.
  Check both before sharing."""


def render(
    config: Config,
    environment: Mapping[str, Any],
    splits: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    totals: Mapping[str, Any],
    name: str,
) -> str:
    """Write a run's model card as markdown with the front matter that the hub reads.

    Args: the contents of the run folder's files; totals, steps, seconds of training, forwards and
    backwards; name, the run's. Returns the text.
    """
    parts = [
        front(config),
        f"# {name}",
        opening(config),
        f"## Base model\n\n{base(environment)}",
        f"## Data\n\n{data(splits)}",
        f"## Method\n\n{method(config)}",
        f"## Training\n\n{training(config, environment, totals, evaluation.get('memory', {}))}{advised(metrics)}",
        f"## Results\n\n{results(evaluation, untested(splits), config.data.shots)}",
        f"## Which adapter is used\n\n{choice(config, evaluation, metrics)}",
        f"## How to use it\n\n{usage(name, config, untested(splits))}",
        f"## Limits and licence\n\n{LIMITS}",
    ]
    return "\n\n".join(parts) + "\n"


def adapted(config: Config) -> bool:
    """Whether the trained model has an adapter."""
    return lends(config)


def front(config: Config) -> str:
    """The YAML front matter. `base_model` is left out where the base has no hub id.

    The library is peft where an adapter fits the base as published; one that fits a trained theta alone would be put on the wrong weights.
    """
    hub = HUB_IDS.get(config.model.name) or hub_id(config.model.name)
    found: dict[str, Any] = {"base_model": hub} if hub else {}
    found["library_name"] = "peft" if adapted(config) and not moves_theta(config) else "transformers"
    found["pipeline_tag"] = "text-generation"
    kind = ["zeroth-order"] if zeroth(config.method) else []
    found["tags"] = ["zofo", config.method.name, *kind, *([config.adapter.kind] if adapted(config) else [])]
    return f"---\n{yaml.safe_dump(found, sort_keys=False)}---"


def hub_id(name: str) -> str | None:
    """A model's name if it looks like a hub id and is no file or folder, else None."""
    local = name.startswith((".", "/", "~")) or name.endswith(".gguf") or Path(name).exists()
    return None if local or name.count("/") != 1 else name


def opening(config: Config) -> str:
    """What this is, in a sentence."""
    what = f"a {config.adapter.kind} adapter" if adapted(config) else "no adapter"
    with_weights = "all weights" if moves_theta(config) else "the adapter alone"
    return (
        f"`{config.model.name}` fine-tuned on `{rows_of(config)}` by zofo with the method `{config.method.name}` "
        f"({what}; {with_weights} trained). Everything needed to repeat it stands in `config.yaml`: "
        "`zofo train --config config.yaml --run OTHER_NAME`."
    )


def base(environment: Mapping[str, Any]) -> str:
    """The base model and its hash."""
    held = environment.get("base", {})
    return f"`{held.get('name', '?')}`, SHA-256 over its weights' names, shapes and bytes: `{held.get('sha256', '?')}`."


def data(splits: Mapping[str, Any]) -> str:
    """Task, source, and the sizes of the splits."""
    parts = splits.get("parts", {}).items()
    rows = [(ROLES.get(part, part), part, held["rows"], f"{held['of']} file") for part, held in parts]
    notes = "".join(f"\n- {note}" for note in splits.get("notes", []))
    source = f"Task `{splits.get('task')}`, rows from {splits.get('source')}, split with seed {splits.get('seed')}"
    table = grid(("what for", "split", "rows", "taken from"), rows)
    if members := splits.get("members"):
        table += f"\n\n{of_members(members)}"
    apart = "no text stands in two splits"
    if members:
        apart += " of one task, and no training row's among the test rows of an unseen task"
    return f"{source}; {apart}.\n\n{table}" + (f"\n{notes}" if notes else "")


def of_members(members: Mapping[str, Any]) -> str:
    """The tasks of a mixture: side and rows of each part."""
    names = list(ROLES)
    rows = [
        (
            f"`{task}`",
            "training" if held["side"] == "train" else "unseen",
            *(held["parts"].get(n, {}).get("rows", "") for n in names),
        )
        for task, held in members.items()
    ]
    return grid(("task", "side", *names), rows)


def method(config: Config) -> str:
    """The equation in words, and the options that had an effect."""
    row = METHODS[config.method.name]
    used, default = effective(config), flatten(Config().model_dump(), "")
    told = [
        (f"`{key}`", f"`{plain(value)}`", "" if value == default[key] else f"default `{plain(default[key])}`")
        for key, value in flatten(config.model_dump(), "").items()
        if key in used and key.split(".")[0] in ("method", "adapter", "data", "model") and key != "model.name"
    ]
    options = grid(("option", "value", ""), told)
    return f"{row.equations}\n\nCost of a step: {row.cost}.\n\nOptions that had an effect:\n\n{options}"


def training(
    config: Config, environment: Mapping[str, Any], totals: Mapping[str, Any], memory: Mapping[str, Any]
) -> str:
    """Seed, steps, time, memory, versions, machine."""
    versions = ", ".join(f"{key} {environment[key]}" for key in VERSIONS if key in environment)
    place = [str(environment.get(key, "?")) for key in ("machine", "device", "threads")]
    rows = [
        ("seed", config.run.seed),
        ("steps", f"{totals.get('steps', '?')} of {config.run.steps}"),
        ("training time", f"{duration(totals.get('seconds'))} (evaluation and saving not counted)"),
        ("forward and backward passes", f"{totals.get('forwards', '?')} and {totals.get('backwards', '?')}"),
        *taken(memory),
        ("versions", versions),
        ("machine", f"{', '.join(place)} threads"),
    ]
    return f"{grid(('what', 'value'), rows)}\n\n`curves.png` shows losses, gap and validation scores."


def advised(metrics: Sequence[Mapping[str, Any]]) -> str:
    """What the run said on the way, where it said something."""
    given = "".join(f"\n- step {row['step']}: {row['text']}" for row in history.advice(metrics))
    return f"\n\nWhat the run said of itself on the way:\n{given}" if given else ""


def taken(memory: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was measured of memory, and what was estimated; nothing where nothing was."""
    if "peak_mb" not in memory:
        return []
    before, peak = (float(memory[key]) * 1e6 for key in ("standing_mb", "peak_mb"))
    measured = (
        f"{size(before)} before training, {size(peak)} at the peak of its steps ({size(max(0.0, peak - before))} more)"
    )
    found = [("memory of the process", f"{measured}; {memory.get('measured_by', '?')}")]
    if "estimated_mb" not in memory:
        return found
    above, all_ = (size(float(memory[key]) * 1e6) for key in ("estimated_above_mb", "estimated_mb"))
    told = f"{all_}, of which {above} in its steps (what torch allocates: without Python, libraries and malloc's own)"
    return [*found, ("memory estimated", told)]


def untested(splits: Mapping[str, Any]) -> bool:
    """Whether there are no test rows: of a mixture without unseen tasks."""
    return bool(splits.get("parts", {}).get("test", {}).get("rows") == 0)


def results(evaluation: Mapping[str, Any], untested: bool = False, shots: int = 0) -> str:
    """Scores on the test rows with their standard errors (`untested`: there are no such rows; shots: demonstrations before each)."""
    if untested:
        told = "`zofo eval --side train` scores the training tasks on the test rows of their files."
        return f"The mixture `{evaluation.get('task')}` has no unseen tasks, so nothing was tested. {told}"
    scores = evaluation.get("results", {})
    metrics = list(dict.fromkeys(name for found in scores.values() for name in measured(found)))
    rows = []
    for name, found in scores.items():
        mark = " (used)" if name == evaluation.get("used") else ""
        values = [score(found, metric) for metric in metrics]
        what = f"{shots}-shot, untrained" if shots and name == ZERO_SHOT else name
        rows.append([f"{what}{mark}", *values, figure(found.get("loss")), found.get("n", "-")])
    columns = ["what", *(f"{named(m)} +- standard error" for m in metrics), "loss (nats a token)", "rows"]
    where = f"The {evaluation.get('split', 'test')} rows of `{evaluation.get('task')}`"
    when = f"{evaluation.get('checkpoint')} checkpoint, step {evaluation.get('step')}"
    if not scores:
        return f"{where} were left unread (`run.test` false). `zofo eval` scores them."
    first = f"{shots}-shot, untrained," if shots else ZERO_SHOT
    cut = evaluation.get("truncated", 0)
    tail = f"\n\n{cut} of the rows were cut to fit." if cut else ""
    return f"{where}, {when}; {first} is the base before training.\n\n{grid(columns, rows)}{tail}{by_task(scores)}"


def by_task(scores: Mapping[str, Any]) -> str:
    """Of a mixture: a line a task with its metric; nothing for one task."""
    tasks = dict.fromkeys(task for found in scores.values() for task in found.get("tasks", {}))
    if not tasks:
        return ""
    held = {task: [found["tasks"][task] for found in scores.values()] for task in tasks}
    rows = [(task, named(primary(found[0])), *map(score, found), found[0]["n"]) for task, found in held.items()]
    table = grid(("task", "metric", *scores, "rows"), rows)
    return f"\n\nThe score is the mean over tasks of each one's metric, its standard error sqrt(sum of se^2) / tasks:\n\n{table}"


def choice(config: Config, evaluation: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    """Which adapter is used and why, by the validation losses."""
    best = history.best(metrics)
    if apart(config):
        return (
            "Each training task had adapters of its own, which stay in the run's checkpoints. The trained weights are used "
            "as they are; a new task gets an adapter of its own with `zofo adapt`."
        )
    if not adapted(config):
        return "This run has no adapter: the trained weights are used as they are."
    if best is None:
        return f"`{evaluation.get('used', '?')}`; no validation chose it."
    by = str(best.get("by", "loss"))
    losses = [
        f"{s} {figure(best[s].get(by))} ({named(primary(best[s]))} {score(best[s])})" for s in history.slots(best)
    ]
    fixed = config.method.inference_adapter == best.get("used") and "inference_adapter" in METHODS[
        config.method.name
    ].options(config)
    reason = (
        "set by `method.inference_adapter`"
        if fixed
        else "the lowest loss on the validation rows"
        if by in LOSSES
        else f"the highest {named(by)} on the validation rows"
    )
    if len(losses) == 1:
        reason = "the only adapter"
    behind = history.lag(history.validations(metrics)[-1])
    text = f"`{best.get('used')}`: {reason}. At the best step, {best['step']}, the {'validation losses' if by in LOSSES else 'values'}: {', '.join(losses)}."
    return f"{text}\n\nNote: {behind}." if behind else text


def usage(name: str, config: Config, untested: bool = False) -> str:
    """Commands that load, score, continue and export the run."""
    merged = config.adapter.kind == "lora" or not adapted(config)
    flag = f" --dir {config.run.dir}" if config.run.dir != "runs" else ""
    return f"""\
    zofo generate {name} "text to continue"{flag}
    zofo eval {name}{" --side train" if untested else ""}{flag}
    zofo resume {name}{flag}
    zofo export {name} --out FOLDER{flag}

{LOADED[merged]} An adapter fits the weights of this run and no others."""


def plain(value: Any) -> str:
    """An option's value as it would be typed."""
    if isinstance(value, bool):
        return str(value).lower()
    text = " ".join(value) if isinstance(value, tuple) else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text or "(empty)"


def grid(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    sign, lines = "\\|", [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        f"| {' | '.join(' '.join(str(cell).split()).replace('|', sign) for cell in row)} |" for row in lines
    )
