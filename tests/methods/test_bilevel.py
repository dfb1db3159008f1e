"""The bilevel solver against a plain reference, and on a convex problem whose bilevel optimum is known."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from torch.func import functional_call
from transformers import OPTConfig, OPTForCausalLM

from zofo.adapters.slots import attach
from zofo.config import AdapterConfig, MethodConfig, build
from zofo.core import noise, streams
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.core.weights import move
from zofo.errors import NotFinite
from zofo.methods import above, bilevel
from zofo.methods.solver import Bilevel
from zofo.methods.state import Problem, Report
from zofo.methods.table import effective
from zofo.scoring.batch import Batch, Encoded, lm_batch
from zofo.scoring.objective import row_losses

R, ALPHA, TARGETS = 2, 4, ("q_proj", "v_proj")
LORA = LoraConfig(r=R, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM")


def tiny(dtype: torch.dtype, layers: int = 2, tied: bool = True) -> OPTForCausalLM:
    torch.manual_seed(0)
    config = OPTConfig(  # not Llama, whose norms round an fp64 model's activations to fp32
        vocab_size=50, hidden_size=16, word_embed_proj_dim=16, ffn_dim=24, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=32, dropout=0.0, init_std=0.2, tie_word_embeddings=tied,
    )  # fmt: skip
    return OPTForCausalLM(config).to(dtype).eval()


def batches(n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 50, (3, 6), generator=generator) for _ in range(n)]


def row_loss(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids, use_cache=False).logits
    return -logits[:, -2].log_softmax(-1).gather(1, ids[:, -1:]).squeeze(1)


# ---- the reference: autograd, explicit z, no peft, no hooks, no zofo but the noise itself ----------------


class Reference:
    """theta and two LoRA copies as plain dictionaries of tensors; one iteration in the open."""

    def __init__(self, model: OPTForCausalLM, start_p: dict, start_s: dict, **o: Any) -> None:
        self.model, self.theta = model, {n: w.clone() for n, w in model.named_parameters()}
        self.q = {"p": {n: w.clone() for n, w in start_p.items()}, "s": {n: w.clone() for n, w in start_s.items()}}
        self.m = {
            slot: {n: [torch.zeros_like(w), torch.zeros_like(w)] for n, w in self.q[slot].items()} for slot in "ps"
        }
        self.t, self.k, self.o = {"p": 0, "s": 0}, 0, o

    def F(self, theta: dict, q: dict, ids: torch.Tensor) -> torch.Tensor:
        merged = dict(theta)
        for name in theta:
            key = "base_model.model." + name.removesuffix(".weight")
            if f"{key}.lora_A.weight" in q:
                merged[name] = theta[name] + ALPHA / R * q[f"{key}.lora_B.weight"] @ q[f"{key}.lora_A.weight"]
        return row_loss(lambda **kw: functional_call(self.model, merged, (), kw), ids).mean()

    def grad(self, slot: str, *parts: tuple[float, torch.Tensor]) -> dict:
        q = {n: w.clone().requires_grad_() for n, w in self.q[slot].items()}
        loss = sum(w * self.F(self.theta, q, ids) for w, ids in parts)
        return dict(zip(q, torch.autograd.grad(loss, list(q.values())), strict=True))

    def adam(self, slot: str, grad: dict, lr: float) -> None:
        self.t[slot] += 1
        norm = torch.stack([g.norm() for g in grad.values()]).norm()
        for n, g in grad.items():
            g = g * torch.clamp(1.0 / (norm + 1e-6), max=1.0)
            m, v = self.m[slot][n]
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            hat_m, hat_v = m / (1 - 0.9 ** self.t[slot]), v / (1 - 0.999 ** self.t[slot])
            self.q[slot][n] -= lr * hat_m / (hat_v.sqrt() + 1e-8)

    def step(self, lower: list, upper: tuple) -> None:
        o, lam = self.o, self.o["lam"]
        for batch_s, batch_p in lower:
            if o["s"] == "off":
                self.adam("p", self.grad("p", (1.0, batch_s)), o["lr_p"])
                continue
            if lam > 0 or o["coupling"] == "follow":
                self.adam("s", self.grad("s", (1.0, batch_s)), o["lr_s"])
            if o["coupling"] == "both":
                self.adam("p", self.grad("p", (1.0, batch_p)), o["lr_p"])
        if o["coupling"] == "follow" and o["s"] == "on":
            self.q["p"] = {n: w.clone() for n, w in self.q["s"].items()}
        alone = lam == 0 or o["s"] == "off" or o["coupling"] == "follow"
        key = streams.key(0, "noise", self.k, 0)
        z = {n: self.z(n, key).view_as(w) for n, w in self.theta.items()}

        def G(a: float) -> torch.Tensor:
            theta = {n: w + a * z[n] for n, w in self.theta.items()}
            A, B = self.F(theta, self.q["p"], upper[0]), self.F(theta, self.q["p"], upper[1])
            return A if alone else A + lam * (B - self.F(theta, self.q["s"], upper[1]))

        g_p = None
        if o["coupling"] == "outer" and o["s"] == "on":
            parts = ((1.0, upper[0]),) if lam == 0 else ((1 / (1 + lam), upper[0]), (lam / (1 + lam), upper[1]))
            g_p = self.grad("p", *parts)
        scale = 1 / (1 + lam) if o["weighting"] == "normalised" and not alone else 1.0
        if o.get("upper") == "sketch":
            self.sketched(upper, lam, alone, scale)
        else:
            eps = o["eps"]
            c = (G(eps) - G(-eps)) / (2 * eps) if o["estimator"] == "central" else (G(eps) - G(0.0)) / eps
            a = float(np.float32(-o["lr_theta"] * scale * float(c)))  # the journal's fp32 bits are what is applied
            self.theta = {n: w + a * z[n] for n, w in self.theta.items()}
        if g_p is not None:
            self.adam("p", g_p, o["lr_p"])
        self.k += 1

    def sketched(self, upper: tuple, lam: float, alone: bool, scale: float) -> None:
        """theta goes against G R^T R, every matrix with its R; vectors, and the embedding's rows, against G itself."""
        theta = {n: w.clone().requires_grad_() for n, w in self.theta.items()}
        G = self.F(theta, self.q["p"], upper[0])
        if not alone:
            G = G + lam * (self.F(theta, self.q["p"], upper[1]) - self.F(theta, self.q["s"], upper[1]))
        grads = dict(zip(theta, torch.autograd.grad(scale * G, list(theta.values())), strict=True))
        key, rank = streams.key(0, "sketch", self.k), self.o["rank"]
        for name, g in grads.items():
            if g.dim() > 1 and "embed_tokens" not in name:
                z = noise.draw(noise.Direction(self.o["noise"], key), noise.tensor_id(name), rank * g.shape[1], g.dtype)
                R = z.view(rank, -1) / rank**0.5
                grads[name] = g @ R.T @ R
        norm = torch.stack([g.norm() for g in grads.values()]).norm() if self.o["rule"] == "normalised" else 1.0
        self.theta = {n: w - self.o["lr_theta"] * grads[n] / norm for n, w in self.theta.items()}

    def z(self, name: str, key: int) -> torch.Tensor:
        w = self.theta[name]
        return noise.draw(noise.Direction("gaussian", key), noise.tensor_id(name), w.numel(), w.dtype)


CASES = [
    *[dict(coupling=c, estimator=e) for c in ("both", "outer", "follow") for e in ("central", "forward")],
    *[dict(s="off", estimator=e) for e in ("central", "forward")],
    *[dict(coupling=c, lam=0.0) for c in ("both", "outer")],
    *[dict(coupling=c, weighting="normalised") for c in ("both", "outer")],
    dict(coupling="outer", lam=100.0),
]


def both(dtype: torch.dtype, iterations: int, **case: Any) -> tuple[Bilevel, Reference]:
    options = dict(lam=3.0, coupling="both", s="on", estimator="central", weighting="raw", eps=1e-3, init="independent")
    options |= dict(lr_s=1e-2, lr_p=2e-2, lr_theta=1e-4, T=2) | case
    model, used = (
        tiny(dtype, tied=case.get("upper") != "sketch"),
        effective(build({f"method.{name}": value for name, value in options.items()})),
    )
    solver = Bilevel(
        copy.deepcopy(model), LORA, row_loss, **{k: v for k, v in options.items() if f"method.{k}" in used}
    )
    slots = solver.slots
    for slot in slots.params:  # LoRA starts with B = 0: give it values, so that every gradient counts
        generator = torch.Generator().manual_seed(ord(slot))
        values = {
            n: 0.1 * torch.randn(w.shape, generator=generator, dtype=dtype) for n, w in slots.params[slot].items()
        }
        slots.load(slot, values)
    start = slots.tensors("p"), slots.tensors("s" if "s" in slots.params else "p")
    reference = Reference(model.requires_grad_(False), *start, **options)
    data = iter(batches(iterations * 6))
    for _ in range(iterations):
        lower = [(next(data), next(data)) for _ in range(2)]
        upper = (next(data), next(data))
        idle = options["lam"] == 0 and options["coupling"] == "outer"
        solver.step([] if idle else lower, upper)
        reference.step([] if idle else lower, upper)
    return solver, reference


SKETCHED = [
    *[dict(coupling=c, rule=r) for c in ("both", "outer", "follow") for r in ("sgd", "normalised")],
    dict(s="off", rule="normalised"),
    *[dict(coupling=c, lam=0.0, rule="normalised") for c in ("both", "outer")],
    dict(coupling="outer", weighting="normalised", rule="sgd"),
    dict(coupling="both", noise="gaussian", rule="normalised", rank=3),
]


@pytest.mark.parametrize("case", SKETCHED, ids=str)
def test_with_a_sketch_above_iterations_equal_the_reference(case: dict) -> None:
    """Signs of A, B and C, one R for the three, p's gradient from the same passes: against explicit matrices in fp64."""
    options = dict(upper="sketch", noise="rademacher", rank=4, lr_theta=0.02) | case
    theta, adapters = worst(*both(torch.float64, 3, **options))
    assert theta < 1e-9 and adapters < 1e-9


def test_a_sketch_above_counts_its_passes_and_moves_theta() -> None:
    """T lower passes and three above; p's gradient costs nothing more."""
    for coupling, below in (("both", 4), ("outer", 2)):
        solver, _ = both(torch.float64, 0, upper="sketch", noise="rademacher", rank=4, lr_theta=0.02, coupling=coupling, rule="normalised")  # fmt: skip
        before, data = tree.snapshot(solver.problem.leaves), batches(6)
        report = solver.step([(data[0], data[1]), (data[2], data[3])], (data[4], data[5]))
        assert (report.forwards, report.backwards) == (below + 3, below + 3)
        moved = sum(float((leaf.data - before[leaf.name]).square().sum()) for leaf in solver.problem.leaves)
        assert moved**0.5 == pytest.approx(0.02, rel=1e-6), "the length of the step"


def worst(solver: Bilevel, reference: Reference) -> tuple[float, float]:
    """The largest difference in theta and in the adapters."""
    leaves = solver.problem.leaves
    assert leaves is not None
    theta = max(float((leaf.data - reference.theta[leaf.name]).abs().max()) for leaf in leaves)
    adapters = max(
        float((w - reference.q[slot][n]).abs().max())
        for slot in solver.slots.params
        for n, w in solver.slots.tensors(slot).items()
    )
    return theta, adapters


@pytest.mark.parametrize("case", CASES, ids=str)
def test_iterations_equal_the_reference_in_fp64(case: dict) -> None:
    theta, adapters = worst(*both(torch.float64, 3, **case))
    assert theta < 1e-9 and adapters < 1e-9


@pytest.mark.parametrize("case", CASES, ids=str)
def test_iterations_equal_the_reference_in_fp32(case: dict) -> None:
    """To stated rounding: a loss near 4 is right to 5e-7; over 2 eps that is 5e-4 of c a term, lambda of it for
    B and C; times lr_theta and |z| <= 4.3, over 3 iterations. Adam turns a gradient's rounding near zero
    into up to a few thousandths of a step of size lr."""
    theta, adapters = worst(*both(torch.float32, 3, **case))
    lam = case.get("lam", 3.0)
    assert theta < 3 * 1e-4 * 4.33 * (1 + 2 * lam) * 5e-4 / 1.0 * (2 if case.get("estimator") == "forward" else 1)
    assert adapters < 2e-3


def test_theta_moves_by_less_than_the_bound_of_the_fp64_test_only_if_it_moves() -> None:
    """The reference test could pass if nothing moved: it does move, by far more than the bound."""
    _, reference = both(torch.float64, 3, coupling="both")
    base = dict(tiny(torch.float64).requires_grad_(False).named_parameters())
    assert max(float((w - base[n]).abs().max()) for n, w in reference.theta.items()) > 1e-5


# ---- a convex bilevel problem with a known solution --------------------------------------------------------


class ToySlots:
    """Two vectors p and s, with the interface of `zofo.adapters.slots.Slots`."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.params = {slot: {"q": getattr(model, slot)} for slot in ("p", "s")}

    def use(self, slot: str) -> None:
        self.model.active_adapter = slot

    def list(self, slot: str) -> list[torch.nn.Parameter]:
        return list(self.params[slot].values())

    def tensors(self, slot: str) -> dict[str, torch.Tensor]:
        return {n: w.detach().clone() for n, w in self.params[slot].items()}

    @torch.no_grad()
    def load(self, slot: str, tensors: dict[str, torch.Tensor]) -> None:
        for n, w in self.params[slot].items():
            w.copy_(tensors[n])

    def copy(self, source: str, target: str) -> None:
        self.load(target, self.params[source])


M = torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=torch.float64)
SHIFT, GOAL, HOME, MU = (
    torch.tensor([0.2, -0.1]).double(),
    torch.tensor([1.0, -2.0]).double(),
    torch.zeros(2).double(),
    0.5,
)


class Toy(torch.nn.Module):
    """f_p(theta, q) = |q - M theta - m|^2 / 2, so p*(theta) = M theta + m; f_f = |p - a|^2 / 2 + mu |theta - t|^2 / 2."""

    active_adapter = "p"

    def __init__(self) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor([0.5, 0.5]).double())
        self.p, self.s = (torch.nn.Parameter(torch.zeros(2).double()) for _ in range(2))

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        q = getattr(self, self.active_adapter)
        upper = ((q - GOAL) ** 2).sum() / 2 + MU * ((self.theta - HOME) ** 2).sum() / 2
        return upper, ((q - M @ self.theta - SHIFT) ** 2).sum() / 2


def toy_loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
    upper, lower = model()
    share = batch if isinstance(batch, float) else float(batch == "f")  # a mixed batch: the share of D_f
    return (share * upper + (1 - share) * lower)[None]


def optimum(lam: float) -> torch.Tensor:
    """theta of the penalised problem; at lambda = infinity, of the bilevel problem."""
    w = 1.0 if math.isinf(lam) else lam / (1 + lam)
    return torch.linalg.solve(w * M.T @ M + MU * torch.eye(2).double(), w * M.T @ (GOAL - SHIFT) + MU * HOME)


def solve(lam: float, coupling: str, steps: int) -> torch.Tensor:
    toy = Toy()
    leaves = tree.find(toy, keep=lambda p: p is toy.theta)
    config = MethodConfig(
        lam=lam, coupling=coupling, T=5, optimizer="sgd", lr_s=0.3, lr_p=0.9 if coupling == "outer" else 0.3,
        lr_theta=0.05 if coupling == "outer" else 0.3, clip=0.0, noise="rademacher",
    )  # fmt: skip
    problem = Problem(toy, toy_loss, config, 0, steps, leaves, Scratch(toy, leaves), ToySlots(toy))  # type: ignore[arg-type]
    state = bilevel.init(problem)
    for _ in range(steps):
        lower = [(["p"], [1 / (1 + lam)])] * config.T
        state, _ = bilevel.iterate(problem, state, lower, (["f"], ["p"]))
    return toy.theta.detach()


@pytest.mark.parametrize(("coupling", "steps"), [("both", 100), pytest.param("outer", 300, marks=pytest.mark.slow)])
def test_converges_to_the_bilevel_optimum_as_lambda_grows(coupling: str, steps: int) -> None:
    bilevel_optimum = optimum(math.inf)
    distances = []
    for lam in (1.0, 4.0, 16.0):
        found = solve(lam, coupling, steps)
        torch.testing.assert_close(found, optimum(lam), atol=1e-5, rtol=0)
        distances.append(float((found - bilevel_optimum).norm()))
    assert distances[0] > 2 * distances[1] > 4 * distances[2]


# ---- schedules, counts, faults -----------------------------------------------------------------------------


def test_lambda_schedules() -> None:
    linear = MethodConfig(lam=9.0, lam_start=1.0, lam_schedule="linear")
    geometric = MethodConfig(lam=100.0, lam_start=1.0, lam_schedule="geometric")
    assert [bilevel.lam_at(linear, k, 5) for k in range(6)] == [1, 3, 5, 7, 9, 9]
    assert [round(bilevel.lam_at(geometric, k, 3), 9) for k in range(3)] == [1, 10, 100]
    assert bilevel.lam_at(MethodConfig(lam=7.0), 3, 5) == 7


@pytest.mark.parametrize("options", [{}, {"lam_schedule": "geometric", "lam_start": 0.5}])
def test_a_penalty_seen_in_one_iteration_of_n_is_n_times_as_heavy(options: Any) -> None:
    plain = MethodConfig(lam=2.0, **options)
    seldom = MethodConfig(lam=2.0, lam_every=3, **options)
    found = [bilevel.lam_at(seldom, k, 9) for k in range(9)]
    assert found == [3 * bilevel.lam_at(plain, k, 9) if k % 3 == 0 else 0 for k in range(9)]
    assert options or sum(found) / 9 == 2.0


@pytest.mark.parametrize("n", [1, 3])
def test_p_draws_by_its_schedules_lambda_in_iterations_too_that_leave_the_penalty_out(n: int) -> None:
    """Its mixed batches are of D_f with probability 1 / (1 + lambda): else p would learn A alone in n - 1 iterations of n."""
    shares: list[float] = []

    class Drawn:
        def batch(self, *_: Any) -> list[Any]:
            return [None]

        def mixed(self, name: str, step: int, n: int, share: float) -> list[Any]:
            shares.append(share)
            return [None]

    solver = solver_with(T=2, lam=4.0, lam_every=n, lam_schedule="linear", lam_start=1.0, steps=4)
    for k in range(4):
        bilevel.drawn(solver.problem, k, Drawn(), k)  # type: ignore[arg-type]
    assert shares == [1 / (1 + lam) for lam in (1, 2, 3, 4) for _ in range(2)]


@pytest.mark.parametrize(("coupling", "p_below"), [("both", 2), ("outer", 0)])
def test_between_penalties_an_iteration_is_one_of_lambda_0(coupling: str, p_below: int) -> None:
    """s stands, theta sees A alone, and the passes are lambda 0's; the learners' schedules count the steps that are taken."""
    torch.manual_seed(0)
    solver = Bilevel(
        tiny(torch.float32), LORA, row_loss,
        T=2, lam=1.0, lam_every=3, coupling=coupling, schedule="cosine", lr_s=1e-2, lr_p=1e-2, steps=7,
    )  # fmt: skip
    found, before, data = [], solver.slots.tensors("s"), batches(4)
    for k in range(7):
        wanted = 2 if k % 3 == 0 or p_below else 0
        report = solver.step([(data[0], data[1])] * wanted, (data[2], data[3]))
        after = solver.slots.tensors("s")
        found.append((report.forwards, report.backwards, any(not torch.equal(before[n], after[n]) for n in after)))
        before = after
        assert ("C" in report.numbers) == (k % 3 == 0)
    full = (4 + 6, 4, True) if p_below else (2 + 2 + 6, 4, True)
    between = (2 + 2, 2, False) if p_below else (1 + 2, 1, False)
    assert found == [full, between, between] * 2 + [full]
    for slot in ("p", "s"):
        learner = solver.state.learners[slot]
        assert learner.t == learner.total == (6 if slot == "s" else 7 * max(1, p_below))


def solver_with(**options: Any) -> Bilevel:
    return Bilevel(tiny(torch.float32), LORA, row_loss, **options)


@pytest.mark.parametrize(
    ("options", "forwards", "backwards"),
    [
        (dict(coupling="both", T=2), 4 + 6, 4),
        (dict(coupling="outer", T=2), 2 + 6 + 2, 2 + 2),
        (dict(coupling="follow", T=2), 2 + 2, 2),
        (dict(s="off", T=2), 2 + 2, 2),
        (dict(coupling="both", T=2, q=3, estimator="forward"), 4 + 12, 4),
        (dict(coupling="both", T=2, lower="zeroth-order"), 8 + 6, 0),
    ],
)
def test_passes_are_counted_as_they_are_made(options: dict, forwards: int, backwards: int) -> None:
    made = {"forward": 0, "backward": 0}

    def counted(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
        made["forward"] += 1
        made["backward"] += torch.is_grad_enabled()
        return row_loss(model, ids)

    solver = Bilevel(tiny(torch.float32), LORA, counted, **options)
    data = batches(6)
    report = solver.step([(data[0], data[1]), (data[2], data[3])], (data[4], data[5]))
    assert (made["forward"], made["backward"]) == (forwards, backwards) == (report.forwards, report.backwards)


def test_micro_batches_give_the_gradient_of_the_whole_batch() -> None:
    """Accumulation at both levels: halves of a batch move everything as the whole batch does (fp64)."""
    data = batches(6)
    results = []
    for cut in (lambda b: b, lambda b: [b[:1], b[1:]]):
        solver = Bilevel(tiny(torch.float64), LORA, row_loss, T=2, lr_theta=1e-3)
        solver.step([(cut(data[0]), cut(data[1])), (cut(data[2]), cut(data[3]))], (cut(data[4]), cut(data[5])))
        leaves = solver.problem.leaves
        assert leaves is not None
        results.append([*(leaf.data.clone() for leaf in leaves), *solver.slots.tensors("p").values()])
    for whole, halves in zip(*results, strict=True):
        torch.testing.assert_close(whole, halves, atol=1e-9, rtol=0)


def everything(solver: Bilevel) -> dict[str, torch.Tensor]:
    """Every parameter, buffer and moment of a solver."""
    held = dict(solver.model.state_dict()) | dict(solver.model.named_parameters())
    held |= {f"moment.{n}": w for n, w in solver.state_dict()["tensors"].items()}
    return {n: w.detach().clone() for n, w in held.items()}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("coupling", ["both", "outer", "follow"])
def test_an_exception_at_any_forward_of_an_iteration_leaves_every_bit(
    coupling: str, error: type[BaseException]
) -> None:
    calls = {"n": 0, "fail": -1}

    def failing(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
        calls["n"] += 1
        rows = row_loss(model, ids)
        if calls["n"] == calls["fail"]:
            raise error("injected")
        return rows

    solver = Bilevel(tiny(torch.float32), LORA, failing, coupling=coupling, T=2, lr_theta=1e-3)
    data = batches(6)
    args = [(data[0], data[1]), (data[2], data[3])], (data[4], data[5])
    forwards = solver.step(*args).forwards
    before = everything(solver)
    for n in range(1, forwards + 1):
        calls.update(n=0, fail=n)
        with pytest.raises(error, match="injected"):
            solver.step(*args)
        after = everything(solver)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before), n
        assert not any("forward" in m.__dict__ or m._forward_pre_hooks for m in solver.model.modules())
    calls.update(fail=-1)
    solver.step(*args)  # and it still works


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_upper_loss_moves_nothing_above_and_stops_after_a_bounded_number(value: float) -> None:
    bad = {"on": False}

    def spoilt(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
        rows = row_loss(model, ids)
        return rows if torch.is_grad_enabled() or not bad["on"] else rows * value

    solver = Bilevel(tiny(torch.float32), LORA, spoilt, T=1, max_bad=3, lr_theta=1e-3)
    data = batches(4)
    args = [(data[0], data[1])], (data[2], data[3])
    leaves = solver.problem.leaves
    assert leaves is not None
    bad["on"] = True
    before = tree.snapshot(leaves)
    assert solver.step(*args).moved is None
    assert solver.step(*args).numbers["bad"] >= 1
    assert all(torch.equal(before[leaf.name], leaf.data) for leaf in leaves)


def test_the_schedule_of_a_p_above_goes_on_where_theta_sees_nothing_finite() -> None:
    bad = {"on": True}

    def spoilt(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
        rows = row_loss(model, ids)
        return rows if torch.is_grad_enabled() or not bad["on"] else rows * math.nan

    solver = Bilevel(tiny(torch.float32), LORA, spoilt, T=1, coupling="outer", max_bad=9)
    data = batches(4)
    for on in (False, True, True, False):
        bad["on"] = on
        solver.step([(data[0], None)], (data[2], data[3]))
    assert solver.state.learners["p"].t == solver.state.k == 4


def test_non_finite_steps_in_a_row_raise() -> None:
    solver = Bilevel(tiny(torch.float32), LORA, lambda m, b: row_loss(m, b) * float("nan"), T=3, max_bad=3)
    data = batches(8)
    with pytest.raises(NotFinite, match="of s was not finite 3 times in a row"):
        solver.step([(data[0], data[1]), (data[2], data[3]), (data[4], data[5])], (data[6], data[7]))


def test_a_p_that_is_never_finite_stops_the_run_though_s_is() -> None:
    def spoilt(model: Any, ids: torch.Tensor) -> torch.Tensor:
        return row_loss(model, ids) * (float("nan") if model.active_adapter == "p" else 1.0)

    solver = Bilevel(tiny(torch.float32), LORA, spoilt, T=1, max_bad=3)
    data = batches(4)
    step = [(data[0], data[1])], (data[2], data[3])
    for _ in range(2):
        solver.step(*step)
    with pytest.raises(NotFinite, match="of p was not finite 3 times in a row"):
        solver.step(*step)


def test_p_above_moves_along_another_z_each_iteration_when_the_lower_level_is_zeroth_order() -> None:
    solver = solver_with(
        coupling="outer", lower="zeroth-order", T=1, optimizer="sgd", clip=0.0, lr_p=1e-2, lr_theta=0.0
    )
    data, moves = batches(4), []
    for _ in range(2):
        before = solver.slots.tensors("p")
        solver.step([(data[0], None)], (data[1], data[2]))
        moves.append(torch.cat([(w - before[n]).flatten() for n, w in solver.slots.tensors("p").items()]))
    assert min(move.norm() for move in moves) > 0
    assert abs(torch.cosine_similarity(*moves, dim=0)) < 0.5


def test_s_from_p_starts_each_iteration_at_p_with_its_moments() -> None:
    """s then goes on as p would: new moments would make a step of the full rate along every gradient's sign."""
    solver = solver_with(s_start="from-p", coupling="outer", T=1, lr_s=0.0, lr_p=1e-2)
    data = batches(8)
    for i in (0, 3):
        p, held = solver.slots.tensors("p"), solver.state.learners["p"].to_checkpoint()[1]
        solver.step([(data[i], None)], (data[i + 1], data[i + 2]))
        s, moments = solver.slots.tensors("s"), solver.state.learners["s"].to_checkpoint()[1]
        assert all(torch.equal(p[name], s[name]) for name in p)
    for n in range(len(p)):
        assert moments[f"{n}.step"] == held[f"{n}.step"] + 1 == 2
        g = (moments[f"{n}.exp_avg"] - 0.9 * held[f"{n}.exp_avg"]) / 0.1
        torch.testing.assert_close(moments[f"{n}.exp_avg_sq"], 0.999 * held[f"{n}.exp_avg_sq"] + 0.001 * g**2)
    assert any(held[f"{n}.exp_avg"].any() for n in range(len(p)))


def test_s_that_p_follows_keeps_its_moments_whatever_it_starts_from() -> None:
    """p is s then, and has no moments of its own to begin with: `s_start` is no option there, and a preset's is passed over."""
    solver, data = solver_with(coupling="follow", T=2, lr_s=1e-3), batches(4)
    solver.problem = replace(solver.problem, config=solver.problem.config.model_copy(update={"s_start": "from-p"}))
    for _ in range(3):
        solver.step([(data[0], None), (data[1], None)], (data[2], data[3]))
    assert solver.state.learners["s"].to_checkpoint()[1]["0.step"] == 6


def test_the_penalty_that_is_told_is_one_that_is_there() -> None:
    data = batches(4)
    for options, lam in (({"lam": 7.0}, 7.0), ({"s": "off"}, 0.0), ({"coupling": "follow"}, 0.0)):
        solver = solver_with(T=1, lr_theta=0.0, **options)
        report = solver.step([(data[0], data[1])], (data[2], data[3]))
        assert report.numbers["lam"] == lam


def test_a_zeroth_order_lower_level_lowers_the_loss_without_any_backward() -> None:
    solver = solver_with(lower="zeroth-order", s="off", T=60, lr_p=3e-3, lr_theta=0.0, lower_eps=1e-3)
    (batch,) = batches(1)
    with torch.no_grad():
        first = float(row_loss(solver.model, batch).mean())
        solver.step([(batch, None)] * 60, (batch, batch))
        assert float(row_loss(solver.model, batch).mean()) < first - 0.05


def test_state_dict_round_trip_goes_on_with_the_same_bits() -> None:
    data = batches(12)
    args = [[(data[i], data[i + 1])] for i in (0, 4, 8)], [(data[i + 2], data[i + 3]) for i in (0, 4, 8)]
    one = solver_with(T=1, lr_theta=1e-3, rule="scalar-adaptive")
    one.step(args[0][0], args[1][0])
    saved, theta = copy.deepcopy(one.state_dict()), {n: w.clone() for n, w in one.model.named_parameters()}
    two = solver_with(T=1, lr_theta=1e-3, rule="scalar-adaptive")
    with torch.no_grad():
        for n, w in two.model.named_parameters():
            w.copy_(theta[n])
    two.load_state_dict(saved)
    for solver in (one, two):
        for k in (1, 2):
            solver.step(args[0][k], args[1][k])
    a, b = everything(one), everything(two)
    assert all(torch.equal(a[n], b[n]) for n in a)


# ---- two points a pass, and half-precision weights -----------------------------------------------------------

EXAMPLES = [
    Encoded((5, 6, 7), ((8, 9),), 0),
    Encoded((11, 12), ((13,),), 0),
    Encoded((20, 21, 22, 23), ((8,),), 0),
    Encoded((30,), ((31, 32, 33),), 0),
    Encoded((40, 41, 42), ((9,),), 0),
    Encoded((1, 2, 3), ((4, 5),), 0),
]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def micro(*rows: tuple[int, ...]) -> list[Batch]:
    return [lm_batch(EXAMPLES, list(index), 0) for index in rows]


LOWER = [(micro((0, 1), (2,)), micro((3, 4), (5,))), (micro((1, 2), (3,)), micro((4,), (0, 5)))]
UPPER = micro((0, 2), (4,)), micro((1,), (3, 5))


def held_in(weights: str) -> OPTForCausalLM:
    """A model of one layer; in a half type its matrices alone are, as `models.load` makes it."""
    model = tiny(torch.float64 if weights == "fp64" else torch.float32, layers=1)
    for param in model.parameters():
        if weights in HALF and param.dim() > 1:
            param.data = param.data.to(HALF[weights])
    return model


def problem_of(weights: str, stack: bool, kind: str = "lora", dtype: str = "", **options: Any) -> Problem:
    """A bilevel problem on zofo's own batches, p and s each somewhere else."""
    config = MethodConfig(**{"lam": 3.0, "T": 2, "lr_theta": 1e-3, "eps": 1e-3, "accumulate_upper": 2} | options)
    model, dtype = held_in(weights), dtype or (weights if weights in HALF else "fp32")
    leaves = tree.find(model)
    adapter = AdapterConfig(kind=kind, r=R, targets=TARGETS if kind == "lora" else ())  # type: ignore[arg-type]
    slots = attach(model, adapter, bilevel.slots(config), 0)
    with torch.no_grad():
        for i, param in enumerate(p for slot in slots.params for p in slots.list(slot)):
            param.add_(0.1 * torch.randn(param.shape, generator=torch.Generator().manual_seed(i)))
    probe = Scratch(slots.model, leaves, stack)
    loss = functools.partial(row_losses, dtype=dtype)
    return Problem(slots.model, loss, config, 0, 5, leaves, probe, slots, stacks=True)


def iterated(problem: Problem, times: int) -> list[Report]:
    """Reports of some iterations on the same rows."""
    state, reports = bilevel.init(problem), []
    for _ in range(times):
        todo = bilevel.plan(problem.config, problem.config.lam)
        state, report = bilevel.iterate(problem, state, LOWER if todo.below else [], UPPER)
        reports.append(report)
    return reports


def apart(one: Problem, two: Problem) -> tuple[float, float]:
    """The largest difference of theta, and of the adapters."""
    assert one.slots is not None and two.slots is not None and one.leaves is not None and two.leaves is not None
    theta = max(
        float((a.data.double() - b.data.double()).abs().max()) for a, b in zip(one.leaves, two.leaves, strict=True)
    )
    adapters = [(one.slots.tensors(slot), two.slots.tensors(slot)) for slot in one.slots.params]
    return theta, max(float((a[n] - b[n]).abs().max()) for a, b in adapters for n in a)


STACKED: list[dict[str, Any]] = [
    *[dict(coupling=c) for c in ("both", "outer", "follow")],
    *[dict(kind=k) for k in ("prefix", "prompt")],
    dict(s="off"),
    dict(lam=0.0),
    dict(estimator="forward", q=2),
    dict(q=3, noise="low-rank", rank=4),
    dict(rule="adam"),
]


@pytest.mark.parametrize("case", STACKED, ids=str)
def test_stacked_iterations_equal_those_of_one_point_a_pass(case: dict) -> None:
    """In fp64, two iterations: c and its parts, theta, p and s to a few roundings; the costs told are the same."""
    ends = []
    for stack in (False, True):
        problem = problem_of("fp64", stack, **case)
        ends.append((problem, iterated(problem, 2)))
    (alone, before), (together, after) = ends
    assert isinstance(together.probe, Scratch) and together.probe.unstacked is None
    for one, two in zip(before, after, strict=True):
        assert (one.forwards, one.backwards) == (two.forwards, two.backwards)
        assert one.numbers.keys() == two.numbers.keys() and one.numbers["bad"] == two.numbers["bad"] == 0
        assert [two.numbers[n] for n in one.numbers] == pytest.approx(list(one.numbers.values()), rel=1e-8, abs=1e-9)
    theta, adapters = apart(alone, together)
    assert theta < 1e-9 and adapters < 1e-9
    assert apart(together, problem_of("fp64", True, **case))[0] > 1e-6, "theta does move"


@pytest.mark.parametrize("stack", [False, True])
def test_a_stacked_estimate_is_one_pass_a_micro_batch(stack: bool) -> None:
    """Three terms at two points, LoRA's rows by slot: one forward pass for six."""
    problem, calls = problem_of("fp32", stack), list[int]()
    problem.model.register_forward_pre_hook(lambda *_: calls.append(1))
    above.look(problem, bilevel.init(problem), bilevel.plan(problem.config, 3.0), UPPER)
    assert len(calls) == (2 if stack else 2 * 3 * 2)


@pytest.mark.parametrize("coupling", ["both", "outer"])
@pytest.mark.parametrize(("weights", "dtype"), [("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "bf16"), ("fp16", "fp16")])
def test_a_stacked_iteration_in_other_types_is_the_same_to_their_rounding(
    weights: str, dtype: str, coupling: str
) -> None:
    """p and s to the bit: nothing below or of their gradients is stacked. A loss near 4 is right to 4 units in the
    last place u, which over 2 eps, for A and lambda times for B and C, bounds c; theta follows c along z, and where it
    is held in a half type, rounds to one neighbour or the other."""
    alone, together = (problem_of(weights, stack, dtype=dtype, coupling=coupling, eps=1e-2) for stack in (False, True))
    (one,), (two,) = iterated(alone, 1), iterated(together, 1)
    assert isinstance(together.probe, Scratch) and together.probe.unstacked is None
    u = {"fp32": 2.0**-23, "bf16": 2.0**-7, "fp16": 2.0**-10}
    bound = (1 + 2 * 3.0) * 2 * 4 * 4 * u[dtype] / (2 * 1e-2)
    assert abs(one.numbers["c"] - two.numbers["c"]) < bound
    theta, adapters = apart(alone, together)
    assert adapters == 0
    assert theta <= 1e-3 * bound * 4.33 + u[weights]
    for problem in (alone, together):
        assert problem.leaves is not None
        held = {leaf.data.dim() > 1: leaf.data.dtype for leaf in problem.leaves}
        assert held == {False: torch.float32, True: HALF.get(weights, torch.float32)}


@pytest.mark.parametrize(
    ("weights", "estimates"),
    [("bf16", 100), *(pytest.param(name, 1000, marks=pytest.mark.slow) for name in ("fp32", "bf16", "fp16"))],
)
def test_many_estimates_leave_every_bit_of_every_weight(weights: str, estimates: int) -> None:
    """Drift exactly 0, whatever the type: most estimates are two points a pass, every tenth is one point a pass."""
    problem = problem_of(weights, True, accumulate_upper=1, s="off")
    assert problem.leaves is not None and isinstance(problem.probe, Scratch)
    before = {leaf.name: leaf.data.clone() for leaf in problem.leaves}
    todo, state, upper = bilevel.plan(problem.config, 3.0), bilevel.init(problem), (micro((0, 2)), micro((1,)))
    seen = set()
    for k in range(estimates):
        problem.probe.stack = k % 10 > 0
        seen.add(above.look(problem, replace(state, k=k), todo, upper).grad.coefficients[0])
    assert problem.probe.unstacked is None and len(seen) > estimates / 2, "these are estimates"
    for leaf in problem.leaves:
        held = leaf.data.view(torch.int32 if leaf.data.dtype == torch.float32 else torch.int16)
        assert torch.equal(held, before[leaf.name].view(held.dtype))


@pytest.mark.parametrize("rule", ["sgd", "scalar-adaptive"])
@pytest.mark.parametrize("weights", ["bf16", "fp16"])
def test_what_is_journalled_replays_on_half_precision_weights(weights: str, rule: str) -> None:
    """Steps far below the weights' spacing, with decay: rounded by their own keys, so the same bits again."""
    problem, twin = problem_of(weights, True, rule=rule, decay=0.1, q=2), tree.find(held_in(weights))
    before = tree.snapshot(twin)
    for report in iterated(problem, 3):
        assert report.moved is not None and report.moved.replay
        move.replay(twin, report.moved.law, report.moved.terms, report.moved.decay)
    assert problem.leaves is not None
    for leaf, other in zip(problem.leaves, twin, strict=True):
        assert torch.equal(leaf.data, other.data) and leaf.data.dtype == other.data.dtype
    assert any(not torch.equal(leaf.data, before[leaf.name]) for leaf in twin if leaf.data.dim() > 1)
