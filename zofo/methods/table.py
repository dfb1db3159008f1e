"""The one table of methods: name, module, what it does, and which options it reads.

Pure data until `load` is called, so the command line can check options before torch is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zofo.config import Config, MethodConfig
from zofo.methods import equations

LEARNER = {"optimizer", "schedule", "warmup", "clip", "max_bad"}
ZEROTH = {
    "lr_theta", "schedule_theta", "rule", "decay", "estimator", "noise", "rank", "eps", "q", "probe", "probe_dtype", "stack",
    "accumulate_upper", "max_bad",
}  # fmt: skip
SKETCH = {
    "lr_theta", "schedule_theta", "rule", "decay", "clip_theta", "noise", "rank", "side", "nu", "transfer", "accumulate_upper",
    "max_bad",
}  # fmt: skip
RULES = {  # by kind of upper level
    "zeroth-order": ("sgd", "scalar-adaptive", "adam"),
    "sketch": ("sgd", "normalised", "momentum", "adam"),
}
REMEMBER = {"momentum": 20, "adam": 100}  # sketch rules with moments, and the steps that R is kept for
UNIT = ("normalised", "momentum")  # sketch rules that give every gradient the length 1
METRICS = ("accuracy", "f1")  # objectives without a gradient, and without a loss a row that could be stacked
KIND = {
    "lora": {"kind", "r", "alpha", "dropout", "targets", "last"},
    "prefix": {"kind", "tokens"},
    "prompt": {"kind", "tokens"},
}


@dataclass(frozen=True)
class Method:
    """A row: where the method's `slots`, `init` and `step` are, a line about it, its equations, its options, and what it does.

    Functions of the configuration: options; uses_adapter; moves, whether theta moves; learners, whether adapters have
    optimizers of their own; exact, whether theta's whole gradient is formed. zeroth: whether it has a zeroth-order
    level; full: whether `tune auto` means all weights; joint: whether zeroth order moves the adapter with theta.
    several: whether it learns from several tasks; apart, whether each has adapters of its own; spare, copies of the
    adapters that stand beside them.
    """

    module: str
    about: str
    equations: str
    cost: str
    options: Callable[[Config], set[str]]
    uses_adapter: Callable[[Config], bool]
    moves: Callable[[Config], bool]
    learners: Callable[[Config], bool]
    zeroth: bool
    exact: Callable[[Config], bool] = lambda config: False
    full: bool = False
    joint: bool = False
    several: bool = False
    apart: Callable[[Config], bool] = lambda config: False
    spare: Callable[[Config], int] = lambda config: 0

    def load(self) -> Any:
        """Import the method's module (`slots`, `init`, `step`)."""
        return importlib.import_module(self.module)


def bilevel_options(config: Config) -> set[str]:
    """The options that the bilevel solver reads as it is configured."""
    m = config.method
    used = (
        LEARNER
        | (SKETCH if m.upper == "sketch" else ZEROTH)
        | {"upper", "s", "lower", "lr_p", "accumulate_lower", "inference_adapter"}
    )
    used |= {"lower_eps"} if m.lower == "zeroth-order" else set()
    if m.s == "off":
        return (used | {"T"}) - {"inference_adapter"}
    used |= {"coupling", "T"}
    if m.coupling == "follow":
        return (used | {"lr_s", "init"}) - {"lr_p", "inference_adapter"}
    used |= {"lam"}
    if m.lam == 0:
        return used - {"inference_adapter"} - ({"T", "accumulate_lower"} if m.coupling == "outer" else set())
    used |= {"lam_schedule", "lam_every", "weighting", "s_start", "init", "lr_s"}
    return used | ({"lam_start"} if m.lam_schedule != "constant" else set())


def meta_options(config: Config) -> set[str]:
    """The options that meta-training reads: the bilevel solver's, and which tasks. Own adapters are scored each by itself."""
    return bilevel_options(config) | {"tasks", "sampling", "adapters"}


def reptile_options(config: Config) -> set[str]:
    """The options that Reptile reads; the schedule is that of lr_outer."""
    return LEARNER | {"lr_p", "lr_outer", "T", "tasks", "sampling", "accumulate_lower"}


def own(config: Config) -> bool:
    """Whether every task has adapters of its own, where that is to be chosen."""
    return config.method.adapters == "own"


def mezo_options(config: Config) -> set[str]:
    """The options that MeZO reads."""
    return ZEROTH - (set() if full(config.method) else {"probe", "stack"}) | {"tune"}


def first_order_options(config: Config) -> set[str]:
    """The options that first-order training reads."""
    both = {"tune", "optimizer", "warmup", "clip", "max_bad", "accumulate_lower"}
    return both | ({"lr_theta", "schedule_theta", "decay"} if full(config.method) else {"lr_p", "schedule"})


def two_stage_options(config: Config) -> set[str]:
    """The options that two stages read."""
    return LEARNER | (ZEROTH - {"stack"}) | {"lr_p", "accumulate_lower", "stage_one"}


def addax_options(config: Config) -> set[str]:
    """The options that Addax reads."""
    return (ZEROTH - {"rule"}) | {"alpha", "short_tokens", "accumulate_lower"}


def yes(config: Config) -> bool:
    """Always."""
    return True


def no(config: Config) -> bool:
    """Never."""
    return False


def whole(config: Config) -> bool:
    """Whether all weights are tuned, where that is to be chosen."""
    return full(config.method)


def part(config: Config) -> bool:
    """Whether the adapter alone is tuned, where that is to be chosen."""
    return not full(config.method)


METHODS: dict[str, Method] = {
    "bilevel": Method(
        "zofo.methods.bilevel",
        "Bilevel-ZOFO: all weights by zeroth order above, an adapter by backpropagation below",
        equations.BILEVEL,
        "T (both: 2 T) forward and backward passes, then 6 q forward passes",
        bilevel_options,
        uses_adapter=yes,
        moves=yes,
        learners=yes,
        zeroth=True,
    ),
    "mezo": Method(
        "zofo.methods.mezo",
        "MeZO: all weights (or an adapter's) by zeroth order, exact probing",
        equations.MEZO,
        "2 q forward passes",
        mezo_options,
        uses_adapter=part,
        moves=whole,
        learners=no,
        zeroth=True,
        full=True,
    ),
    "sketch": Method(
        "zofo.methods.sketch",
        "all weights by a sketch of their gradient, in the memory of an adapter",
        equations.SKETCH,
        "1 forward and 1 backward pass",
        lambda config: SKETCH,
        uses_adapter=no,
        moves=yes,
        learners=no,
        zeroth=False,
    ),
    "first-order": Method(
        "zofo.methods.first_order",
        "an adapter (or all weights) by backpropagation (peft and torch.optim)",
        equations.FIRST_ORDER,
        "1 forward and 1 backward pass",
        first_order_options,
        uses_adapter=part,
        moves=whole,
        learners=part,
        zeroth=False,
        exact=whole,
    ),
    "two-stage": Method(
        "zofo.methods.two_stage",
        "first an adapter by backpropagation, then all weights and the adapter by zeroth order",
        equations.TWO_STAGE,
        "1 forward and 1 backward pass; from step stage_one on 2 q forward passes",
        two_stage_options,
        uses_adapter=yes,
        moves=yes,
        learners=yes,
        zeroth=True,
        joint=True,
    ),
    "addax": Method(
        "zofo.methods.addax",
        "Addax: all weights by a zeroth-order and a first-order gradient, mixed",
        equations.ADDAX,
        "2 q forward passes, and 1 forward and 1 backward pass",
        addax_options,
        uses_adapter=no,
        moves=yes,
        learners=no,
        zeroth=True,
        exact=yes,
    ),
    "meta": Method(
        "zofo.methods.meta",
        "Bilevel-ZOFO over many tasks: one theta, an adapter a task, made ready for new tasks",
        equations.META,
        "for each of `tasks` tasks T (both: 2 T) forward and backward passes, then 6 q forward passes",
        meta_options,
        uses_adapter=yes,
        moves=yes,
        learners=yes,
        zeroth=True,
        several=True,
        apart=own,
        spare=lambda config: int(own(config)),  # the start of a task that was never used
    ),
    "reptile": Method(
        "zofo.methods.reptile",
        "Reptile: an adapter's start from which a new task is a few steps away, the base frozen",
        equations.REPTILE,
        "for each of `tasks` tasks T forward and backward passes",
        reptile_options,
        uses_adapter=yes,
        moves=no,
        learners=yes,
        zeroth=False,
        several=True,
        spare=lambda config: (
            4
        ),  # where tasks begin (twice, with what a failed step goes back to), their sum, and where p goes
    ),
}
LEVELS = ("bilevel", "meta")  # those with the bilevel method's two levels


def effective(config: Config) -> set[str]:
    """The dotted keys that have an effect with this configuration."""
    row = METHODS[config.method.name]
    used = {f"method.{key}" for key in row.options(config) | {"name", "objective"}}
    if row.uses_adapter(config):
        used |= {f"adapter.{key}" for key in KIND[config.adapter.kind]}
    used |= {f"model.{key}" for key in type(config.model).model_fields}
    if config.method.noise != "low-rank" and not sketches(config.method):
        used -= {"method.rank"}
    if config.method.rule not in REMEMBER:
        used -= {"method.transfer"}
    if config.method.rule in UNIT:
        used -= {"method.clip_theta"}
    if config.method.probe == "inplace" or config.method.objective in METRICS:
        used -= {"method.stack"}
    if not learns_below(config):
        used -= {"adapter.dropout"}
    if not (learns_below(config) or sketches(config.method) or row.exact(config)):
        used -= {"model.activation_checkpointing"}
    if (
        not (row.learners(config) or sketches(config.method))
        or config.model.weights != "fp32"
        or config.model.dtype == "fp32"
    ):
        used -= {"model.shadow"}
    used |= {f"data.{key}" for key in type(config.data).model_fields} | (
        {"method.sampling"} if config.data.mixture else set()
    )
    if config.method.name not in LEVELS and not config.data.shots:  # demonstrations come from the levels' rows
        used -= {"data.upper_share"}
    if not config.data.shots:
        used -= {"data.redraw", "data.shot_length"}
    used |= {f"run.{key}" for key in type(config.run).model_fields}
    return used if replays(config) else used - {"run.snapshot_every"}


def learns_below(config: Config) -> bool:
    """Whether the lower level has backward passes: dropout acts in no others."""
    m = config.method
    alone = m.s == "on" and m.coupling == "outer" and m.lam == 0  # p steps above only, in eval mode
    if m.name in LEVELS:
        return m.lower == "first-order" and not alone
    return METHODS[m.name].learners(config)


def moves_theta(config: Config) -> bool:
    """Whether the base's weights move."""
    return METHODS[config.method.name].moves(config)


def stands(config: Config) -> bool:
    """Whether theta is read where its modules run: probed in scratch memory, or sketched."""
    return moves_theta(config) and (
        sketches(config.method) or (zeroth(config.method) and config.method.probe == "scratch")
    )


def exact(config: Config) -> bool:
    """Whether theta's whole gradient is formed: the memory of a copy of the weights."""
    return METHODS[config.method.name].exact(config)


def full(m: MethodConfig) -> bool:
    """Whether all weights are tuned, and no adapter."""
    return m.tune == "full" or (m.tune == "auto" and METHODS[m.name].full)


def sketches(m: MethodConfig) -> bool:
    """Whether theta goes by a sketch of its gradient, so by backward passes."""
    return m.name == "sketch" or (m.name in LEVELS and m.upper == "sketch")


def zeroth(m: MethodConfig) -> bool:
    """Whether something goes by zeroth order above."""
    return METHODS[m.name].zeroth and not sketches(m)


def replays(config: Config) -> bool:
    """Whether a journal replays theta: keys and scalars say all of a step. If not, every checkpoint holds theta."""
    m = config.method
    apart = METHODS[m.name].joint and m.noise == "sphere"  # its scale goes by theta and p; theta alone is replayed
    return moves_theta(config) and not (m.rule == "adam" or sketches(m) or exact(config) or apart)


def several(config: Config) -> bool:
    """Whether the method learns from several tasks, each by itself."""
    return METHODS[config.method.name].several


def apart(config: Config) -> bool:
    """Whether every training task has adapters of its own, so that the model by itself has none."""
    return METHODS[config.method.name].apart(config)


def lends(config: Config) -> bool:
    """Whether the trained model has an adapter."""
    return METHODS[config.method.name].uses_adapter(config) and not apart(config)


def joint(config: Config) -> bool:
    """Whether zeroth order moves the adapter together with theta."""
    return METHODS[config.method.name].joint


def streams(config: Config) -> bool:
    """Whether a run can go without its weights in memory: forward passes alone, and nothing of model size beside them."""
    m = config.method
    plain = m.rule != "adam" and m.probe == "scratch" and config.model.weights == "fp32"
    return m.name == "mezo" and moves_theta(config) and plain
