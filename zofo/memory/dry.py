"""Passes of a step without weights and without arithmetic: what would stand at their peak.

The weights are fake tensors (torch's own: a shape, a type, a device, no numbers); token ids and masks are real, and
everything else is the code that a run goes through: model, adapters, scoring path, autograd, probes, rules. So it
holds for any architecture, adapter, dtype and option, and costs a second or two for a model of any size. Noise is
not drawn, and code that asks for a number gets 1. Counted as on a CPU: a GPU's attention kernels may hold other sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from threading import get_ident
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from zofo import models
from zofo.adapters.slots import Slots, attach
from zofo.config import Config
from zofo.core import noise
from zofo.core.noise import Direction
from zofo.core.probe import Point
from zofo.core.probe.beside import Beside
from zofo.core.probe.pool import Pool
from zofo.core.probe.readers import surveyed
from zofo.core.probe.scratch import Scratch
from zofo.core.rules import RuleState
from zofo.core.seedgrad import SeedGrad
from zofo.core.sketch.grad import SketchGrad
from zofo.core.weights import leaves as tree
from zofo.core.weights.head import output_head
from zofo.core.weights.leaves import Leaves
from zofo.errors import BadInput
from zofo.memory.live import Live
from zofo.memory.work import Work
from zofo.methods import losses, table, theta
from zofo.methods.state import Problem, State
from zofo.methods.state import law_of as full_name
from zofo.methods.table import METHODS
from zofo.problem import joined

LAYERS = "activations"
HEAD = "logits, and what the loss makes of them"
SLOPES = "gradients"
COPIES = "half-precision copies of weights in a pass"
SCRATCH = "scratch"

Parts = dict[str, int]  # bytes at the peak by LAYERS, HEAD, SLOPES, COPIES, SCRATCH


@dataclass(frozen=True)
class Hollow:
    """A problem whose weights are fake, what it computes at its largest, and the base's weights."""

    problem: Problem
    work: Work
    config: Config
    base: list[Tensor]

    @property
    def adapters(self) -> list[nn.Parameter]:
        """The parameters of all slots."""
        slots = self.problem.slots
        return [param for slot in slots.params for param in slots.list(slot)] if slots is not None else []


def hollow(config: Config, skeleton: nn.Module, work: Work) -> Hollow:
    """Make a run's problem from a skeleton (meta device), which is used up: it gets adapters, and fake weights."""
    models.halved(skeleton.eval().requires_grad_(False), config.model.weights)
    if config.model.activation_checkpointing:
        models.recompute(skeleton)
    base, model, slots = list(skeleton.parameters()), skeleton, None
    if names := METHODS[config.method.name].load().slots(config.method):
        slots = attach(skeleton, config.adapter, names, 0)
        model = slots.model
    made = emptied(model)
    theta = [made[id(p)] for p in base]
    if slots is not None:
        params = {
            slot: {n: cast(nn.Parameter, made[id(p)]) for n, p in own.items()} for slot, own in slots.params.items()
        }
        slots = Slots(slots.model, params)
    kept = {id(p) for p in theta}
    leaves = tree.find(model, keep=lambda p: id(p) in kept)
    if table.stands(config):
        leaves = looked_at(tree.base_of(model), leaves)
    problem = joined(config, model, leaves, slots, work.objective, work.above)
    return Hollow(problem, work, config, theta)


def looked_at(model: nn.Module, leaves: Leaves) -> Leaves:
    """The leaves with those who read them, where the model can be run without weights (else its passes are not estimated either)."""
    try:
        with Ones():
            return surveyed(model, leaves)
    except BadInput:
        raise
    except Exception:  # whatever an architecture's own code does with numbers that are not there
        return leaves


def emptied(model: nn.Module) -> dict[int, Tensor]:
    """Give a model fake tensors on the CPU where it has meta ones; returns them by the id of the old."""
    mode, made = FakeTensorMode(allow_non_fake_inputs=True), dict[int, Tensor]()
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = made.setdefault(id(tensor), faked(mode, tensor))  # type: ignore[assignment]
    return made


def faked(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """A fake tensor of the same shape and type that says it is on the CPU (real ones stay as they are)."""
    if tensor.device.type != "meta":
        return tensor
    fake = FakeTensor(mode, tensor.detach(), torch.device("cpu"))
    return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


class Ones(TorchDispatchMode):
    """Answers 1 where code asks a fake tensor for its number, and makes products of experts, which torch fakes in bf16 alone."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, or answer."""
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        if func is torch.ops.aten._grouped_mm.default and isinstance(args[0], FakeTensor):
            return grouped(*args[:3])
        return func(*args, **(kwargs or {}))


def grouped(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    """An empty product of two matrices in groups, `ends` of them: of rows (b is a stack), or of what is summed over (neither is)."""
    groups = ends.shape[:1] if a.dim() == b.dim() == 2 else a.shape[:-2]
    return a.new_empty(*groups, a.shape[-2], b.shape[-1])


@contextmanager
def silence() -> Iterator[None]:
    """Draw no noise in a block; other threads draw theirs."""
    here, before = get_ident(), {name: getattr(noise, name) for name in ("perturb", "perturb_rows", "settle")}

    def elsewhere(real: Any) -> Any:
        return lambda out, *args, **options: out if get_ident() == here else real(out, *args, **options)

    try:
        for name, real in before.items():
            setattr(noise, name, elsewhere(real))
        yield
    finally:
        for name, real in before.items():
            setattr(noise, name, real)


class Tagged(Pool):
    """Scratch memory that counts to its own part."""

    def __init__(self, live: Live) -> None:
        super().__init__()
        self.live = live

    def take(self, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """As the pool does."""
        with self.live.during(SCRATCH):
            return super().take(*args, **options)


@contextmanager
def watched(made: Hollow, part: str = LAYERS) -> Iterator[Live]:
    """Count a block; the model's calls count to LAYERS, from the output head on to HEAD, autograd's to SLOPES.

    Code that reads numbers out of a tensor as a list (a metric of the answers) ends the block: its forward pass is counted.
    """
    live, head = Live(part, copies=COPIES, backward=SLOPES), output_head(made.problem.model)
    with ExitStack() as stack:

        def begin(*_: Any) -> None:
            live.part = LAYERS
            if head is not None:  # hooked anew in each call, so that probes find a head that nobody has changed
                handle = head.register_forward_pre_hook(lambda *_: setattr(live, "part", HEAD))
                stack.callback(handle.remove)

        stack.callback(made.problem.model.register_forward_pre_hook(begin).remove)
        for context in (silence(), Ones(), live, suppress(DataDependentOutputException)):
            stack.enter_context(cast(Any, context))
        yield live


def scratch_of(problem: Problem) -> Scratch | None:
    """The scratch policy that theta is probed by, where it is."""
    held = problem.probe.scratch if isinstance(problem.probe, Beside) else problem.probe
    return held if isinstance(held, Scratch) else None


def law_of(problem: Problem) -> str:
    """The problem's law of z, or one that needs no pass over the noise to begin with."""
    return "gaussian" if problem.config.noise == "sphere" else full_name(problem.config)


def probing(made: Hollow) -> Parts:
    """An estimate's passes at two points, as the problem probes: on the largest batch, or on one that is stacked and takes more."""
    whole = made.work.whole
    other = replace(made, work=replace(made.work, largest=whole)) if made.problem.stacks and whole is not None else None
    return max((probed(held) for held in (made, other) if held is not None), key=lambda parts: sum(parts.values()))


def probed(made: Hollow) -> Parts:
    """An estimate's passes at two points of its batch; scratch is kept in the pool after it."""
    problem, z = made.problem, Direction(law_of(made.problem), 1)
    objective = METHODS[problem.config.name].load().objective(problem, State(), made.work)
    assert problem.probe is not None
    with watched(made) as live:
        if scratch := scratch_of(problem):
            scratch.pool = Tagged(live)
        problem.probe(objective, [Point(z, problem.eps), Point(z, -problem.eps)])
    return dict(live.at_peak)


def learning(made: Hollow) -> Parts:
    """A lower-level step's loss and gradient of an adapter, by backpropagation or along a z of it."""
    problem, batch = made.problem, made.work.largest
    assert problem.slots is not None
    slot = next(iter(problem.slots.params))
    with watched(made, SLOPES) as live, problem.standing_still():
        if problem.config.lower == "first-order":
            held: Any = losses.gradient(problem, [batch], slot, 0)
        else:  # the adapter's copy, and a gradient of its size
            held = [torch.empty_like(param) for _ in range(2) for param in problem.slots.list(slot)]
            with torch.no_grad():
                losses.mean_loss(problem, [batch], slot, False)
    del held
    return dict(live.at_peak)


def descending(made: Hollow) -> Parts:
    """A forward and a backward pass that leave the gradient of all weights."""
    part = "short" if made.problem.config.short_tokens else "all"
    with watched(made, SLOPES) as live:
        held = losses.gradient(made.problem, made.work.batch(part, "train", 0, 1), None, 0, whole=True)
    del held
    return dict(live.at_peak)


def settling(made: Hollow, state: State) -> Parts:
    """An update of theta from its whole gradient. Args: state, the method's, its moments there (see `optimizing`)."""
    problem = made.problem
    assert problem.leaves is not None
    with watched(made, SLOPES) as live:
        grads = [torch.empty_like(leaf.data) for leaf in problem.leaves]
        if learner := state.learners.get("theta"):
            learner.step(grads, given=True)
        else:
            theta.mix_by(problem, SeedGrad(law_of(problem), ((1, 0.0),)), grads, 0.5, 0.0)
    del grads
    return dict(live.at_peak)


def optimizing(made: Hollow) -> State:
    """A state after a step of theta's optimizer, which makes its moments in it."""
    state: State = METHODS[made.problem.config.name].load().init(made.problem)
    if "theta" in state.learners:
        settling(made, state)
    return state


def sketching(made: Hollow) -> Parts:
    """A forward and a backward pass that leave a sketch, and, where p steps above, p's gradient."""
    with watched(made, SLOPES) as live, made.problem.standing_still():
        total = sketch(made) if table.several(made.config) else None  # of the tasks before
        held = sketch(made)
    del held, total
    return dict(live.at_peak)


def sketch(made: Hollow) -> SketchGrad:
    """The sketch of the largest batch."""
    problem, config = made.problem, made.problem.config
    slot = next(iter(problem.slots.params)) if problem.slots is not None else None
    learn = problem.slots is not None and config.coupling == "outer"
    with theta.capturing(problem, 0) as capture:
        for _ in range(1 if slot is None else 2):  # terms: from the second on there is a total beside
            held = losses.gradient(problem, [made.work.largest], slot, 0, dropout=False, capture=capture, learn=learn)
    del held
    return capture.grad()


def remembering(made: Hollow) -> RuleState:
    """A rule's state from the second step on: one over sketches makes its moments in the first."""
    problem, state = made.problem, theta.init(made.problem)
    if not table.sketches(problem.config) or problem.config.rule not in table.REMEMBER:
        return state
    with watched(made):
        return theta.move_by(problem, State(rule=state), sketch(made), 0.0)[0].rule


def moving(made: Hollow, state: RuleState) -> Parts:
    """An update of theta. Args: state, the rule's."""
    problem, grad = made.problem, None
    if table.sketches(problem.config):
        with watched(made):
            grad = sketch(made)
    with watched(made) as live:
        known = (
            grad.scaled(1.0) if grad is not None else SeedGrad(law_of(problem), ((1, 0.0),))
        )  # a copy, to be counted
        theta.move_by(problem, State(rule=state), known, problem.config.lr_theta)
    return dict(live.at_peak)


def scoring(made: Hollow) -> Parts:
    """The first batch of rows to score."""
    assert made.work.score is not None
    with watched(made) as live, torch.no_grad(), made.problem.standing_still():
        made.work.score(made.problem.model, made.work.rows)
    return dict(live.at_peak)


def taken(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
