"""How the house is built: short rooms, short functions, no circles among the modules."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_LINE = 250, 45, 100
ROOMS = sorted([*ROOT.glob("ddim_tutorial/**/*.py"), *ROOT.glob("tools/**/*.py")])


def name(path: Path, root: Path = ROOT) -> str:
    """The dotted name by which a module is imported."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the end, without decorators and the docstring."""
    first = function.body[0]
    docstring = 0
    if ast.get_docstring(function, clean=False) is not None:
        docstring = first.end_lineno - first.lineno + 1
    return function.end_lineno - function.lineno + 1 - docstring


def problems(text: str) -> list[str]:
    """What is too long in the source of a module."""
    lines = text.splitlines()
    found = [f"{len(lines)} lines"] if len(lines) > LONGEST_FILE else []
    found += [f"line {i}: {len(x)}" for i, x in enumerate(lines, 1) if len(x) > LONGEST_LINE]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = body_lines(node)
            if length > LONGEST_FUNCTION:
                found.append(f"{node.name}: {length} lines")
    return found


def at_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is imported: not those of functions or for types alone."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_import(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for field in ("body", "orelse", "finalbody", "handlers"):
                yield from at_import(getattr(node, field, []))


def imports(root: Path, paths: list[Path]) -> dict[str, set[str]]:
    """Module -> the modules among ``paths`` that it imports by name. A package whose submodule is
    imported does not count: Python has begun it by then."""
    modules = {name(path, root): path for path in paths}
    graph = {}
    for module, path in modules.items():
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        found = set()
        for node in at_import(ast.parse(path.read_text(encoding="utf-8")).body):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
                continue
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                found.add(submodule if submodule in modules else base)
        graph[module] = (found & set(modules)) - {module}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A way from a module back to itself, or []."""
    done = set()

    def walk(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module not in done:
            for target in sorted(graph[module]):
                if found := walk(target, [*way, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := walk(module, []))), [])


@pytest.mark.parametrize("path", ROOMS, ids=name)
def test_a_room_is_short(path):
    assert problems(path.read_text(encoding="utf-8")) == []


def test_there_is_no_circle():
    assert circle(imports(ROOT, ROOMS)) == []


# What the two tests above are worth: each fault is found.

CIRCLE = ["p.a", "p.b", "p.q.c", "p.a"]


def test_what_is_too_long_is_found():
    docstring = '"""' + "\n" * 60 + '"""'
    allowed = f"def f(\n    x,\n):\n    {docstring}\n" + "    x = 1\n" * (LONGEST_FUNCTION - 3)
    assert problems(allowed) == []
    assert problems(allowed + "    x = 1\n") == [f"f: {LONGEST_FUNCTION + 1} lines"]
    assert problems("x = 1\n" * (LONGEST_FILE + 1)) == [f"{LONGEST_FILE + 1} lines"]
    assert problems("#" * LONGEST_LINE) == []
    assert problems("\n" + "#" * (LONGEST_LINE + 1)) == [f"line 2: {LONGEST_LINE + 1}"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from . import b", CIRCLE),
        ("import p.b", CIRCLE),
        ("from .b import f", CIRCLE),
        ("try:\n    from p.b import f\nexcept ImportError:\n    pass", CIRCLE),
        ("def f():\n    from . import b", []),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import b", []),
        ("import torch", []),
    ],
)
def test_a_circle_is_found(tmp_path, source, expected):
    (tmp_path / "p" / "q").mkdir(parents=True)
    texts = {"__init__": "from . import a", "a": source, "b": "from .q import c", "q/__init__": ""}
    texts["q/c"] = "from ..a import f"
    for module, text in texts.items():
        (tmp_path / "p" / f"{module}.py").write_text(text)
    found = circle(imports(tmp_path, sorted(tmp_path.rglob("*.py"))))
    assert found == expected
