"""Rows come from the package, $ZOFO_DATA or the hub; what is wrong with them is said with its place."""

from __future__ import annotations

import gzip
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from zofo.errors import BadInput
from zofo.tasks import files
from zofo.tasks.definition import Hub, Task
from zofo.tasks.files import load, read_rows

TASK = Task(
    name="t", about="", template="{{ text }}", template_free="{{ text }}", choices=("a", "b"), folder="t",
    test_file="validation",
)  # fmt: skip
ROWS = [{"text": f"row {k}", "label": k % 2} for k in range(4)]


def write(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOFO_DATA", str(tmp_path))
    write(tmp_path / "t" / "train.jsonl.gz", ROWS)
    write(tmp_path / "t" / "validation.jsonl.gz", ROWS[:2])
    return tmp_path / "t"


def test_the_validation_file_is_the_test_set(data: Path) -> None:
    source = load(TASK)
    assert (source.train, source.validation, source.test) == (ROWS, None, ROWS[:2])
    assert source.name == "$ZOFO_DATA/t", "the record of a run names no folder of this machine"


def test_packaged_rows_need_no_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOFO_DATA", raising=False)
    monkeypatch.setattr(files, "PACKAGED", tmp_path)
    for k, name in enumerate(("train", "validation", "test")):
        write(tmp_path / "mine" / f"{name}.jsonl", ROWS[k : k + 1])
    source = load(TASK.model_copy(update={"packaged": "mine", "validation": "file", "test_file": "test"}))
    assert [source.train, source.validation, source.test] == [ROWS[:1], ROWS[1:2], ROWS[2:3]]


@pytest.mark.parametrize("label", [2, -1, "1", None, True, 0.0])
def test_a_label_that_is_no_choice_is_named_with_its_row(data: Path, label: object) -> None:
    write(data / "train.jsonl.gz", [*ROWS, {"text": "x", "label": label}])
    with pytest.raises(BadInput, match=r"t, train, row 5: .*labels of t are 0 to 1"):
        load(TASK)


@pytest.mark.parametrize(
    ("rows", "said"),
    [([], "no rows"), ([{"text": "x"}], "no field 'label'"), ([{"text": None, "label": 0}], "'text' is null")],
)
def test_rows_that_cannot_be_used_are_bad_input(data: Path, rows: list[Any], said: str) -> None:
    write(data / "train.jsonl.gz", rows)
    with pytest.raises(BadInput, match=said):
        load(TASK)


def test_a_missing_file_is_named(data: Path) -> None:
    (data / "validation.jsonl.gz").unlink()
    with pytest.raises(BadInput, match=r"t/validation.jsonl.gz: no such file"):
        load(TASK)


@pytest.mark.parametrize("content", [b"{", b"[1]\n", b"\xff\xfe\n", b'{"a": 1}\n' + b"[" * 100000, b'{"a": 1}\nnull\n'])
def test_broken_lines_are_bad_input(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"x\.jsonl"):
        read_rows(path, "x.jsonl")


@pytest.mark.parametrize("spoil", [lambda b: b[:-9], lambda b: b"plain", lambda b: b[:20] + b"\0\0\0\0" + b[24:]])
def test_a_damaged_archive_is_bad_input(tmp_path: Path, spoil: Any) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(spoil(gzip.compress(b'{"a": "some text to pack"}\n' * 50)))
    with pytest.raises(BadInput, match=r"cannot be read|no JSON"):
        read_rows(path, "x")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_CHARACTERS", 1000)
    for name, content in (("a.jsonl.gz", gzip.compress(b" " * 2000)), ("b.jsonl", b'{"a": 1}\n' * 200)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match="longer than 1000"):
            read_rows(tmp_path / name, "x")


def test_empty_lines_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n\n  \n{"a": 2}')
    assert read_rows(tmp_path / "x.jsonl", "x") == [{"a": 1}, {"a": 2}]


HUB = TASK.model_copy(update={"hub": Hub(id="zofo-tests/none", config="c", columns={"text": "s", "label": "y"})})


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Stand-ins for the two clients of the hub; `asked` lists what was loaded and whether offline."""
    held = types.SimpleNamespace(asked=[], reachable=True)
    config = types.SimpleNamespace(HF_HUB_OFFLINE=False)

    def load_dataset(name: str, configuration: str | None, split: str) -> list[dict[str, Any]]:
        held.asked.append((name, configuration, split, config.HF_HUB_OFFLINE))
        if not held.reachable:
            raise ConnectionError("cannot reach it")
        return [{"s": row["text"], "y": row["label"], "more": 0} for row in ROWS]

    class Api:
        def dataset_info(self, name: str, timeout: float) -> None:
            if not held.reachable:
                raise OSError("no such host")

    held.config = config
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset, config=config))
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=Api))
    monkeypatch.delenv("ZOFO_DATA", raising=False)
    return held


def test_rows_of_the_hub_get_the_tasks_field_names(clients: types.SimpleNamespace) -> None:
    source = load(HUB)
    assert source.train == source.test == ROWS and source.name == "hub zofo-tests/none, c"
    assert clients.asked == [("zofo-tests/none", "c", split, False) for split in ("train", "validation")]


def test_out_of_reach_the_cache_is_tried_once_and_the_error_says_what_to_set(clients: types.SimpleNamespace) -> None:
    clients.reachable = False
    with pytest.raises(BadInput, match=r"ZOFO_DATA is not set, and zofo-tests/none cannot be had .* set ZOFO_DATA"):
        load(HUB)
    assert clients.asked == [("zofo-tests/none", "c", "train", True)], "asked offline, so without retries"
    assert clients.config.HF_HUB_OFFLINE is False


def test_a_wrong_label_from_the_hub_keeps_its_own_message(clients: types.SimpleNamespace) -> None:
    with pytest.raises(BadInput, match="hub zofo-tests/none, c, train, row 1"):
        load(HUB.model_copy(update={"hub": Hub(id="zofo-tests/none", config="c", columns={"text": "s", "label": "s"})}))


def test_no_source_at_all_is_bad_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZOFO_DATA", str(tmp_path))
    with pytest.raises(BadInput, match="ZOFO_DATA holds no folder 't'"):
        load(TASK)


def test_the_real_client_gives_up_offline_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("datasets")
    monkeypatch.delenv("ZOFO_DATA", raising=False)

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no such host")

    monkeypatch.setattr(hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(BadInput, match="OfflineModeIsEnabled"):
        load(HUB)


def test_half_a_pair_of_surrogates_is_named_with_its_line(data: Path) -> None:
    (data / "train.jsonl.gz").write_bytes(
        gzip.compress(b'{"text": "ok \\ud83d\\ude00", "label": 0}\n{"text": "\\ud83d", "label": 0}\n')
    )
    with pytest.raises(BadInput, match=r"line 2: no JSON .*surrogates not allowed"):
        load(TASK)


@pytest.mark.parametrize("at", [12, 30, -12, -2])
def test_an_archive_damaged_inside_is_bad_input(data: Path, at: int) -> None:
    whole = bytearray(
        gzip.compress("".join(json.dumps({"text": f"{k * 7919}", "label": 0}) + "\n" for k in range(99)).encode())
    )
    whole[at] ^= 0xFF
    (data / "train.jsonl.gz").write_bytes(bytes(whole))
    with pytest.raises(BadInput, match=r"mend the line|get the file again"):
        load(TASK)
