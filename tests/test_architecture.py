"""Rules of the house that no linter knows (see docs/design.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "assembler"
MODULES = sorted(PACKAGE.rglob("*.py"))
BANNED = {"util", "utils", "helper", "helpers", "manager", "common", "misc", "handler"}


def names(module: Path) -> str:
    return str(module.relative_to(PACKAGE))


def nodes(module: Path) -> Iterator[ast.AST]:
    yield from ast.walk(ast.parse(module.read_text(encoding="utf-8")))


@pytest.mark.parametrize("module", MODULES, ids=names)
def test_module_keeps_the_rules(module: Path) -> None:
    where = names(module)
    assert module.stem not in BANNED
    for node in nodes(module):
        at = f"{where}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Global), f"{at}: module state"
        assert not isinstance(node, ast.AsyncFunctionDef), f"{at}: one synchronous API"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{at}: only cli/ writes to the terminal, by click"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            spelled = f"{node.value.id}.{node.attr}"
            if spelled in ("os.environ", "os.getenv"):
                assert where == "environment.py", f"{at}: the environment is read in one place"
            if spelled == "sys.exit":
                assert where.startswith(("cli/", "__main__")), f"{at}: only cli/ ends the process"


@pytest.mark.parametrize("module", MODULES, ids=names)
def test_public_names_have_a_docstring(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{names(module)}: what is this module?"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{names(module)}:{node.lineno} {node.name}"
