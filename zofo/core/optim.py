"""`zofo.ZO`: zeroth order as a `torch.optim.Optimizer`, for any PyTorch loop and any model."""

from __future__ import annotations

import contextlib
import math
import numbers
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from zofo.core import noise as laws
from zofo.core import rules, streams
from zofo.core.estimate import ESTIMATORS, Estimate
from zofo.core.noise import LAWS, Law
from zofo.core.probe import Objective, Probe
from zofo.core.probe.inplace import Inplace
from zofo.core.probe.scratch import Scratch
from zofo.core.seedgrad import SeedGrad
from zofo.core.weights import leaves as tree
from zofo.core.weights import move
from zofo.core.weights.move import Moved
from zofo.errors import BadInput, nearest


class ZO(torch.optim.Optimizer):
    """Move all weights of a module by forward passes only.

        theta <- theta - lr * rule( sum_i c_i z_i ),   c_i from losses at theta +- eps z_i

    Args:
        params: a module (its parameters that require a gradient are moved, exactly: `probe="scratch"`),
            or bare parameters (those that require a gradient, each once), named by position: then only `probe="inplace"` is possible, which drifts.
        lr, eps, decay: learning rate, probe size, decoupled weight decay. q: probes a step.
        noise: "gaussian", "rademacher", "sphere", "low-rank-R" (R up to 32). estimator: "central", "forward".
        rule: "sgd", "scalar-adaptive", or "adam" (two more copies of the weights). seed: of z.
        probe: "auto" takes "scratch" for a module and "inplace" for bare parameters, with a warning.
    With "scratch" probing puts buffers back, so running statistics (a batch norm's in train mode) never move: put such
    modules in eval mode, or call the model once in train mode outside the closure. A copy or a pickle is refused: use `state_dict`.
    Raises: BadInput for a value out of range, a policy that the parameters do not allow, or a module that is frozen altogether.
    Cost: 2 q evaluations of the closure a step (forward: q + 1); memory of inference plus a module's scratch.
    Reference: Malladi et al. 2023 (arXiv 2305.17333), algorithm 1, made exact.
    """

    def __init__(
        self,
        params: nn.Module | Iterable[nn.Parameter],
        lr: float = 1e-6,
        eps: float = 1e-3,
        *,
        q: int = 1,
        noise: Law = "gaussian",
        estimator: str = "central",
        rule: str = "sgd",
        decay: float = 0.0,
        seed: int = 0,
        probe: str = "auto",
    ) -> None:
        for name, value, low in (("lr", lr, 0.0), ("eps", eps, 1e-30), ("decay", decay, 0.0), ("q", q, 1)):
            refuse_number(name, value, low)
        if lr * decay > 1:
            raise BadInput(
                f"ZO(lr={lr}, decay={decay})", "a step would turn theta over: lr decay is above 1", "take less"
            )
        for name, word, known in (("estimator", estimator, ESTIMATORS), ("rule", rule, rules.RULES)):
            if word not in known:
                raise BadInput(f"ZO({name}={word!r})", "unknown", nearest(str(word), known))
        if not laws.known(noise):
            raise BadInput(f"ZO(noise={noise!r})", "unknown law", nearest(str(noise), LAWS))
        self.leaves, self.probe = policy(params, probe)
        self.rule, self.estimator, self.noise = rules.RULES[rule], ESTIMATORS[estimator], noise
        self.rule_name, self.estimator_name = rule, estimator
        self.rule_state = self.rule.init(self.leaves)
        self.last: Estimate[SeedGrad] | None = None
        self.applied: Moved | None = None
        group = {"params": [leaf.param for leaf in self.leaves], "step": 0}
        super().__init__([group], {"lr": lr, "eps": eps, "q": q, "decay": decay, "seed": seed})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step; the closure returns the loss of the model as it stands (called 2 q or q + 1 times).

        It must not call `backward`. Random layers draw the same numbers in each call. Returns the loss,
        averaged over theta +- eps z (forward: at theta). A step whose losses are not finite moves
        nothing: `opt.last.finite` says so.
        """
        if closure is None:
            raise BadInput("ZO.step()", "no closure", "pass a function that returns the loss")
        refuse_frozen_since(self.leaves)
        first, types = self.last is None, set[torch.dtype]()
        if first and isinstance(self.probe, Scratch):
            warn_running(self.probe.model)
        self.applied, group = None, self.param_groups[0]
        keys = [streams.key(group["seed"], "noise", group["step"], i) for i in range(group["q"])]
        directions = [self.leaves.direction(self.noise, key) for key in keys]
        objective = same_randomness(closure, group["seed"], group["step"], types)
        self.last = self.estimator(self.probe, objective, directions, group["eps"], (1.0,))
        if first:
            warn_half_loss(types, "the closure")
        if self.last.finite and move.fits(self.last.grad, float(group["lr"])):
            self.rule_state, update = self.rule.step(self.rule_state, self.last.grad, self.leaves)
            self.applied = move.apply(self.leaves, update, float(group["lr"]), group["decay"])
        group["step"] += 1
        return torch.tensor(self.last.terms[0])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse a second group: what is moved is fixed when the optimizer is made."""
        if self.param_groups:
            raise BadInput("ZO.add_param_group", "the weights that move are fixed at the start", "make another zofo.ZO")
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, which no later step changes: groups (with the step count), the rule's name, numbers and moments, the weights' shapes."""
        numbers, moments = rules.to_dict(self.rule_state)
        own = {
            "rule": {"name": self.rule_name} | numbers,
            "moments": {name: moment.clone() for name, moment in moments.items()},
            "shapes": {leaf.name: list(leaf.shape) for leaf in self.leaves},
            "ways": self.ways,
        }
        return super().state_dict() | own

    @property
    def ways(self) -> dict[str, str]:
        """What is fixed when the optimizer is made, and makes another estimate or step: its rule, law and estimator."""
        return {"rule": self.rule_name, "noise": str(self.noise), "estimator": self.estimator_name}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a copy of a state that `state_dict` gave. Raises: BadInput for another rule's state, or another model's."""
        here = self.rule_state.moments
        refuse_foreign(state_dict, self.ways, self.leaves, here)
        super().load_state_dict({k: v for k, v in state_dict.items() if k not in ("rule", "moments", "shapes", "ways")})
        moments = {name: torch.empty_like(own).copy_(state_dict["moments"][name]) for name, own in here.items()}
        self.rule_state = rules.from_dict(state_dict["rule"], moments)

    def __getstate__(self) -> NoReturn:
        """Refuse copies and pickles: they would hold a model of their own, which nobody's closure calls."""
        found = "an optimizer is tied to the model that it probes, and is neither copied nor pickled"
        raise BadInput("zofo.ZO", found, "keep its state_dict(), and load it into a new zofo.ZO on the other model")


def refuse_number(name: str, value: Any, low: float) -> None:
    """Raise BadInput for an option that is no number, not finite or below its least value; a whole number where that is one."""
    whole = isinstance(low, int)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if whole else numbers.Real):
        what = "a whole number" if whole else "a number"
        raise BadInput(f"ZO({name}={value!r})", f"not {what}", f"{name} is {what}, at least {low}")
    if not low <= float(value) < math.inf:
        raise BadInput(f"ZO({name}={value})", "out of range", f"{name} is at least {low}")


def refuse_foreign(
    state: Mapping[str, Any], ways: Mapping[str, str], leaves: tree.Leaves, moments: Mapping[str, Tensor]
) -> None:
    """Raise BadInput for a state that is not of this rule, law and estimator, or not of these weights."""
    asked = "ZO.load_state_dict"
    if "rule" not in state or "moments" not in state:
        raise BadInput(asked, "this is no state of zofo.ZO's", "give what ZO.state_dict() returned")
    said = {"rule": state["rule"].get("name", ways["rule"])} | state.get("ways", {})  # older states do not say
    for name, own_way in ways.items():
        if (other := said.get(name, own_way)) != own_way:
            found = f"the state is of {name} {other!r}, and this optimizer's is {own_way!r}"
            raise BadInput(asked, found, f"make the optimizer with {name}={other!r}")
    own = shapes({leaf.name: leaf for leaf in leaves})
    found = differing(state.get("shapes", own), own) or differing(shapes(state["moments"]), shapes(moments))
    if found:
        raise BadInput(asked, found, "load it into an optimizer on the same model, with the same weights frozen")


def shapes(tensors: Mapping[str, Tensor | tree.Leaf]) -> dict[str, list[int]]:
    """The shape of each tensor by name."""
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def differing(theirs: Mapping[str, list[int]], ours: Mapping[str, list[int]]) -> str:
    """The first tensor that two tables of shapes disagree about, in words; empty where there is none."""
    for name in {**theirs, **ours}:
        there, here = theirs.get(name, "missing"), ours.get(name, "missing")
        if there != here:
            return f"{name} is {there} in the state and {here} here"
    return ""


def refuse_frozen_since(leaves: tree.Leaves) -> None:
    """Raise BadInput where a weight that moves no longer requires a gradient: somebody means it to stand still."""
    frozen = [leaf.name for leaf in leaves if not leaf.param.requires_grad]
    if frozen:
        found = f"{frozen[0]} was frozen after the optimizer was made, which moves it"
        raise BadInput("ZO.step()", found, "make another zofo.ZO: what moves is fixed when it is made")


def warn_running(model: nn.Module) -> None:
    """Warn of running statistics in train mode: they never move, for probing puts buffers back."""
    moving = [n for n, m in model.named_modules() if m.training and getattr(m, "running_mean", None) is not None]
    if moving:
        warnings.warn(
            f"{moving[0] or type(model).__name__} is in train mode, and its running statistics will not move: probing "
            "puts buffers back. Put it in eval mode, or call the model once in train mode outside the closure",
            stacklevel=5,
        )


def same_randomness(closure: Callable[[], Any], seed: int, step: int, types: set[torch.dtype]) -> Objective:
    """Wrap a closure so that every call within a step draws the same random numbers (dropout); the types of its losses are put among `types`."""

    def objective() -> Tensor:
        with streams.seeded(seed, "closure", step):
            loss = one_number(called(closure))
        types.add(loss.dtype)
        return loss

    return objective


def called(closure: Callable[[], Any]) -> Any:
    """What a closure returns. Raises `BadInput` where it asks for a derivative, as closures of other optimizers do."""
    try:
        return closure()
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        found = "the closure calls backward(), and nothing is to be differentiated (it runs under torch.no_grad)"
        raise BadInput("ZO.step(closure)", found, "return the loss alone") from error


def warn_half_loss(types: Collection[torch.dtype], asked: str, stacklevel: int = 5) -> None:
    """Warn of losses in a half type: those at theta +- eps z differ by less than its roundings, and most differences are 0."""
    if half := {torch.float16, torch.bfloat16} & set(types):
        warnings.warn(
            f"{asked} returned a loss in {str(half.pop()).removeprefix('torch.')}, where most of the differences that are "
            "probed for round to 0: compute it in fp32 (logits.float())",
            stacklevel=stacklevel,
        )


def one_number(value: Any) -> Tensor:
    """Return a closure's loss as a tensor. Raises `BadInput` when it is not one number."""
    found = type(value).__name__
    with contextlib.suppress(TypeError, ValueError, RuntimeError):
        loss = torch.as_tensor(value)
        if loss.numel() == 1:
            return loss
        found = f"shape {tuple(loss.shape)}"
    raise BadInput("ZO.step(closure)", f"the closure returned {found}, not one number", "return the mean loss")


def refuse_outside(model: nn.Module) -> None:
    """Raise BadInput where a parameter that learns is none of the base model's: a prompt or a prefix of peft's."""
    held = {id(p) for p in tree.base_of(model).parameters()}
    outside = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if outside:
        do = "freeze it, or walk in place: ZO([p for p in model.parameters() if p.requires_grad], probe='inplace')"
        raise BadInput(f"ZO({type(model).__name__})", f"{outside[0]} learns and is not part of the base model", do)


def policy(params: nn.Module | Iterable[nn.Parameter], probe: str) -> tuple[tree.Leaves, Probe]:
    """Return the leaves and the probing policy for a module or bare parameters."""
    if probe not in ("auto", "scratch", "inplace"):
        raise BadInput(f"ZO(probe={probe!r})", "unknown policy", nearest(probe, ("auto", "scratch", "inplace")))
    if isinstance(params, nn.Module):
        refuse_outside(params)
        tree.refuse_frozen(params.parameters(), f"ZO({type(params).__name__})")
        leaves = tree.find(params, keep=lambda p: p.requires_grad)
        tree.warn_half_vectors(leaves)
        return leaves, (Inplace(leaves) if probe == "inplace" else Scratch(params, leaves, several=True))
    if probe == "scratch":
        raise BadInput('ZO(params, probe="scratch")', "bare parameters have no module to hook", "pass the module")
    params = list(params)
    if wrong := [p for p in params if not isinstance(p, Tensor)]:
        found = f"{type(wrong[0]).__name__} among the parameters"
        raise BadInput("ZO(params)", found, "pass a module, or parameters alone (no groups, no names)")
    tree.refuse_frozen(params, "ZO(params)")
    leaves = tree.positional(dict.fromkeys(p for p in params if p.requires_grad and p.is_floating_point()))
    if probe == "auto":
        warnings.warn(
            "zofo.ZO got bare parameters: ids go by position, and probing walks the weights in place, "
            "which drifts by rounding; pass the module for exact probing",
            stacklevel=3,
        )
    return leaves, Inplace(leaves)
