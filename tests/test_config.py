"""Layers, validation, and every way a configuration can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zofo.config import Config, build, dump, flatten, keys, load
from zofo.errors import BadInput
from zofo.layers import resolve
from zofo.methods.check import check
from zofo.methods.table import effective

BASIC = {"model.name": "m", "data.task": "t"}


def made(**options: Any) -> Config:
    return build({f"method.{key}": value for key, value in options.items()})


def test_a_dumped_configuration_loads_as_it_was(tmp_path: Path) -> None:
    config, _ = resolve({"method.s": "off", "adapter.targets": ["q", "v"], "method.lr_p": 1e-4, "run.name": "on"})
    (tmp_path / "c.yaml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "c.yaml") == config


def test_yaml_words_for_on_and_off(tmp_path: Path) -> None:
    for word, meant in (("off", "off"), ("on", "on"), ("'off'", "off")):
        (tmp_path / "c.yaml").write_text(f"method: {{s: {word}, stack: {word}, lr_p: 1e-4}}\n", encoding="utf-8")
        method = resolve({}, None, str(tmp_path / "c.yaml"))[0].method
        assert (method.s, method.stack, method.lr_p) == (meant, meant, 1e-4)


def test_lambda_is_lam() -> None:
    assert flatten({"method": {"lambda": 3}}, "x") == flatten({"method.lambda": 3}, "x") == {"method.lam": 3}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"method.lamb": 1}, "option method.lamb: no such option; did you mean 'method.lam'?"),
        ({"metod": {"lam": 1}}, "no such option"),
        ({"method": 3}, "option method: it is a section, not an option"),
        ({"method.lam": -1}, "--method.lam -1: input should be greater than or equal to 0"),
        ({"method.lam": float("nan")}, "--method.lam nan: input should be a finite number"),
        ({"method.T": 0}, "--method.T 0: input should be greater than or equal to 1"),
        ({"method.T": "2.5"}, "--method.T 2.5: input should be a valid integer"),
        ({"method.eps": -1e-3}, "--method.eps -0.001: input should be greater than or equal to 0"),
        ({"method.lower_eps": 0}, "--method.lower_eps 0: input should be greater than 0"),
        ({"method.rank": 1025}, "--method.rank 1025: input should be less than or equal to 1024"),
        (
            {"method.noise": "low-rank-8"},
            "--method.noise low-rank-8: input should be 'gaussian', 'rademacher', 'sphere' or",
        ),
        ({"method.stack": "perhaps"}, "--method.stack perhaps: input should be 'auto', 'on' or 'off'"),
        ({"model.weights": "auto"}, "--model.weights auto: input should be 'fp32', 'bf16' or 'fp16'"),
        ({"model.dtype": "fp64"}, "--model.dtype fp64: input should be 'auto', 'fp32', 'bf16' or 'fp16'"),
        ({"data.upper_share": 1}, "--data.upper_share 1: input should be less than 1"),
        ({"run.seed": 2**63}, "--run.seed"),
        (
            {"method.name": "mezzo"},
            "--method.name mezzo: input should be 'bilevel', 'mezo', 'first-order', 'sketch', 'two-stage', 'addax', 'meta' or 'reptile'",
        ),
        (
            {"method.objective": "recall"},
            "--method.objective recall: input should be 'auto', 'lm', 'classification', 'acc",
        ),
        ({"data.calibration": "yes"}, "--data.calibration yes: input should be 'none', 'sfc' or 'icl-sfc'"),
        ({"data.shots": -1}, "--data.shots -1: input should be greater than or equal to 0"),
        ({"method.s": "perhaps"}, "--method.s perhaps: input should be 'on' or 'off'"),
        ({"adapter.targets": 3}, "--adapter.targets 3: input should be a valid tuple"),
        (
            {"adapter.targets": ["q_proj", "all-linear"]},
            "--adapter.targets ['q_proj', 'all-linear']: value error, all-linear takes in every other name",
        ),
        ({"model.name": 3}, "--model.name 3: input should be a valid string"),
        ({"method.lam": "x" * 1000}, f"--method.lam {'x' * 80}: "),
    ],
)
def test_wrong_values(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput) as error:
        resolve(flags)
    assert str(error.value).startswith(told) or told in str(error.value)
    assert len(str(error.value)) < 2000 and error.value.status == 2


@pytest.mark.parametrize("given", ["q,v", "q, v", ["q,v"], ["q", "v"], ("q,", "v"), "q v"], ids=str)
def test_targets_are_names_parted_by_commas_or_spaces(given: Any, tmp_path: Path) -> None:
    """On the command line, in YAML and in Python; the run's file says them one by one, and is read as it was."""
    config, _ = resolve({"adapter.targets": given})
    assert config.adapter.targets == ("q", "v")
    (tmp_path / "c.yaml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "c.yaml") == config


# What an option means, read off the methods (not off the table): a case, and the options of `method`
# that nothing reads there.
OF_SKETCHES = {"side", "nu", "transfer", "clip_theta"}
AMONG = {"tasks", "sampling", "adapters", "lr_outer"}  # of methods over several tasks
OTHERS = {"tune", "alpha", "short_tokens", "stage_one"} | AMONG  # of other methods
SOME = {"lam_start", "lower_eps", "rank"} | OTHERS | OF_SKETCHES  # without effect in the default bilevel run
REPTILE = {"name", "objective", "optimizer", "schedule", "warmup", "clip", "max_bad", "lr_p", "lr_outer", "T", "tasks", "sampling", "accumulate_lower"}  # fmt: skip
NO_LAMBDA = {"lam_schedule", "lam_every", "lam_start", "weighting", "s_start", "init", "lr_s", "inference_adapter"}
FIRST = {"lower", "lower_eps", "lr_s", "lr_p", "optimizer", "schedule", "warmup", "clip", "accumulate_lower"}
BILEVEL = {
    "upper",
    "coupling",
    "T",
    "lam",
    "lam_schedule",
    "lam_every",
    "lam_start",
    "s",
    "s_start",
    "init",
    "weighting",
    "inference_adapter",
}
UPPER = {
    "lr_theta", "schedule_theta", "rule", "decay", "estimator", "noise", "rank", "eps", "q", "probe", "probe_dtype", "stack",
    "accumulate_upper",
}  # fmt: skip
LOWER = {"lower", "lower_eps", "lr_s"}
PROBES = {"estimator", "eps", "q", "probe", "probe_dtype", "stack"}
CASES = [
    ({}, SOME),
    ({"lam_schedule": "linear"}, SOME - {"lam_start"}),
    ({"lower": "zeroth-order"}, SOME - {"lower_eps"}),
    ({"s": "off"}, SOME | NO_LAMBDA | {"coupling", "lam"}),
    ({"coupling": "follow"}, SOME | (NO_LAMBDA - {"init", "lr_s"}) | {"lam", "lr_p"}),
    ({"lam": 0}, SOME | NO_LAMBDA),
    ({"lam": 0, "coupling": "outer"}, SOME | NO_LAMBDA | {"T", "accumulate_lower"}),
    ({"coupling": "outer"}, SOME),
    ({"noise": "low-rank"}, SOME - {"rank"}),
    ({"probe": "inplace"}, SOME | {"stack"}),
    ({"objective": "accuracy"}, SOME | {"stack"}),
    ({"name": "mezo"}, (BILEVEL | FIRST | OF_SKETCHES | OTHERS | {"rank"}) - {"tune"}),
    (
        {"name": "mezo", "tune": "adapter"},
        (BILEVEL | FIRST | OF_SKETCHES | OTHERS | {"rank", "probe", "stack"}) - {"tune"},
    ),
    ({"name": "first-order"}, (BILEVEL | UPPER | OF_SKETCHES | OTHERS | LOWER) - {"tune"}),
    (
        {"name": "first-order", "tune": "full"},
        (BILEVEL | UPPER | OF_SKETCHES | OTHERS | LOWER | {"lr_p", "schedule"})
        - {"tune", "lr_theta", "schedule_theta", "decay"},
    ),
    ({"name": "two-stage"}, (BILEVEL | LOWER | OF_SKETCHES | OTHERS | {"stack", "rank"}) - {"stage_one"}),
    (
        {"name": "two-stage", "probe": "inplace"},
        (BILEVEL | LOWER | OF_SKETCHES | OTHERS | {"stack", "rank"}) - {"stage_one"},
    ),
    (
        {"name": "addax"},
        (BILEVEL | FIRST | OF_SKETCHES | AMONG | {"rule", "rank", "tune", "stage_one"}) - {"accumulate_lower"},
    ),
    ({"name": "sketch"}, BILEVEL | FIRST | PROBES | OTHERS | {"transfer"}),
    ({"name": "sketch", "rule": "adam"}, BILEVEL | FIRST | PROBES | OTHERS),
    ({"name": "sketch", "rule": "normalised"}, BILEVEL | FIRST | PROBES | OTHERS | {"transfer", "clip_theta"}),
    ({"name": "sketch", "rule": "momentum"}, BILEVEL | FIRST | PROBES | OTHERS | {"clip_theta"}),
    ({"name": "meta"}, SOME - (AMONG - {"lr_outer"})),
    ({"name": "meta", "s": "off"}, (SOME - (AMONG - {"lr_outer"})) | NO_LAMBDA | {"coupling", "lam"}),
    ({"upper": "sketch"}, (SOME | PROBES | {"transfer"}) - {"rank", "side", "nu", "clip_theta"}),
    ({"name": "reptile"}, {key.removeprefix("method.") for key in keys() if key.startswith("method.")} - REPTILE),
]


@pytest.mark.parametrize(("options", "idle"), CASES)
def test_an_option_without_effect_is_refused_by_name(options: dict[str, Any], idle: set[str]) -> None:
    config = made(**options)
    for key in (key for key in keys() if key.startswith("method.")):
        if key.removeprefix("method.") in idle:
            with pytest.raises(BadInput, match=f"--{key}: it has no effect for method {config.method.name}"):
                check(config, {key})
        else:
            check(config, {key})


@pytest.mark.parametrize(
    ("flags", "idle"),
    [
        ({}, {"adapter.tokens"}),
        (
            {"adapter.kind": "prefix"},
            {"adapter.r", "adapter.alpha", "adapter.dropout", "adapter.targets", "adapter.last"},
        ),
        (
            {"adapter.kind": "prompt"},
            {"adapter.r", "adapter.alpha", "adapter.dropout", "adapter.targets", "adapter.last"},
        ),
        ({"method.lower": "zeroth-order"}, {"adapter.tokens", "adapter.dropout", "model.activation_checkpointing"}),
        (
            {"method.coupling": "outer", "method.lam": 0.0},
            {"adapter.tokens", "adapter.dropout", "model.activation_checkpointing"},
        ),
        (
            {"method.name": "mezo"},
            {
                *(key for key in keys() if key.startswith("adapter.")),
                "data.upper_share",
                "model.activation_checkpointing",
                "model.shadow",
            },
        ),
        (
            {"method.name": "mezo", "method.tune": "adapter"},
            {
                "adapter.tokens",
                "adapter.dropout",
                "data.upper_share",
                "model.activation_checkpointing",
                "model.shadow",
                "run.snapshot_every",
            },
        ),
        ({"method.name": "first-order"}, {"adapter.tokens", "data.upper_share", "run.snapshot_every"}),
        (
            {"method.name": "first-order", "method.tune": "full"},
            {
                *(key for key in keys() if key.startswith("adapter.")),
                "data.upper_share",
                "model.shadow",
                "run.snapshot_every",
            },
        ),
        ({"method.name": "two-stage"}, {"adapter.tokens", "data.upper_share"}),
        (
            {"method.name": "two-stage", "method.noise": "sphere"},
            {"adapter.tokens", "data.upper_share", "run.snapshot_every"},
        ),
        (
            {"method.name": "addax"},
            {
                *(key for key in keys() if key.startswith("adapter.")),
                "data.upper_share",
                "model.shadow",
                "run.snapshot_every",
            },
        ),
        (
            {"method.name": "sketch"},
            {*(key for key in keys() if key.startswith("adapter.")), "data.upper_share", "run.snapshot_every"},
        ),
        (
            {"method.upper": "sketch", "method.coupling": "outer", "method.lam": 0.0},
            {"adapter.tokens", "adapter.dropout", "run.snapshot_every"},
        ),
        ({"model.dtype": "fp32"}, {"adapter.tokens", "model.shadow"}),
        ({"model.dtype": "bf16"}, {"adapter.tokens"}),
        ({"model.weights": "bf16"}, {"adapter.tokens", "model.shadow"}),
    ],
)
def test_other_options_without_effect(flags: dict[str, Any], idle: set[str]) -> None:
    config = build(flags)
    unseen = {"data.redraw", "data.shot_length"}  # without demonstrations
    assert {key for key in keys() if not key.startswith("method.")} - effective(config) == idle | unseen
    for key in idle:
        with pytest.raises(BadInput, match="it has no effect"):
            check(config, {key})


def test_every_option_has_an_effect_somewhere() -> None:
    used = set().union(
        *(effective(made(**options)) for options, _ in CASES),
        effective(build({"adapter.kind": "prefix"})),
        effective(build({"data.shots": 1})),
    )
    assert used == set(keys())


def test_pairs_that_do_not_go_together() -> None:
    config = build({"adapter.kind": "prefix", "model.activation_checkpointing": True})
    with pytest.raises(BadInput, match="activation_checkpointing"):
        check(config, ())


@pytest.mark.parametrize("weights", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("dtype", ["auto", "fp32", "bf16", "fp16"])
@pytest.mark.parametrize("key", ["model.dtype", "method.probe_dtype"])
def test_half_weights_are_computed_with_in_their_own_type_alone(weights: str, dtype: str, key: str) -> None:
    config = build({"model.weights": weights, key: dtype})
    if weights == "fp32" or dtype in ("auto", weights):
        check(config, {"model.weights", key})
        return
    told = f"--{key} {dtype}: the weights are held in {weights}; take auto or {weights}"
    with pytest.raises(BadInput) as error:
        check(config, {"model.weights", key})
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lam", "did you mean 'method.lam'?"), ("method.t", "did you mean 'method.T'?"), ("metod.lam", "did you mean 'method.lam'?"),
        ("shot", "did you mean 'data.shot_length' or 'data.shots'?"), ("zzzz", "see `zofo train --help`"), ("data.shost", "did you mean 'data.shots'?"),
    ],
)  # fmt: skip
def test_a_name_that_is_no_option_leads_to_those_that_end_alike(name: str, told: str) -> None:
    with pytest.raises(BadInput) as caught:
        flatten({name: 1}, "option")
    assert caught.value.do == told
