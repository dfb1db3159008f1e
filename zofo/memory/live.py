"""Bytes of tensors that stand together, counted as torch makes and drops their storages: the same number each time.

What is counted is what the dispatcher hands out, so it works without arithmetic too (fake tensors). It does not
see what an operator takes and gives back within itself, what numpy, numba, MKL and oneDNN take, nor what malloc
adds. On the CPU it agrees with the allocator's own records to a per cent (`zofo.bench.peak` says what is missed).
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storages(tree: Any) -> Iterator[Any]:
    """The storages of all tensors in a nest of arguments or results."""
    for tensor in tree_leaves(tree):
        if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
            yield tensor.untyped_storage()


class Live(TorchDispatchMode):
    """Counts live bytes by part of a computation while it is entered: `peak`, and `at_peak`, what stood then by part.

    A tensor that comes from outside stood before and is not counted, nor missed when it goes. `part` names what is
    being made, `during` for a block; copies of what stood before in another type (weights under autocast) count as
    `copies`, and what a backward pass makes as `backward`, where these are given. Cost: some 20 microseconds an
    operator; holds no tensor.
    """

    def __init__(self, part: str = "", copies: str | None = None, backward: str | None = None) -> None:
        super().__init__()
        self.before: weakref.WeakSet[Any] = weakref.WeakSet()
        self.made: weakref.WeakSet[Any] = weakref.WeakSet()
        self.part, self.copies, self.backward = part, copies, backward
        self.now, self.at_peak, self.peak = Counter[str](), Counter[str](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and count the storages that it makes."""
        if func.namespace == "prim":  # a fake tensor is asked for its device
            return func(*args, **(kwargs or {}))
        given = list(storages((args, kwargs)))
        self.before.update(storage for storage in given if storage not in self.made)
        part = self.part_of(func, given)
        result = func(*args, **(kwargs or {}))
        for storage in storages(result):
            self.meet(storage, part)
        return result

    def part_of(self, func: Any, given: list[Any]) -> str:
        """The part that an operator's results count to."""
        if self.copies is not None and func is torch.ops.aten._to_copy.default and given[0] in self.before:
            return self.copies
        if self.backward is not None and torch._C._current_autograd_node() is not None:
            return self.backward
        return self.part

    def meet(self, storage: Any, part: str) -> None:
        """Count a storage, unless it is known, until it is dropped."""
        if storage in self.before or storage in self.made:
            return
        self.made.add(storage)
        self.now[part] += storage.nbytes()
        weakref.finalize(storage, self.drop, part, storage.nbytes())
        if self.now.total() > self.peak:
            self.peak, self.at_peak = self.now.total(), +self.now

    def drop(self, part: str, size: int) -> None:
        """Count a storage no more."""
        self.now[part] -= size

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Count what is made in a block to a part."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before
