"""JSON files are written whole, keep floats exactly, and are read with a limit."""

from __future__ import annotations

import math
import os

import pytest

from zofo.errors import BadInput
from zofo.run.errors import Corrupt
from zofo.run.jsonfile import read_json, read_object, read_scores, write_json


def test_values_come_back_exactly_and_non_finite_ones_visibly(tmp_path):
    value = {"x": [0.1, 1e-320, 1 / 3, -0.0, 2**70, True, None], "é": {"deep": ("a", 1)}}
    write_json(tmp_path / "f", {**value, "bad": [math.nan, math.inf, -math.inf]})
    read = read_json(tmp_path / "f")
    assert str(read["x"]) == str(value["x"]) and read["é"] == {"deep": ["a", 1]}
    assert read["bad"] == ["nan", "inf", "-inf"]
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"\xff", b"9" * 5000, b'{"a": 1}{'], ids=range(6))
def test_damage_is_corrupt(tmp_path, text):
    (tmp_path / "f").write_bytes(text)
    with pytest.raises(Corrupt, match="not readable as JSON"):
        read_json(tmp_path / "f")


@pytest.mark.parametrize(("text", "found"), [("[]", "a list, not an object"), ('{"a": 1}', "no 'b' in it")])
def test_what_is_no_such_object_is_corrupt(tmp_path, text, found):
    (tmp_path / "f").write_text(text)
    with pytest.raises(Corrupt, match=found):
        read_object(tmp_path / "f", "a", "b")
    (tmp_path / "f").write_text('{"a": 1, "b": [2], "c": 3}')
    assert read_object(tmp_path / "f", "a", "b") == {"a": 1, "b": [2], "c": 3}


def test_missing_large_and_odd_files_are_bad_input(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("none", "pipe", "."):
        with pytest.raises(BadInput, match="no such file"):
            read_json(tmp_path / name)
    (tmp_path / "f").touch()
    os.truncate(tmp_path / "f", 1 << 40)
    with pytest.raises(BadInput, match="larger"):
        read_json(tmp_path / "f")


@pytest.mark.parametrize("results", [[], None, {"p": 3}])
def test_scores_that_are_none_are_corrupt(tmp_path, results):
    write_json(tmp_path / "eval.json", {"results": {"p": {"n": 3}}})
    assert read_scores(tmp_path / "eval.json")["results"]["p"]["n"] == 3
    write_json(tmp_path / "eval.json", {"results": results})
    with pytest.raises(Corrupt, match="its 'results' are no scores by name"):
        read_scores(tmp_path / "eval.json")
