"""`bench step` hands its options over and prints a table or JSON."""

from __future__ import annotations

import json
from typing import Any


def test_table_and_json(cli, monkeypatch) -> None:
    from zofo.bench import step

    seen: list[dict[str, Any]] = []
    times = {"median_s": 1.0, "min_s": 0.9, "max_s": 1.25, "forwards": 2.5}

    def measured(**options: Any) -> dict[str, Any]:
        seen.append(options)
        return {"model": options["model"], "head": "one position a row", "threads": 1, "results": {"zofo step": times}}

    monkeypatch.setattr(step, "main", measured)
    status, out, err = cli("bench", "step", "--rows", "2", "--noise", "gaussian", "sphere")
    assert status == 0, err
    assert seen[0]["rows"] == 2 and tuple(seen[0]["noise"]) == ("gaussian", "sphere") and seen[0]["tokens"] == 64
    assert out.splitlines()[-1].split("\t") == ["zofo step", "1.000", "0.900", "1.250", "2.50"]
    assert json.loads(cli("bench", "step", "--json")[1])["results"]["zofo step"] == times
