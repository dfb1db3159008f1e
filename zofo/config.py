"""The configuration: frozen, validated, one class a room. An unknown key is an error.

`layers.resolve` lays a preset, a YAML file and flags over its defaults.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from zofo import yamlfile
from zofo.errors import BadInput, nearest

COLUMNS = ("text_column", "label_column", "prompt_column", "completion_column", "messages_column")
"""Options of `data` that name a column of the user's own rows."""
SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(i?)b?", re.IGNORECASE)


def size_of(text: str) -> int:
    """Bytes of "2GB" (powers of 1000), "1.5GiB" (of 1024) or "1000000"; 0 of "". Raises `ValueError`."""
    found = SIZE.fullmatch(text.strip() or "0")
    if found is None:
        raise ValueError("not a size such as 2GB or 1.5GiB")
    size = float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " ")
    if size >= 1 << 63:
        raise ValueError("more bytes than any machine has")
    return int(size)


class Section(BaseModel):
    """A frozen group of options."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class ModelConfig(Section):
    """Which model, and how it computes."""

    name: str = Field("", description="hub id, local folder, .gguf file, or smollm2-135m")
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="computing dtype (auto: the fastest of a product measured in each; chosen once a run)"
    )
    weights: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="dtype that the matrices are held in (half types: updated with stochastic rounding)"
    )
    shadow: bool = Field(
        True, description="keep half-precision copies of fp32 matrices for first-order steps (2 bytes a weight)"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="where to compute; auto: cuda if there, else cpu (no run was made on cuda or mps)"
    )
    activation_checkpointing: bool = Field(False, description="recompute activations in first-order backward passes")


class DataConfig(Section):
    """Which task, which rows, how they are rendered."""

    task: str = Field("", description="task name, a task's YAML file, or a folder with train and test files")
    mixture: str = Field(
        "",
        description="several tasks: a mixture's name, its YAML file, or a folder of folders with train and test files",
    )
    train: str = Field("", description="own rows: csv, tsv, json, jsonl, parquet, a folder of datasets, or a hub id")
    validation: str = Field("", description="own validation rows (none: carved from the training rows)")
    test: str = Field("", description="own test rows (none: a fifth of the training rows is set apart)")
    text_column: str = Field("", description="column with the text (none: text, sentence, review, content or body)")
    label_column: str = Field("", description="column with the label (none: label); its values are the choices")
    prompt_column: str = Field("", description="instruction data: column with the prompt (none: prompt)")
    completion_column: str = Field("", description="instruction data: column with the answer (none: completion)")
    messages_column: str = Field("", description="chat data: column with the messages (none: messages)")
    shots: int = Field(0, ge=0, description="demonstrations in each prompt, drawn from the training rows")
    shot_length: int = Field(
        0,
        ge=0,
        description="tokens a demonstration at most (0: whole); longer ones are cut where the task says, and counted",
    )
    redraw: bool = Field(
        False,
        description="draw a training row's demonstrations anew at every step (false: once a row, before training)",
    )
    channel: bool = Field(
        False, description="noisy channel: score the input after each choice, P(input | choice), instead of the choice"
    )
    calibration: Literal["none", "sfc", "icl-sfc"] = Field(
        "none", description="scores less those after the task-only prompt (icl-sfc: after the demonstrations too)"
    )
    hard_prompt: bool = Field(True, description="render with the task's prompt text (false: the prompt-free variant)")
    train_rows: int = Field(1000, ge=3, description="training rows taken (fewer if the set is smaller; said)")
    validation_rows: int = Field(500, ge=1, description="validation rows")
    test_rows: int = Field(1000, ge=1, description="test rows")
    upper_share: float = Field(
        1 / 3, gt=0, lt=1, description="share of training rows in D_f (upper level); the rest is D_p"
    )
    max_length: int = Field(
        512,
        ge=8,
        description="tokens a row, without demonstrations; longer ones are cut where the task says, and counted",
    )
    batch: int = Field(8, ge=1, description="rows a micro-batch")


ALL_LINEAR = "all-linear"  # peft's word for every linear layer but the output head, as a target


class AdapterConfig(Section):
    """The small adapter p and its twin s."""

    kind: Literal["lora", "prefix", "prompt"] = Field("lora", description="adapter family (peft)")
    r: int = Field(8, ge=1, description="LoRA rank")
    alpha: float = Field(16.0, gt=0, description="LoRA alpha (scaling alpha / r)")
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout in lower-level steps")
    targets: tuple[str, ...] = Field(
        (),
        description="LoRA target modules; all-linear: every linear layer but the output head (empty: query and value projections)",
    )
    last: int = Field(
        0, ge=0, description="LoRA in the last so many layers alone: a backward pass goes no deeper (0: in all layers)"
    )
    tokens: int = Field(0, ge=0, description="virtual tokens (0: 5 for prefix, 10 for prompt)")

    @field_validator("targets", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        """Names in a list, in one text, or both: commas and spaces part them."""
        parts = (value,) if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
            return value
        names = tuple(name for part in parts for name in part.replace(",", " ").split())
        if ALL_LINEAR in names and len(names) > 1:
            raise ValueError(f"{ALL_LINEAR} takes in every other name")
        return names


RANK_OF_Z = 32  # rank of a low-rank z at most


class MethodConfig(Section):
    """The training method. One that the chosen method does not read is refused."""

    name: Literal["bilevel", "mezo", "first-order", "sketch", "two-stage", "addax", "meta", "reptile"] = Field(
        "bilevel", description="the method"
    )
    objective: Literal["auto", "lm", "classification", "accuracy", "f1"] = Field(
        "auto", description="what is minimised (auto: the task's; accuracy, f1: by the zeroth-order level alone)"
    )
    coupling: Literal["both", "outer", "follow"] = Field("both", description="how p is trained beside s")
    T: int = Field(10, ge=1, description="lower-level steps an outer iteration")
    lam: float = Field(10.0, ge=0, description="penalty lambda (0: no penalty, s is not trained)")
    lam_schedule: Literal["constant", "linear", "geometric"] = Field("constant", description="how lambda reaches lam")
    lam_start: float = Field(1.0, gt=0, description="lambda at step 0 of a linear or geometric schedule")
    lam_every: int = Field(
        1,
        ge=1,
        description="look at the penalty in each so many-th iteration alone, so many times as heavy (1: in all)",
    )
    s: Literal["on", "off"] = Field("on", description="off: p alone takes T steps on B, theta sees A")
    s_start: Literal["warm", "from-p"] = Field(
        "warm", description="s at the start of an outer iteration: where it was, or where p is, with p's moments"
    )
    init: Literal["shared", "independent"] = Field("shared", description="whether p and s start equal")
    weighting: Literal["raw", "normalised"] = Field("raw", description="theta's G as it is, or divided by 1 + lambda")
    upper: Literal["zeroth-order", "sketch"] = Field(
        "zeroth-order",
        description="how theta sees G: by losses alone, or by a sketch of its gradient in backward passes",
    )
    lower: Literal["first-order", "zeroth-order"] = Field("first-order", description="how s and p are trained")
    lower_eps: float = Field(1e-2, gt=0, description="probe size of a zeroth-order lower level")
    optimizer: Literal["adam", "sgd"] = Field(
        "adam", description="torch optimizer of first-order steps (of s, of p, or of all weights)"
    )
    lr_s: float = Field(5e-4, ge=0, description="learning rate of s")
    lr_p: float = Field(5e-4, ge=0, description="learning rate of p")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="rate schedule of s and p after warm-up"
    )
    warmup: int = Field(0, ge=0, description="warm-up of a first-order rate, in its own steps")
    clip: float = Field(1.0, ge=0, description="gradient norm clip of first-order steps (0: off)")
    lr_theta: float = Field(
        1e-6, ge=0, description="learning rate of theta (rules normalised, momentum: the length of a step)"
    )
    schedule_theta: Literal["constant", "linear", "cosine"] = Field("constant", description="schedule of theta's rate")
    rule: Literal["sgd", "scalar-adaptive", "adam", "normalised", "momentum"] = Field(
        "sgd",
        description="upper rule (zeroth order: sgd, scalar-adaptive, or adam, two more copies of the weights; "
        "sketch: sgd, normalised, momentum, or adam, in the sketch's own coordinates)",
    )
    clip_theta: float = Field(
        0.0,
        ge=0,
        description="sketch: longest gradient of theta that counts as it is, in running mean lengths (0: no clip)",
    )
    decay: float = Field(0.0, ge=0, description="decoupled weight decay of theta")
    estimator: Literal["central", "forward"] = Field("central", description="difference taken of the losses")
    noise: Literal["gaussian", "rademacher", "sphere", "low-rank"] = Field(
        "gaussian", description="law of z (sketch: of R)"
    )
    rank: int = Field(
        8, ge=1, le=1024, description="rank of a matrix's z under the low-rank law (32 at most), or of a sketch"
    )
    side: Literal["input", "smaller"] = Field(
        "input",
        description="side of a layer that is sketched (smaller: its outputs where they are fewer; keeps its input)",
    )
    nu: int = Field(
        0,
        ge=0,
        description="steps that a sketch's R is kept for, so how long momentum and adam remember (0: 1; momentum 20, adam 100)",
    )
    transfer: bool = Field(False, description="carry the first moments over to a new R, instead of beginning anew")
    eps: float = Field(0.0, ge=0, description="probe size (0: by the probes' dtype and the loss)")
    probe_dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="dtype that theta's probes are computed in (auto: the computing dtype where estimates of the loss hold)",
    )
    stack: Literal["auto", "on", "off"] = Field(
        "auto", description="evaluate theta + eps z and theta - eps z in one pass (auto: measured; chosen once a run)"
    )
    q: int = Field(1, ge=1, description="probes a step")
    probe: Literal["scratch", "inplace"] = Field(
        "scratch", description="exact probing, or MeZO's drifting walk for comparison"
    )
    tune: Literal["auto", "full", "adapter"] = Field(
        "auto",
        description="mezo, first-order: move all weights, or the adapter's (auto: mezo all, first-order the adapter's)",
    )
    alpha: float = Field(
        1e-3, ge=0, le=1, description="addax: weight of the zeroth-order gradient, 1 - alpha of the first-order one"
    )
    short_tokens: int = Field(
        0, ge=0,
        description="addax: longest rows, in tokens, of first-order batches, longer ones go to zeroth order "
        "(0: both take from all rows)",
    )  # fmt: skip
    stage_one: int = Field(0, ge=0, description="two-stage: first-order steps before the zeroth-order ones (0: half)")
    tasks: int = Field(5, ge=1, description="meta, reptile: tasks an outer iteration (at most all)")
    sampling: Literal["uniform", "size"] = Field(
        "uniform", description="of a mixture: tasks drawn all alike, or in proportion to their rows"
    )
    adapters: Literal["own", "shared"] = Field(
        "own", description="meta: every task has a p and an s of its own, or all share one"
    )
    lr_outer: float = Field(1.0, ge=0, description="reptile: how far p goes towards the mean of the tasks' adapters")
    accumulate_lower: int = Field(1, ge=1, description="micro-batches a lower-level (first-order) step")
    accumulate_upper: int = Field(1, ge=1, description="micro-batches a term at the upper level")
    inference_adapter: Literal["auto", "p", "s"] = Field(
        "auto", description="adapter used at the end (auto: lower validation loss)"
    )
    max_bad: int = Field(5, ge=1, description="non-finite steps in a row that stop the run")

    @field_validator("s", "stack", mode="before")
    @classmethod
    def _on_off(cls, value: object) -> object:
        """YAML reads a bare `on` or `off` as a truth value."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class RunConfig(Section):
    """The run folder, its budget and its rhythm."""

    name: str = Field("", description="run name (default: made from method, model and task)")
    dir: str = Field("runs", description="folder that holds runs")
    seed: int = Field(0, ge=0, lt=2**63, description="the one seed of the run")
    steps: int = Field(60, ge=1, description="outer iterations")
    seconds: float = Field(
        0.0, ge=0, description="stop after this much training time (0: no limit; evaluation and saving not counted)"
    )
    eval_every: int = Field(10, ge=0, description="validate every so many steps (0: at the end only)")
    save_every: int = Field(10, ge=1, description="checkpoint every so many steps")
    keep: int = Field(2, ge=1, description="checkpoints kept beside the best")
    snapshot_every: int = Field(
        500, ge=1, description="steps between full copies of theta in checkpoints (bounds replay)"
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads (0: torch's choice)")
    test: bool = Field(True, description="score the test rows before and after training (false: leave them unread)")
    memory_cap: str = Field(
        "", description="peak memory, such as 2GB: weights that do not fit stay on disk (mezo alone; none: no cap)"
    )

    @field_validator("memory_cap")
    @classmethod
    def _a_size(cls, value: str) -> str:
        """A size, or nothing."""
        size_of(value)
        return value


class Config(Section):
    """Everything a run is made from."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    adapter: AdapterConfig = Field(default_factory=AdapterConfig)
    method: MethodConfig = Field(default_factory=MethodConfig)
    run: RunConfig = Field(default_factory=RunConfig)


def keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """List every dotted key of the configuration, `method.lam` and so on."""
    found: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += keys(kind, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


def near(name: str, known: Collection[str]) -> str:
    """A hint for a name that is no option: those whose last part is its own, or begins so, else the nearest, else where all are listed."""
    tail = name.rpartition(".")[2].lower()
    ends = {key: key.rpartition(".")[2].lower() for key in known}
    close = sorted(k for k, end in ends.items() if end == tail) or sorted(
        k for k, end in ends.items() if end.startswith(tail)
    )
    if tail and 0 < len(close) < 6:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return nearest(name, known, "see `zofo train --help`")


def flatten(tree: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Turn `{"method": {"lam": 1}}` or `{"method.lam": 1}` into `{"method.lam": 1}`, paths into texts; unknown keys are errors."""
    known = keys()
    found: dict[str, Any] = {}
    for name, value in tree.items():
        name = str(name)
        if isinstance(value, Mapping) and name in Config.model_fields:
            found |= flatten({f"{name}.{k}": v for k, v in value.items()}, source)
            continue
        if name in Config.model_fields:
            raise BadInput(f"{source} {name}", "it is a section, not an option", f"write `{name}: {{option: value}}`")
        name = "method.lam" if name == "method.lambda" else name
        if name not in known:
            raise BadInput(f"{source} {name}", "no such option", near(name, known))
        found[name] = os.fspath(value) if isinstance(value, os.PathLike) else value
    return found


def read_yaml(path: Path, asked: str) -> dict[str, Any]:
    """Read a small YAML mapping, safely. Raises `BadInput` when missing, large or no mapping."""
    return yamlfile.mapping(path, asked, "a configuration", "write `section: {key: value}` lines")


def build(flat: Mapping[str, Any]) -> Config:
    """Validate flat keys into a `Config`. Raises `BadInput` naming the first wrong value."""
    tree: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        section, key = name.split(".", 1)
        tree.setdefault(section, {})[key] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:2])
        value = first["input"][:80] if isinstance(first["input"], str) else reprlib.repr(first["input"])
        raise BadInput(f"--{name} {value}", first["msg"].lower(), f"see `zofo train --help` for --{name}") from None


def dump(config: Config) -> str:
    """The configuration as YAML text, every key spelled out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def load(path: Path) -> Config:
    """Read a `config.yaml` that `dump` wrote. Raises `BadInput` when it is missing or damaged."""
    return build(flatten(read_yaml(path, str(path)), f"{path}:"))
