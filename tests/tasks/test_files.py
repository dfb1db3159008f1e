"""Rows come from the user's files, the package, $ZOFO_DATA or the hub; what is wrong with them is said with its place."""

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
from zofo.tasks.definition import Files, Hub, Task
from zofo.tasks.files import is_hub_id, load

TASK = Task(name="t", template="{{ text }}", choices=("a", "b"), folder="t", test_file="validation")
ROWS = [{"text": f"row {k}", "label": k % 2} for k in range(4)]
TRAIN = r"^\$ZOFO_DATA/t/train.jsonl.gz, row"


def write(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


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
    called = ("$ZOFO_DATA/t/train.jsonl.gz", "$ZOFO_DATA/t/validation.jsonl.gz")
    assert (source.files["train"], source.files["test"]) == called


def test_packaged_rows_need_no_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOFO_DATA", raising=False)
    monkeypatch.setattr(files, "PACKAGED", tmp_path)
    for k, name in enumerate(("train", "validation", "test")):
        write(tmp_path / "mine" / f"{name}.jsonl", ROWS[k : k + 1])
    source = load(TASK.model_copy(update={"packaged": "mine", "validation": "file", "test_file": "test"}))
    assert [source.train, source.validation, source.test] == [ROWS[:1], ROWS[1:2], ROWS[2:3]]
    assert source.files["validation"] == "packaged mine/validation.jsonl"


# What is wrong with a row


@pytest.mark.parametrize("label", [2, -1, "c", None, True, 0.5])
def test_a_label_that_is_no_choice_is_named_with_file_row_and_field(data: Path, label: object) -> None:
    write(data / "train.jsonl.gz", [*ROWS, {"text": "x", "label": label}])
    with pytest.raises(BadInput, match=TRAIN + r" 5: field 'label' is .*; it must be one of 0, 1, a, b$"):
        load(TASK)


def test_a_field_to_shorten_that_no_row_has_is_refused(data: Path) -> None:
    """A row too long would lose its beginning, and be said to have lost that field's end."""
    with pytest.raises(BadInput, match="no row has the field 'nosuch' of `shorten`"):
        load(TASK.model_copy(update={"shorten": "nosuch"}))
    load(TASK.model_copy(update={"shorten": "text"}))


def test_a_label_in_the_test_file_is_checked_too(data: Path) -> None:
    write(data / "validation.jsonl.gz", [ROWS[0], {"text": "x", "label": "c"}])
    with pytest.raises(BadInput, match=r"^\$ZOFO_DATA/t/validation.jsonl.gz, row 2: field 'label' is 'c'"):
        load(TASK)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, "no field 'label'; fields of this row: text"),
        ({"text": None, "label": 0}, "field 'text' is null"),
        ({"text": " \n", "label": 0}, "no text: field 'text' is empty"),
        ({"text": float("nan"), "label": 0}, "field 'text' is NaN where a text is wanted; write a text there"),
        ({"text": ["x"], "label": 0}, "field 'text' is a list where a text is wanted; write a text there"),
        ({"text": {"a": "x"}, "label": 0}, "field 'text' is an object where a text is wanted; write a text there"),
        ({"text": "x", "label": float("nan")}, "field 'label' is NaN; mend or drop the row"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_file_row_and_field(data: Path, row: Any, said: str) -> None:
    write(data / "train.jsonl.gz", [*ROWS, row])
    with pytest.raises(BadInput, match=f"{TRAIN} 5: {said}"):
        load(TASK)


def test_one_empty_field_among_several_is_let_pass(data: Path) -> None:
    rows = [{"text": "", "more": "x", "label": 0}]
    write(data / "train.jsonl.gz", rows)
    assert load(TASK.model_copy(update={"template": "{{ text }} {{ more }}"})).train == rows


def test_a_list_that_the_template_reads_into_is_let_pass(data: Path) -> None:
    rows = [{"text": ["x", "y"], "more": {"at": "z"}, "label": 0}]
    write(data / "train.jsonl.gz", rows)
    template = "{{ text | join(' ') }} {{ more.at }}"
    assert load(TASK.model_copy(update={"template": template})).train == rows


def test_a_file_without_rows_is_bad_input(data: Path) -> None:
    write(data / "train.jsonl.gz", [])
    with pytest.raises(BadInput, match=r"^\$ZOFO_DATA/t/train.jsonl.gz: no rows"):
        load(TASK)


def test_a_missing_file_is_named(data: Path) -> None:
    (data / "validation.jsonl.gz").unlink()
    with pytest.raises(BadInput, match=r"^\$ZOFO_DATA/t/validation.jsonl.gz: no such file"):
        load(TASK)


def test_a_broken_line_is_named_with_the_file(data: Path) -> None:
    (data / "train.jsonl.gz").write_bytes(
        gzip.compress(b'{"text": "x", "label": 0}\n{"text": "\\ud83d", "label": 0}\n')
    )
    with pytest.raises(BadInput, match=r"^\$ZOFO_DATA/t/train.jsonl.gz, line 2: no JSON .*surrogates not allowed"):
        load(TASK)


def test_no_source_at_all_is_bad_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZOFO_DATA", str(tmp_path))
    with pytest.raises(
        BadInput, match=r"--task t: no data: ZOFO_DATA holds no folder 't'; set ZOFO_DATA to a folder with t/train"
    ):
        load(TASK)
    with pytest.raises(BadInput, match=r"the task names no data folder; say where its rows are"):
        load(TASK.model_copy(update={"folder": None}))


# The user's own files


def test_own_files_come_before_every_other_source_and_parts_not_given_are_none(data: Path) -> None:
    train, test = write(data / "own.jsonl", ROWS[2:]), write(data / "more.jsonl", ROWS[:1])
    alone = load(TASK.model_copy(update={"files": Files(train=train)}))
    assert (alone.train, alone.validation, alone.test) == (ROWS[2:], None, None)
    both = load(TASK.model_copy(update={"files": Files(train=train, test=test)}))
    assert (both.validation, both.test) == (None, ROWS[:1])
    assert (both.files["train"], both.files["test"]) == (f"--data.train {train}", f"--data.test {test}")


def test_columns_get_the_tasks_field_names_and_others_are_dropped(tmp_path: Path) -> None:
    theirs = [{"s": row["text"], "y": row["label"], "more": 0} for row in ROWS]
    own = Files(train=write(tmp_path / "x.jsonl", theirs), columns={"text": "s", "label": "y"})
    assert load(TASK.model_copy(update={"files": own})).train == ROWS
    write(tmp_path / "x.jsonl", [*theirs, {"s": "x", "label": 0}])
    with pytest.raises(BadInput, match=r"--data.train .*x.jsonl, row 5: no column 'y'; columns of this row: label, s"):
        load(TASK.model_copy(update={"files": own}))


def test_an_unknown_label_of_an_own_test_file_is_named_with_its_flag(tmp_path: Path) -> None:
    own = Files(train=write(tmp_path / "a.jsonl", ROWS), test=write(tmp_path / "b.jsonl", [{"text": "x", "label": 9}]))
    with pytest.raises(BadInput, match=r"^--data.test .*b.jsonl, row 1: field 'label' is '9'"):
        load(TASK.model_copy(update={"files": own}))


def test_a_saved_folder_serves_for_each_part_that_it_has_a_split_for(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    held = {part: datasets.Dataset.from_list(ROWS[k:]) for k, part in enumerate(("train", "validation", "test"))}
    datasets.DatasetDict(held).save_to_disk(tmp_path / "all")
    held["train"].save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"a": held["train"], "b": held["test"]}).save_to_disk(tmp_path / "other")

    def loaded(**parts: str) -> files.Source:
        named = {part: str(tmp_path / folder) for part, folder in parts.items()}
        return load(TASK.model_copy(update={"files": Files(**named)}))

    whole = loaded(train="all")
    assert (whole.train, whole.validation, whole.test) == (ROWS, ROWS[1:], ROWS[2:])
    single = loaded(train="one")
    assert (single.train, single.validation, single.test) == (ROWS, None, None)
    assert loaded(train="all", test="one").test == ROWS, "a folder of one set gives it for whatever part"
    with pytest.raises(BadInput, match=r"--data.train .*other: no split 'train'; its splits are a, b"):
        loaded(train="other")


# The hub

HUB = TASK.model_copy(update={"hub": Hub(id="zofo-tests/none", config="c", columns={"text": "s", "label": "y"})})
SPLITS = {"train": ROWS, "validation": ROWS[:2]}


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Stand-ins for the two clients of the hub; `asked` lists what was loaded and whether offline."""
    held = types.SimpleNamespace(asked=[], reachable=True)
    files._on_hub.cache_clear()
    config = types.SimpleNamespace(HF_HUB_OFFLINE=False)

    def load_dataset(name: str, configuration: str | None = None, split: str | None = None) -> Any:
        held.asked.append((name, configuration, split, config.HF_HUB_OFFLINE))
        if not held.reachable:
            raise ConnectionError("cannot reach it")
        return SPLITS if split is None else [{"s": row["text"], "y": row["label"], "more": 0} for row in SPLITS[split]]

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
    assert (source.train, source.validation, source.test) == (ROWS, None, ROWS[:2])
    assert source.name == "hub zofo-tests/none, c" and source.files["test"] == "hub zofo-tests/none, c, validation"
    assert clients.asked == [("zofo-tests/none", "c", split, False) for split in ("train", "validation")]


def test_a_set_of_the_hub_without_test_rows_has_none(clients: types.SimpleNamespace) -> None:
    hub = Hub(id="zofo-tests/none", columns={"text": "s", "label": "y"}, test=None)
    assert load(HUB.model_copy(update={"hub": hub})).test is None
    assert [split for _, _, split, _ in clients.asked] == ["train"]


def test_out_of_reach_the_cache_is_tried_once_and_the_error_says_what_to_set(clients: types.SimpleNamespace) -> None:
    clients.reachable = False
    with pytest.raises(BadInput, match=r"ZOFO_DATA is not set, and zofo-tests/none cannot be had .* set ZOFO_DATA"):
        load(HUB)
    assert clients.asked == [("zofo-tests/none", "c", "train", True)], "asked offline, so without retries"
    assert clients.config.HF_HUB_OFFLINE is False


def test_a_wrong_label_from_the_hub_keeps_its_own_message(clients: types.SimpleNamespace) -> None:
    with pytest.raises(BadInput, match=r"^hub zofo-tests/none, c, train, row 1: field 'label' is 'row 0'"):
        load(HUB.model_copy(update={"hub": Hub(id="zofo-tests/none", config="c", columns={"text": "s", "label": "s"})}))


def test_a_hub_id_serves_as_the_users_own_file(clients: types.SimpleNamespace) -> None:
    source = load(TASK.model_copy(update={"files": Files(train="zofo-tests/none")}))
    assert (source.train, source.validation, source.test) == (ROWS, ROWS[:2], None)


def test_a_hub_id_out_of_reach_is_no_such_file(clients: types.SimpleNamespace) -> None:
    clients.reachable = False
    said = r"^--data.train zofo-tests/none: no such file, and it cannot be had from the hub \(ConnectionError"
    with pytest.raises(BadInput, match=said):
        load(TASK.model_copy(update={"files": Files(train="zofo-tests/none")}))
    assert clients.config.HF_HUB_OFFLINE is False


def test_a_hub_id_out_of_reach_is_named_with_the_flag_that_gave_it(
    clients: types.SimpleNamespace, tmp_path: Path
) -> None:
    clients.reachable = False
    own = Files(train=write(tmp_path / "x.jsonl", ROWS), test="zofo-tests/none")
    with pytest.raises(BadInput, match=r"^--data.test zofo-tests/none: "):
        load(TASK.model_copy(update={"files": own}))


def test_only_an_owner_and_a_name_that_are_no_path_are_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "rows").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("owner/name")
    for word in ("name", "/name", "owner/", "a/b/c", "owner/rows.csv", "owner/rows.jsonl.gz", "here/rows", ""):
        assert not is_hub_id(word)


def test_a_hub_id_may_have_a_version_in_its_name() -> None:
    assert is_hub_id("owner/name-2.5")


def test_the_real_client_gives_up_offline_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("datasets")
    monkeypatch.delenv("ZOFO_DATA", raising=False)

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no such host")

    monkeypatch.setattr(hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(BadInput, match="OfflineModeIsEnabled"):
        load(HUB)
