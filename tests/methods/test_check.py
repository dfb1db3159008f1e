"""Options without effect are refused by name, and what cannot work together."""

from __future__ import annotations

import pytest

from zofo.config import RANK_OF_Z, Config, build
from zofo.core import noise
from zofo.errors import BadInput
from zofo.layers import resolve
from zofo.methods.check import check


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
        check(*resolve(flags))


def test_a_sketch_may_have_a_rank_that_a_low_rank_z_may_not() -> None:
    assert RANK_OF_Z == noise.MAX_RANK
    for name in ("mezo", "bilevel", "two-stage"):
        flags = {"method.name": name, "method.noise": "low-rank", "method.rank": RANK_OF_Z}
        check(*resolve(flags))
        with pytest.raises(BadInput, match=rf"--method.rank {RANK_OF_Z + 1}: .*take {RANK_OF_Z} or less"):
            check(*resolve(flags | {"method.rank": RANK_OF_Z + 1}))
    check(*resolve({"method.name": "sketch", "method.noise": "rademacher", "method.rank": 4 * RANK_OF_Z}))


def test_a_seldom_penalty_is_not_weighted_by_one_and_lambda() -> None:
    config = build({"method.name": "bilevel", "method.lam_every": 10, "method.weighting": "normalised"})
    with pytest.raises(BadInput, match=r"--method.lam_every 10: .* or --method.weighting raw"):
        check(config, ())


def test_demonstrations_come_from_the_levels_of_every_method() -> None:
    config = build({"method.name": "first-order", "data.upper_share": 0.1, "data.shots": 4})
    check(config, ("data.upper_share",))


def test_prefix_with_activation_checkpointing_is_refused_early() -> None:
    with pytest.raises(BadInput, match="prefix"):
        check(Config(**{"adapter": {"kind": "prefix"}, "model": {"activation_checkpointing": True}}), ())


def test_a_decay_that_would_turn_theta_over_is_refused() -> None:
    flags = {"method.name": "mezo", "method.lr_theta": 1e-3, "method.decay": 1000.0}
    check(build(flags), flags)
    with pytest.raises(
        BadInput, match=r"^--method\.decay 2000: a step would turn theta over: lr_theta 0\.001 times it is above 1"
    ):
        check(build(flags | {"method.decay": 2000.0}), flags)
