"""What a run says while it goes on: its loss is flat, it jumps or rises, one gradient was far too long, p lags behind s, theta has strayed, it learns by heart; and which option to change, to what.

Losses of steps are noisy, so nothing is said of noise. A level is *flat* where no beginning of it lies above the
rest by two standard errors, a straight line through it falls by less than one, and a fall of `shape.FALL` of the loss is excluded
by two (`all_along`: and what else, where each loss is the last of T steps). It *jumps* where losses turn at each step more
often than chance has it (von Neumann's ratio), or the means of blocks rise by `shape.RISE` standard errors and by a part of the loss itself. theta by zeroth order below or beside an adapter is judged by no loss: its part in the fall is too small.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zofo.config import Config
from zofo.methods import table
from zofo.methods.plan import plan
from zofo.report import history, shape
from zofo.report.words import LOSSES, number

Row = Mapping[str, Any]
FIRST, SLOW = 30, 300  # steps before a first-order, a zeroth-order level is called flat (`least` says what more)
FEW = 12  # losses at least, where each is the last of several steps
TIMES = 3.0  # that a rate is changed by
FAR = 0.3  # of theta_0's length: moved so far theta has strayed
NEAR = 0.03  # of it: runs that learned something moved theta by some hundredths at most
BEFORE, SPIKE = 20, 50.0  # gradients of theta: one so many times as long as the median of those before it
LATE = 3  # validations in a row that lie above the lowest
KINDS = ("loss_p", "loss_s", "loss_theta", "A")


@dataclass(frozen=True)
class Advice:
    """What it is about (said once), and the sentence."""

    about: str
    text: str


@dataclass(frozen=True)
class Level:
    """A series of losses, what learns by it, its rate's option and value, whether it goes by zeroth order alone, and the steps of which each loss is the last."""

    name: str
    what: str
    option: str
    rate: float
    slow: bool
    each: int = 1


def due(k: int, last: bool = False) -> bool:
    """Whether steps are looked at after step k: from 10 on, each time that there are a quarter more, and after the last."""
    return k >= 10 and (last or int(math.log(k, 1.25)) > int(math.log(k - 1, 1.25)))


def of_steps(rows: Sequence[Row], config: Config) -> Iterator[Advice]:
    """Advice from all rows so far. Cost: a pass over them."""
    steps = history.steps(rows)
    of = foreseen(steps, config)
    for level in levels(config):
        values = losses(steps, level.name)
        found = restless(level, values, config) or flat(level, values, config, of)
        if found is not None:
            yield found
    yield from spiked(steps, config)


def spiked(steps: Sequence[Row], config: Config) -> Iterator[Advice]:
    """Advice where one gradient of theta was far longer than those before it, and the rule remembers it."""
    m = config.method
    if m.clip_theta or m.rule != "adam" or "method.clip_theta" not in table.effective(config):
        return
    held = [(int(row["step"]), number(row.get("norm"))) for row in steps]
    found = [(step, norm) for step, norm in held if norm is not None and math.isfinite(norm)]
    for i, (step, norm) in enumerate(found[BEFORE:]):
        usual = statistics.median(norm for _, norm in found[i : i + BEFORE])
        if norm > SPIKE * usual > 0:
            told = f"theta's gradient was {norm / usual:.0f} times as long in step {step} as in those before it: Adam goes along it for ten steps and then hardly moves"
            yield Advice("spiked", f"{told}; begin again with --method.clip_theta 2")
            return


def foreseen(steps: Sequence[Row], config: Config) -> int:
    """The steps that the run comes to: those asked for, or fewer where its seconds last no longer at the pace so far."""
    took = number(steps[-1].get("time", {}).get("train")) if steps else None
    if not took or not config.run.seconds:
        return config.run.steps
    return min(config.run.steps, max(len(steps), round(len(steps) * config.run.seconds / took)))


def of_validations(rows: Sequence[Row], config: Config) -> Iterator[Advice]:
    """Advice from all rows so far, the last of which is a validation: p lags behind s, theta has strayed, or the rows are learned by heart."""
    checks = history.validations(rows)
    yield from lagging(checks, config)
    yield from strayed(checks[-1], config)
    yield from by_heart(checks, config)


def by_heart(checks: Sequence[Row], config: Config) -> Iterator[Advice]:
    """Advice where the loss of the last three validations lay above the lowest by a part of it."""
    held = [(int(row["step"]), history.validation_loss(row)) for row in checks if row.get("by", "loss") in LOSSES]
    found = [(loss, step) for step, loss in held if loss is not None and math.isfinite(loss)]
    if len(found) <= LATE:
        return
    low, step = min(found)
    last = [loss for loss, at in found[-LATE:] if at > step]
    if len(last) < LATE or min(last) <= low + shape.PART * max(low, shape.LOW):
        return
    told = f"the validation loss was lowest at step {step} ({low:.3g}) and has been higher since ({last[-1]:.3g}): the training rows are learned by heart"
    stop = ", so this run may be stopped" if int(checks[-1]["step"]) < config.run.steps else ""
    do = f"the best checkpoint is kept{stop}; begin again with more rows (--data.train_rows), fewer --steps or a smaller rate"
    yield Advice("by heart", f"{told}; {do}")


def lagging(checks: Sequence[Row], config: Config) -> Iterator[Advice]:
    """Advice where p lags behind s in the last validation and in the one before it, if there is one."""
    behind = [history.lag(row) for row in checks[-2:]]
    if None in behind:
        return
    m = config.method
    first = "--method.coupling both, or " if m.coupling == "outer" else ""
    yield Advice(
        "lag",
        f"{behind[-1]}; begin again with {first}--method.lr_p {TIMES * m.lr_p:.2g} (it is {m.lr_p:.2g}){probing(config)}",
    )


def strayed(row: Row, config: Config) -> Iterator[Advice]:
    """Advice where theta has moved by a good part of its own length: what the model knew is lost, and no loss may say so."""
    moved, m = number(row.get("moved")), config.method
    if moved is None or not FAR <= moved < math.inf:
        return
    rate = f"--method.lr_theta {m.lr_theta * NEAR / moved:.1g} (it is {m.lr_theta:.2g})"
    heavy = "method.lam" in table.effective(config) and m.weighting == "raw" and m.rule == "sgd" and m.lam > 1
    seldom = " with --method.lam_every 1" if m.lam_every > 1 else ""
    other = f", or --method.weighting normalised{seldom}: lambda {m.lam:g} multiplies its steps" if heavy else ""
    yield Advice(
        "strayed",
        f"theta has moved by {moved:.2g} of its own length, where fine-tuning moves it by hundredths: begin again with {rate}{other}",
    )


def probing(config: Config) -> str:
    """That `--auto-lr` would find a rate too, for methods that take it."""
    return "" if table.several(config) else ", or --auto-lr"


def levels(config: Config) -> list[Level]:
    """The series that a method's levels are judged by."""
    m, used = config.method, table.effective(config)
    above = table.zeroth(m) and not table.exact(config)
    below = m.lower == "zeroth-order" and "method.lower" in used
    each = dict.fromkeys(repeated(config), m.T)
    made = [
        Level("loss_p", "p", "lr_p", m.lr_p, below, each.get("p", 1)),
        Level("loss_s", "s", "lr_s", m.lr_s, below, each.get("s", 1)),
        Level("loss_theta", "theta", "lr_theta", m.lr_theta, False),
        Level("A", "theta" if table.moves_theta(config) else "p", "lr_theta", m.lr_theta, above),
    ]
    return [level for level in made if f"method.{level.option}" in used and level.rate > 0]


def repeated(config: Config) -> tuple[str, ...]:
    """The slots that take T steps in each iteration, the last of which says the loss. A task's own adapters do not: their turn comes seldom."""
    m = config.method
    return plan(m, m.lam).below if m.name in table.LEVELS and not table.apart(config) else ()


def losses(steps: Sequence[Row], name: str) -> list[float]:
    """A level's losses; of A where no other says more (with an adapter it is p that lowers A)."""
    others = [kind for kind in KINDS if kind != name] if name == "A" else []
    found = [number(row.get(name)) for row in steps if not any(kind in row for kind in others)]
    return [value for value in found if value is not None]


def flat(level: Level, values: Sequence[float], config: Config, of: int) -> Advice | None:
    """Advice where a level's loss does not fall. Args: of, the steps that the run comes to."""
    values = [value for value in values if math.isfinite(value)]
    n, half = len(values), len(values) // 2
    if n < least(level, config, of) or abs(shape.mean(values)) < shape.LOW or not shape.still(values):
        return None
    if level.each > 1 and not shape.all_along(values, of):
        return None
    steps = f"{n} steps" if level.each == 1 else f"{n} iterations of {level.each} steps"
    told = f"the loss of {level.what} is flat: {steps} have not lowered it (mean {shape.mean(values[:half]):.3g} of their first half, {shape.mean(values[half:]):.3g} of their second)"
    rate = f"--method.{level.option} {TIMES * level.rate:.2g} (it is {level.rate:.2g})"
    if level.slow:
        more = "zeroth order needs thousands of steps; to see more in each, raise --batch or --method.q"
        return Advice(f"flat {level.name}", f"{told}: {more}; or begin again with {rate}{probing(config)}")
    return Advice(f"flat {level.name}", f"{told}: begin again with {rate}{probing(config)}")


def least(level: Level, config: Config, of: int) -> int:
    """Losses before a level may be called flat, in a run that comes to `of` steps."""
    third, steps = of // 3, SLOW if level.slow else FIRST
    enough = max(FEW, math.ceil(steps / level.each))
    if level.slow:
        return max(enough, third)
    return max(enough, math.ceil(2 * config.method.warmup / level.each), min(third, SLOW))


def restless(level: Level, values: Sequence[float], config: Config) -> Advice | None:
    """Advice where a level's loss jumps up and down, or rises, by more than noise."""
    finite = [value for value in values if math.isfinite(value)]
    found = shape.broken(values, finite) or shape.saw(finite) or shape.risen(finite)
    if found is None:
        return None
    rate = f"--method.{level.option} {level.rate / TIMES:.2g} (it is {level.rate:.2g})"
    return Advice(
        f"jumps {level.name}",
        f"the loss of {level.what} {found}: the rate is too high; begin again with {rate}{probing(config)}",
    )
