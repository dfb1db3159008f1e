"""JSON files of a run: written whole, read with a limit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from zofo.errors import BadInput
from zofo.run import seam
from zofo.run.errors import Corrupt

MAX_FILE = 64 << 20  # bytes


def plain(value: Any) -> Any:
    """Copy a JSON value with its non-finite floats as the strings "nan", "inf" and "-inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, dict):
        return {key: plain(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(held) for held in value]
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; finite floats are exact, non-finite ones strings. Raises `ZofoError`."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    seam.write_file(path, f"{text}\n".encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of at most 64 MiB. Raises `BadInput` (missing, too large) or `Corrupt` (damaged)."""
    try:
        if not path.is_file():
            raise BadInput(f"read {path}", "no such file", "check the path")
        if path.stat().st_size > MAX_FILE:
            raise BadInput(f"read {path}", f"the file is larger than {MAX_FILE} bytes", "this is no file of zofo's")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Corrupt(f"read {path}", f"not readable as JSON ({str(error)[:120]})", "restore the file") from None


def read_scores(path: Path) -> dict[str, Any]:
    """Read a run's eval.json. Raises as `read_object`; `Corrupt` where its results are no scores by name."""
    held = read_object(path, "results")
    results = held["results"]
    if not isinstance(results, dict) or not all(isinstance(one, dict) for one in results.values()):
        raise Corrupt(f"read {path}", "its 'results' are no scores by name", "restore the file, or delete it")
    return held


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON file that holds an object with these keys. Raises as `read_json`; `Corrupt` where it holds something else."""
    held = read_json(path)
    if not isinstance(held, dict) or (missing := [key for key in keys if key not in held]):
        found = f"no {missing[0]!r} in it" if isinstance(held, dict) else f"a {type(held).__name__}, not an object"
        raise Corrupt(f"read {path}", found, "restore the file")
    return held
