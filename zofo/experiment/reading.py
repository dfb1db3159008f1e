"""The file of an experiment: found, read, laid over by a scale, checked. Nothing is run here."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zofo.config import Section, flatten, read_yaml
from zofo.errors import BadInput, nearest
from zofo.experiment.checks import check
from zofo.experiment.grid import Budget, Cost, Grid, Row, Sweep, Unseen, spread

READY = Path(__file__).parent / "ready"


def names() -> list[str]:
    """Experiments that ship with zofo."""
    return sorted(path.stem for path in READY.glob("*.yaml"))


def locate(asked: str) -> Path:
    """The file of an experiment: a path, or one that ships with zofo by name. Raises `BadInput` with the nearest name."""
    path = Path(asked)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path
    if asked not in names():
        raise BadInput(
            f"zofo experiment {asked}", "no such file, and no experiment of that name", nearest(asked, names())
        )
    return READY / f"{asked}.yaml"


def read(asked: str, scale: str | None = None) -> tuple[Grid, str | None]:
    """Read an experiment's file at a scale (none: its first); returns the grid and the scale's name.

    Raises: `BadInput` naming the key for whatever is wrong in it. Reads no data and no model.
    """
    source = f"zofo experiment {asked}:"
    tree = read_yaml(locate(asked), f"zofo experiment {asked}")
    scales = tree.pop("scales", {})
    if not isinstance(scales, dict) or not all(isinstance(value, dict) for value in scales.values()):
        raise BadInput(f"{source} scales", "not a mapping of names to keys", "write `scales: {small: {key: value}}`")
    if scale is not None and scale not in scales:
        do = nearest(scale, scales) if scales else "leave it out"
        raise BadInput(f"--scale {scale}", f"{asked} has no such scale", do)
    chosen = scale or next(iter(scales), None)
    laid = over(tree, scales[chosen], f"{source} options") if chosen is not None else tree
    return check(expanded(build(laid, source)), source), chosen


def over(tree: Mapping[str, Any], scale: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A file's keys with those of a scale laid over them; `options` are laid option by option, `costs` and `steps` row by row, `sweeps` in the place of its rows' own."""
    merged = {**tree, **{key: value for key, value in scale.items() if key != "sweeps"}}
    if "sweeps" in scale:
        merged["rows"] = swept(merged.get("rows"), scale["sweeps"], source.removesuffix(" options"))
    for key in ("options", "costs", "steps"):
        held, new = tree.get(key), scale.get(key)
        if isinstance(held, dict) and isinstance(new, dict):
            merged[key] = flatten(held, source) | flatten(new, source) if key == "options" else {**held, **new}
    return merged


def swept(rows: Any, sweeps: Any, source: str) -> list[Any]:
    """A file's rows with other sweeps, by their names. Raises: BadInput for a row that there is not."""
    known = [row["name"] for row in rows or () if isinstance(row, dict) and "name" in row]
    if not isinstance(sweeps, dict):
        raise BadInput(
            f"{source} scales: sweeps", "not a mapping of rows to options", "write `sweeps: {row: {option: [values]}}`"
        )
    if unknown := next((name for name in sweeps if name not in known), None):
        raise BadInput(f"{source} scales: sweeps.{unknown}", "no such row", nearest(str(unknown), known))
    return [
        {**row, "sweep": sweeps[row["name"]]} if isinstance(row, dict) and row.get("name") in sweeps else row
        for row in rows
    ]


def build(tree: Mapping[str, Any], source: str) -> Grid:
    """Validate an experiment. Raises `BadInput` naming the first wrong key."""
    try:
        return Grid.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"]]
        where = ".".join(part for part in parts if part != "Cost" and not part.startswith("dict["))  # pydantic's words
        value = "" if first["type"] in ("missing", "value_error") else f" = {reprlib.repr(first['input'])}"
        found = first["msg"].removeprefix("Value error, ").lower() if first["type"] != "value_error" else first["msg"]
        found = {"extra_forbidden": "no such key", "missing": "it is missing"}.get(first["type"], found)
        do = hint(first["type"], first["loc"])
        raise BadInput(f"{source} {where}{value}", found.removeprefix("Value error, "), do) from None


def hint(kind: str, loc: Sequence[int | str]) -> str:
    """What to do about a wrong key: the nearest of those there are, where it is unknown."""
    if kind != "extra_forbidden":
        return "see docs/experiments.md"
    within: dict[str, type[Section]] = {"budget": Budget, "sweep": Sweep, "costs": Cost, "rows": Row, "unseen": Unseen}
    known = within.get(str(loc[0]), Grid) if len(loc) > 1 else Grid
    return nearest(str(loc[-1]), known.model_fields)


def expanded(grid: Grid) -> Grid:
    """The grid with a row for each combination of the values that a row varies."""
    rows = []
    for row in grid.rows:
        for held in spread(row.vary):
            told = " ".join(f"{key.split('.', 1)[1]}={shown(value)}" for key, value in held.items())
            name = f"{row.name} {told}" if held else row.name
            rows.append(row.model_copy(update={"name": name, "options": row.options | held, "vary": {}}))
    return grid.model_copy(update={"rows": rows})


def shown(value: Any) -> str:
    """A value in a row's name."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
