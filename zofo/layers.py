"""A configuration's three layers: a preset, then a YAML file, then flags.

The keys that a user gave (file and flags, not the preset) are kept beside it, so that an option
without effect for the chosen method can be refused by name (`methods.check`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zofo.config import Config, build, flatten, keys, read_yaml
from zofo.errors import BadInput, nearest

PRESETS = Path(__file__).parent / "presets"
FIRST = "bilevel-lora"
UNNAMED = f"no preset, file or method was named: the run begins with --preset {FIRST} (`zofo ls presets` lists others)"
OF_MIXTURE = {"data.train_rows": 768, "data.validation_rows": 32}  # rows a task: 256 in D_f, 512 in D_p


def begins(flags: Mapping[str, Any], preset_name: str | None, file: str | None) -> tuple[str | None, list[str]]:
    """The preset that a run begins with, and what is to be said of it: the one that is named, or `FIRST` where no preset, file or method is."""
    if preset_name or file is not None or "method.name" in flatten(flags, "option"):
        return preset_name, []
    return FIRST, [UNNAMED]


def presets() -> list[str]:
    """Names of the presets that ship with zofo."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset(name: str) -> dict[str, Any]:
    """Read a preset as flat keys (its `about` line taken off). Raises `BadInput` with the nearest name."""
    if name not in presets():
        raise BadInput(f"--preset {name}", "no such preset", nearest(name, presets()))
    tree = read_yaml(PRESETS / f"{name}.yaml", f"--preset {name}")
    tree.pop("about", None)
    return flatten(tree, f"preset {name}:")


def resolve(
    flags: Mapping[str, Any], preset_name: str | None = None, file: str | None = None
) -> tuple[Config, frozenset[str]]:
    """Lay preset, file and flags over the defaults.

    `flags` holds dotted keys or nested mappings. Returns the configuration and the keys that the
    user gave: of a file that holds every key, as a run's own config.yaml, none is counted as asked for. Raises `BadInput` for an unknown preset or key, or a value out of range.
    """
    given, held = dict[str, Any](), dict[str, Any]()
    if file is not None:
        tree = read_yaml(Path(file), f"--config {file}")
        named = tree.pop("preset", None)
        preset_name = preset_name or (None if named is None else str(named))
        held = flatten(tree, f"--config {file}:")
        given = {} if held.keys() >= set(keys()) else dict(held)
    given |= flatten(flags, "option")
    base = of_kind(preset_name, {**held, **given}) if preset_name else {}
    laid = {**base, **held, **given}
    return build({**of_mixture(laid), **laid}), frozenset(given)


def of_kind(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A preset as it is for the adapter's kind: another than its own takes its sibling's keys (`fo-lora`, prefix: `fo-prefix`'s), or the rates of first order with that kind."""
    base = preset(name)
    own, kind = base.get("adapter.kind"), str(given.get("adapter.kind", ""))
    if own is None or kind in ("", own) or f"fo-{kind}" not in presets():
        return base
    sibling = f"{name.removesuffix(own)}{kind}"
    if sibling in presets():
        return preset(sibling)
    rate = preset(f"fo-{kind}")["method.lr_p"]
    return base | {key: rate for key in ("method.lr_p", "method.lr_s") if key in base}


def of_mixture(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that differ where flat keys name a mixture."""
    return dict(OF_MIXTURE) if flat.get("data.mixture") else {}
