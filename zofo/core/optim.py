"""`zofo.ZO`: zeroth order as a `torch.optim.Optimizer`, for any PyTorch loop and any model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

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
    Raises: BadInput for a value out of range or a policy that the parameters do not allow.
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
            if not value >= low:
                raise BadInput(f"ZO({name}={value})", "out of range", f"{name} is at least {low}")
        for name, word, known in (("estimator", estimator, ESTIMATORS), ("rule", rule, rules.RULES)):
            if word not in known:
                raise BadInput(f"ZO({name}={word!r})", "unknown", nearest(word, known))
        if not laws.known(noise):
            raise BadInput(f"ZO(noise={noise!r})", "unknown law", nearest(noise, LAWS))
        self.leaves, self.probe = policy(params, probe)
        self.rule, self.estimator, self.noise = rules.RULES[rule], ESTIMATORS[estimator], noise
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
        self.applied, group = None, self.param_groups[0]
        keys = [streams.key(group["seed"], "noise", group["step"], i) for i in range(group["q"])]
        directions = [self.leaves.direction(self.noise, key) for key in keys]
        objective = same_randomness(closure, group["seed"], group["step"])
        self.last = self.estimator(self.probe, objective, directions, group["eps"], (1.0,))
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
        """The optimizer's state: groups (with the step count) and the rule's numbers and moments."""
        numbers, moments = rules.to_dict(self.rule_state)
        return super().state_dict() | {"rule": numbers, "moments": moments}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state that `state_dict` gave."""
        self.rule_state = rules.from_dict(state_dict["rule"], dict(state_dict["moments"]))
        super().load_state_dict({k: v for k, v in state_dict.items() if k not in ("rule", "moments")})


def same_randomness(closure: Callable[[], Any], seed: int, step: int) -> Objective:
    """Wrap a closure so that every call within a step draws the same random numbers (dropout)."""

    def objective() -> Tensor:
        with streams.seeded(seed, "closure", step):
            return one_number(closure())

    return objective


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
        leaves = tree.find(params, keep=lambda p: p.requires_grad)
        tree.warn_half_vectors(leaves)
        return leaves, (Inplace(leaves) if probe == "inplace" else Scratch(params, leaves))
    if probe == "scratch":
        raise BadInput('ZO(params, probe="scratch")', "bare parameters have no module to hook", "pass the module")
    params = list(params)
    if wrong := [p for p in params if not isinstance(p, Tensor)]:
        found = f"{type(wrong[0]).__name__} among the parameters"
        raise BadInput("ZO(params)", found, "pass a module, or parameters alone (no groups, no names)")
    leaves = tree.positional(dict.fromkeys(p for p in params if p.requires_grad and p.is_floating_point()))
    if probe == "auto":
        import warnings

        warnings.warn(
            "zofo.ZO got bare parameters: ids go by position, and probing walks the weights in place, "
            "which drifts by rounding; pass the module for exact probing",
            stacklevel=3,
        )
    return leaves, Inplace(leaves)
