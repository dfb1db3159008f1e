"""`compare` puts runs side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from zofo.cli.compare import COLUMNS


def table(out: str) -> list[dict[str, str]]:
    head, *rows = [line.split("\t") for line in out.splitlines()]
    assert tuple(head) == COLUMNS
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_a_run(cli, trained: str, home: Path) -> None:
    status, out, err = cli("compare", trained)
    assert (status, err) == (0, "")
    row = table(out)[0]
    assert (row["run"], row["method"], row["task"], row["steps"]) == (trained, "bilevel lora", "reviews", "2 of 2")
    assert all("% +- " in row[name] for name in ("zero-shot", "p", "s"))
    assert row["used"] in ("p", "s") and row["theta"] == "-" and int(row["forwards"]) > 0
    best = json.loads((home / "runs" / trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert float(row["moved"]) > 0 and best["kind"] == "validation"


def test_runs_tested_on_other_rows_are_told(cli, trained: str, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "runs" / "other"
    shutil.copytree(home / "runs" / trained, other)
    record = json.loads((other / "splits.json").read_text(encoding="utf-8"))
    record["parts"]["test"]["sha256"] = "0" * 64
    (other / "splits.json").write_text(json.dumps(record), encoding="utf-8")
    (other / "eval.json").unlink()
    (other / "metrics.jsonl").unlink()
    status, out, err = cli("compare", trained, str(other))
    assert status == 0 and "not tested on the same rows" in err and err.count("\n") == 1
    assert table(out)[1]["steps"] == "0 of 2" and table(out)[1]["p"] == "-"
