"""Probing by scratch gives the outputs of a model that was really moved, and leaves no trace, whatever happens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

from zofo.core.noise import LAWS, Direction, Law
from zofo.core.probe import Point, affine
from zofo.core.probe import stand as stands
from zofo.core.probe.pool import Pool
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput

Tiny = Callable[..., nn.Module]
Moved = Callable[..., nn.Module]
KEY, EPS = 7, 0.01
ERRORS = [RuntimeError, KeyboardInterrupt]


def outputs(model: nn.Module, *args: Any, **options: Any) -> Callable[[], Tensor]:
    """An objective: everything the model puts out, flat."""

    def run() -> Tensor:
        out = model(*args, **options)
        out = getattr(out, "logits", out)
        return (out[0] if isinstance(out, tuple) else out).reshape(-1)

    return run


def points(model: nn.Module, law: Law = "gaussian") -> list[Point]:
    """theta + eps z, theta - eps z, theta."""
    z = tree.find(model).direction(law, KEY)
    return [Point(z, EPS), Point(z, -EPS), Point()]


def probed(model: nn.Module, *args: Any, law: Law = "gaussian", **options: Any) -> Tensor:
    """Outputs at `points`, by scratch."""
    return Scratch(model, tree.find(model))(outputs(model, *args, **options), points(model, law))


@torch.no_grad()
def really(moved: Moved, model: nn.Module, *args: Any, law: Law = "gaussian", **options: Any) -> Tensor:
    """Outputs of deep copies that stand at `points`."""
    twins = [moved(model, law, (KEY, EPS)), moved(model, law, (KEY, -EPS)), model]
    return torch.stack([outputs(twin, *args, **options)().double() for twin in twins])


class Gate(nn.Module):
    """Owns a parameter, has a child that owns some, and reads its own before and after the child runs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.scale) + self.scale


class Odd(nn.Module):
    """What is hard at once: padding_idx, tied head, a shared module, nesting, batch norm, a parameter at the top."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8, padding_idx=0)
        self.shared, self.gate, self.norm = nn.Linear(8, 8), Gate(), nn.BatchNorm1d(8)
        self.shift = nn.Parameter(torch.zeros(8))
        self.head = nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.shared(torch.tanh(self.shared(self.embed(ids)))) + self.shift
        return self.head(self.norm(self.gate(x).flatten(0, 1)))


@pytest.fixture
def odd() -> Odd:
    """An `Odd` in train mode, so that batch norm writes its buffers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Odd().train()


IDS = torch.tensor([[1, 4, 4, 0], [10, 2, 0, 0]])


class TestEqualsARealMove:
    """(w + a z computed beside) = (w moved by a z): to the bit for modules done in one piece."""

    def test_on_every_architecture(self, arch: str, tiny: Tiny, rows: Tensor, moved: Moved, watch: type) -> None:
        model = tiny(arch)
        seen = watch(model)
        got = probed(model, rows, use_cache=False)
        seen.check()
        assert torch.equal(got, really(moved, model, rows, use_cache=False))
        assert not torch.equal(got[0], got[1])

    @pytest.mark.parametrize("law", LAWS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_in_every_law_and_type(self, law: Law, dtype: torch.dtype, tiny: Tiny, rows: Tensor, moved: Moved) -> None:
        model = tiny("llama-tied").to(dtype)
        got, want = probed(model, rows, law=law, use_cache=False), really(moved, model, rows, law=law, use_cache=False)
        if law != "low-rank-8":
            assert torch.equal(got, want)
            return
        # beside the weight instead of in it: as close as the type is to the change that noise makes
        bound = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.25}[dtype]
        assert float((got - want).norm()) < bound * float((want[0] - want[1]).norm())

    def test_with_everything_hard_at_once(self, odd: Odd, moved: Moved, watch: type) -> None:
        seen = watch(odd)
        got = probed(odd, IDS)
        seen.check()
        assert torch.equal(got, really(moved, copy.deepcopy(odd), IDS))

    def test_in_tiles(
        self, arch: str, tiny: Tiny, rows: Tensor, moved: Moved, watch: type, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Tiles of a linear layer may be summed in another order by the BLAS, so to a few roundings."""
        monkeypatch.setattr(affine, "TILE", 200)  # 6 rows of a head at a time, in every linear layer
        model = tiny(arch)
        seen = watch(model)
        got = probed(model, rows, use_cache=False)
        seen.check()
        want = really(moved, model, rows, use_cache=False)
        assert float((got - want).abs().max()) <= 2e-5 * float(want.abs().max())

    def test_a_tile_holds_the_wholes_weights(self, moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
        """A linear layer applied to unit vectors shows its weights: bit-equal in tiles, ragged last tile and bias too."""
        monkeypatch.setattr(affine, "TILE", 30)
        model = nn.Linear(8, 11)
        assert affine.suits(model, stands.owned(tree.find(model))[model])
        assert torch.equal(probed(model, torch.eye(8)), really(moved, model, torch.eye(8)))

    def test_in_tiles_of_one_row(self, moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(affine, "TILE", 3)
        model = nn.Linear(8, 5, bias=False)
        assert torch.equal(probed(model, torch.eye(8)), really(moved, model, torch.eye(8)))

    def test_in_tiles_with_a_frozen_bias(self, moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(affine, "TILE", 16)
        model = nn.Linear(8, 5)
        leaves = tree.find(model, keep=lambda p: p is model.weight)
        z = leaves.direction("gaussian", KEY)
        got = Scratch(model, leaves)(outputs(model, torch.eye(8)), [Point(z, EPS)])[0]
        twin = moved(model, "gaussian", (KEY, EPS))
        with torch.no_grad():
            twin.bias.copy_(model.bias)
            assert torch.equal(got, outputs(twin, torch.eye(8))().double())

    def test_frozen_weights_stay(self, moved: Moved) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        leaves = tree.find(model, keep=lambda p: any(p is q for q in model[1].parameters()))
        z = leaves.direction("gaussian", KEY)
        got = Scratch(model, leaves)(outputs(model, torch.eye(4)), [Point(z, EPS)])[0]
        twin = moved(model, "gaussian", (KEY, EPS))
        twin[0].load_state_dict(model[0].state_dict())
        with torch.no_grad():
            assert torch.equal(got, outputs(twin, torch.eye(4))().double())

    @pytest.mark.parametrize("padding", [None, 0, 5, -1])
    def test_an_embedding_by_rows(self, padding: int | None, moved: Moved, watch: type) -> None:
        model = nn.Embedding(11, 8, padding_idx=padding)
        seen = watch(model)
        got = probed(model, IDS)
        seen.check()
        assert torch.equal(got, really(moved, model, IDS))

    def test_an_embedding_called_otherwise(self, moved: Moved, watch: type) -> None:
        """By keyword, in a bag, with a norm, or as a subclass: all rows are perturbed, the result is the same."""

        class Loud(nn.Embedding):
            def forward(self, input: Tensor) -> Tensor:
                return 2 * super().forward(input)

        for model in (nn.EmbeddingBag(11, 8), nn.Embedding(11, 8, max_norm=0.5), Loud(11, 8, padding_idx=1)):
            seen = watch(model)  # with max_norm, a forward pass at theta writes the weight: not so in a probe
            got = probed(model, IDS)
            seen.check()
            assert torch.equal(got, really(moved, model, IDS))
        model = nn.Embedding(11, 8)
        assert torch.equal(probed(model, input=IDS), really(moved, model, input=IDS))

    def test_an_embedding_of_no_token(self) -> None:
        assert probed(nn.Embedding(11, 8), torch.zeros(2, 0, dtype=torch.long)).shape == (3, 0)

    @pytest.mark.parametrize(
        ("make", "shape"),
        [
            (lambda: nn.Conv2d(3, 4, 3), (2, 3, 6, 6)),
            (lambda: nn.LSTM(4, 5), (3, 2, 4)),
            (lambda: nn.GRU(4, 5, bidirectional=True), (3, 2, 4)),
            (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), (3, 4)),
            (lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.GroupNorm(2, 4)), (3, 4)),
        ],
        ids=["conv", "lstm", "gru", "weight-norm", "prelu"],
    )
    def test_on_other_modules(self, make: Callable[[], nn.Module], shape: tuple[int, ...], moved: Moved) -> None:
        model = make()
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        assert torch.equal(probed(model, x), really(moved, model, x))

    def test_when_a_hook_of_somebody_elses_reads_the_weights(self, moved: Moved) -> None:
        """weight_norm of old computes the weight in a hook before the module runs: it must see w + a z."""

        def weigh(module: nn.Module, args: Any) -> None:
            module.weight = module.raw * 2  # type: ignore[operator]

        model = nn.Linear(4, 4)
        model.raw = nn.Parameter(model.weight.detach().clone())
        del model.weight
        model.weight = model.raw.detach() * 2  # type: ignore[assignment]
        model.register_forward_pre_hook(weigh)
        twin = copy.deepcopy(model)
        assert torch.equal(probed(model, torch.eye(4)), really(moved, twin, torch.eye(4)))

    def test_a_parameter_under_two_names(self, moved: Moved) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a = nn.Parameter(torch.ones(4))
                self.b = self.a

            def forward(self, x: Tensor) -> Tensor:
                return x * self.a + self.b

        assert torch.equal(probed(Two(), torch.ones(4)), really(moved, Two(), torch.ones(4)))

    def test_a_weight_that_is_not_contiguous(self, moved: Moved) -> None:
        model = nn.Linear(6, 6)
        model.weight = nn.Parameter(model.weight.detach().t())
        seen = model.weight
        got = probed(model, torch.eye(6))
        assert model.weight is seen
        assert torch.allclose(got, really(moved, model, torch.eye(6)), rtol=1e-6, atol=1e-7)

    def test_under_autocast(self, moved: Moved, tiny: Tiny, rows: Tensor) -> None:
        """Casts of scratch are not kept: each point sees its own weights, the block being inside or outside."""
        model = tiny("llama")
        want = [outputs(moved(model, "gaussian", (KEY, a)), rows, use_cache=False) for a in (EPS, -EPS)]
        with torch.autocast("cpu", torch.bfloat16):
            got = probed(model, rows, use_cache=False)
        for value, run in zip(got, want, strict=False):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(value, run().double())


class Stop(TorchDispatchMode):
    """Raise an error at tensor operation number n; count them."""

    def __init__(self, n: int, error: type[BaseException]) -> None:
        super().__init__()
        self.n, self.error, self.count = n, error, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if self.count == self.n:
            raise self.error
        return func(*args, **(kwargs or {}))


@contextmanager
def stop_at_call(n: int, error: type[BaseException]) -> Iterator[list[str]]:
    """Raise an error at hook point n, before or after a module's call; the list says which points passed."""
    passed: list[str] = []

    def point(module: nn.Module, *args: Any) -> None:
        passed.append(type(module).__name__)
        if len(passed) == n:
            raise error

    handles = [hooks.register_module_forward_pre_hook(point), hooks.register_module_forward_hook(point)]
    try:
        yield passed
    finally:
        for handle in handles:
            handle.remove()


class TestLeavesNoTrace:
    """Rule 1: with any exception in the middle, every weight and buffer has the bits it had, and nothing is left."""

    @pytest.mark.parametrize(
        ("tile", "error"),
        [
            (40, KeyboardInterrupt),
            (affine.TILE, RuntimeError),
            *(
                pytest.param(*case, marks=pytest.mark.slow)
                for case in ((40, RuntimeError), (affine.TILE, KeyboardInterrupt))
            ),
        ],
    )
    def test_after_an_error_at_every_operation(
        self, error: type[BaseException], tile: int, odd: Odd, watch: type, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(affine, "TILE", tile)
        seen, probe = watch(odd), Scratch(odd, tree.find(odd))
        want = probe(outputs(odd, IDS), points(odd))
        mode = Stop(-1, error)

        def objective() -> Tensor:
            with mode:
                return outputs(odd, IDS)()

        probe(objective, points(odd))
        assert mode.count > 100
        for n in range(1, mode.count + 1):
            mode = Stop(n, error)
            with pytest.raises(error):
                probe(objective, points(odd))
            seen.check()
        assert torch.equal(probe(outputs(odd, IDS), points(odd)), want), "a later probe works"

    @pytest.mark.parametrize("error", ERRORS)
    def test_after_an_error_before_or_after_every_module(
        self, error: type[BaseException], tiny: Tiny, rows: Tensor, watch: type, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(affine, "TILE", 32 * 40)
        model = tiny("gpt2")
        seen, probe = watch(model), Scratch(model, tree.find(model))
        z = tree.find(model).direction("gaussian", KEY)
        run, here = outputs(model, rows, use_cache=False), [Point(z, EPS)]
        want = probe(run, here)
        with stop_at_call(-1, error) as passed:
            probe(run, here)
        assert len(passed) > 40
        for n in range(1, len(passed) + 1):
            with stop_at_call(n, error), pytest.raises(error):
                probe(run, here)
            seen.check()
        assert torch.equal(probe(run, here), want)

    def test_after_an_interrupt_at_every_architecture(self, arch: str, tiny: Tiny, rows: Tensor, watch: type) -> None:
        model = tiny(arch)
        seen, probe = watch(model), Scratch(model, tree.find(model))
        with stop_at_call(-1, KeyboardInterrupt) as passed:
            probe(outputs(model, rows, use_cache=False), points(model))
        for n in range(2, len(passed), max(1, len(passed) // 9)):
            with stop_at_call(n, KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
                probe(outputs(model, rows, use_cache=False), points(model))
            seen.check()

    def test_after_an_error_that_the_objective_catches(self, odd: Odd, watch: type, moved: Moved) -> None:
        """A forward pass that failed and is taken again (out of memory, say) sees whole weights."""
        seen, want = watch(odd), really(moved, copy.deepcopy(odd), IDS)

        def objective() -> Tensor:
            with stop_at_call(7, RuntimeError), pytest.raises(RuntimeError):
                odd(IDS)
            return outputs(odd, IDS)()

        assert torch.equal(Scratch(odd, tree.find(odd))(objective, points(odd)), want)
        seen.check()

    def test_buffers_written_in_any_way_are_put_back(self, watch: type) -> None:
        """`.data` and inference mode leave no version behind; a buffer may be replaced, filled or removed."""

        class Notes(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = nn.Parameter(torch.ones(2))
                for name in ("data", "inference", "replaced", "removed", "plain"):
                    self.register_buffer(name, torch.tensor([1.0, float("nan")]))
                self.register_buffer("none", None)

            def forward(self, x: Tensor) -> Tensor:
                self.data.data.add_(1)
                with torch.inference_mode():
                    self.inference.mul_(2)
                self.replaced, self.none = torch.zeros(2), torch.zeros(1)
                self.plain += 1
                self._buffers.pop("removed", None)
                return x * self.w

        model = Notes()
        seen = watch(model)
        probed(model, torch.ones(2))
        seen.check()

    def test_batch_norm_under_inference_mode(self, watch: type) -> None:
        model, x = nn.BatchNorm1d(4), torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        seen = watch(model)

        def objective() -> Tensor:
            with torch.inference_mode():
                return model(x).square().mean()

        Scratch(model, tree.find(model))(objective, points(model))
        seen.check()

    def test_other_peoples_hooks_stay(self, odd: Odd, watch: type) -> None:
        calls = []
        odd.gate.register_forward_pre_hook(lambda module, args: calls.append(len(args)))
        odd.gate.register_forward_hook(lambda module, args, out: calls.append(out.dim()))
        odd.embed.register_forward_pre_hook(lambda module, args: calls.append(int(args[0].max())))
        seen = watch(odd)
        probed(odd, IDS)
        seen.check()
        assert calls == 3 * [10, 1, 3], "and see the arguments that the caller gave"

    def test_a_forward_of_somebody_elses_stays(
        self, odd: Odd, watch: type, moved: Moved, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """accelerate and others put a `forward` on the instance: it runs, and is not taken away."""
        monkeypatch.setattr(affine, "TILE", 20)
        plain, calls = odd.head.forward, []

        def forward(x: Tensor) -> Tensor:
            calls.append(1)
            return plain(x)

        twin = copy.deepcopy(odd)
        odd.head.forward = forward  # type: ignore[method-assign]
        seen = watch(odd)
        got = probed(odd, IDS)
        seen.check()
        assert len(calls) == 3
        want = really(moved, twin, IDS)  # tiles may be summed in another order, and batch norm magnifies that
        assert float((got - want).abs().max()) <= 2e-5 * float(want.abs().max())


class TestRefuses:
    """What would be silently wrong is an error."""

    @pytest.mark.parametrize("tile", [4, affine.TILE])
    def test_gradients(self, tile: int, watch: type, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(affine, "TILE", tile)
        model = nn.Linear(4, 4)
        seen = watch(model)

        def objective() -> Tensor:
            with torch.enable_grad():
                return model(torch.eye(4)).sum()

        for point in (Point(), points(model)[0]):
            with pytest.raises(RuntimeError, match="gradients"):
                Scratch(model, tree.find(model))(objective, [point])
            seen.check()

    def test_a_leaf_that_is_never_reached(self, watch: type) -> None:
        """Some modules read a child's weight without calling it: nobody would perturb it."""
        model = nn.MultiheadAttention(4, 2, bias=False)
        seen, x = watch(model), torch.ones(3, 4)
        probe = Scratch(model, tree.find(model))
        for _ in range(2):
            with pytest.raises(BadInput, match=r"out_proj\.weight"):
                probe(lambda: model(x, x, x)[0].sum(), points(model))
            seen.check()

    def test_a_module_beside_the_forward_pass(self) -> None:
        model = nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(6)])
        with pytest.raises(BadInput, match=r"runs?.* 1\.weight, 2\.weight, 3\.weight and 2 more|1\.weight.*and 2 more"):
            Scratch(model, tree.find(model))(lambda: model[0](torch.ones(2)), points(model))

    def test_only_at_the_first_probe(self) -> None:
        """A branch not taken later is no error: the check is that hooks reach every leaf at all."""
        model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        probe = Scratch(model, tree.find(model))
        probe(lambda: model[1](model[0](torch.ones(2))), points(model))
        probe(lambda: model[0](torch.ones(2)), points(model))


class Live:
    """Bytes of CPU tensors alive above the start, at the peak: read from torch's own allocation records."""

    def __init__(self, run: Callable[[], Any]) -> None:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            run()
        kept = profile.profiler.kineto_results  # type: ignore[union-attr]
        live = self.peak = 0
        for event in sorted((e for e in kept.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
            live += event.nbytes()
            self.peak = max(self.peak, live)


def deep(width: int = 64, layers: int = 12, vocabulary: int = 400) -> nn.Module:
    """A stack of equal layers between an embedding and a head as large as half of them."""
    inner = [nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for _ in range(layers)]
    return nn.Sequential(nn.Embedding(vocabulary, width), *inner, nn.Linear(width, vocabulary)).eval()


class TestMemory:
    """Rule 3: scratch for a module, or a tile of a large one; no z of model size."""

    def test_peak_over_a_forward_pass_is_one_module(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(affine, "TILE", 64 * 64)
        model, ids = deep(), torch.arange(5)[None]
        leaves = tree.find(model)
        probe, z = Scratch(model, leaves), leaves.direction("gaussian", KEY)
        one = 4 * (64 * 64 + 64)  # bytes of the largest module done in one piece; a tile of the head is as large

        def forward() -> None:
            with torch.no_grad():
                model(ids)

        def probes() -> None:
            probe(lambda: model(ids).sum(), [Point(z, EPS), Point(z, -EPS)])

        forward(), probes()
        probe.pool.free.clear()
        slack = 4 * 400 * 5 + 16384  # the head's output once more, while its tiles are joined; small change
        assert Live(probes).peak - Live(forward).peak <= one + slack
        assert 4 * leaves.count > 8 * (one + slack), "the model is much larger than what was allowed"

    def test_the_pool_never_exceeds_the_largest_module(self, arch: str, tiny: Tiny, rows: Tensor) -> None:
        model = tiny(arch)
        leaves = tree.find(model)
        probe, run = Scratch(model, leaves), outputs(model, rows, use_cache=False)
        tables = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
        own = [sum(leaf.param.numel() for leaf in o.values()) for m, o in stands.owned(leaves).items()]
        assert tables
        for key in range(3):
            probe(run, [Point(leaves.direction("gaussian", key), EPS)])
        kept = sum(buffer.numel() for buffer in probe.pool.free)
        assert kept <= max(own) + 64, "a bias must not hold a buffer of a weight's size"

    def test_a_probe_takes_back_what_it_lent(self, odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
        probe = Scratch(odd, tree.find(odd))
        probe(outputs(odd, IDS), points(odd))
        held = [id(buffer) for buffer in probe.pool.free]
        for _ in range(3):
            probe(outputs(odd, IDS), points(odd))
        assert sorted(id(buffer) for buffer in probe.pool.free) == sorted(held)

    def test_an_embedding_takes_only_the_rows_in_use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[int, ...]] = []
        take = Pool.take

        def note(pool: Pool, like: Tensor, shape: Any, dtype: Any = None) -> tuple[Tensor, Tensor]:
            asked.append(tuple(shape))
            return take(pool, like, shape, dtype)

        monkeypatch.setattr(Pool, "take", note)
        model = nn.Embedding(5000, 8)
        z = tree.find(model).direction("gaussian", KEY)
        Scratch(model, tree.find(model))(outputs(model, IDS), [Point(z, EPS)])
        assert asked == [(len(IDS.unique()), 8)]

    def test_tiles_share_one_buffer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(affine, "TILE", 64)
        model = nn.Linear(8, 1000)
        probe = Scratch(model, tree.find(model))
        probe(outputs(model, torch.eye(8)), points(model))
        assert sorted(buffer.numel() for buffer in probe.pool.free) == [64, 1000]

    def test_types_do_not_share_buffers(self) -> None:
        pool = Pool()
        full, _ = pool.take(torch.empty(0), (4, 4))
        pool.give([full])
        half, seen = pool.take(torch.empty(0, dtype=torch.bfloat16), (2, 3))
        assert half.dtype == torch.bfloat16 and seen.shape == (2, 3)
        again, _ = pool.take(torch.empty(0), (3, 3))
        assert again is full

    def test_two_probes_use_one_model_by_turns(self, moved: Moved) -> None:
        """Policies over different leaves of one model do not disturb each other."""
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        z = Direction("gaussian", KEY)
        parts = [tree.find(model, keep=lambda p, i=i: any(p is q for q in model[i].parameters())) for i in (0, 1)]
        probes = [Scratch(model, leaves) for leaves in parts]
        run = outputs(model, torch.eye(4))
        first = [probe(run, [Point(z, EPS)]) for probe in probes]
        assert all(torch.equal(probe(run, [Point(z, EPS)]), value) for probe, value in zip(probes, first, strict=True))


class Query(nn.Module):
    """A module that gives its own parameter, or a view of it."""

    def __init__(self, view: bool) -> None:
        super().__init__()
        self.weight, self.view = nn.Parameter(torch.randn(6, 8)), view

    def forward(self) -> Tensor:
        return self.weight.expand(3, 6, 8) if self.view else self.weight


class Asked(nn.Module):
    """Its query is used after other modules have run, and again after that."""

    def __init__(self, view: bool) -> None:
        super().__init__()
        self.query, self.mid, self.norm = Query(view), nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        first = self.query()
        second = self.query()
        return (self.norm(self.mid(x)).unsqueeze(-2) * first).sum(-1) + (x.unsqueeze(-2) * second).sum(-1)


@pytest.mark.parametrize("view", [False, True])
def test_an_output_that_is_a_weight_keeps_its_values(moved: Moved, view: bool) -> None:
    torch.manual_seed(3)
    model, x = Asked(view), torch.randn(3, 8)
    x = x if not view else torch.randn(4, 3, 8)
    assert torch.allclose(probed(model, x), really(moved, model, x), atol=1e-6)


def test_weights_that_were_replaced_are_refused_and_stay(moved: Moved) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    leaves = tree.find(model)
    model.load_state_dict({name: torch.zeros_like(v) for name, v in model.state_dict().items()}, assign=True)
    with pytest.raises(BadInput, match=r"0\.weight.* was replaced by another parameter"):
        Scratch(model, leaves)(outputs(model, torch.randn(2, 8)), [Point(leaves.direction("gaussian", KEY), EPS)])
    assert not any(p.any() for p in model.parameters())


@pytest.mark.parametrize("stack", [False, True])
def test_weights_given_for_one_call_are_not_moved(stack: bool) -> None:
    """A teacher by functional_call inside the objective has its own weights at every point."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.LayerNorm(8)), torch.arange(6).view(2, 3)
    teacher = {name: torch.randn_like(v) for name, v in model.state_dict().items()}
    leaves = tree.find(model)

    def run() -> Tensor:
        return torch.stack([torch.func.functional_call(model, teacher, x), model(x)]).reshape(2, -1).sum(1)

    z = leaves.direction("gaussian", KEY)
    found = Scratch(model, leaves, stack=stack)(run, [Point(z, 0.1), Point(z, -0.1), Point()])
    assert torch.equal(found[0, 0], found[2, 0]) and torch.equal(found[1, 0], found[2, 0])
    assert found[0, 1] != found[2, 1] != found[1, 1]
    assert torch.equal(run().double(), found[2])


@pytest.mark.filterwarnings("ignore")  # of dynamo's own
@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_model_is_probed_as_it_is_written(moved: Moved, whole: bool) -> None:
    """Compiled code that ran before does not see the weights that stand in for a probe."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.LayerNorm(8)), torch.randn(4, 8)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    expected, leaves = really(moved, model, x), tree.find(compiled if whole else model)
    z = leaves.direction("gaussian", KEY)
    found = Scratch(compiled if whole else model, leaves)(
        outputs(compiled, x), [Point(z, EPS), Point(z, -EPS), Point()]
    )
    assert torch.allclose(found, expected, atol=1e-6)
    torch.testing.assert_close(compiled(x), model(x))
