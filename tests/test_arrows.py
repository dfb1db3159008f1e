"""Imports point one way: the rooms of the house and the arrows between them, read from the source by `ast`."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

HOUSE = Path(__file__).parents[1] / "zofo"
FILES = {path: ".".join(path.relative_to(HOUSE.parent).with_suffix("").parts) for path in sorted(HOUSE.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): path for path, name in FILES.items()}
METHODS = {"bilevel", "mezo", "first-order", "two-stage", "alternating", "addax", "sketch", "meta", "reptile"}

ARROWS = {  # what each room may import, beside itself and zofo.errors
    "core": set(),
    "run": set(),
    "errors": set(),
    "machine": set(),
    "config": {"yamlfile"},
    "layers": {"config"},
    "yamlfile": set(),
    "kept": set(),
    "scoring": {"core", "kept"},
    "adapters": {"core", "config", "kept"},
    "sources": set(),
    "suited": {"sources"},
    "cache": {"run"},
    "unread": {"cache", "run", "sources"},
    "models": {"cache", "config", "sources", "suited", "unread"},
    "theta0": {"cache", "core", "models", "sources", "tensorfile"},
    "tensorfile": {"core"},
    "streamed": {"core", "config", "sources", "models", "tensorfile", "theta0"},
    "methods": {"core", "adapters", "scoring", "config"},
    "tasks": {"core", "scoring", "config", "yamlfile"},
    "measure": {"scoring", "tasks"},
    "objectives": {"config", "scoring", "tasks"},
    "spread": set(),
    "picture": {"run"},
    "generating": {"adapting", "config", "guest", "loading", "models", "named", "scoring", "sources", "tasks"},
    "loading": {"adapting", "config", "guest", "models", "named", "saved"},
    "named": {"run", "sources"},
    "guest": {"config", "run"},
    "adapting": {
        "adapters", "config", "core", "measure", "guest", "job", "methods", "models", "named", "problem", "run", "saved", "scoring",
        "settled", "sources", "spread", "tasks", "theta0",
    },
    "evaluating": {
        "adapting", "config", "elsewhere", "guest", "job", "loading", "methods", "models", "named", "prepared", "run", "samples", "saved",
        "scorer", "settled", "tasks",
    },
    "memory": {
        "adapters", "config", "core", "measure", "job", "methods", "models", "objectives", "prepared", "problem", "scoring", "tasks",
    },
    "prepared": {"config", "methods", "models", "objectives", "scoring", "sources", "tasks"},
    "mixed": {"config", "models", "objectives", "prepared", "sources", "tasks"},
    "scorer": {"measure", "prepared", "scoring"},
    "experiment": {
        "adapting", "begin", "bench", "config", "core", "measure", "job", "layers", "machine", "memory", "methods", "models", "picture", "report", "run", "saved", "scoring", "settled", "sources", "spread", "tasks",
    },
    "tune": {"config", "core", "job", "methods", "theta0"},
    "bench": {
        "adapters", "begin", "cap", "checkpoints", "config", "core", "measure", "job", "layers", "machine", "memory", "methods", "models",
        "objectives", "picture", "problem", "run", "scoring", "settled", "sources", "tasks", "tensorfile", "theta0",
    },
}  # fmt: skip
OUTSIDE = {  # what else these rooms may import, beside the standard library
    "core": {"torch", "numpy", "numba", "llvmlite", "triton"},
    "run": {"torch", "safetensors"},
    "config": {"yaml", "pydantic"},
    "yamlfile": {"yaml"},
    "errors": set(),
    "sources": {"huggingface_hub"},
    "tensorfile": {"torch"},
}
READERS_OF_REPORT = {"begin", "cli", "experiment", "loop", "report"}


def room(module: str) -> str:
    """The room of a module: the first name after `zofo` (the public face is a room of its own)."""
    return module.split(".")[1] if "." in module else "zofo"


def typing_only(node: ast.AST) -> bool:
    """Whether a node is an `if TYPE_CHECKING:` block."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node: ast.AST, top: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import below a node; with `top`, only those that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif not (
            top and (typing_only(child) or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))
        ):
            yield from walk(child, top)


@functools.cache
def tree(module: str) -> ast.Module:
    """A module's source, parsed."""
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@functools.cache
def imported(module: str, top: bool = False) -> set[str]:
    """Full names of what a module imports: `from zofo.core import noise` is `zofo.core.noise`."""
    names: set[str] = set()
    for node in walk(tree(module), top):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            continue
        assert node.level == 0, f"{module}: a relative import hides where it points"
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            names.add(full if full in MODULES else str(node.module))
    return names


def ours(names: set[str]) -> set[str]:
    """Those that are zofo's own modules."""
    return {name for name in names if name.split(".")[0] == "zofo"}


def rooms_of(module: str) -> set[str]:
    """The rooms that a module imports from."""
    return {room(name) for name in ours(imported(module))}


def some(found: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """The modules of which something was found, with what."""
    return {name: sorted(held) for name, held in found.items() if held}


def test_the_house_is_read() -> None:
    """The test sees imports of every form."""
    assert {"zofo.core.noise", "zofo.core.kernels.cpu", "zofo.core.probe.scratch", "zofo.config"} <= set(MODULES)
    assert "zofo.core.kernels.cpu" in imported("zofo.core.noise", top=True)
    assert "zofo.begin" in imported("zofo") and "zofo.begin" not in imported("zofo", top=True)


def test_rooms_import_along_the_arrows() -> None:
    wrong = {}
    for module in (name for name in MODULES if room(name) in ARROWS):
        allowed = ARROWS[room(module)] | {room(module), "errors"}
        wrong[module] = {name for name in ours(imported(module)) if room(name) not in allowed}
    assert not some(wrong), "these modules may not import these"


def test_rooms_need_no_more_than_they_say() -> None:
    wrong = {}
    for module in (name for name in MODULES if room(name) in OUTSIDE):
        allowed = OUTSIDE[room(module)] | sys.stdlib_module_names | {"zofo"}
        wrong[module] = {name for name in imported(module) if name.split(".")[0] not in allowed}
    assert not some(wrong), "these modules may not import these"


def test_nothing_imports_the_command_line_or_the_public_face() -> None:
    outside = [name for name in MODULES if room(name) != "cli"]
    assert not some({name: rooms_of(name) & {"cli", "zofo"} for name in outside})


def test_only_the_loop_and_the_command_line_report() -> None:
    outside = [name for name in MODULES if room(name) not in READERS_OF_REPORT]
    assert not some({name: rooms_of(name) & {"report"} for name in outside})


def test_no_cycle_of_imports() -> None:
    """At import time the modules form a tree of layers: none imports itself by way of others."""
    graph = {name: ours(imported(name, top=True)) & set(MODULES) - {name} for name in MODULES}
    while free := [name for name, needs in graph.items() if not needs & set(graph)]:
        for name in free:
            del graph[name]
    assert not graph, f"these import each other in a circle (or are imported by one): {sorted(graph)}"


def by_name(node: ast.AST) -> bool:
    """Whether a node is a comparison of a method's name: `config.method.name == "mezo"`, `method in ("mezo",)`."""
    if not isinstance(node, ast.Compare):
        return False
    words = {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)}
    asked = ast.unparse(node.left).split(".")[-1]
    return bool(words & METHODS) and asked in ("name", "method")


def test_a_methods_name_is_asked_only_in_the_table() -> None:
    elsewhere = set(MODULES) - {"zofo.methods.table", "zofo.config"}
    found = {name: {ast.unparse(node) for node in ast.walk(tree(name)) if by_name(node)} for name in elsewhere}
    assert not some(found), "these ask for a method by name, what a row of methods/table.py should say"
