"""Layers, validation, and every way a configuration can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zofo.config import PRESETS, Config, build, dump, flatten, keys, load, preset, presets, read_yaml, resolve
from zofo.errors import BadInput
from zofo.methods.check import check
from zofo.methods.table import METHODS, effective
from zofo.yamlfile import MAX_FILE

BASIC = {"model.name": "m", "data.task": "t"}


def made(**options: Any) -> Config:
    return build({f"method.{key}": value for key, value in options.items()})


@pytest.mark.parametrize("name", presets())
def test_a_runs_own_configuration_is_taken_again(name: str, tmp_path: Path) -> None:
    """`--config RUN/config.yaml`: every option stands there, and none of them was asked for."""
    first, _ = resolve({**BASIC, "method.eps": 2e-3, "run.name": "a"}, name)
    (tmp_path / "config.yaml").write_text(dump(first), encoding="utf-8")
    again, given = resolve({"run.seed": 1}, file=str(tmp_path / "config.yaml"))
    check(again, given)
    assert given == {"run.seed"} and again.run.seed == 1
    assert again.model_copy(update={"run": first.run}) == first


@pytest.mark.parametrize(
    ("name", "kind", "same"),
    [
        ("fo-lora", "prefix", "fo-prefix"),
        ("bilevel-prompt", "lora", "bilevel-lora"),
        ("mezo-lora", "prompt", "mezo-prompt"),
    ],
)
def test_another_kind_of_adapter_takes_the_presets_sibling(name: str, kind: str, same: str) -> None:
    assert resolve({"adapter.kind": kind}, name)[0] == resolve({}, same)[0]
    assert resolve({"adapter.kind": kind, "method.lr_p": 0.5}, name)[0].method.lr_p == 0.5, "what is given stands"


def test_where_there_is_no_sibling_the_rates_are_first_orders(tmp_path: Path) -> None:
    for name in ("alternating", "two-stage", "quickstart"):
        own, other = resolve({}, name)[0].method, resolve({"adapter.kind": "prefix"}, name)[0].method
        assert (own.lr_p, other.lr_p) == (1e-3, 1e-2)
        assert other.model_copy(update={"lr_p": own.lr_p, "lr_s": own.lr_s}) == own
    (tmp_path / "c.yaml").write_text("preset: fo-lora\nadapter: {kind: prompt}\n", encoding="utf-8")
    assert resolve({}, None, str(tmp_path / "c.yaml"))[0] == resolve({}, "fo-prompt")[0], "in a file too"
    assert resolve({"adapter.kind": "lora"}, "mezo")[0].method == resolve({}, "mezo")[0].method


def test_preset_under_file_under_flags(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("preset: bilevel-prefix\nmethod: {T: 7, lam: 3}\nadapter.tokens: 9\n", encoding="utf-8")
    config, given = resolve({"method": {"T": 2}}, None, str(file))
    assert (config.method.T, config.method.lam, config.method.lr_p, config.adapter.tokens) == (2, 3.0, 1e-2, 9)
    assert given == {"method.T", "method.lam", "adapter.tokens"}  # of the preset, nothing
    assert resolve({}, "mezo", str(file))[0].adapter.kind == "lora"  # the named preset over the file's


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


def test_unknown_preset() -> None:
    with pytest.raises(BadInput, match="--preset quikstart: no such preset; did you mean 'quickstart'"):
        resolve({}, "quikstart")
    with pytest.raises(BadInput, match="no such preset"):
        preset("../config")


WRONG_FILES = [
    (b"method: [", "not readable as YAML"),
    (b"\xff\xfe", "not readable as YAML"),
    (b"[" * 4000, "not readable as YAML"),
    (b"method: {lam: 2001-99-99}", "not readable as YAML"),
    (b"x: !!python/object/apply:os.system [ls]", "not readable as YAML"),
    (b"- a\n- b\n", "not a mapping"),
    (b"", "not a mapping"),
    (b"method: {lamb: 1}", "method.lamb: no such option; did you mean 'method.lam'?"),
    (b"1: 2", "1: no such option"),
    (b"method:", "method: it is a section"),
    (b"a: &a {b: *a}", "a: no such option"),
    (b"method: &a {b: *a}", "method.b: no such option"),
    (b"preset: 3", "--preset 3: no such preset"),
    (b"preset: [a]", "no such preset"),
    (b"method: {lam: {x: 1}}", "--method.lam {'x': 1}: input should be a valid number"),
]


@pytest.mark.parametrize(("content", "told"), WRONG_FILES)
def test_wrong_files(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(BadInput) as error:
        resolve({}, None, str(file))
    assert told in str(error.value)


def test_a_file_that_unfolds_to_something_huge_is_refused_in_no_time(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 30)]
    file = tmp_path / "c.yaml"
    for last in ("method: {lam: *a29}", "adapter: {targets: *a29}"):
        file.write_text("\n".join([*lines, last]), encoding="utf-8")
        with pytest.raises(BadInput):
            resolve({}, None, str(file))


def test_missing_and_too_large_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--config .*no\.yaml: no such file; check the path"):
        resolve({}, None, str(tmp_path / "no.yaml"))
    (tmp_path / "big.yaml").write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(BadInput, match="larger than"):
        resolve({}, None, str(tmp_path / "big.yaml"))


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
    ({"coupling": "follow"}, SOME | (NO_LAMBDA - {"s_start", "init", "lr_s"}) | {"lam", "lr_p"}),
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


@pytest.mark.parametrize("name", presets())
def test_a_preset_holds_only_what_has_an_effect(name: str) -> None:
    config, given = resolve(BASIC, name)
    assert given == set(BASIC)
    assert set(preset(name)) <= effective(config)
    check(config, {*preset(name), *given})
    about = read_yaml(PRESETS / f"{name}.yaml", name)["about"]
    assert isinstance(about, str) and about and "\n" not in about


def test_the_presets_that_are_promised_are_there() -> None:
    promised = {
        "bilevel-lora", "bilevel-prefix", "bilevel-prompt", "mezo", "mezo-lora", "fo-lora", "quickstart", "sketch", "bilevel-sketch-lora",
        "fo-full", "fo-prefix", "fo-prompt", "mezo-prefix", "mezo-prompt", "two-stage", "alternating", "addax", "bilevel-zeroth-order",
        "meta-lora", "meta-sketch-lora", "reptile-lora", "sketch-lora",
    }  # fmt: skip
    assert promised <= set(presets())
    assert {resolve(BASIC, name)[0].method.name for name in promised} == set(METHODS)
