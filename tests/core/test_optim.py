"""`zofo.ZO` in anybody's loop: exact, repeatable, resumable, and refusing what it cannot do."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zofo
from zofo.core import noise, streams
from zofo.core.noise import LAWS
from zofo.core.optim import ZO
from zofo.core.probe.inplace import Inplace
from zofo.core.probe.scratch import Scratch
from zofo.core.rules import RULES
from zofo.core.weights import leaves as tree
from zofo.core.weights import move
from zofo.errors import BadInput

pytestmark = pytest.mark.filterwarnings("ignore:.*running statistics will not move:UserWarning")
X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 3


def cnn() -> nn.Module:
    """A small image classifier with batch norm and dropout, the same weights each time, in train mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 3)
        ).train()


def loss(model: nn.Module) -> Callable[[], Tensor]:
    """A closure: cross-entropy on six images."""
    return lambda: nn.functional.cross_entropy(model(X), Y)


def weights(model: nn.Module) -> list[Tensor]:
    """Copies of a model's weights."""
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether two lists of tensors are bit-equal."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_it_is_the_public_one() -> None:
    assert zofo.ZO is ZO and issubclass(ZO, torch.optim.Optimizer)


def test_a_step_is_what_the_docstring_says() -> None:
    """theta <- (1 - lr decay) theta - lr sum_i c_i z_i, keys from (seed, "noise", step, i), applied once."""
    model, twin = cnn(), cnn()
    opt = ZO(model, lr=0.01, eps=1e-2, q=3, seed=9, decay=0.5)
    returned = opt.step(loss(model))
    assert opt.last is not None and opt.applied is not None
    keys = [streams.key(9, "noise", 0, i) for i in range(3)]
    assert [key for key, _ in opt.last.grad.terms] == keys
    assert opt.applied.terms == tuple((k, float(np.float32(-0.01 * c))) for k, c in opt.last.grad.terms)
    assert opt.applied.decay == float(np.float32(0.005))
    move.replay(tree.find(twin), opt.applied.law, opt.applied.terms, opt.applied.decay)
    assert same(weights(model), weights(twin))
    assert float(returned) == pytest.approx(opt.last.terms[0])


@pytest.mark.parametrize(
    ("estimator", "q", "cost"), [("central", 1, 2), ("central", 3, 6), ("forward", 1, 2), ("forward", 3, 4)]
)
def test_the_closure_is_called_as_often_as_promised(estimator: str, q: int, cost: int) -> None:
    model, calls = cnn(), []
    opt = ZO(model, q=q, estimator=estimator)
    opt.step(lambda: (calls.append(torch.is_grad_enabled()), loss(model)())[1])
    assert calls == [False] * cost


def test_probing_leaves_buffers_and_the_global_generator(watch: type) -> None:
    """With lr 0 a step is a probe: batch norm's buffers too are as before, and dropout drew from a stream of its own."""
    model = cnn()
    seen, state = watch(model), torch.get_rng_state()
    ZO(model, lr=0.0, q=2).step(loss(model))
    seen.check()
    assert torch.equal(torch.get_rng_state(), state)


def test_all_points_of_a_step_share_one_dropout_mask() -> None:
    model, masks = cnn(), list[Tensor]()
    model[3].register_forward_hook(lambda module, args, out: masks.append((out == 0) & (args[0] != 0)))
    model[2] = nn.Identity()  # so that no zero comes in
    opt = ZO(model, q=3)
    opt.step(loss(model))
    opt.step(loss(model))
    assert len(masks) == 12
    assert all(torch.equal(masks[0], mask) for mask in masks[:6])
    assert all(torch.equal(masks[6], mask) for mask in masks[6:])
    assert not torch.equal(masks[0], masks[6]) and masks[0].any()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rule", RULES)
def test_it_learns(law: Any, rule: str) -> None:
    """A least-squares fit by forward passes only."""
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
    model = nn.Linear(4, 1)
    nn.init.zeros_(model.weight)
    opt = ZO(model, lr={"sgd": 0.02, "scalar-adaptive": 0.03, "adam": 0.05}[rule], eps=1e-3, noise=law, rule=rule, q=2)

    def closure() -> Tensor:
        return nn.functional.mse_loss(model(x), y)

    first = float(opt.step(closure))
    for _ in range(150):
        last = float(opt.step(closure))
    assert last < 0.25 * first


@pytest.mark.parametrize("rule", RULES)
def test_a_state_dict_round_trip_continues_bit_equal(rule: str) -> None:
    """Model and optimizer saved in the middle, loaded into fresh ones: the same weights at the end."""
    model = cnn()
    opt = ZO(model, lr=1e-3, rule=rule, q=2, seed=3)
    for _ in range(3):
        opt.step(loss(model))
    held = copy.deepcopy((model.state_dict(), opt.state_dict()))
    again = cnn()
    other = ZO(again, lr=99.0, rule=rule)
    again.load_state_dict(held[0])
    other.load_state_dict(held[1])
    for _ in range(3):
        opt.step(loss(model))
        other.step(loss(again))
    assert other.param_groups[0]["lr"] == 1e-3 and other.param_groups[0]["step"] == 6
    assert same(weights(model), weights(again))
    assert opt.applied == other.applied


def test_two_runs_are_one(threads: Callable[[int], None]) -> None:
    """Same seed, same bits; another seed, others."""

    def run(seed: int) -> list[Tensor]:
        model = cnn()
        opt = ZO(model, lr=1e-3, seed=seed)
        for _ in range(3):
            opt.step(loss(model))
        return weights(model)

    first = run(1)
    assert same(first, run(1)) and not same(first, run(2))


@pytest.mark.parametrize(
    "make",
    [
        lambda opt: torch.optim.lr_scheduler.StepLR(opt, 1, 0.5),
        lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, 4),
        lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, lambda k: 1 / (k + 1)),
        lambda opt: torch.optim.lr_scheduler.LinearLR(opt),
    ],
    ids=["step", "cosine", "lambda", "linear"],
)
def test_schedulers_of_torch_set_the_rate(make: Callable[[ZO], Any]) -> None:
    model = cnn()
    opt = ZO(model, lr=0.01)
    schedule = make(opt)
    rates = []
    for _ in range(4):
        rate = opt.param_groups[0]["lr"]
        opt.step(loss(model))
        assert opt.last is not None and opt.applied is not None
        assert opt.applied.terms[0][1] == float(np.float32(-rate * opt.last.grad.coefficients[0]))
        schedule.step()
        rates.append(rate)
    assert len(set(rates)) == 4


def test_only_parameters_that_require_a_gradient_move() -> None:
    model = cnn()
    model[0].requires_grad_(False)
    before = weights(model)
    ZO(model, lr=0.1).step(loss(model))
    after = weights(model)
    assert same(before[:2], after[:2])
    assert not any(torch.equal(a, b) for a, b in zip(before[2:], after[2:], strict=True))


def test_bare_parameters_warn_and_go_in_place() -> None:
    model = cnn()
    with pytest.warns(UserWarning, match="drifts") as caught:
        opt = ZO(model.parameters(), lr=1e-3)
    assert caught[0].filename == __file__
    assert isinstance(opt.probe, Inplace)
    assert [leaf.name for leaf in opt.leaves] == [f"parameter.{i}" for i in range(6)]
    before = weights(model)
    opt.step(loss(model))
    assert not same(before, weights(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ZO(model.parameters(), probe="inplace")


def test_the_policy_is_chosen_by_what_is_given() -> None:
    assert isinstance(ZO(cnn()).probe, Scratch)
    assert isinstance(ZO(cnn(), probe="scratch").probe, Scratch)
    assert isinstance(ZO(cnn(), probe="inplace").probe, Inplace)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": -1e-3}, "lr is at least"), ({"lr": math.nan}, "lr is at least"), ({"eps": 0.0}, "eps is at least"),
        ({"eps": -1.0}, "eps"), ({"decay": -0.1}, "decay"), ({"q": 0}, "q is at least 1"),
        ({"q": 2.0}, "q is a whole number"), ({"q": True}, "q is a whole number"), ({"lr": "1e-6"}, "lr is a number"),
        ({"eps": math.inf}, "eps is at least"), ({"noise": None}, "unknown law"), ({"rule": None}, "unknown"),
        ({"estimator": "centre"}, "did you mean 'central'"), ({"rule": "adma"}, "did you mean 'adam'"),
        ({"noise": "gausian"}, "did you mean 'gaussian'"), ({"probe": "scratchy"}, "did you mean 'scratch'"),
    ],
)  # fmt: skip
def test_bad_values_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ZO(nn.Linear(2, 2), **options)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ([], "no floating-point parameter"),
        (nn.ReLU(), "no floating-point parameter"),
        (
            nn.Linear(2, 2).requires_grad_(False),
            r"^ZO\(Linear\): every weight is frozen .*model\.requires_grad_\(True\)",
        ),
        ([nn.Parameter(torch.ones(2), requires_grad=False)], r"^ZO\(params\): every weight is frozen"),
        ([{"params": [nn.Parameter(torch.ones(2))]}], "no groups"),
        (nn.Linear(2, 2).named_parameters(), "no names"),
    ],
)
def test_bad_parameters_are_refused(params: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ZO(params, probe="auto" if isinstance(params, nn.Module) else "inplace")


def test_scratch_needs_a_module() -> None:
    with pytest.raises(BadInput, match="pass the module"):
        ZO(nn.Linear(2, 2).parameters(), probe="scratch")


def test_a_second_group_is_refused() -> None:
    """It would stand in `param_groups` and not move."""
    with pytest.raises(BadInput, match="fixed at the start"):
        ZO(nn.Linear(2, 2)).add_param_group({"params": [nn.Parameter(torch.ones(2))]})


def test_a_step_needs_a_closure_of_one_number(watch: type) -> None:
    model = nn.Linear(2, 2)
    opt, seen = ZO(model), watch(model)
    with pytest.raises(BadInput, match="closure"):
        opt.step()
    for closure in (lambda: None, lambda: model(torch.ones(3, 2)), lambda: "0.5"):
        with pytest.raises(BadInput, match="not one number"):
            opt.step(closure)
        seen.check()
    assert math.isfinite(float(opt.step(lambda: model(torch.ones(1, 2)).sum().item())))
    assert math.isfinite(float(opt.step(lambda: np.float32(model(torch.ones(1, 2)).sum().item()))))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("rule", RULES)
def test_a_loss_that_is_not_finite_moves_nothing(rule: str, bad: float, watch: type) -> None:
    """Neither weights nor the rule's state; the step is counted, and the next one is taken."""
    model = cnn()
    opt = ZO(model, lr=0.1, rule=rule, decay=0.1)
    seen, state = watch(model), copy.deepcopy(opt.state_dict())
    opt.step(lambda: loss(model)() * bad)
    seen.check()
    assert opt.last is not None and not opt.last.finite and opt.applied is None
    now = opt.state_dict()
    assert now["rule"] == state["rule"] and all(torch.equal(now["moments"][k], v) for k, v in state["moments"].items())
    assert now["param_groups"][0]["step"] == 1
    opt.step(loss(model))
    assert opt.last.finite
    assert not same(weights(model), weights(cnn()))


@pytest.mark.parametrize("lr", [1e38, 1e300])
def test_a_step_that_does_not_fit_fp32_moves_nothing(lr: float, watch: type) -> None:
    """a = -lr c is applied and journalled in fp32: where it overflows, nothing is applied."""
    model = cnn()
    opt, seen = ZO(model, lr=lr), watch(model)
    opt.step(lambda: 1e6 * loss(model)())
    seen.check()
    assert opt.applied is None and opt.param_groups[0]["step"] == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_closure_moves_nothing_and_counts_no_step(error: type[BaseException], watch: type) -> None:
    model = cnn()
    opt, seen, calls = ZO(model, lr=0.1), watch(model), []

    def closure() -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise error
        return loss(model)()

    with pytest.raises(error):
        opt.step(closure)
    seen.check()
    assert opt.param_groups[0]["step"] == 0
    twin = cnn()
    opt.step(loss(model))
    ZO(twin, lr=0.1).step(loss(twin))
    assert same(weights(model), weights(twin))


def test_backward_in_a_closure_is_refused(watch: type) -> None:
    model = cnn()
    seen = watch(model)

    def closure() -> Tensor:
        with torch.enable_grad():
            value = loss(model)()
            value.backward()
        return value

    with pytest.raises(RuntimeError, match="gradients"):
        ZO(model).step(closure)
    seen.check()


def test_ids_by_position_draw_other_noise_than_names() -> None:
    """What the warning means: bare parameters replay only on the same list."""
    model = nn.Linear(3, 3)
    (named, _), (placed, _) = tree.find(model), tree.positional(model.parameters())
    z = noise.Direction("gaussian", 1)
    assert not torch.equal(noise.draw(z, named.tid, 9), noise.draw(z, placed.tid, 9))


def test_bare_parameters_that_are_frozen_stay_and_a_repeated_one_counts_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    x, before = torch.ones(2, 3), model[0].weight.clone()
    opt = ZO([*model.parameters(), model[1].weight], lr=1e-1, probe="inplace")
    assert [leaf.param is p for leaf, p in zip(opt.leaves, model[1].parameters(), strict=True)] == [True, True]
    moved = model[1].weight.clone()
    opt.step(lambda: model(x).square().mean())
    assert torch.equal(model[0].weight, before) and not torch.equal(model[1].weight, moved)


def test_norms_in_a_half_type_are_warned_of_and_matrices_are_not() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = parameter.data.bfloat16()
    zofo.ZO(model, lr=0.1)
    with pytest.warns(UserWarning, match=r"0\.bias and 2 other vectors are in a half type"):
        zofo.ZO(model.bfloat16(), lr=0.1)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_prompt_that_learns_outside_the_base_is_refused_and_not_left_out(tiny, frozen: bool) -> None:
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(tiny("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    model.get_base_model().requires_grad_(not frozen)
    with pytest.raises(BadInput, match=r"prompt_encoder.* learns and is not part of the base model; freeze it"):
        zofo.ZO(model)
    zofo.ZO([p for p in model.parameters() if p.requires_grad], probe="inplace")


def test_running_statistics_in_train_mode_are_warned_of_once() -> None:
    """They do not move under probing by scratch, so a model that is evaluated with them would be as bad as new."""
    model = cnn()
    opt = ZO(model, lr=1e-3)
    with pytest.warns(UserWarning, match=r"1 is in train mode, and its running statistics will not move") as caught:
        opt.step(loss(model))
    assert len(caught) == 1 and caught[0].filename == __file__
    still = cnn()
    still[1].eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.step(loss(model))
        ZO(still, lr=1e-3).step(loss(still))
        ZO(model, lr=1e-3, probe="inplace").step(loss(model))
    assert "running statistics" in str(ZO.__doc__)


@pytest.mark.parametrize("make", [copy.deepcopy, copy.copy, pickle.dumps], ids=["deepcopy", "copy", "pickle"])
def test_copies_and_pickles_are_refused(make: Callable[[ZO], Any]) -> None:
    with pytest.raises(BadInput, match=r"neither copied nor pickled; keep its state_dict\(\)"):
        make(ZO(cnn()))


@pytest.mark.parametrize(("theirs", "ours"), [("sgd", "adam"), ("adam", "sgd"), ("sgd", "scalar-adaptive")])
def test_a_state_of_another_rule_is_refused_and_nothing_is_taken_up(theirs: str, ours: str) -> None:
    model = cnn()
    opt = ZO(model, lr=1e-3, rule=ours)
    held = ZO(model, lr=7.0, rule=theirs).state_dict()
    with pytest.raises(BadInput, match=f"the state is of rule '{theirs}', and this optimizer's is '{ours}'"):
        opt.load_state_dict(held)
    assert opt.param_groups[0]["lr"] == 1e-3
    opt.step(loss(model))


@pytest.mark.parametrize(
    ("name", "theirs", "ours"), [("noise", "low-rank-8", "gaussian"), ("estimator", "central", "forward")]
)
def test_a_state_of_another_law_or_estimator_is_refused(name: str, theirs: str, ours: str) -> None:
    model = cnn()
    held = ZO(model, **{name: theirs}).state_dict()
    with pytest.raises(BadInput, match=f"the state is of {name} '{theirs}', and this optimizer's is '{ours}'"):
        ZO(model, **{name: ours}).load_state_dict(held)
    del held["ways"]  # an older state does not say
    ZO(model, **{name: ours}).load_state_dict(held)


def test_a_step_that_would_turn_theta_over_is_refused() -> None:
    with pytest.raises(BadInput, match=r"ZO\(lr=0.1, decay=11.0\): a step would turn theta over"):
        ZO(cnn(), lr=0.1, decay=11.0)


class Drifting(nn.Module):
    """A buffer follows the outputs and is taken from them; `keeps`: what it becomes is kept."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.linear, self.keeps = nn.Linear(4, 4), keeps
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        mean = 0.9 * self.mean + 0.1 * out.detach().mean(0)
        if self.keeps:
            self.mean.copy_(mean)
        return out - mean


@pytest.mark.parametrize("estimator", ["central", "forward"])
def test_every_point_begins_with_the_same_buffers(estimator: str) -> None:
    """c is the difference of two losses of one model: what one point's pass wrote is not there at the next."""
    x, y = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(1))
    found = []
    for keeps in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Drifting(keeps)
        opt = ZO(model, lr=1e-2, eps=1e-3, q=2, estimator=estimator)
        for _ in range(3):
            opt.step(lambda model=model: (model(x) - y).square().mean())
            assert opt.last is not None
            found.append(opt.last.grad.coefficients)
        assert not model.mean.any()
    assert found[:3] == found[3:]


@pytest.mark.parametrize("rule", RULES)
def test_a_state_of_another_model_is_refused_by_name(rule: str) -> None:
    small, large = nn.Linear(8, 4), nn.Linear(8, 5)
    opt = ZO(large, lr=1e-3, rule=rule)
    with pytest.raises(BadInput, match=r"weight is \[4, 8\] in the state and \[5, 8\] here"):
        opt.load_state_dict(ZO(small, lr=7.0, rule=rule).state_dict())
    with pytest.raises(BadInput, match=r"bias is missing in the state and \[5\] here"):
        opt.load_state_dict(ZO(nn.Linear(8, 5, bias=False), lr=7.0, rule=rule).state_dict())
    with pytest.raises(BadInput, match="no state of zofo"):
        opt.load_state_dict(torch.optim.SGD(large.parameters(), lr=7.0).state_dict())
    assert opt.param_groups[0]["lr"] == 1e-3
    opt.step(lambda: large(torch.ones(2, 8)).square().mean())


def test_an_older_state_which_says_neither_rule_nor_shapes_is_judged_by_its_moments() -> None:
    model = cnn()
    held, plain = ZO(model, rule="adam").state_dict(), ZO(model).state_dict()
    for state in (held, plain):
        del state["shapes"], state["ways"], state["rule"]["name"]
    ZO(model, rule="adam").load_state_dict(held)
    with pytest.raises(BadInput, match=r"m\.0\.weight is missing in the state"):
        ZO(model, rule="adam").load_state_dict(plain)


def test_a_state_is_a_copy_on_both_ways() -> None:
    """What was kept is changed by no later step, and two optimizers that took it up share nothing."""
    model, other = cnn(), cnn()
    opt, second = ZO(model, lr=1e-3, rule="adam"), ZO(other, lr=1e-3, rule="adam")
    opt.step(loss(model))
    other.load_state_dict(model.state_dict())
    kept = opt.state_dict()
    before = copy.deepcopy(kept["moments"])
    opt.load_state_dict(kept)
    second.load_state_dict(kept)
    opt.step(loss(model))
    second.step(loss(other))
    assert before and all(torch.equal(kept["moments"][name], moment) for name, moment in before.items())
    assert same(weights(model), weights(other))


def test_a_closure_that_calls_backward_is_told_that_nothing_is_differentiated() -> None:
    model = cnn().eval()

    def closure() -> Tensor:
        value = loss(model)()
        value.backward()
        return value

    before = weights(model)
    with pytest.raises(
        BadInput, match=r"^ZO\.step\(closure\): the closure calls backward\(\).*; return the loss alone$"
    ):
        ZO(model).step(closure)
    assert same(before, weights(model))


def test_other_errors_of_a_closure_are_its_own() -> None:
    with pytest.raises(RuntimeError, match="size of tensor a"):
        ZO(nn.Linear(2, 2)).step(lambda: torch.ones(2) + torch.ones(3))


def test_token_ids_are_read_as_the_model_reads_them() -> None:
    """Of any whole type; one that is none of the model's words is its own error, and moves nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 4), nn.Linear(4, 1))
    ids = torch.tensor([[3, 1, 3], [7, 19, 0]])
    losses = [
        float(ZO(model, lr=0.0).step(lambda given=given: model(given).square().mean())) for given in (ids, ids.int())
    ]
    assert losses[0] == losses[1]
    before = weights(model)
    for wrong in (torch.full((2, 3), 20), torch.full((2, 3), -1)):
        with pytest.raises(IndexError):
            ZO(model, lr=1e-2).step(lambda wrong=wrong: model(wrong).mean())
    assert same(before, weights(model))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_loss_in_a_half_type_is_warned_of(half: torch.dtype) -> None:
    model = nn.Linear(2, 1)
    told = rf"the closure returned a loss in {str(half)[6:]}, .* compute it in fp32"
    optimizer = ZO(model)
    with pytest.warns(UserWarning, match=told) as caught:
        for _ in range(2):
            optimizer.step(lambda: model(torch.ones(3, 2)).mean().to(half))
    assert len(caught) == 1 and caught[0].filename == __file__


def test_a_module_that_is_put_in_another_ones_place_is_told_and_nothing_moves() -> None:
    """No probe would reach it, and the old one's weights would walk at random."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer, old = ZO(model, lr=1e-2), model[1]
    optimizer.step(lambda: model(torch.ones(3, 2)).sum())
    model[1] = nn.Linear(2, 1)
    before = weights(model) + weights(old)
    with pytest.raises(BadInput, match=r"the module that owns 1\.weight, 1\.bias is no longer part of the model"):
        optimizer.step(lambda: model(torch.ones(3, 2)).sum())
    assert same(before, weights(model) + weights(old))
    model[1] = old
    optimizer.step(lambda: model(torch.ones(3, 2)).sum())


def test_a_loss_without_the_model_is_told() -> None:
    with pytest.raises(BadInput, match="none of the weights was read: the loss was computed without the model"):
        ZO(nn.Linear(2, 2)).step(lambda: 1.0)


def test_a_weight_that_is_frozen_later_is_told_and_nothing_moves() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = ZO(model, lr=1e-2)
    model[0].requires_grad_(False)
    before = weights(model)
    with pytest.raises(BadInput, match=r"0\.weight was frozen after the optimizer was made"):
        optimizer.step(lambda: model(torch.ones(3, 2)).sum())
    assert same(before, weights(model))
