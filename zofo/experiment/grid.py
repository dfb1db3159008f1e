"""The shape of an experiment's file: what its keys mean and which values they take. An unknown key is an error."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from zofo.config import Section, flatten
from zofo.errors import BadInput

Options = dict[str, Any]
Values = dict[str, Any]


def once(values: list[Any]) -> list[Any]:
    """Values that stand once each. Raises ValueError (for pydantic)."""
    if twice := [value for k, value in enumerate(values) if value in values[:k]]:
        raise ValueError(f"{twice[0]} stands there twice")
    return values


Met = Literal["adapted", "demonstrations"]
Seeds = Annotated[list[int], AfterValidator(once)]
Names = Annotated[list[str], AfterValidator(once)]
Share = Annotated[float, Field(gt=0, le=1)]
Seconds = Annotated[float, Field(gt=1e-9, lt=1e9)]
Passes = Annotated[float, Field(gt=1e-9, lt=1e12)]
Stages = tuple[Seconds, Seconds]


class Budget(Section):
    """What every row may spend a run: one of the three."""

    seconds: Seconds | None = Field(None, description="training seconds: steps x the row's cost a step")
    passes: Passes | None = Field(None, description="forward passes, a backward one counted as two")
    steps: int | None = Field(None, ge=1, description="steps (outer iterations)")

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if sum(value is not None for value in (self.seconds, self.passes, self.steps)) != 1:
            raise ValueError("give one of seconds, passes, steps")
        return self


class Cost(Section):
    """What a step of a row costs, measured once (`zofo experiment FILE --costs`) and written into the file."""

    seconds: Seconds | None = Field(None, description="seconds a step")
    passes: Passes | None = Field(None, description="forward passes a step, a backward one counted as two")
    stages: Stages | None = Field(
        None, description="of a method of two stages: seconds a step of each, whose mean over a run is `seconds`"
    )

    @field_validator("stages", mode="after")
    @classmethod
    def _mean(cls, value: Stages | None, info: ValidationInfo) -> Stages | None:
        if value is not None and not min(value) <= (info.data.get("seconds") or 0) <= max(value):
            raise ValueError("`seconds`, their mean over a run's steps, lies not between them")
        return value


class Sweep(Section):
    """How swept options are chosen: on validation, in runs that never read the test rows."""

    seeds: Seeds = Field([0], min_length=1, description="seeds of the swept runs")
    share: float = Field(1.0, gt=0, le=1, description="share of the budget that a swept run takes")
    by: Literal["loss", "metric"] = Field("loss", description="validation loss (as the run counts it), or the metric")


class Unseen(Section):
    """How a mixture's unseen tasks are met by each row's base, as `zofo adapt` does it, or with demonstrations as `zofo eval --draws`."""

    shots: int = Field(4, ge=1, description="examples a class to adapt with")
    steps: int = Field(10, ge=1, description="adapter steps")
    batch: int = Field(8, ge=1, description="rows a step")
    lr: float = Field(0.0, ge=0, description="their rate (0: by the adapter's kind)")
    demonstrations: int = Field(16, ge=1, description="rows in front of each, for `unseen: demonstrations`")
    draws: int = Field(5, ge=1, description="draws of the examples, or demonstrations")


class Row(Section):
    """A row of the table: a preset with options, or (`evaluate`) the model as it is."""

    name: str = Field(min_length=1, description="the row's name")
    preset: str = Field("", description="preset to begin with")
    like: str = Field(
        "", description="another row: its preset, options and chosen values come first, `options` over them"
    )
    same_steps: bool = Field(False, description="with `like`: as many steps as that row, whatever they cost")
    evaluate: bool = Field(False, description="no training: the model's own answers (options: data.shots, ...)")
    unseen: Met = Field("adapted", description="of a mixture: how its unseen tasks are met")
    unseen_lr: float | None = Field(
        None,
        ge=0,
        description="of a mixture: the rate that this row's unseen tasks are met with, instead of `unseen.lr`",
    )
    options: Options = Field({}, description="any option of `zofo train`")
    sweep: Values = Field({}, description="options with the values to choose among (several that go together: `a b`)")
    vary: Values = Field({}, description="options with values that make a row each, NAME key=value")
    steps: int | None = Field(
        None, ge=1, description="steps, instead of what the budget gives (as `steps` of the file)"
    )
    tasks: Names = Field([], description="only these tasks")

    @field_validator("options", mode="after")
    @classmethod
    def _options(cls, value: Options) -> Options:
        return told(value)

    @field_validator("sweep", "vary", mode="after")
    @classmethod
    def _lists(cls, value: Values) -> Values:
        if any(not isinstance(held, list) or not held for held in nested(value).values()):
            raise ValueError("give each option a list of values")
        return {" ".join(told(dict.fromkeys(key.split()))): held for key, held in nested(value).items()}


class Grid(Section):
    """A whole experiment."""

    about: str = Field("", description="what it is, in a line")
    model: str = Field(min_length=1, description="as --model takes it")
    tasks: Names = Field([], description="tasks by name, or tasks' YAML files")
    mixture: str = Field("", description="instead of tasks: a mixture to meta-train on, as --mixture takes it")
    unseen: Unseen = Field(default_factory=Unseen, description="how a mixture's unseen tasks are met")
    seeds: Seeds = Field([0], min_length=1, description="seeds of every row")
    budget: Budget
    costs: dict[str, Cost | dict[str, Cost]] = Field({}, description="cost a step by row (or by row and task)")
    steps: dict[str, int] = Field({}, description="steps by row, instead of what the budget gives")
    options: Options = Field({}, description="options of every row, where they have an effect")
    sweep: Sweep = Field(default_factory=Sweep, description="how swept options are chosen")
    validations: int = Field(10, ge=1, description="validations a run, at most (eval_every follows from the steps)")
    against: str = Field("", description="row that the others' differences are taken to")
    reach: list[Share] = Field([], description="validation scores whose first time is told, such as 0.8")
    draws: int = Field(4000, ge=100, description="bootstrap draws")
    cosines: int = Field(
        0,
        ge=0,
        description="keys of z or R at which a bilevel run's last estimate meets the exact gradient (0: not measured)",
    )
    rows: list[Row] = Field(min_length=1, description="the rows")

    @field_validator("options", mode="after")
    @classmethod
    def _options(cls, value: Options) -> Options:
        return told(value)

    @model_validator(mode="after")
    def _one(self) -> Grid:
        if bool(self.tasks) == bool(self.mixture):
            raise ValueError("give tasks, or a mixture")
        return self

    @property
    def subjects(self) -> list[str]:
        """What rows are run on: the tasks, or the mixture."""
        return self.tasks or [self.mixture]

    def row(self, name: str) -> Row:
        """A row by its name."""
        return next(row for row in self.rows if row.name == name)

    def base(self, name: str) -> Row:
        """The row that a row is like, whose choice it takes; else itself."""
        return self.row(self.row(name).like or name)


def told(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by dotted key. Raises ValueError (for pydantic) where one is unknown."""
    try:
        return flatten(options, "option")
    except BadInput as error:
        raise ValueError(f"{error.asked}: {error.found}; {error.do}") from None


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{method: {lam: [1]}}` as `{method.lam: [1]}`; keys of several options stay as they are."""
    found: dict[str, Any] = {}
    for key, held in values.items():
        found |= told({key: held}) if isinstance(held, dict) else {key: held}
    return found


def spread(values: Values) -> list[Options]:
    """Every combination of values, in the file's order, by single option."""
    return [
        {name: value for key, value in zip(values, held, strict=True) for name in key.split()}
        for held in itertools.product(*values.values())
    ]
