"""Files of rows: csv, tsv, json, jsonl (each may be gzip-compressed), parquet, and folders that `datasets` saved."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from zofo.errors import BadInput

Row = dict[str, Any]
MAX_CHARACTERS = 1 << 28  # of a data file once unpacked


def read_rows(path: Path, asked: str) -> list[Row]:
    """Read a file of rows by the ending of its name; rows of texts for csv and tsv (the first line names the columns).

    Raises: BadInput when it is missing, not what its name says, longer than MAX_CHARACTERS (text), or has a line that
    is no row (with its number).
    """
    if not path.is_file():
        raise BadInput(asked, "no such file", "check the path")
    ending = kind(path)
    if ending not in READERS:
        found = f"a file that ends in '{path.suffix}'"
        raise BadInput(asked, found, f"give one of {', '.join(READERS)} (.gz too), or a folder that datasets saved")
    try:
        return READERS[ending](path, asked)
    except UnicodeDecodeError as error:
        do = "save it as UTF-8 (in Excel: CSV UTF-8), or give it its right name"
        raise BadInput(asked, f"not readable as {ending[1:]} ({error})", do) from None
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(
            asked, f"not readable as {ending[1:]} ({error})", "get the file again, or give it its right name"
        ) from None


def kind(path: Path) -> str:
    """The ending that says what a file is, `.gz` taken off."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _open(path: Path) -> IO[str]:
    """A file as text (a byte order mark taken off, line ends as they are)."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")  # type: ignore[return-value]
    return path.open(encoding="utf-8-sig", newline="")


def _lines(handle: IO[str], asked: str) -> Iterator[str]:
    """Lines, up to MAX_CHARACTERS in all (a small file may unpack to a huge one)."""
    left = MAX_CHARACTERS
    while line := handle.readline(left + 1):
        left -= len(line)
        if left < 0:
            raise BadInput(asked, f"longer than {MAX_CHARACTERS} characters", "give a smaller file")
        yield line


def _json_lines(path: Path, asked: str) -> list[Row]:
    with _open(path) as handle:
        lines = enumerate(_lines(handle, asked), 1)
        return [_row(line, f"{asked}, line {number}") for number, line in lines if line.strip()]


def _json(path: Path, asked: str) -> list[Row]:
    """A list of objects, or an object a line."""
    with _open(path) as handle:
        text = "".join(_lines(handle, asked))
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return _json_lines(path, asked)
    if isinstance(tree, dict) and not isinstance(tree.get("data"), list):
        return [_whole(tree, f"{asked}, row 1")]
    rows = tree["data"] if isinstance(tree, dict) else tree
    if not isinstance(rows, list):
        raise BadInput(asked, "no list of JSON objects", 'write [{"field": value, ...}, ...]')
    return [_whole(row, f"{asked}, row {number}") for number, row in enumerate(rows, 1)]


def _row(line: str, asked: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(asked, f"no JSON ({str(error)[:120]})", "mend the line") from None
    return _whole(row, asked)


def _whole(row: Any, asked: str) -> Row:
    """A row that is an object, and whose texts are whole (half of a surrogate pair is no text)."""
    if not isinstance(row, dict):
        raise BadInput(asked, "no JSON object", 'write a row as {"field": value, ...}')
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadInput(asked, f"no JSON ({str(error)[:120]})", "mend the line") from None
    return row


def _separated(mark: str) -> Callable[[Path, str], list[Row]]:
    def read(path: Path, asked: str) -> list[Row]:
        csv.field_size_limit(MAX_CHARACTERS)
        with _open(path) as handle:
            try:
                return _table(csv.reader(_lines(handle, asked), delimiter=mark, strict=True), asked)
            except csv.Error as error:
                raise BadInput(
                    asked, f"not readable as a table ({error})", "mend the file, or give it its right name"
                ) from None

    return read


def _table(lines: Iterator[list[str]], asked: str) -> list[Row]:
    """Rows under a first line of column names."""
    names = next(lines, [])
    if len(set(names)) < len(names):
        raise BadInput(asked, f"two columns are named '{max(names, key=names.count)}'", "name each column once")
    found = []
    for number, cells in enumerate((cells for cells in lines if cells), 1):
        if len(cells) != len(names):
            wrong = f"{len(cells)} cells where the first line names {len(names)} columns"
            raise BadInput(
                f"{asked}, row {number}", wrong, "mend the row (texts with commas or breaks stand in quotes)"
            )
        found.append(dict(zip(names, cells, strict=True)))
    return found


def _parquet(path: Path, asked: str) -> list[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        found = f"not readable as parquet ({' '.join(str(error).split())[:120]})"
        raise BadInput(asked, found, "get the file again, or give it its right name") from None
    return rows


READERS: dict[str, Callable[[Path, str], list[Row]]] = {
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".json": _json,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}


def is_saved(path: Path) -> bool:
    """Whether a folder is one that `datasets` saved."""
    return path.is_dir() and any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def saved(path: Path, asked: str) -> dict[str, Any]:
    """The splits of a folder that `datasets` saved (a single data set counts as `train`)."""
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever a damaged folder makes the library raise
        why = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise BadInput(asked, f"not readable as a folder of datasets ({why})", "save it again") from None
    return dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}
