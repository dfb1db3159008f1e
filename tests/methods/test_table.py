"""The table of methods is whole."""

from __future__ import annotations

import inspect

import pytest

from zofo.config import MethodConfig, build, keys
from zofo.layers import preset, presets
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


@pytest.mark.parametrize("name", presets())
def test_presets_hold_only_options_with_effect(name: str) -> None:
    flat = preset(name)
    assert set(flat) <= table.effective(build(flat))
