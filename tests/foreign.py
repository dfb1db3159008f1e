"""A device called "foreign": its numbers are computed on the CPU, yet it mixes with the CPU as little as CUDA does.

    foreign.register();  model.to("foreign")

Tensors are torch's own (PrivateUse1), not of a subclass. What their storage points to is no memory: a kernel that reads
it, not knowing the device, ends the process. `.numpy()` is torch's error. Every operator comes to `kernel`, which refuses
CPU tensors of more than zero dimensions, computes with the tensors behind, and counts what waits for a device (`waits`).
Not there: streams, memory of its own, a second device, and the bits of a GPU's kernels.
"""

from __future__ import annotations

import collections
import itertools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "foreign"
CPU = torch.device("cpu")
NOWHERE = itertools.count(1 << 44, 1 << 30)  # addresses that nothing is mapped at
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select", "aten::_unique2", "aten::bincount")  # fmt: skip
HALF = ("aten::linear", "aten::matmul", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::scaled_dot_product_attention")  # fmt: skip

libraries: list[torch.library.Library] = []
drawn = torch.Generator()  # the device's own generator
waits: collections.Counter[str] = collections.Counter()
narrow = False  # whether float64 is refused, as on MPS
there = False  # whether torch finds the device by itself: in tests of it alone (`in_use`)
_set = torch.ops.aten.set_.source_Storage_storage_offset
_cpu_keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


def register() -> None:
    """Make torch know the device, once a process."""
    if libraries:
        return
    module = types.ModuleType(f"torch.{NAME}")
    module.is_available, module.is_initialized, module._is_in_bad_fork = (
        (lambda: there),
        (lambda: True),
        (lambda: False),
    )
    module.device_count, module.current_device, module.synchronize = (lambda: 1), (lambda: 0), (lambda: None)
    module.manual_seed_all = module.manual_seed = drawn.manual_seed
    module.get_rng_state = lambda device=None: drawn.get_state()
    module.set_rng_state = lambda state, device=None: drawn.set_state(state)
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    _setup_privateuseone_for_python_backend(NAME, backend_module=module)
    every, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(kernel, "PrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    aten.impl("_copy_from", copied, "PrivateUse1")
    aten.impl("_fused_sdp_choice", lambda *_, **__: 0, "PrivateUse1")  # attention by plain products
    for name in HALF:
        op = getattr(torch.ops.aten, name.removeprefix("aten::")).default
        aten.impl(name.removeprefix("aten::"), halving(op), "AutocastPrivateUse1")
    libraries.extend([every, aten])


@contextmanager
def in_use() -> Iterator[None]:
    """A block in which the device is found, and modules move to it and are copied there as on CUDA.

    Their parameters stay the same objects, so tied ones tied. torch does so for the devices it knows; for others it makes new
    parameters, and would copy a storage by its address.
    """
    move, clone = torch.nn.Module.to, torch.UntypedStorage.clone

    def to(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is None and all(t.device.type == device.type for t in (*module.parameters(), *module.buffers())):
            return module  # swapping a tensor that something else holds is an error, with nothing to do too
        swap = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return move(module, *args, **kwargs)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swap)

    def cloned(storage: Any) -> Any:
        return made(storage.held.clone()) if storage.device.type == NAME else clone(storage)

    global there
    torch.nn.Module.to, torch.UntypedStorage.clone, there = to, cloned, True
    try:
        yield
    finally:
        torch.nn.Module.to, torch.UntypedStorage.clone, there = move, clone, False


def made(memory: Any) -> Any:
    """A storage of the device over a CPU storage."""
    storage = torch._C._construct_storage_from_data_pointer(next(NOWHERE), torch.device(NAME, 0), memory.nbytes())
    storage.held = memory
    return storage


def halving(op: Any) -> Callable[..., Any]:
    """An operator as autocast runs it: its fp32 tensors in the half type."""

    def run(*args: Any, **kwargs: Any) -> Any:
        kind = torch.get_autocast_dtype(NAME)
        args, kwargs = pytree.tree_map(
            lambda x: x.to(kind) if ours(x) and x.dtype in (torch.float32, torch.bfloat16, torch.float16) else x,
            (args, kwargs),
        )
        with torch.autocast(NAME, enabled=False):
            return op(*args, **kwargs)

    return run


def copied(self: Tensor, dst: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy to the device, from it, or on it."""
    if narrow and torch.float64 in (self.dtype, dst.dtype):
        raise TypeError("Cannot convert a tensor to float64: the device has none")
    if not ours(dst):
        wait("aten::_copy_from")
    (behind(dst) if ours(dst) else dst).copy_(behind(self) if ours(self) else self)
    return dst


def ours(x: Any) -> bool:
    """Whether something is a tensor of the device."""
    return isinstance(x, Tensor) and x.device.type == NAME


def behind(t: Tensor) -> Tensor:
    """The CPU tensor over the memory of a device's tensor."""
    storage = t.untyped_storage()
    if not hasattr(storage, "held"):  # a tensor that torch's C++ made without us: it has no elements
        assert storage.nbytes() == 0
        storage.held = torch.UntypedStorage(0)
    return torch.empty(0, dtype=t.dtype).set_(storage.held, t.storage_offset(), t.shape, t.stride())


def again(x: Tensor, held: Tensor, storages: dict[int, Any]) -> Tensor:
    """Set a tensor of the device over the memory of a CPU tensor; `storages` are known already, by the CPU storage's address."""
    if narrow and held.dtype in (torch.float64, torch.complex128):
        raise TypeError("Cannot convert a tensor to float64: the device has none")
    memory = held.untyped_storage()
    storage = storages.get(memory._cdata)
    if storage is None or storage.nbytes() != memory.nbytes():
        storage = storages[memory._cdata] = made(memory)
    _set.redispatch(_cpu_keys, x, storage, held.storage_offset(), held.shape, held.stride())
    return x


def before(held: Tensor, storages: dict[int, Any]) -> Tensor:
    """A new tensor of the device over the memory of a CPU tensor."""
    return again(torch._C._acc.create_empty_tensor((0,), held.dtype), held, storages)


def refuse(op: Any, tensors: list[Tensor]) -> None:
    """CUDA's error for tensors of two devices."""
    strangers = [t for t in tensors if not ours(t) and t.dim() > 0]
    if strangers and any(map(ours, tensors)):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! ({op})"
        )


def wait(name: str) -> None:
    """Count an operator after which the CPU waits for the device, with the line of zofo's that called it."""
    frame: Any = sys._getframe()
    while frame is not None and "/zofo/" not in frame.f_code.co_filename:
        frame = frame.f_back
    where = "" if frame is None else f"{frame.f_code.co_filename.rpartition('/zofo/')[2]}:{frame.f_lineno} "
    waits[where + name] += 1


def wrapped(value: Any, argument: Any) -> Any:
    """A number where the schema wants a tensor: torch hands us those that it had wrapped."""
    if isinstance(value, bool | int | float) and str(argument.type) == "Tensor":
        kind = {bool: torch.bool, int: torch.int64, float: torch.float64}[type(value)]
        return torch.tensor(value, dtype=kind)
    return value


def kernel(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Any operator on the device: by the same operator on the CPU tensors behind."""
    tensors: list[Tensor] = []
    mine: dict[int, tuple[Tensor, Tensor]] = {}
    storages: dict[int, Any] = {}

    def enter(x: Any) -> Any:
        if isinstance(x, Tensor):
            tensors.append(x)
            if not ours(x):
                return x
            if id(x) not in mine:
                held = behind(x)
                mine[id(x)] = x, held
                storages[held.untyped_storage()._cdata] = x.untyped_storage()
            return mine[id(x)][1]
        if isinstance(x, list | tuple):
            return type(x)(map(enter, x))
        if isinstance(x, torch.UntypedStorage) and x.device.type == NAME:
            storages[x.held._cdata] = x
            return x.held
        return CPU if isinstance(x, torch.device) else x

    inside, named = [enter(x) for x in args], {name: enter(x) for name, x in kwargs.items()}
    refuse(op, tensors)
    if op._schema.name in WAITS:
        wait(op._schema.name)
    if torch.Tag.nondeterministic_seeded in op.tags and any(a.name == "generator" for a in op._schema.arguments):
        named["generator"] = named.get("generator") or drawn
    result = op(*map(wrapped, inside, op._schema.arguments), **named)
    for x, held in mine.values():
        if (held.shape, held.stride(), held.storage_offset()) != (x.shape, x.stride(), x.storage_offset()):
            again(x, held, storages)
    back = {id(held): x for x, held in mine.values()}

    def leave(y: Any) -> Any:
        if isinstance(y, Tensor):
            return back[id(y)] if id(y) in back else before(y, storages)
        return tuple(map(leave, y)) if isinstance(y, tuple) else [*map(leave, y)] if isinstance(y, list) else y

    return leave(result)
