"""Imports run down only: those inside functions and those for type checkers, too."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "repurpose_hpc"
# A room imports those of lower rows, never its neighbours of the same row.
LAYERS = """
__init__  __main__  infer  restructure.__main__
commands
studies  bench  report  forecast  doctor  probe  tuning  exporters
runtime  restructure
plan
model  kernels
mpi
process  io  bundled
fields
errors
"""
ROW = {room: row for row, line in enumerate(LAYERS.split("\n")) for room in line.split()}


def modules() -> Iterator[tuple[str, Path]]:
    """Name, without that of the package, and file of every module."""
    for folder in (ROOT / PACKAGE, ROOT / "kernels"):
        base = folder if folder.name == PACKAGE else ROOT
        for path in folder.rglob("*.py"):
            yield ".".join(path.relative_to(base).with_suffix("").parts), path


def room(module: str) -> str:
    """Where a module is: its folder or file at the top of the package."""
    return module if module in ROW else module.split(".")[0]


def imported(module: str, path: Path) -> Iterator[str]:
    """The modules of the package that a file imports; of ``from a import b``, both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = [PACKAGE, *module.split(".")][: -node.level] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            names = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}."))


def imports() -> Iterator[tuple[str, str, str, str]]:
    """Room and module, then those that it imports; names that are no module are left out."""
    for module, path in modules():
        for name in imported(module, path):
            if {room(module), room(name)} <= set(ROW):
                yield room(module), module, room(name), name


def test_every_module_is_in_a_room():
    assert {room(module) for module, _ in modules()} <= set(ROW)


def test_imports_run_down():
    assert [
        f"{module} imports {name}"
        for above, module, below, name in imports()
        if above != below and ROW[below] <= ROW[above]
    ] == []


def test_kernels_import_nothing_of_the_package():
    assert [
        f"{module} imports {name}" for above, module, below, name in imports() if above == "kernels" != below
    ] == []
