"""`zofo.Bilevel` is the bilevel method: the same iteration for anybody's loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn

import zofo
from zofo.config import AdapterConfig
from zofo.errors import BadInput

Tiny = Callable[..., nn.Module]


def loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return -out[:, -2].log_softmax(-1).gather(1, ids[:, -1:]).squeeze(1)


@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
def test_it_trains_theta_p_and_s_with_every_adapter(tiny: Tiny, rows: torch.Tensor, kind: str) -> None:
    adapter = AdapterConfig(kind=kind, r=2)  # type: ignore[arg-type]
    solver = zofo.Bilevel(tiny("llama"), adapter, loss=loss, lam=10.0, T=2, lr_theta=1e-3, lr_p=1e-2, lr_s=1e-2)
    leaves = solver.problem.leaves
    assert leaves is not None
    before = {leaf.name: leaf.data.clone() for leaf in leaves}
    p, s = solver.slots.tensors("p"), solver.slots.tensors("s")
    report = solver.step(lower=[(rows, rows[:2]), (rows[1:], rows)], upper=(rows, rows[:2]))
    assert all(not torch.equal(before[leaf.name], leaf.data) for leaf in leaves)
    assert any(not torch.equal(p[n], w) for n, w in solver.slots.tensors("p").items())
    assert any(not torch.equal(s[n], w) for n, w in solver.slots.tensors("s").items())
    assert {"A", "B", "C", "gap", "c_A", "c_B", "c_C", "c"} <= set(report.numbers)


def test_a_wrong_option_is_named_with_the_nearest(tiny: Tiny) -> None:
    with pytest.raises(BadInput, match=r"greater than or equal to 0"):
        zofo.Bilevel(tiny("llama"), AdapterConfig(), loss=loss, lam=-1.0)
    options: dict[str, Any] = {"lamb": 3.0}
    with pytest.raises(BadInput, match="lamb"):
        zofo.Bilevel(tiny("llama"), AdapterConfig(), loss=loss, **options)


def test_the_walking_policy_can_be_chosen_and_drifts(tiny: Tiny, rows: torch.Tensor) -> None:
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, T=1, lr_theta=0.0, probe="inplace")
    leaves = solver.problem.leaves
    assert leaves is not None
    before = {leaf.name: leaf.data.clone() for leaf in leaves}
    solver.step([(rows, rows)], (rows, rows))
    changed = sum(int((before[leaf.name] != leaf.data).sum()) for leaf in leaves) / leaves.count
    assert changed > 0.1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "mezo"}, "this is the bilevel solver"),
        ({"coupling": "follow", "lam": 3.0}, r"Bilevel\(lam=\.\.\.\): it has no effect for method bilevel"),
        ({"stack": "on"}, r"Bilevel\(stack=...\): your loss says how it is computed"),
        ({"probe_dtype": "bf16"}, r"Bilevel\(probe_dtype=...\): your loss says how it is computed"),
        ({"schedule_theta": "linear"}, r"Bilevel\(schedule_theta=...\): a schedule needs the number of iterations"),
        ({"schedule": "cosine"}, "a schedule needs the number of iterations; give steps=N"),
        ({"weighting": "normalised", "rule": "scalar-adaptive"}, "scale-free"),
    ],
)
def test_options_without_effect_or_sense_are_refused(tiny: Tiny, options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, **options)


def test_the_pairs_must_be_those_that_the_options_ask_for(tiny: Tiny, rows: torch.Tensor) -> None:
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, T=2)
    for lower in ([], [(rows, rows)], [(rows, rows), (rows, None)]):
        with pytest.raises(BadInput, match=r"2 \(batch_s, mixed\) pairs"):
            solver.step(lower, (rows, rows))


def test_pairs_that_an_iteration_does_not_use_may_be_given_all_the_same(tiny: Tiny, rows: torch.Tensor) -> None:
    options: dict[str, Any] = {"coupling": "outer", "lam_every": 3, "s_start": "from-p", "T": 2}
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, **options)
    seen = [solver.step([(rows, None)] * 2, (rows, rows)) for _ in range(4)]
    assert [report.numbers["lam"] > 0 for report in seen] == [True, False, False, True]
    assert seen[1].backwards < seen[0].backwards == seen[3].backwards
    with pytest.raises(BadInput, match=r"lower=1 pairs\): 2 \(batch_s, None\) pairs are needed; give 2"):
        zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, **options).step([(rows, None)], (rows, rows))


def test_p_is_active_after_a_step(tiny: Tiny, rows: torch.Tensor) -> None:
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, T=1, lr_p=0.1, lr_s=0.1)
    solver.step([(rows, rows)], (rows, rows))
    assert solver.model.active_adapter == "p"


def test_micro_batches_are_counted_as_they_are_given(tiny: Tiny, rows: torch.Tensor) -> None:
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=lambda model, batch: loss(model, batch[0]), T=1)
    one, four = (rows,), [(rows,)] * 4
    plain, more = solver.step([(one, one)], (one, one)), solver.step([(four, four)], (four, four))
    assert (more.forwards, more.backwards) == (4 * plain.forwards, 4 * plain.backwards) == (32, 8)
    with pytest.raises(BadInput, match=r"holds tensors of several kinds.*give tuple\(batch\)"):
        solver.step([([rows, rows[:, 0]], one)], (one, one))


@pytest.mark.parametrize("name", ["inference_adapter", "accumulate_lower", "accumulate_upper"])
def test_what_is_said_in_another_way_here_is_refused(tiny: Tiny, name: str) -> None:
    value: dict[str, Any] = {name: "p" if name == "inference_adapter" else 2}
    with pytest.raises(BadInput, match=rf"Bilevel\({name}=\.\.\.\)"):
        zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, **value)


def test_a_state_that_was_kept_is_changed_by_no_later_step(tiny: Tiny, rows: torch.Tensor) -> None:
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, T=1, rule="adam", lr_theta=1e-3)
    solver.step([(rows, rows)], (rows, rows))
    kept = solver.state_dict()
    before = {name: tensor.clone() for name, tensor in kept["tensors"].items()}
    solver.load_state_dict(kept)
    solver.step([(rows, rows)], (rows, rows))
    assert before and all(torch.equal(kept["tensors"][name], tensor) for name, tensor in before.items())


def test_a_model_with_adapters_is_refused_and_one_that_is_refused_has_none(tiny: Tiny, rows: torch.Tensor) -> None:
    model = tiny("llama")
    with pytest.raises(BadInput, match="use plain LoRA"):
        zofo.Bilevel(model, LoraConfig(task_type="CAUSAL_LM", modules_to_save=["lm_head"]), loss=loss)
    solver = zofo.Bilevel(model, LoraConfig(task_type="CAUSAL_LM", r=2), loss=loss, T=1)
    before = solver.slots.tensors("p")
    for held in (model, solver.model):
        with pytest.raises(BadInput, match="the model has adapters already"):
            zofo.Bilevel(held, LoraConfig(task_type="CAUSAL_LM", r=2), loss=loss)
    assert all(torch.equal(before[name], tensor) for name, tensor in solver.slots.tensors("p").items())
    solver.step([(rows, rows)], (rows, rows))


@pytest.mark.parametrize(
    ("keys", "told"),
    [({"use_dora": True}, "use_dora"), ({"init_lora_weights": "pissa_niter_2"}, "init_lora_weights 'pissa_niter_2'")],
)
def test_lora_that_changes_or_reads_the_base_is_refused(tiny: Tiny, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        zofo.Bilevel(tiny("llama"), LoraConfig(task_type="CAUSAL_LM", **keys), loss=loss)


def test_coupling_follow_takes_no_lambda_of_its_own(tiny: Tiny, rows: torch.Tensor) -> None:
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, coupling="follow", T=1)
    solver.step([(rows, None)], (rows, rows))
    p, s = solver.slots.tensors("p"), solver.slots.tensors("s")
    assert all(torch.equal(p[name], s[name]) for name in p)


NOISY = {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}


@pytest.mark.parametrize("lower", ["first-order", "zeroth-order"])
@pytest.mark.parametrize("coupling", ["both", "outer"])
def test_the_models_mode_changes_no_number_and_is_left_as_it_was_found(
    tiny: Tiny, rows: torch.Tensor, lower: str, coupling: str
) -> None:
    found = []
    for train in (False, True):
        model = tiny("gpt2", **NOISY).train(train)
        model.transformer.h[0].train(not train)  # type: ignore[union-attr,operator,index]
        adapter = LoraConfig(task_type="CAUSAL_LM", r=2, lora_dropout=0.3, fan_in_fan_out=True)
        solver = zofo.Bilevel(model, adapter, loss=loss, T=2, lower=lower, coupling=coupling, lr_s=1e-2, lr_p=1e-2)
        modes = [module.training for module in solver.model.modules()]
        assert solver.model.training == train
        assert {m.training for n, m in solver.model.named_modules() if "lora_" in n} == {train}
        found.append(solver.step([(rows, rows)] * 2, (rows, rows)).numbers)
        assert modes == [module.training for module in solver.model.modules()]
    assert found[0] == found[1]


def test_an_error_in_a_step_leaves_the_mode_too(tiny: Tiny, rows: torch.Tensor) -> None:
    def failing(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    solver = zofo.Bilevel(tiny("llama").train(), AdapterConfig(r=2), loss=failing, T=1)
    with pytest.raises(KeyboardInterrupt):
        solver.step([(rows, rows)], (rows, rows))
    assert all(module.training for module in solver.model.modules())


def test_weights_that_are_frozen_stay_and_are_not_asked_for(tiny: Tiny, rows: torch.Tensor) -> None:
    """What an error says of a weight that no forward pass reaches, "freeze these weights", is true advice."""

    def made(frozen: bool) -> nn.Module:
        model = tiny("llama")
        model.model.embed_tokens.requires_grad_(False)  # type: ignore[union-attr,operator]
        model.unused = nn.Linear(4, 4).requires_grad_(not frozen)
        return model

    options: dict[str, Any] = {"loss": loss, "T": 1, "lr_theta": 1e-2}
    with pytest.raises(BadInput, match=r"never ran the module that owns unused.*freeze these weights"):
        zofo.Bilevel(made(False), AdapterConfig(r=2), **options).step([(rows, rows)], (rows, rows))
    model = made(True)
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    held = dict(model.named_parameters())
    zofo.Bilevel(model, AdapterConfig(r=2), **options).step([(rows, rows)], (rows, rows))
    still = {name for name, param in held.items() if torch.equal(param, before[name])}
    assert still == {"model.embed_tokens.weight", "unused.weight", "unused.bias"}


def test_a_model_that_is_frozen_altogether_is_refused_before_it_is_changed(tiny: Tiny) -> None:
    model = tiny("llama").requires_grad_(False)
    modules = list(model.modules())
    with pytest.raises(BadInput, match=r"every weight is frozen .*call model\.requires_grad_\(True\)"):
        zofo.Bilevel(model, AdapterConfig(r=2), loss=loss)
    assert modules == list(model.modules())


def test_a_refused_adapter_freezes_nothing(tiny: Tiny) -> None:
    model = tiny("llama")
    model.lm_head.requires_grad_(False)  # type: ignore[union-attr]
    wanted = [param.requires_grad for param in model.parameters()]
    with pytest.raises(BadInput, match="use plain LoRA"):
        zofo.Bilevel(model, LoraConfig(task_type="CAUSAL_LM", modules_to_save=["lm_head"]), loss=loss)
    assert wanted == [param.requires_grad for param in model.parameters()]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda model, ids: {"loss": loss(model, ids)}, "dict"),
        (lambda model, ids: model(input_ids=ids, labels=ids), "CausalLMOutputWithPast"),
        (lambda model, ids: float(loss(model, ids).detach().mean()), "float"),
        (lambda model, ids: None, "NoneType"),
    ],
)
@pytest.mark.parametrize("lower", ["first-order", "zeroth-order"])
def test_a_loss_that_is_no_tensor_is_named(tiny: Tiny, rows: torch.Tensor, wrong: Any, said: str, lower: str) -> None:
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=wrong, T=1, lower=lower)
    with pytest.raises(BadInput, match=rf"it returned a value of type {said}, not a tensor; .*return out\.loss"):
        solver.step([(rows, rows)], (rows, rows))


@pytest.mark.parametrize("options", [{}, {"coupling": "outer"}, {"upper": "sketch"}, {"s_start": "from-p"}], ids=str)
def test_autocast_around_a_step_gives_the_bits_of_autocast_inside_the_loss(
    tiny: Tiny, rows: torch.Tensor, options: dict[str, Any]
) -> None:
    """Its cache of half copies is not what later steps of a solver learn from."""

    def half(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            return loss(model, ids).float()

    ends = []
    for around in (False, True):
        fn = (lambda model, ids: loss(model, ids).float()) if around else half
        how: dict[str, Any] = {"T": 3, "lr_s": 1e-1, "lr_p": 1e-1, "lr_theta": 1e-3} | options
        solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=fn, **how)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=around):
                report = solver.step([(rows, rows)] * 3, (rows, rows))
        ends.append((report.numbers["A"], solver.slots.tensors("p"), solver.slots.tensors("s")))
    (a, *before), (b, *after) = ends
    assert a == b
    assert all(torch.equal(x[name], y[name]) for x, y in zip(before, after, strict=True) for name in x)


@pytest.mark.parametrize(
    ("name", "theirs", "ours"), [("optimizer", "adam", "sgd"), ("rule", "sgd", "adam"), ("noise", "sphere", "gaussian")]
)
def test_a_state_of_a_solver_with_other_rules_is_refused(
    tiny: Tiny, rows: torch.Tensor, name: str, theirs: str, ours: str
) -> None:
    other = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, T=1, **{name: theirs})
    other.step([(rows, rows)], (rows, rows))
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, T=1, **{name: ours})
    before = solver.slots.tensors("p")
    with pytest.raises(BadInput, match=f"the state is of {name} '{theirs}', and this solver's is '{ours}'"):
        solver.load_state_dict(other.state_dict())
    assert all(torch.equal(before[n], w) for n, w in solver.slots.tensors("p").items())
    solver.step([(rows, rows)], (rows, rows))


def refused(solver: zofo.Bilevel, state: dict[str, Any], told: str, rows: torch.Tensor) -> None:
    """A foreign state is refused by name, and the solver is as it was: it steps on as its twin of the same state does."""
    before = solver.state_dict()
    with pytest.raises(BadInput, match=told):
        solver.load_state_dict(state)
    after = solver.state_dict()
    assert after["numbers"] == before["numbers"] and after["seed"] == before["seed"]
    for part in (lambda s: s["tensors"], *(lambda s, k=k: s["slots"][k] for k in before["slots"])):
        assert all(torch.equal(part(before)[n], t) for n, t in part(after).items())
    solver.step([(rows, rows)], (rows, rows))


@pytest.mark.parametrize("theirs", [0.0, 10.0])
def test_a_state_with_other_adapters_is_refused(tiny: Tiny, rows: torch.Tensor, theirs: float) -> None:
    options: dict[str, Any] = {"T": 1, "coupling": "both"}
    other = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, lam=theirs, **options)
    other.step([(rows, rows)], (rows, rows))
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, lam=10.0 - theirs, **options)
    refused(solver, other.state_dict(), "the state is of the adapters p", rows)


@pytest.mark.parametrize("shapes", [True, False])
def test_a_state_of_another_rank_is_refused(tiny: Tiny, rows: torch.Tensor, shapes: bool) -> None:
    """An older state does not say its shapes: those of its adapters tell."""
    other = zofo.Bilevel(tiny("llama"), AdapterConfig(r=4), loss=loss, T=1)
    other.step([(rows, rows)], (rows, rows))
    state = other.state_dict() if shapes else {k: v for k, v in other.state_dict().items() if k != "shapes"}
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, T=1)
    refused(solver, state, r"of adapter [ps] is \[4, \d+\] in the state and \[2, \d+\] here", rows)


@pytest.mark.parametrize("frozen", ["theirs", "ours"])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_state_with_other_weights_free_is_refused(tiny: Tiny, rows: torch.Tensor, frozen: str, rule: str) -> None:
    def made(freeze: bool) -> zofo.Bilevel:
        model = tiny("llama").requires_grad_(True)
        if freeze:
            model.get_input_embeddings().requires_grad_(False)  # type: ignore[operator]
        return zofo.Bilevel(model, AdapterConfig(r=2), loss=loss, T=1, rule=rule)  # type: ignore[arg-type]

    other, solver = made(frozen == "theirs"), made(frozen == "ours")
    other.step([(rows, rows)], (rows, rows))
    refused(solver, other.state_dict(), "embed_tokens.weight is .* in the state and .* here", rows)


def test_a_state_brings_its_seed(tiny: Tiny, rows: torch.Tensor) -> None:
    """With another seed the next iteration would draw other noise than the solver that was saved."""
    one = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, T=1, seed=3)
    one.step([(rows, rows)], (rows, rows))
    other = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, T=1, seed=4)
    theta = {leaf.name: leaf.data for leaf in one.problem.leaves or ()}
    for leaf in other.problem.leaves or ():
        leaf.data.copy_(theta[leaf.name])
    other.load_state_dict(one.state_dict())
    reports = [solver.step([(rows, rows)], (rows, rows)) for solver in (one, other)]
    assert reports[0].numbers == reports[1].numbers


def test_what_is_no_state_is_refused(tiny: Tiny, rows: torch.Tensor) -> None:
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, T=1)
    refused(solver, {"state": {}}, "it has no 'numbers'", rows)


@pytest.mark.parametrize(
    ("lower", "upper", "told"),
    [
        ([("rows", "rows")], ("rows", "rows", "rows"), r"step\(upper=3 batches\): a pair is needed"),
        ([("rows", "rows")], "rows", r"step\(upper=a Tensor\): a pair is needed"),
        ([([], "rows")], ("rows", "rows"), "a list of micro-batches is empty"),
    ],
)
def test_what_is_no_pair_or_no_batch_is_named(
    tiny: Tiny, rows: torch.Tensor, lower: Any, upper: Any, told: str
) -> None:
    def filled(value: Any) -> Any:
        return rows if value == "rows" else type(value)(map(filled, value))

    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, T=1)
    with pytest.raises(BadInput, match=told):
        solver.step(filled(lower), filled(upper))
    solver.step(zip([rows], [rows], strict=True), (rows, rows))  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [0, -3, 2.5])
def test_steps_are_a_whole_number_from_1(tiny: Tiny, steps: Any) -> None:
    with pytest.raises(BadInput, match=r"Bilevel\(steps=.*\): no number of iterations"):
        zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, steps=steps, schedule="linear")


def aside(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with model.disable_adapter():  # type: ignore[operator]
        return loss(model, ids)


@pytest.mark.parametrize(
    "cut",
    [torch.no_grad()(loss), lambda model, ids: loss(model, ids).detach(), aside],
    ids=["no_grad", "detach", "off"],
)
def test_a_loss_cut_from_its_gradient_is_named_and_nothing_moves(
    tiny: Tiny, rows: torch.Tensor, cut: Callable[..., torch.Tensor]
) -> None:
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=cut, T=1)
    before = {name: param.detach().clone() for name, param in solver.model.named_parameters()}
    with pytest.raises(BadInput, match=r"without a gradient.*no_grad, detach, item or disable_adapter"):
        solver.step([(rows, rows)], (rows, rows))
    assert all(torch.equal(before[name], param) for name, param in solver.model.named_parameters())


def test_a_loss_without_a_gradient_serves_where_none_is_wanted(tiny: Tiny, rows: torch.Tensor) -> None:
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=torch.no_grad()(loss), T=1, lower="zeroth-order")
    solver.step([(rows, rows)], (rows, rows))


def test_a_loss_in_a_half_type_is_warned_of(tiny: Tiny, rows: torch.Tensor) -> None:
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=lambda *given: loss(*given).bfloat16(), T=1)
    with pytest.warns(UserWarning, match=r"loss= returned a loss in bfloat16, .* compute it in fp32") as caught:
        for _ in range(2):
            solver.step([(rows, rows)], (rows, rows))
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize("steps", [0, 1])
def test_a_model_that_was_converted_since_is_refused(tiny: Tiny, rows: torch.Tensor, steps: int) -> None:
    solver = zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=loss, T=1)
    for _ in range(steps):
        solver.step([(rows, rows)], (rows, rows))
    solver.model.bfloat16()
    with pytest.raises(BadInput, match=r"was torch\.float32 when the solver was made, and is torch\.bfloat16 now"):
        solver.step([(rows, rows)], (rows, rows))


@pytest.mark.parametrize("upper", ["zeroth-order", "sketch"])
def test_weights_that_were_replaced_since_are_refused(tiny: Tiny, rows: torch.Tensor, upper: str) -> None:
    model = tiny("llama")
    rule = {"rule": "adam"} if upper == "sketch" else {}
    solver = zofo.Bilevel(model, AdapterConfig(r=2), loss=loss, T=1, upper=upper, **rule)
    norm = model.model.norm  # type: ignore[union-attr]
    norm.weight = nn.Parameter(torch.ones_like(norm.weight), requires_grad=False)  # type: ignore[union-attr,arg-type]
    with pytest.raises(BadInput, match=r"^Bilevel\.step: model\.norm\.weight of the model was replaced"):
        solver.step([(rows, rows)], (rows, rows))
