"""A run folder is made once, found by name or path, and never outside its folder."""

from __future__ import annotations

import os
from functools import partial

import pytest

from zofo.errors import BadInput
from zofo.run import seam
from zofo.run.folder import RunFolder, create, find, names, refuse_begun, refuse_no_place


def begin(dir, name) -> RunFolder:
    run = create(dir, name)
    seam.write_file(run.config, b"model: {}\n")
    return run


def test_a_new_run_has_a_folder_and_no_configuration_yet(tmp_path):
    run = create(tmp_path / "some" / "runs", "first run é")
    assert run.path.is_dir() and run.checkpoints.is_dir() and not run.config.exists()
    assert run.name == "first run é"
    paths = [run.environment, run.splits, run.metrics, run.journal, run.curves, run.eval, run.card, run.lock]
    listed = "environment.json splits.json metrics.jsonl journal curves.png eval.json README.md lock"
    assert [path.name for path in paths] == listed.split()


def test_a_run_that_exists_is_refused_and_a_beginning_that_died_is_taken(tmp_path):
    create(tmp_path, "a")
    run = create(tmp_path, "a")
    for name in ("lock", "environment.json", "splits.json", "config.yaml.tmp-1"):
        (run.path / name).touch()
    assert create(tmp_path, "a") == run
    refuse_begun(run)
    run.config.touch()
    for refuse in (lambda: create(tmp_path, "a"), lambda: refuse_begun(run)):
        with pytest.raises(BadInput, match="`zofo resume a`, or use another --run name"):
            refuse()


@pytest.mark.parametrize("content", ["thesis.tex", "journal", "checkpoints/step-000001", "file"])
def test_a_folder_of_other_things_is_not_taken(tmp_path, content):
    if content == "file":
        (tmp_path / "a").touch()
    else:
        (tmp_path / "a" / content).mkdir(parents=True)
    with pytest.raises(BadInput, match="exists and is not a run"):
        create(tmp_path, "a")


@pytest.mark.parametrize(
    "name",
    [
        *["", ".", "..", "../x", "a/b", "/abs", "a\\b", "..\\x", ".hidden", "-flag", "*", "~root", " a", "a "],
        *[
            "a\0b",
            "a\nb",
            "a\x7f",
            "a\x1b[2J",
            "a\u2028b",
            "\udcff",
            "a\udcff",
            "$(touch canary)",
            "x" * 201,
            "é" * 101,
        ],
    ],
)
def test_bad_names_are_refused_and_write_nothing(tmp_path, name):
    inside = tmp_path / "runs"
    inside.mkdir()
    with pytest.raises(BadInput, match="not a plain folder name"):
        create(inside, name)
    assert os.listdir(tmp_path) == ["runs"] and os.listdir(inside) == []


def test_links_are_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="symbolic link"):
        create(tmp_path / "runs", "a")
    assert os.listdir(tmp_path / "elsewhere") == []
    begin(tmp_path / "runs", "b")
    (tmp_path / "runs" / "latest").symlink_to(tmp_path / "runs" / "b")
    with pytest.raises(BadInput, match="use the folder itself"):
        find("latest", tmp_path / "runs")


def test_a_place_where_no_folder_can_be_made_is_refused(tmp_path, monkeypatch):
    refuse_no_place("--out", tmp_path / "new" / "deep")
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "deep" / "er"):
        with pytest.raises(BadInput, match=r"--out: .*file is no folder"):
            refuse_no_place("--out", path)
    monkeypatch.setattr(os, "access", lambda path, how: False)
    with pytest.raises(BadInput, match="cannot be written to"):
        refuse_no_place("--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_find_takes_a_name_or_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = begin("runs", "bilevel-sst2")
    create("runs", "no-config")
    assert find("bilevel-sst2") == run
    assert find("runs/bilevel-sst2") == find("runs/bilevel-sst2/") == run
    assert find(str(tmp_path / "runs" / "bilevel-sst2")).config.samefile(run.config)
    assert names() == ["bilevel-sst2"] and names("nowhere") == []
    with pytest.raises(BadInput, match="did you mean 'bilevel-sst2'"):
        find("bilevl-sst2")
    for text in ("no-config", "", "a\0b", "x" * 5000, "runs", ".", "\udcff"):
        with pytest.raises(BadInput, match="no such run"):
            find(text)
    with pytest.raises(BadInput, match="no run in empty yet"):
        find("x", "empty")
    monkeypatch.chdir(run.path)
    assert find(".").name == "bilevel-sst2"


def test_create_killed_at_every_operation_can_be_called_again(tmp_path, killed):
    for n in range(1, 40):
        dir = tmp_path / str(n)
        if not killed(n, partial(begin, dir, "a")):
            break
        if "a" not in names(dir):
            begin(dir, "a")
        assert names(dir) == ["a"] and find("a", dir).config.read_bytes() == b"model: {}\n"
    assert n > 8
