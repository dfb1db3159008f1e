"""The one scoring path: training, probing, validation and selection score through it.

Only the wanted positions go through the output head (for a short row and a large vocabulary the head
is most of a forward pass): a hook on the head takes them out of the hidden states, in two dimensions.
Where the loss needs a few words of the vocabulary only, a tied head computes those alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zofo.core.weights.head import output_head
from zofo.scoring import past as keys
from zofo.scoring.batch import Batch, Rows
from zofo.scoring.past import Past


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Run a block after which every module is in the mode, train or eval, that it was found in, whatever happens."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block with the model in eval mode (no dropout), and `as_found` after it."""
    with as_found(model):
        model.eval()
        yield


def objective_note(model: nn.Module) -> str | None:
    """A sentence for the user where scoring costs more than it should, else None."""
    if output_head(model) is not None:
        return None
    return f"{type(model).__name__} names no output head: logits of all positions are computed, and most thrown away"


def _take(values: Tensor, rows: Rows) -> Tensor:
    """Rows of (R, L', H) at the wanted positions: (P, H). Columns count from the end: virtual tokens stand in front."""
    return values[rows.row, values.shape[1] - rows.input_ids.shape[1] + rows.col]


@contextmanager
def _only_wanted(head: nn.Module | None, rows: Rows) -> Iterator[None]:
    """Let only the wanted positions into the output head, for one forward pass."""

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (_take(args[0], rows), *args[1:]) if args and args[0].dim() == 3 else None

    handle = head.register_forward_pre_hook(before) if head is not None else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def few_words(model: nn.Module) -> nn.Embedding | None:
    """The embedding that gives a head's rows by token, where it has the head's own weight and scales nothing.

    Called for a few tokens it gives their rows as the model has them at that moment, perturbed ones too.
    """
    head, inputs = output_head(model), getattr(model, "get_input_embeddings", lambda: None)()
    plain = type(head) is nn.Linear and type(inputs) is nn.Embedding and head.bias is None  # type: ignore[union-attr]
    return inputs if plain and inputs.weight is head.weight and inputs.max_norm is None else None  # type: ignore[union-attr]


@contextmanager
def _running(head: nn.Module, run: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the head compute by `run`, for one forward pass."""
    before = vars(head).get("forward")
    head.forward = run  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward
        if before is not None:
            head.forward = before  # type: ignore[method-assign]


def _of_words(head: nn.Module, words: nn.Embedding, tokens: Tensor) -> Callable[[Tensor], Tensor]:
    """The head's logits of `tokens` alone (a probe's head knows how itself)."""
    few = getattr(vars(head).get("forward"), "few", None)
    return (lambda x: F.linear(x, words(tokens))) if few is None else (lambda x: cast(Tensor, few(x, tokens)))


def _in_full(head: nn.Module) -> Callable[[Tensor], Tensor]:
    """The head in fp32, whatever the rest is computed in.

    A logit of 20 in bf16 is right to 0.06, and a zeroth-order estimate divides the error of a loss by 2 eps; at few
    positions the head costs little.
    """
    forward = head.forward

    def run(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return cast(Tensor, forward(x.float()))

    return run


HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def computing(device: torch.device, dtype: str) -> torch.autocast:
    """A context that computes in "bf16" or "fp16" over the weights' own type, or ("fp32") leaves everything as it is.

    The autocast cache is off: it would hand a weight's old cast to code that changes weights during a pass
    (probing), and every weight is cast once a pass anyway.
    """
    half = HALF.get(dtype, torch.bfloat16)
    return torch.autocast(device.type, half, enabled=dtype in HALF, cache_enabled=False)


def _logits(model: nn.Module, rows: Rows, cached: dict[str, Any], tokens: Tensor | None) -> tuple[Tensor, Any]:
    """Logits (P, V) at the wanted positions of rows (of `tokens` alone, where given), and the cache."""
    head = output_head(model)
    with ExitStack() as stack:
        stack.enter_context(_only_wanted(head, rows))
        if tokens is not None:
            assert head is not None
            stack.enter_context(_running(head, _of_words(head, few_words(model), tokens)))  # type: ignore[arg-type]
        kind = rows.input_ids.device.type
        if torch.is_autocast_enabled(kind) and getattr(getattr(head, "weight", None), "dtype", None) == torch.float32:
            stack.enter_context(_running(head, _in_full(head)))  # type: ignore[arg-type]
        inputs = {"attention_mask": rows.attention_mask, "use_cache": False} | cached
        out = model(input_ids=rows.input_ids, **inputs)
    # A head that is called by its weight only (no module call, so no hook) gives logits everywhere.
    logits = _take(out.logits, rows) if out.logits.dim() == 3 else out.logits
    return logits, inputs.get("past_key_values")


def _forward(model: nn.Module, batch: Batch, dtype: str, past: Past | None, tokens: Tensor | None = None) -> Tensor:
    """Logits (P, V) at a batch's wanted positions: the rows, going on from `past`; then the tails, going on from the rows."""
    with computing(batch.input_ids.device, dtype):
        cached = keys.begun(model, batch.rows, past, keep=batch.tails is not None)
        logits, cache = _logits(model, batch.rows, cached, tokens)
        if batch.tails is None or batch.parent is None:
            return logits
        cached = keys.continued(model, batch.tails, batch.rows, batch.parent, past, cache)
        more, _ = _logits(model, batch.tails, cached, tokens)
        return torch.cat([logits, more])


def read_prefix(model: nn.Module, ids: tuple[int, ...], dtype: str = "fp32") -> Past:
    """Keys and values of a prefix, to go on from (`can_share` says which models can). Cost: one forward pass over it."""
    row = torch.tensor([ids], device=next(model.parameters()).device)
    last = row.new_tensor([len(ids) - 1])
    rows = Rows(row, torch.ones_like(row), torch.zeros_like(last), last)
    with torch.no_grad(), computing(row.device, dtype):
        return Past(ids, _logits(model, rows, keys.begun(model, rows, None, keep=True), None)[1])


def answer_logprobs(model: nn.Module, batch: Batch, dtype: str = "fp32", past: Past | None = None) -> Tensor:
    """Mean log-probability of each answer's tokens, (1/|a|) sum_t log P(a_t | context, a_<t): shape (N,).

    Args: model, a causal model of transformers, or a peft model around one; batch, moved to the
    model's device if it is elsewhere; dtype, "fp32" (compute in the weights' own type), "bf16" or
    "fp16" (autocast); past, keys and values of a prefix that all rows share (`zofo.scoring.past`). The result is
    fp32, or fp64 for an fp64 model. Differentiable; works under no_grad.
    Cost: one forward pass (branched: two, that read each context once), and P x V logits.
    """
    batch = batch.to(next(model.parameters()).device)
    logits = _forward(model, batch, dtype, past)
    scores = torch.log_softmax(logits, -1, dtype=_kind(logits))[batch.at, batch.token]
    return _means(scores, batch)


def _kind(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _means(scores: Tensor, batch: Batch) -> Tensor:
    """The mean score of each answer's tokens: (T,) to (N,)."""
    n = batch.right.numel()  # known without asking a device for it
    tokens = batch.answer.new_zeros(n).index_add(0, batch.answer, torch.ones_like(batch.answer))
    return scores.new_zeros(n).index_add(0, batch.answer, scores) / tokens


def row_losses(model: nn.Module, batch: Batch, dtype: str = "fp32") -> Tensor:
    """LM loss of each example, the mean negative log-probability of its right answer's tokens: shape (E,).

    Arguments, type and cost as for `answer_logprobs`.
    """
    return -answer_logprobs(model, batch, dtype)[batch.gold.to(next(model.parameters()).device)]


def choice_losses(model: nn.Module, batch: Batch, dtype: str = "fp32") -> Tensor:
    """Classification loss of each example, -log sum_{right c} softmax(score)_c over its choices: shape (E,).

    score_c is the mean log-probability of choice c's tokens (MeZO, appendix E.1); in the channel (`compared`)
    log P(input | c). Arguments and type as for
    `answer_logprobs`, on a `choice_batch`. Cost: as there; where every choice is one token after the
    same context, the vocabulary's normaliser cancels, and a tied head computes the choices' words alone.
    """
    batch = batch.to(next(model.parameters()).device)
    words = few_words(model)
    tokens, place = torch.unique(batch.token, return_inverse=True)
    if one_word(batch) and words is not None and words.padding_idx not in tokens.tolist():
        logits = _forward(model, batch, dtype, None, tokens)
        scores = logits.to(_kind(logits))[batch.at, place]
    else:
        scores = answer_logprobs(model, batch, dtype)
    return cross_entropy(compared(scores, batch), batch)


def compared(scores: Tensor, batch: Batch) -> Tensor:
    """What an example's choices are compared by, (N,): mean log-probabilities as they are; in the channel their sums.

    All choices of a channel row score the same input, so sums and means choose alike; but the softmax of sums
    is P(choice | input) under equal priors (Bayes), and that of means is flattened by the input's length.
    Reference: Min et al. 2022, "Noisy channel language model prompting", section 3.
    """
    return scores * torch.bincount(batch.answer) if batch.channel else scores


def one_word(batch: Batch) -> bool:
    """Whether every answer is one token, and all of an example's stand at one position."""
    if batch.token.numel() != batch.right.numel():
        return False
    return bool((batch.at == batch.at[batch.first.repeat_interleave(batch.count)]).all())


def by_example(values: Tensor, batch: Batch, fill: float) -> Tensor:
    """Values of answers, (N,), as a row an example, (E, most answers), filled up with `fill`."""
    example = torch.repeat_interleave(batch.count)
    place = torch.arange(len(values), device=values.device) - batch.first[example]
    table = values.new_full((len(batch.count), int(batch.count.max())), fill)
    return table.index_put((example, place), values)


def cross_entropy(scores: Tensor, batch: Batch) -> Tensor:
    """-log of the probability that a softmax over an example's scores gives to its right choices: (N,) to (E,)."""
    every = by_example(scores, batch, -torch.inf)
    right = by_example(scores.masked_fill(batch.right == 0, -torch.inf), batch, -torch.inf)
    return torch.logsumexp(every, 1) - torch.logsumexp(right, 1)
