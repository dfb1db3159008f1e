"""The kinds of step that `zofo bench step` compares: each a small function that makes a step on a model and a batch.

All compute the same rows, and apply the head to the same positions. `KINDS` lists them: one more kind is one more
function and one more line. A kind that puts adapters on the model works on a `twin`, which shares its weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from zofo.adapters.slots import Slots
from zofo.adapters.targets import usual
from zofo.config import AdapterConfig, MethodConfig
from zofo.core import streams
from zofo.core.kernels.reference import rank_of
from zofo.core.noise import Law
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.core.weights import move
from zofo.core.weights.head import output_head
from zofo.core.weights.leaves import Leaves
from zofo.core.weights.shadow import Shadow
from zofo.methods.state import Problem, State
from zofo.scoring.batch import Batch, Encoded, lm_batch
from zofo.scoring.objective import HALF, computing, row_losses

Step = Callable[[], Any]
RATE = 1e-7  # of what moves all weights: small, for the kinds share them
LEARNING = 5e-4  # of an adapter, by Adam


@dataclass(frozen=True)
class How:
    """How a kind computes: dtype, the head at all positions (`full`) or at one a row, the law of z, and points two at a time."""

    dtype: str = "fp32"
    full: bool = False
    law: Law = "rademacher"
    stack: bool = False

    def losses(self, model: nn.Module, made: Batch) -> Tensor:
        """The loss of each row, through zofo's scoring path or (`full`) with logits everywhere."""
        return (full_losses if self.full else row_losses)(model, made, self.dtype)


Make = Callable[[nn.Module, Batch, How], Step]


@dataclass(frozen=True)
class Kind:
    """A kind of step: what it is called, how it is made, whether there is one for each law of z, and what it fixes."""

    label: str
    make: Make
    laws: bool = False
    dtype: str = ""  # none: the one asked for
    stack: bool = False


def batch(model: nn.Module, rows: int, tokens: int) -> Batch:
    """Random tokens with one answer position a row: shape (rows, tokens), on the model's device."""
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator, union-attr]
    drawn = streams.generator(0, "bench").integers(0, vocabulary, (rows, tokens + 1)).tolist()
    encoded = [Encoded(tuple(row[:-1]), ((row[-1],),), 0) for row in drawn]
    return lm_batch(encoded, range(rows), pad=0).to(next(model.parameters()).device)


def full_losses(model: nn.Module, made: Batch, dtype: str) -> Tensor:
    """The loss of each row with the head applied to every position."""
    with computing(made.input_ids.device, dtype):
        logits = model(input_ids=made.input_ids, attention_mask=made.attention_mask, use_cache=False).logits
    scores = torch.log_softmax(logits[made.rows.row, made.rows.col].float(), -1)
    return -scores.gather(1, made.token[:, None])[:, 0]


def twin(model: nn.Module) -> nn.Module:
    """The same model once more, with the same weights in memory, frozen; what is put on it is not on the first."""
    shared: dict[int, Any] = {id(p): nn.Parameter(p.data, requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, shared)


def forward(model: nn.Module, made: Batch, how: How) -> Step:
    """A plain forward pass without gradients."""

    def step() -> None:
        with torch.no_grad():
            how.losses(model, made).mean()

    return step


def forward_full(model: nn.Module, made: Batch, how: How) -> Step:
    """The same with logits at all positions, which is what most people mean by a forward pass."""
    return forward(model, made, How(how.dtype, full=True))


def zeroth_order(model: nn.Module, made: Batch, how: How) -> Step:
    """`mezo` as `zofo train` runs it, over all weights: two losses and the update."""
    from zofo.methods import mezo as method

    config = MethodConfig(name="mezo", noise=cast(Any, base(how.law)), rank=rank(how.law), lr_theta=RATE)
    return Method(method, problem(model, config, how), Same(made)).step


def base(law: Law) -> str:
    """A law's name as the configuration has it."""
    return "low-rank" if rank_of(law) else law


def rank(law: Law) -> int:
    """A law's rank, as the configuration has it."""
    return rank_of(law) or 8


def problem(
    model: nn.Module, config: MethodConfig, how: How, slots: Slots | None = None, backwards: bool = False
) -> Problem:
    """What a method works on, theta moving, exactly probed; with a shadow where there are backward passes."""
    leaves = tree.find(model) if slots is None else slots_base(slots)
    half = how.dtype in HALF and (slots is not None or backwards)
    shadow = Shadow(leaves, HALF[how.dtype], without=output_head(model)) if half else None
    probe = Scratch(model if slots is None else slots.model, leaves, how.stack)
    called = model if slots is None else slots.model
    return Problem(called, how.losses, config, 0, 1000, leaves, probe, slots, stacks=True, shadow=shadow)


def slots_base(slots: Slots) -> Leaves:
    """The base's weights under the adapters."""
    adapter = {id(p) for own in slots.params.values() for p in own.values()}
    return tree.find(slots.model, keep=lambda p: id(p) not in adapter)


class Walk:
    """MeZO's own loop: seed torch's generator, add, subtract twice, add, update, a `randn` of every tensor each time."""

    def __init__(self, model: nn.Module, closure: Callable[[], Tensor], eps: float = 1e-3, lr: float = RATE) -> None:
        self.params = list(model.parameters())
        self.closure, self.eps, self.lr = closure, eps, lr

    def shift(self, a: float) -> None:
        """theta <- theta + a z, z drawn anew from the same seed."""
        generator = torch.Generator(self.params[0].device).manual_seed(1)
        for param in self.params:
            param.data.add_(torch.randn(param.shape, generator=generator, device=param.device), alpha=a)

    @torch.no_grad()
    def step(self) -> None:
        """One step: two forward passes, four passes over the weights."""
        self.shift(self.eps)
        plus = float(self.closure())
        self.shift(-2 * self.eps)
        minus = float(self.closure())
        self.shift(self.eps)
        self.shift(-self.lr * (plus - minus) / (2 * self.eps))


def mezo(model: nn.Module, made: Batch, how: How) -> Step:
    """MeZO's loop over all weights."""
    return Walk(model, lambda: how.losses(model, made).mean()).step


@dataclass
class Same:
    """A source that gives the same batch again and again."""

    made: Batch

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[Batch]:
        """The batch."""
        return [self.made]

    def mixed(self, stream: str, step: int, micro: int, share: float) -> list[Batch]:
        """The batch."""
        return [self.made]


@dataclass
class Method:
    """A method's steps, one after another: `module` is one of `zofo.methods`, with `init` and `step`."""

    module: Any
    problem: Problem
    source: Same
    state: State = field(init=False)

    def __post_init__(self) -> None:
        self.state = self.module.init(self.problem)

    def step(self) -> None:
        """One step."""
        self.state, _ = self.module.step(self.problem, self.state, self.source)


def first_order(model: nn.Module, made: Batch, how: How, targets: Sequence[str] = ()) -> Step:
    """zofo's first-order method with LoRA as `zofo train --preset fo-lora` has it, on the same batch."""
    from zofo.adapters.slots import attach
    from zofo.methods import first_order as method

    slots = attach(twin(model), AdapterConfig(targets=tuple(targets)), ("p",), 0)
    config = MethodConfig(name="first-order", lr_p=LEARNING)
    half = HALF.get(how.dtype)
    still = None if half is None else Shadow(slots_base(slots), half, still=True, without=output_head(slots.model))
    given = Problem(slots.model, how.losses, config, seed=0, steps=1000, slots=slots, shadow=still)
    return Method(method, given, Same(made)).step


def linear(model: nn.Module) -> list[str]:
    """The names of a model's linear layers, without the head."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    found = (name for name, module in model.named_modules() if type(module) is nn.Linear and module is not head)
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in found))


def first_order_all(model: nn.Module, made: Batch, how: How) -> Step:
    """The same with LoRA on every linear layer."""
    return first_order(model, made, how, linear(model))


def sketched(model: nn.Module, made: Batch, how: How) -> Step:
    """`sketch` over all weights, rule `normalised`, which keeps nothing."""
    from zofo.methods import sketch as method

    config = MethodConfig(name="sketch", rule="normalised", noise="rademacher", lr_theta=RATE)
    return Method(method, problem(model, config, how, backwards=True), Same(made)).step


def peft_all(model: nn.Module, made: Batch, how: How) -> Step:
    """The same with LoRA on every linear layer."""
    return peft_loop(model, made, how, linear(model))


def peft_loop(model: nn.Module, made: Batch, how: How, targets: Sequence[str] = ()) -> Step:
    """LoRA as one writes it without zofo: peft, Adam, `backward`; logits of all positions by transformers' own loss."""
    from peft import LoraConfig, get_peft_model

    wanted: Any = list(targets) or usual(model)
    lora = get_peft_model(
        cast(Any, twin(model)), LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=wanted)
    )
    optimizer = torch.optim.Adam([p for p in lora.parameters() if p.requires_grad], lr=LEARNING)
    loss = labelled if how.full else at_positions

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(made.input_ids.device.type, torch.bfloat16, enabled=how.dtype == "bf16"):
            value = loss(lora, made)
        value.backward()
        optimizer.step()

    return step


def labelled(lora: Any, made: Batch) -> Tensor:
    """transformers' loss with `labels`: those of the answers, everything else ignored. The row is a token longer, the answer."""
    ids = torch.cat([made.input_ids, made.token[:, None]], 1)
    labels = torch.full_like(ids, -100)
    labels[made.rows.row, made.rows.col + 1] = made.token
    return cast(Tensor, lora(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, use_cache=False).loss)


def at_positions(lora: Any, made: Batch) -> Tensor:
    """The same loss with the head at the answers' positions alone, by hand."""
    base = lora.get_base_model()
    hidden = base.base_model(input_ids=made.input_ids, attention_mask=made.attention_mask, use_cache=False)[0]
    logits = base.get_output_embeddings()(hidden[made.rows.row, made.rows.col])
    return nn.functional.cross_entropy(logits.float(), made.token)


def bilevel(model: nn.Module, made: Batch, how: How, T: int) -> Step:
    """Bilevel-ZOFO's outer iteration with coupling `outer`, LoRA for p and s: T steps below, p's gradient, six losses, both updates."""
    from zofo.adapters.slots import attach
    from zofo.methods import bilevel as method

    config = MethodConfig(coupling="outer", T=max(1, T), noise="rademacher", lr_theta=RATE)
    slots = attach(twin(model), AdapterConfig(), ("p", "s"), 0)
    task = problem(slots.model, config, how, slots)
    held = [method.init(task)]

    def step() -> None:
        held[0], _ = method.iterate(task, held[0], [([made], None)] * T, ([made], [made]))

    return step


def upper(model: nn.Module, made: Batch, how: How) -> Step:
    """The upper level alone."""
    return bilevel(model, made, how, 0)


def iteration(model: nn.Module, made: Batch, how: How) -> Step:
    """An iteration of T = 10."""
    return bilevel(model, made, how, 10)


def plain_passes(model: nn.Module, made: Batch, how: How, T: int) -> Step:
    """The same passes done plainly: T steps of peft's loop, six forward passes without gradients, p's gradient of A and of B."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=usual(model))
    lora = get_peft_model(cast(Any, twin(model)), config)
    params = [p for p in lora.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(params, lr=LEARNING)

    def step() -> None:
        for _ in range(T):
            optimizer.zero_grad()
            how.losses(lora, made).mean().backward()
            optimizer.step()
        with torch.no_grad():
            for _ in range(6):
                how.losses(lora, made).mean()
        for _ in range(2):
            torch.autograd.grad(how.losses(lora, made).mean(), params)

    return step


def upper_plain(model: nn.Module, made: Batch, how: How) -> Step:
    """Six forward passes and p's gradient."""
    return plain_passes(model, made, how, 0)


def iteration_plain(model: nn.Module, made: Batch, how: How) -> Step:
    """Ten LoRA steps, six forward passes and p's gradient."""
    return plain_passes(model, made, how, 10)


TINY = 1e-12  # a step that leaves weights where they are, and costs what a real one does


def noise_pass(model: nn.Module, made: Batch, how: How) -> Step:
    """theta <- theta + a z over all weights: what a step's update is."""
    leaves = tree.find(model)
    return lambda: move.replay(leaves, how.law, ((1, TINY),))


def ready_pass(model: nn.Module, made: Batch, how: How) -> Step:
    """The same with z at hand, which takes as much memory as the weights."""
    held = [(p.data, torch.randn_like(p)) for p in model.parameters()]

    def step() -> None:
        for w, z in held:
            w.add_(z, alpha=TINY)

    return step


def randn_pass(model: nn.Module, made: Batch, how: How) -> Step:
    """The same with z drawn by torch, tensor by tensor."""

    def step() -> None:
        for p in model.parameters():
            p.data.add_(torch.randn_like(p), alpha=TINY)

    return step


KINDS: dict[str, Kind] = {
    "forward": Kind("plain forward", forward),
    "forward-full": Kind("plain forward, logits at all positions", forward_full),
    "forward-bf16": Kind("plain forward in bf16", forward, dtype="bf16"),
    "zofo": Kind("zofo step", zeroth_order, laws=True),
    "zofo-stacked": Kind("zofo step, stacked", zeroth_order, laws=True, stack=True),
    "zofo-bf16": Kind("zofo step in bf16", zeroth_order, laws=True, dtype="bf16"),
    "zofo-bf16-stacked": Kind("zofo step in bf16, stacked", zeroth_order, laws=True, dtype="bf16", stack=True),
    "mezo": Kind("MeZO's loop", mezo),
    "noise": Kind("a z added to all weights", noise_pass, laws=True),
    "noise-ready": Kind("a z at hand added to all weights", ready_pass),
    "noise-randn": Kind("a z of torch.randn added to all weights", randn_pass),
    "peft": Kind("first-order LoRA, peft and torch.optim", peft_loop),
    "first-order": Kind("first-order LoRA, zofo", first_order),
    "peft-all": Kind("LoRA on every linear layer, peft and torch.optim", peft_all),
    "first-order-all": Kind("LoRA on every linear layer, zofo", first_order_all),
    "sketch": Kind("sketch of all weights' gradient, zofo", sketched),
    "upper-plain": Kind("upper level, its passes plainly", upper_plain),
    "upper": Kind("upper level, zofo", upper),
    "upper-stacked": Kind("upper level, zofo, stacked", upper, stack=True),
    "upper-bf16-plain": Kind("upper level in bf16, its passes plainly", upper_plain, dtype="bf16"),
    "upper-bf16": Kind("upper level in bf16, zofo", upper, dtype="bf16"),
    "upper-bf16-stacked": Kind("upper level in bf16, zofo, stacked", upper, dtype="bf16", stack=True),
    "iteration-plain": Kind("iteration (T = 10), its passes plainly", iteration_plain),
    "iteration-bf16": Kind("iteration (T = 10) in bf16, zofo", iteration, dtype="bf16"),
    "iteration-bf16-stacked": Kind("iteration (T = 10) in bf16, zofo, stacked", iteration, dtype="bf16", stack=True),
}
REFERENCES = ("forward", "forward-full")
"""The kinds that the others are compared with, in time and in memory: always measured."""


def chosen(names: Sequence[str], laws: Sequence[str], how: How) -> Iterator[tuple[str, Kind, How]]:
    """The kinds that are wanted and the references, with their labels; a kind with laws once for each."""
    for name, kind in KINDS.items():
        if name not in (*names, *REFERENCES):
            continue
        for law in laws if kind.laws else [how.law]:
            label = f"{kind.label}, {law}" if kind.laws else kind.label
            yield label, kind, How(kind.dtype or how.dtype, how.full, law, kind.stack)
