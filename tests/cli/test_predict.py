"""`predict` answers rows that have no answer, and keeps their columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from zofo.cli.predict import key_is_read
from zofo.config import keys

TEXTS = ("The soup was cold.", "A film to see twice,\nand again", 'It broke, "twice"')
ROWS = [{"sentence": text, "id": str(k)} for k, text in enumerate(TEXTS * 4)]


@pytest.fixture
def new(home: Path) -> str:
    with (home / "new.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return "new.csv"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def test_the_first_rows_and_a_count_a_label_are_printed(cli, trained: str, new: str) -> None:
    status, out, err = cli("predict", trained, new)
    assert status == 0, err
    head, *rest = out.splitlines()
    assert head.startswith(f"run {trained}, step ") and head.endswith(", reviews, 12 rows of new.csv")
    table = [line.split("\t") for line in rest]
    assert table[0] == ["row", "sentence", "predicted", "probability"]
    assert table[2][:2] == ["2", "A film to see twice, and again"] and table[2][3].endswith(" %")
    assert rest[11] == "(2 more rows: --out FILE)" and table[-3] == ["label", "rows"]
    counted = {label: int(n) for label, n in table[-2:]}
    assert set(counted) == {"terrible", "great"} and sum(counted.values()) == 12


def test_every_row_is_written_with_its_own_columns(cli, trained: str, new: str, home: Path) -> None:
    for name in ("out.jsonl", "out.csv"):
        status, out, err = cli("predict", trained, new, "--out", name)
        assert status == 0, err
        assert out.endswith(f"written to {name}\n")
        assert sum(int(row.split("\t")[1]) for row in out.splitlines() if row.startswith(("terrible", "great"))) == 12
    found = lines(home / "out.jsonl")
    assert [{key: row[key] for key in ("sentence", "id")} for row in found] == ROWS
    assert all(row["predicted"] in ("terrible", "great") and 0.5 <= row["probability"] <= 1 for row in found)
    with (home / "out.csv").open(newline="", encoding="utf-8") as handle:
        table = list(csv.DictReader(handle))
    assert [row["sentence"] for row in table] == [row["sentence"] for row in ROWS]
    assert [(row["predicted"], float(row["probability"])) for row in table] == [
        (row["predicted"], row["probability"]) for row in found
    ]


def test_columns_of_some_rows_and_lists_stand_in_a_csv_file(cli, model: str, home: Path) -> None:
    rows = [{"sentence": "a film", "tags": ["x", "y"]}, {"sentence": "a meal", "note": "z"}]
    (home / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert cli("predict", model, "odd.jsonl", "--task", "reviews", "--out", "odd.csv")[0] == 0
    with (home / "odd.csv").open(newline="", encoding="utf-8") as handle:
        first, second = csv.DictReader(handle)
    assert (first["tags"], first["note"], second["tags"], second["note"]) == ('["x", "y"]', "", "", "z")


def test_generated_answers_have_no_probability(cli, model: str, home: Path) -> None:
    (home / "fr.yaml").write_text("name: fr\ntemplate: '{{ q }}'\nlabel: a\nmetrics: []\n", encoding="utf-8")
    (home / "q.jsonl").write_text('{"q": "Say it:"}\n', encoding="utf-8")
    status, out, err = cli("predict", model, "q.jsonl", "--task", "fr.yaml", "--max-new-tokens", "3")
    assert status == 0, err
    assert out.splitlines()[1] == "row\tq\tpredicted" and "label\t" not in out


BAD = [
    ("{model} new.csv", "a model needs a task; add --task NAME, or --data.train FILE"),
    ("{model} new.csv --task reviews --slot p", "it has no adapters"),
    ("{run} new.csv --slot q", "--slot q: this run has no such adapter"),
    ("{run} nosuch.csv", "nosuch.csv: no such file"),
    ("{run} empty.jsonl", "empty.jsonl: no rows"),
    ("{run} broken.parquet", "broken.parquet: not readable as parquet"),
    ("{run} other.jsonl", "row 1: task reviews's template reads a field that is missing ('sentence' is undefined)"),
    ("{run} other.jsonl", "choose one of: text"),
    ("{run} null.jsonl", "null.jsonl, row 1: field 'sentence' is null"),
    ("{run} done.jsonl", "done.jsonl: it has a column 'predicted'"),
    ("{run} new.csv --max-new-tokens 4", "reviews has choices, nothing is generated"),
    ("{run} new.csv --data.text_column sentence", "--data.text_column sentence: reviews reads no such column"),
    ("{run} new.csv --data.label_column sentence", "answers are predicted, not read"),
]


@pytest.mark.parametrize(("words", "told"), BAD)
def test_bad_input_is_one_line(cli, trained: str, model: str, new: str, home: Path, words: str, told: str) -> None:
    (home / "empty.jsonl").write_text("", encoding="utf-8")
    (home / "broken.parquet").write_text("no parquet", encoding="utf-8")
    (home / "other.jsonl").write_text('{"text": "a film"}\n', encoding="utf-8")
    (home / "null.jsonl").write_text('{"sentence": null}\n', encoding="utf-8")
    (home / "done.jsonl").write_text('{"sentence": "x", "predicted": "y"}\n', encoding="utf-8")
    status, out, err = cli("predict", *words.format(model=model, run=trained).split())
    assert (status, out) == (2, "") and err.count("\n") == 1 and told in err


def test_only_options_that_act_are_options_of_it() -> None:
    held = {key for key in keys() if key_is_read(key)}
    assert {"data.task", "data.text_column", "model.dtype"} <= held
    assert not held & {"data.test", "data.test_rows", "data.batch", "run.seed", "data.mixture"}
