"""The table of methods is whole, and options without effect are refused by name."""

from __future__ import annotations

import inspect

import pytest

from zofo.config import RANK_OF_Z, Config, MethodConfig, build, keys, preset, presets, resolve
from zofo.core import noise
from zofo.errors import BadInput
from zofo.methods import table


def test_the_configuration_and_the_table_name_the_same_methods() -> None:
    names = MethodConfig.model_fields["name"].annotation.__args__  # type: ignore[union-attr]
    assert set(names) == set(table.METHODS)


@pytest.mark.parametrize("name", sorted(table.METHODS))
def test_every_method_has_init_and_step_and_says_cost_errors_and_source(name: str) -> None:
    module = table.METHODS[name].load()
    for function in ("slots", "init", "step"):
        assert inspect.getdoc(getattr(module, function))
    told = "\n".join(inspect.getdoc(f) or "" for f in (module.step, getattr(module, "iterate", module.step)))
    assert all(word in told for word in ("Cost:", "Raises:", "Reference:"))


def test_every_option_of_methods_is_read_by_one_of_them() -> None:
    settings = [
        {}, {"lower": "zeroth-order"}, {"lam_schedule": "linear"}, {"noise": "low-rank"}, {"name": "mezo"},
        {"name": "first-order"}, {"name": "sketch", "rule": "adam"}, {"upper": "sketch"}, {"name": "addax"}, {"name": "two-stage"},
        {"name": "meta"}, {"name": "reptile"},
    ]  # fmt: skip
    used = set().union(*(table.effective(build({f"method.{k}": v for k, v in s.items()})) for s in settings))
    assert {k for k in keys() if k.startswith("method.")} <= used


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ({"method.name": "mezo", "method.T": 5}, "method.T"),
        ({"method.name": "mezo", "adapter.r": 4}, "adapter.r"),
        ({"method.name": "first-order", "method.eps": 1e-2}, "method.eps"),
        ({"adapter.kind": "prefix", "adapter.r": 4}, "adapter.r"),
        ({"adapter.kind": "lora", "adapter.tokens": 4}, "adapter.tokens"),
        ({"method.s": "off", "method.lam": 3.0}, "method.lam"),
        ({"method.coupling": "follow", "method.lam": 3.0}, "method.lam"),
        ({"method.coupling": "follow", "method.lr_p": 3e-4}, "method.lr_p"),
        ({"method.lam": 0.0, "method.lr_s": 1e-3}, "method.lr_s"),
        ({"method.lam": 0.0, "method.coupling": "outer", "method.T": 3}, "method.T"),
        ({"method.lam_start": 3.0}, "method.lam_start"),
        ({"method.lower_eps": 1e-3}, "method.lower_eps"),
        ({"method.name": "first-order", "method.tune": "full", "method.lr_p": 1e-3}, "method.lr_p"),
        ({"method.name": "first-order", "method.tune": "full", "adapter.r": 4}, "adapter.r"),
        ({"method.name": "first-order", "method.tune": "full", "model.shadow": True}, "model.shadow"),
        ({"method.name": "addax", "method.rule": "adam"}, "method.rule"),
        ({"method.name": "two-stage", "method.stack": "on"}, "method.stack"),
        ({"method.tasks": 3}, "method.tasks"),
        ({"method.name": "meta", "method.lr_outer": 0.5}, "method.lr_outer"),
        ({"method.name": "reptile", "method.adapters": "shared"}, "method.adapters"),
    ],
)
def test_an_option_without_effect_is_an_error(flags: dict, key: str) -> None:
    with pytest.raises(BadInput, match=f"--{key}: it has no effect"):
        table.check(*resolve(flags))


def test_a_sketch_may_have_a_rank_that_a_low_rank_z_may_not() -> None:
    assert RANK_OF_Z == noise.MAX_RANK
    for name in ("mezo", "bilevel", "two-stage"):
        flags = {"method.name": name, "method.noise": "low-rank", "method.rank": RANK_OF_Z}
        table.check(*resolve(flags))
        with pytest.raises(BadInput, match=rf"--method.rank {RANK_OF_Z + 1}: .*take {RANK_OF_Z} or less"):
            table.check(*resolve(flags | {"method.rank": RANK_OF_Z + 1}))
    table.check(*resolve({"method.name": "sketch", "method.noise": "rademacher", "method.rank": 4 * RANK_OF_Z}))


def test_prefix_with_activation_checkpointing_is_refused_early() -> None:
    with pytest.raises(BadInput, match="prefix"):
        table.check(Config(**{"adapter": {"kind": "prefix"}, "model": {"activation_checkpointing": True}}), ())


@pytest.mark.parametrize("name", presets())
def test_presets_hold_only_options_with_effect(name: str) -> None:
    flat = preset(name)
    assert set(flat) <= table.effective(build(flat))
