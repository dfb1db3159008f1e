"""Small YAML files that people write: read safely, and in one way for configurations, tasks, mixtures and experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from zofo.errors import BadInput

MAX_FILE = 1 << 22
"""Bytes; a larger file is refused before it is read."""
UNREADABLE = (yaml.YAMLError, ValueError, RecursionError, OSError)
"""What reading broken YAML can raise."""


class Strict(yaml.SafeLoader):
    """PyYAML's safe loader, but a key that stands twice in a mapping is an error, where it lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping. Raises: `ConstructorError` where a key stands twice in it."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for k, key in enumerate(keys) if key in keys[:k]), None):
            raise yaml.constructor.ConstructorError(None, None, f"'{twice}' stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def parse(text: str) -> Any:
    """What a YAML text says, safely. Raises: one of `UNREADABLE`; for a key that stands twice too."""
    loader = Strict(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read(path: Path, asked: str, kind: str) -> Any:
    """What a file says. Args: kind, what it is, in words ("a task"). Raises: `BadInput` when it is missing, large or broken."""
    if not path.is_file():
        raise BadInput(asked, "no such file", "check the path")
    if path.stat().st_size > MAX_FILE:
        raise BadInput(asked, f"the file is larger than {MAX_FILE} bytes", f"{kind} is a short YAML file")
    try:
        return parse(path.read_text(encoding="utf-8"))
    except UNREADABLE as error:
        raise BadInput(asked, f"not readable as YAML ({' '.join(str(error).split())[:160]})", "mend the file") from None


def mapping(path: Path, asked: str, kind: str, do: str) -> dict[str, Any]:
    """What a file that is a mapping says. Args: do, what to write instead where it is none. Raises: `BadInput` as `read`, and then."""
    found = read(path, asked, kind)
    if not isinstance(found, dict):
        raise BadInput(asked, "the file is not a mapping of keys to values", do)
    return found
