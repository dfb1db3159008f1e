"""The Triton kernels give the reference's bits in Triton's interpreter, and compile for GPUs to one float addition."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from zofo.core.kernels import cuda, reference

pytest.importorskip("triton", reason="triton is not installed (there are wheels for Linux on x86-64)")
with pytest.MonkeyPatch.context() as patch:
    patch.setenv("TRITON_INTERPRET", "1")  # read when the kernels are defined, so in this import
    from zofo.core.kernels import cuda_jit

LAWS = ("gaussian", "sphere", "rademacher", "low-rank")  # "low-rank-8" and the like are the latter
PAIRS = sorted(cuda.PAIRS, key=str)
EVEN = settings(
    max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WORD = st.integers(0, 2**64 - 1)
START = st.one_of(st.integers(0, 700), st.integers(2**31 - 200, 2**31 + 200), st.integers(2**38, 2**38 + 300))
NUMPY = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # the interpreter's
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
ANSWERS = [  # Random123's known-answer file: counter, key, result
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def weights(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """n weights of ordinary sizes."""
    return torch.randn(n, generator=torch.Generator().manual_seed(n)).to(dtype)


def same(got: Tensor, want: Tensor) -> bool:
    """Whether two tensors have the same bits, any NaN being as good as another."""
    nan = want.isnan()
    kind = BITS[want.dtype]
    return torch.equal(got.isnan(), nan) and torch.equal(got.view(kind)[~nan], want.view(kind)[~nan])


def low_rank(key: int, tid: int, index: Tensor, a: float, width: int, rank: int) -> Tensor:
    """a z of the low-rank law, sign by sign: z_ij = sum_k U_ik V_jk / sqrt(r)."""
    row, column, k = index // width, index % width, torch.arange(rank)
    u = 2 * reference.signs(key, tid, width * rank + row[:, None] * rank + k) - 1
    v = 2 * reference.signs(key, tid, column[:, None] * rank + k) - 1
    return (u * v).sum(1).float() * torch.tensor((a + 0.0) / math.sqrt(rank), dtype=torch.float32)


def stochastic(x: Tensor, dtype: torch.dtype, random: Tensor) -> Tensor:
    """Round fp32 x by 16 random bits each, as it is stated: in integers, subnormal halves in floats."""
    bits, size = x.view(torch.int32).long() & 0xFFFFFFFF, x.abs()
    if dtype == torch.bfloat16:
        short = torch.where(size < math.inf, bits + random, bits) >> 16
    else:
        grown = (bits & 0x7FFFFFFF) + (random & 0x1FFF)
        y = torch.where(size < 2.0**-14, size * 2.0**24, 0.0)
        tiny = y.floor().long() + (random / 65536 < y - y.floor())
        normal = ((grown >> 13) - (112 << 10)).clamp(max=0x7C00)
        short = torch.where(size < 2.0**-14, tiny, normal) | bits >> 16 & 0x8000
    short = torch.where(x.isnan(), 0x7FFF, short)
    return torch.where(short >= 0x8000, short - 0x10000, short).to(torch.int16).view(dtype)


def slow(
    w: Tensor, dtype: torch.dtype, law: str, key: int, tid: int, a: float, start: int, width: int, rank: int,
    rounding: int | None,
) -> Tensor:  # fmt: skip
    """w + a z in type `dtype` as the design states it: fp32(a z), one add in fp32, one rounding."""
    index = torch.arange(start, start + w.numel())
    if law == "low-rank":
        step = low_rank(key, tid, index, a, width, rank)
    else:
        step = reference.scaled(law, key, tid, index, a, torch.float32)
    x = w.float() + step
    if rounding is None or dtype == torch.float32:
        return x.to(dtype)
    return stochastic(x, dtype, reference.halves(rounding, tid, index))


def check(w: Tensor, dtype: torch.dtype, *args: object) -> None:
    """Compare with `slow` inside a larger tensor, whose other elements must stay; and in place, if the types allow."""
    want = slow(w, dtype, *args)  # type: ignore[arg-type]
    before, room = w.clone(), torch.full((w.numel() + 4,), 7.0, dtype=dtype)
    cuda.perturb(room[3:-1], w, *args)  # type: ignore[arg-type]
    assert same(room[3:-1], want)
    assert room[:3].tolist() == [7, 7, 7] and room[-1:].tolist() == [7], "wrote outside"
    assert same(w, before), "out of place leaves w alone"
    if w.dtype == dtype:
        cuda.perturb(w, w, *args)  # type: ignore[arg-type]
        assert same(w, want), "in place gives the same bits"


@pytest.mark.parametrize(("counter", "key", "result"), ANSWERS)
def test_philox_gives_the_published_answers(
    counter: tuple[int, ...], key: tuple[int, int], result: tuple[int, ...]
) -> None:
    """The stream's layout too: a table that holds its own index shows the 16 bits of a block's eight elements."""
    block, tid = (cuda.signed(counter[i] | counter[i + 1] << 32) for i in (0, 2))
    out, table = torch.zeros(8), torch.arange(65536).float()
    place = block // 16, block % 16 * 8, 8, 0, 0, cuda.signed(key[0] | key[1] << 32), tid, 0
    cuda_jit.perturb[(1,)](out, out, table, table, *place, LAW="gaussian", STOCHASTIC=False, TILE=128)
    halves = [int(half) for half in out]
    assert tuple(low | high << 16 for low, high in zip(halves[::2], halves[1::2], strict=True)) == result


@EVEN
@given(
    law=st.sampled_from(LAWS), pair=st.sampled_from(PAIRS), n=st.integers(1, 1500), start=START, key=WORD, tid=WORD,
    a=st.floats(-2, 2, width=32), width=st.integers(1, 400), rank=st.integers(1, 32),
    rounding=st.one_of(st.none(), WORD),
)  # fmt: skip
@example("gaussian", PAIRS[0], 1, 7, 2**64 - 1, 2**64 - 1, 1e-3, 1, 1, None)
@example("low-rank", PAIRS[0], 1025, 2**38 - 5, 2**63, 1, -1e-3, 1, 32, 2**64 - 1)
def test_equals_the_reference_at_any_size_and_offset(
    law: str, pair: tuple[torch.dtype, torch.dtype], n: int, start: int, key: int, tid: int, a: float,
    width: int, rank: int, rounding: int | None,
) -> None:  # fmt: skip
    check(weights(n, pair[0]), pair[1], law, key, tid, a, start, width, rank, rounding)


def test_low_rank_of_a_vector_is_rademacher() -> None:
    out = torch.empty(300)
    cuda.perturb(out, weights(300), "low-rank-8", 1, 2, 0.1, 70, 0, 8, None)
    assert same(out, slow(weights(300), torch.float32, "rademacher", 1, 2, 0.1, 70, 0, 8, None))


@pytest.mark.parametrize("rounding", [None, 77])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_equals_the_reference_over_several_tiles(
    pair: tuple[torch.dtype, torch.dtype], law: str, rounding: int | None
) -> None:
    for a, start in ((1e-2, 0), (-1e-2, 131)):
        check(weights(cuda.TILE + 77, pair[0]), pair[1], law, 42, 9, a, start, 96, 3, rounding)


@pytest.mark.parametrize("rank", [1, 2, 8, 31, 32])
def test_low_rank_equals_its_two_factors(rank: int) -> None:
    """Wide, narrow, one row, one column; begun inside a row; w = -0.0, where the sign of a zero step shows."""
    for width, start, n in ((1, 0, 40), (7, 3, 300), (64, 0, 640), (2000, 100, 1100), (1500, 3000, 1500)):
        check(torch.full((n,), -0.0), torch.float32, "low-rank", 5, 6, -0.3, start, width, rank, None)


@pytest.mark.parametrize("law", ["gaussian", "rademacher", "low-rank"])
@pytest.mark.parametrize("a", [-0.0, 0.0])
def test_the_sign_of_a_step_of_zero_does_not_depend_on_what_went_before(law: str, a: float) -> None:
    """w = -0.0 shows it; -a goes first, whose table is kept under the same number."""
    check(torch.full((300,), -0.0), torch.float32, law, 5, 6, -a, 0, 64, 8, None)
    check(torch.full((300,), -0.0), torch.float32, law, 5, 6, a, 0, 64, 8, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rounding", [None, 3])
@NUMPY
def test_every_kind_of_number_is_rounded_right(dtype: torch.dtype, rounding: int | None) -> None:
    """With a = 0: all exponents, subnormal, infinite and NaN; and the region where halves are subnormal or overflow."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randint(-(2**31), 2**31, (3000,), generator=generator).int().view(torch.float32)
    exponents = torch.randint(-27, 18, (3000,), generator=generator).float()
    near = torch.randn(3000, generator=generator) * 2**exponents
    ties = (torch.arange(1000) * 2.0**-25) * torch.tensor([1.0, -1.0]).repeat(500)
    special = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, 65504.0, 65519.9, 65520.0, 2.0**-14, 1e-45, 3e38])
    least_nan = torch.tensor([0x7F800001, -0x7FFFFF]).int().view(torch.float32)
    x = torch.cat([patterns, near, ties, special, least_nan, torch.tensor([2.0**-14 * (1 - 2.0**-24), -3.4e38])])
    check(x, dtype, "gaussian", 1, 2, 0.0, 5, 1, 1, rounding)


@NUMPY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_is_widened_exactly(dtype: torch.dtype) -> None:
    w = torch.arange(-(2**15), 2**15, 3).to(torch.int16).view(dtype)
    check(w, dtype, "rademacher", 1, 2, 0.0, 0, 1, 1, None)


@pytest.mark.parametrize(("dtype", "ulp"), [(torch.bfloat16, 2.0**-7), (torch.float16, 2.0**-10)])
def test_stochastic_rounding_goes_up_as_often_as_it_should(dtype: torch.dtype, ulp: float) -> None:
    n = 20 * cuda.TILE
    out = torch.empty(n, dtype=dtype)
    cuda.perturb(out, torch.full((n,), 1 + 0.3 * ulp), "gaussian", 1, 2, 0.0, 0, 1, 1, 9)
    assert set(out.tolist()) == {1.0, 1 + ulp}
    assert float((out > 1).float().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / n))


def test_nothing_is_nothing() -> None:
    cuda.perturb(torch.empty(0), torch.empty(0), "low-rank", 1, 2, 1.0, 0, 5, 1, None)


def test_what_has_no_kernel_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"no kernel from torch\.float64"):
        cuda.perturb(torch.empty(3), torch.empty(3).double(), "gaussian", 1, 2, 1.0, 0, 1, 1, None)
    with pytest.raises(AssertionError, match="no kernel of the law 'cauchy'"):
        cuda.perturb(torch.empty(3), torch.empty(3), "cauchy", 1, 2, 1.0, 0, 1, 1, None)


def test_available_where_there_is_something_to_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert cuda.available() is torch.cuda.is_available()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert cuda.available()
    monkeypatch.setitem(sys.modules, "triton", None)
    assert not cuda.available()


def python(code: str, place: Path) -> str:
    """Run a program in a fresh interpreter, without TRITON_INTERPRET, and return what it prints."""
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(place), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout


def test_zofo_needs_no_triton_until_it_is_used(tmp_path: Path) -> None:
    code = "import sys; sys.modules['triton'] = None; import zofo.core.noise; from zofo.core.kernels import cuda"
    assert python(code + "; print(cuda.available())", tmp_path) == "False\n"


COMPILE = """
import re, sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from zofo.core.kernels import cuda_jit

NUMBERS = dict(group="i64", skip="i32", n="i32", width="i32", row="i64", key="i64", tid="i64", rounding="i64", count="i32")

def ptx(kernel, target, others, **constants):
    signature = {name: (NUMBERS | others).get(name, "constexpr") for name in kernel.arg_names}
    compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", target, 32))
    assert compiled.asm["cubin"]
    return compiled.asm["ptx"]

LAWS, HALVES = ("gaussian", "rademacher", "low-rank"), ("fp32 bf16", "fp32 fp16", "bf16 bf16", "fp16 fp16")
cases = [(80, "fp32 fp32", law, 0) for law in LAWS] + [(80, pair, "gaussian", s) for pair in HALVES for s in (0, 1)]
cases += [(75, "bf16 bf16", "low-rank", 1), (90, "bf16 bf16", "rademacher", 1), (90, "fp16 fp16", "low-rank", 1)]
for target, pair, law, stochastic in cases:
    w, out = pair.split()
    pointers = dict(w="*" + w, out="*" + out, steps="*fp32", codes="*i32")
    print(ptx(cuda_jit.perturb, target, pointers, LAW=law, STOCHASTIC=bool(stochastic), TILE=1024))
print(ptx(cuda_jit.factors, 80, dict(codes="*i32"), RANK=5, TILE=1024))
print(ptx(cuda_jit.factors, 80, dict(codes="*i32", key="i32", tid="i32", row="i32"), RANK=32, TILE=1024))  # small ones
"""


@pytest.mark.slow
def test_gpu_code_has_no_float_arithmetic_but_one_addition(tmp_path: Path) -> None:
    """What ptxas may fuse or flush is not there: no product, no fused multiply-add, no flush of subnormal numbers."""
    lines = [line.split() for line in python(COMPILE, tmp_path).splitlines() if line.startswith("\t")]
    floats = {word for line in lines for word in line[:2] if re.search(r"\w\.\S*f(16|32|64)", word)}
    assert floats - {"cvt.f32.f16", "cvt.rn.f16.f32"} == {"add.f32"}
