"""Rows are read from files of many forms; what is no row is said with the file and where in it."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zofo.errors import BadInput
from zofo.tasks import read
from zofo.tasks.read import is_saved, read_rows, saved

ASKED = "--data.train mine"
ROWS = [{"text": 'one, "two"\tthree\nfour', "label": "a"}, {"text": "grün 日本 😀", "label": "b"}]
TYPED = [{"text": "x", "n": 1, "few": ["a", "b"], "deep": {"er": 2.5}}, {"text": "", "n": None, "few": [], "deep": {}}]


def table(rows: list[dict[str, Any]], mark: str) -> bytes:
    held = io.StringIO()
    writer = csv.DictWriter(held, list(rows[0]), delimiter=mark, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return held.getvalue().encode()


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


FORMS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], bytes]]] = {
    "csv": ("csv", lambda rows: table(rows, ",")),
    "tsv": ("tsv", lambda rows: table(rows, "\t")),
    "list": ("json", lambda rows: json.dumps(rows, indent=2).encode()),
    "data": ("json", lambda rows: json.dumps({"version": 1, "data": rows}).encode()),
    "lines": ("json", lines),
    "jsonl": ("jsonl", lines),
}


def reading(place: Path, name: str, content: bytes) -> list[dict[str, Any]]:
    (place / name).write_bytes(content)
    return read_rows(place / name, ASKED)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
def test_every_form_gives_the_same_rows(tmp_path: Path, form: str, zipped: bool) -> None:
    ending, make = FORMS[form]
    content = make(ROWS)
    name, content = (f"x.{ending}.gz", gzip.compress(content)) if zipped else (f"x.{ending}", content)
    assert reading(tmp_path, name, content) == ROWS
    assert reading(tmp_path, name.upper(), content) == ROWS, "an ending in capitals is the same ending"


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    assert read_rows(tmp_path / "x.parquet", ASKED) == ROWS
    numbers = [{"n": 1, "few": ["a", "b"]}, {"n": None, "few": []}]
    parquet.write_table(pyarrow.Table.from_pylist(numbers), tmp_path / "y.parquet")
    assert read_rows(tmp_path / "y.parquet", ASKED) == numbers


@pytest.mark.parametrize("form", ["list", "data", "lines", "jsonl"])
def test_json_keeps_numbers_lists_and_nulls(tmp_path: Path, form: str) -> None:
    ending, make = FORMS[form]
    assert reading(tmp_path, f"x.{ending}", make(TYPED)) == TYPED


def test_cells_of_a_table_are_texts(tmp_path: Path) -> None:
    assert reading(tmp_path, "x.csv", b"n,empty\n01,\n") == [{"n": "01", "empty": ""}]


def test_a_single_json_object_is_one_row(tmp_path: Path) -> None:
    assert reading(tmp_path, "x.json", b'{"text": "x", "data": 1}') == [{"text": "x", "data": 1}]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_byte_order_mark_before_a_table_is_no_part_of_its_first_column(tmp_path: Path, ending: str) -> None:
    mark = {"csv": ",", "tsv": "\t"}[ending]
    assert reading(tmp_path, f"x.{ending}", b"\xef\xbb\xbf" + table(ROWS, mark)) == ROWS


@pytest.mark.parametrize("form", ["list", "jsonl"])
def test_a_byte_order_mark_before_json_is_skipped_too(tmp_path: Path, form: str) -> None:
    ending, make = FORMS[form]
    assert reading(tmp_path, f"x.{ending}", b"\xef\xbb\xbf" + make(ROWS)) == ROWS


def test_windows_line_ends_are_no_part_of_a_row(tmp_path: Path) -> None:
    assert reading(tmp_path, "x.csv", b"a,b\r\n1,2\r\n") == [{"a": "1", "b": "2"}]
    assert reading(tmp_path, "x.jsonl", b'{"a": 1}\r\n{"a": 2}\r\n') == [{"a": 1}, {"a": 2}]


def test_a_quoted_line_break_stays_as_it_was(tmp_path: Path) -> None:
    assert reading(tmp_path, "x.csv", b'a,b\r\n"1\r\n\r\n1",2\r\n3,4\r\n')[0] == {"a": "1\r\n\r\n1", "b": "2"}


def test_a_quoted_line_break_is_the_same_compressed(tmp_path: Path) -> None:
    content = b'a,b\r\n"1\r\n1",2\r\n'
    assert reading(tmp_path, "x.csv.gz", gzip.compress(content)) == reading(tmp_path, "x.csv", content)


def test_a_cell_may_be_as_long_as_a_json_text(tmp_path: Path) -> None:
    rows = [{"text": "word " * 40_000, "label": "a"}]
    assert reading(tmp_path, "x.jsonl", lines(rows)) == rows
    assert reading(tmp_path, "x.csv", table(rows, ",")) == rows


def test_empty_lines_are_skipped(tmp_path: Path) -> None:
    assert reading(tmp_path, "x.jsonl", b'{"a": 1}\n\n  \n{"a": 2}') == [{"a": 1}, {"a": 2}]
    assert reading(tmp_path, "x.csv", b"a,b\n\n1,2\n\n") == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.json", "x.jsonl", "x.csv.gz", "x.jsonl.gz"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    assert reading(tmp_path, name, b"") == []


@pytest.mark.parametrize("content", [b"[]", b'{"data": []}'])
def test_an_empty_list_has_no_rows(tmp_path: Path, content: bytes) -> None:
    assert reading(tmp_path, "x.json", content) == []


# What is no row


def test_a_missing_file_or_a_folder_is_bad_input(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(BadInput, match=r"^--data.train mine: no such file; check the path$"):
            read_rows(path, ASKED)


@pytest.mark.parametrize(("name", "ending"), [("x.txt", ".txt"), ("x", ""), ("x.gz", ".gz"), ("x.xlsx", ".xlsx")])
def test_an_unknown_ending_is_refused_with_those_that_are_known(tmp_path: Path, name: str, ending: str) -> None:
    known = r"give one of .csv, .tsv, .json, .jsonl, .parquet \(.gz too\)"
    with pytest.raises(BadInput, match=f"--data.train mine: a file that ends in '{ending}'; {known}"):
        reading(tmp_path, name, b"a,b\n1,2\n")


@pytest.mark.parametrize(("cells", "count"), [("1", 1), ("1,2,3", 3), ('"1,2"', 1)])
def test_a_row_of_too_many_or_too_few_cells_is_named(tmp_path: Path, cells: str, count: int) -> None:
    with pytest.raises(BadInput, match=rf"mine, row 3: {count} cells where the first line names 2 columns"):
        reading(tmp_path, "x.csv", f'a,b\n1,2\n"x\ny",2\n{cells}\n'.encode())


def test_a_tsv_named_csv_does_not_pass_as_a_table_of_two_columns(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"mine, row 1: 2 cells where the first line names 1 columns"):
        reading(tmp_path, "x.csv", b"text\tlabel\nfine, really\ta\n")


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--data.train mine: two columns are named 'b'"):
        reading(tmp_path, "x.csv", b"a,b,b\n1,2,3\n")


@pytest.mark.parametrize("content", [b'a,b\n"1,2\n3,4\n', b'a,b\n"1"1,2\n'], ids=["open", "after"])
def test_a_broken_quote_is_bad_input(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadInput, match=r"--data.train mine: not readable as a table \("):
        reading(tmp_path, "x.csv", content)


BINARY = {
    "png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "gzip": gzip.compress(b"a,b\n1,2\n"),
    "latin-1": "a,b\nschön,2\n".encode("latin-1"),
    "utf-16": "a,b\n1,2\n".encode("utf-16"),
}


@pytest.mark.parametrize("content", BINARY.values(), ids=BINARY)
@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl"])
def test_a_text_file_that_is_binary_is_bad_input(tmp_path: Path, ending: str, content: bytes) -> None:
    with pytest.raises(BadInput, match=rf"--data.train mine: not readable as {ending} \(.*its right name"):
        reading(tmp_path, f"x.{ending}", content)


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"PAR1" + b"\0" * 40 + b"PAR1"], ids=["empty", "text", "torn"])
def test_a_parquet_file_that_is_none_is_bad_input(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadInput, match=r"--data.train mine: not readable as parquet \("):
        reading(tmp_path, "x.parquet", content)


BROKEN = {
    "open": b"{", "number": b"1", "list": b"[1]", "null": b"null", "text": b'"a"', "deep": b"[" * 100_000,
    "digits": b'{"a": ' + b"9" * 5000 + b"}", "two": b'{"a": 1} {"a": 2}',
}  # fmt: skip


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_line_that_is_no_json_object_is_named(tmp_path: Path, ending: str, line: bytes) -> None:
    with pytest.raises(BadInput, match=r"--data.train mine, line 3: no JSON"):
        reading(tmp_path, f"x.{ending}", b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n')


def test_an_entry_of_a_list_that_is_no_object_is_named(tmp_path: Path) -> None:
    for content in (b'[{"a": 1}, 2]', b'{"data": [{"a": 1}, 2]}'):
        with pytest.raises(BadInput, match=r"--data.train mine, row 2: no JSON object"):
            reading(tmp_path, "x.json", content)
    with pytest.raises(BadInput, match=r"--data.train mine: no list of JSON objects"):
        reading(tmp_path, "x.json", b"12")


@pytest.mark.parametrize("content", [b'[{"a": 1}, {"a": "\\ud83d"}]', b'{"a": 1}\n{"a": {"b": ["\\ude00"]}}\n'])
def test_half_a_pair_of_surrogates_is_named_with_its_place(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadInput, match=r"--data.train mine, (row|line) 2: no JSON .*surrogates not allowed"):
        reading(tmp_path, "x.json", content)
    assert reading(tmp_path, "x.jsonl", b'{"a": "\\ud83d\\ude00"}') == [{"a": "😀"}], "a whole pair is a letter"


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
@pytest.mark.parametrize("spoil", [lambda b: b[:-9], lambda b: b"a,b\n1,2\n", lambda b: b[:30] + b"\0" * 9 + b[39:]])
def test_a_damaged_archive_is_bad_input(tmp_path: Path, ending: str, spoil: Any) -> None:
    whole = FORMS[ending if ending != "json" else "list"][1]([{"a": f"{k * 7919}", "b": "x"} for k in range(200)])
    with pytest.raises(BadInput, match=r"--data.train mine.*: (not readable as|no JSON)"):
        reading(tmp_path, f"x.{ending}.gz", spoil(gzip.compress(whole)))


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl"])
def test_a_file_longer_than_allowed_is_refused_unpacked_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    whole = FORMS[ending if ending != "json" else "list"][1]([{"a": f"{k}", "b": "x"} for k in range(50)])
    monkeypatch.setattr(read, "MAX_CHARACTERS", len(whole))
    assert len(reading(tmp_path, f"x.{ending}", whole)) == 50, "as long as allowed"
    for name, content in ((f"x.{ending}", whole + b" "), (f"x.{ending}.gz", gzip.compress(whole + b" " * 10**6))):
        with pytest.raises(BadInput, match=f"--data.train mine: longer than {len(whole)} characters"):
            reading(tmp_path, name, content)


# Folders of `datasets`


@pytest.fixture
def datasets() -> Any:
    return pytest.importorskip("datasets")


def test_a_saved_folder_gives_its_splits_and_a_single_set_is_train(tmp_path: Path, datasets: Any) -> None:
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(tmp_path / "two")
    assert is_saved(tmp_path / "one") and is_saved(tmp_path / "two") and not is_saved(tmp_path)
    assert {part: list(rows) for part, rows in saved(tmp_path / "one", ASKED).items()} == {"train": ROWS}
    found = {part: list(rows) for part, rows in saved(tmp_path / "two", ASKED).items()}
    assert found == {"train": ROWS, "test": ROWS[1:]}


def test_a_damaged_folder_is_bad_input(tmp_path: Path, datasets: Any) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"torn")
    with pytest.raises(BadInput, match=r"--data.train mine: not readable as a folder of datasets \("):
        saved(tmp_path / "one", ASKED)
