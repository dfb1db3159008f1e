"""The kinds that use nothing of zofo's methods: forward passes, MeZO's loop, peft's loop, and their noise by torch.

They are what zofo's own kinds (`zofo.bench.ours`) are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from zofo.adapters.targets import usual
from zofo.bench.how import LEARNING, RATE, TINY, How, Step, linear, twin
from zofo.scoring.batch import Batch


def forward(model: nn.Module, made: Batch, how: How) -> Step:
    """A plain forward pass without gradients."""

    def step() -> None:
        with torch.no_grad():
            how.losses(model, made).mean()

    return step


def forward_full(model: nn.Module, made: Batch, how: How) -> Step:
    """The same with logits at all positions, which is what most people mean by a forward pass."""
    return forward(model, made, How(how.dtype, full=True))


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


def with_lora(model: nn.Module, targets: Sequence[str] = ()) -> Any:
    """peft's LoRA of rank 8 on a twin of a model, on the layers named or where it usually goes."""
    from peft import LoraConfig, get_peft_model

    wanted: Any = list(targets) or usual(model)
    config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=wanted)
    return get_peft_model(cast(Any, twin(model)), config)


def peft_loop(model: nn.Module, made: Batch, how: How, targets: Sequence[str] = ()) -> Step:
    """LoRA as one writes it without zofo: peft, Adam, `backward`; logits of all positions by transformers' own loss."""
    lora = with_lora(model, targets)
    optimizer = torch.optim.Adam([p for p in lora.parameters() if p.requires_grad], lr=LEARNING)
    loss = labelled if how.full else at_positions

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(made.input_ids.device.type, torch.bfloat16, enabled=how.dtype == "bf16"):
            value = loss(lora, made)
        value.backward()
        optimizer.step()

    return step


def peft_all(model: nn.Module, made: Batch, how: How) -> Step:
    """The same with LoRA on every linear layer."""
    return peft_loop(model, made, how, linear(model))


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


def plain_passes(model: nn.Module, made: Batch, how: How, T: int) -> Step:
    """The passes of an iteration of Bilevel-ZOFO done plainly: T steps of peft's loop, six forward passes without gradients, p's gradient of A and of B."""
    lora = with_lora(model)
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


def ready_pass(model: nn.Module, made: Batch, how: How) -> Step:
    """theta <- theta + a z over all weights with z at hand, which takes as much memory as the weights."""
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
