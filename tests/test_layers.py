"""The layers of a configuration: presets, files and flags, and every way a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from zofo.config import dump, read_yaml
from zofo.errors import BadInput
from zofo.layers import FIRST, PRESETS, UNNAMED, begins, preset, presets, resolve
from zofo.methods.check import check
from zofo.methods.table import METHODS, effective
from zofo.yamlfile import MAX_FILE

BASIC = {"model.name": "m", "data.task": "t"}


def test_a_run_begins_with_a_preset_unless_a_preset_a_file_or_a_method_is_named() -> None:
    """What `--model M --task T` alone trains with is what the evidence chose, of the adapter's kind that is asked for."""
    assert begins(BASIC, None, None) == (FIRST, [UNNAMED]) and FIRST == "bilevel-lora"
    assert begins({"method": {"T": 3}, "adapter.kind": "prefix"}, None, None) == (FIRST, [UNNAMED])
    assert resolve({"adapter.kind": "prefix"}, FIRST)[0].method == resolve({}, "bilevel-prefix")[0].method
    assert begins({"method.name": "mezo"}, None, None) == (None, [])
    assert begins({"method": {"name": "mezo"}}, None, None) == (None, [])
    assert begins({}, None, "c.yaml") == (None, [])
    assert begins({"method.name": "mezo"}, "mezo-lora", "c.yaml") == ("mezo-lora", [])


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
