"""Whatever is declared once has an entry wherever one is needed.

Operations, activations and options have files of their own (``model/test_operations.py``,
``model/test_activations.py``, ``commands/test_options.py``).
"""

import re
from importlib import import_module
from pathlib import Path

import pytest

import repurpose_hpc.commands as commands
import repurpose_hpc.runtime.exchange.transports as transports
from helpers import ROOT, TESTS
from repurpose_hpc import kernels
from repurpose_hpc.commands.table import COMMANDS
from repurpose_hpc.fields import declarations, flag
from repurpose_hpc.kernels.registry import REGISTRY
from repurpose_hpc.report.schema import REPORTS
from repurpose_hpc.restructure.method import METHODS, method_named
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.tokens.options import TokenOptions
from repurpose_hpc.runtime.options import RunOptions

# Kernels are declared in these; others share them or wrap what the compiler offers.
ROOMS = ("assignment", "attention", "maps", "messages", "products", "updates")


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def modules(package) -> set[str]:
    """The modules beside the ``__init__`` of a package."""
    return {path.stem for path in Path(package.__file__).parent.glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("kernel", REGISTRY.kernels, ids=lambda kernel: kernel.name)
def test_a_kernel(kernel):
    """It is exported and documented, it lives in a room, and a test names it."""
    assert getattr(kernels, kernel.name) is kernel.function
    plain = getattr(kernel.function, "py_func", kernel.function)
    assert plain.__doc__ and plain.__module__.split(".")[-2] in ROOMS
    tests = [path.read_text() for path in (TESTS / "unit").rglob("test_*.py")]
    assert any(re.search(rf"\b{kernel.name}\b", text) for text in tests)


@pytest.mark.parametrize("name", transports.TRANSPORTS)
def test_a_transport(name):
    """It is offered by the option, and documented with what it is good for."""
    assert transports.TRANSPORTS[name].__doc__
    assert name in declarations(RunOptions)["transport"].kind.noun
    assert f"`{name}`" in page("docs/performance.md") and f"`{name}`" in page("README.md")


def test_every_file_of_a_transport_is_read():
    read = {kind.__module__.rsplit(".", 1)[1] for kind in transports.TRANSPORTS.values()}
    assert read == modules(transports)


@pytest.mark.parametrize("name", METHODS)
def test_a_method(name):
    """It is offered by the option, and documented in both places."""
    assert method_named(name) is METHODS[name]
    assert Options(workers=2, comm_budget=0.1, method=name).method == name
    assert re.search(rf"\b{name}\b", page("docs/method.md")) and f"`{name}`" in page("README.md")


@pytest.mark.parametrize("row", COMMANDS.values(), ids=lambda row: row.name)
def test_a_command(row):
    """It is a module, and the README names it unless users are not told of it."""
    assert import_module(row.module).__doc__
    assert (f"`{row.name}`" in page("README.md")) == row.listed
    # Its options are tried one by one, and so is its report.
    assert row.name in page("tests/commands/test_options.py")


def test_every_module_of_commands_is_in_the_table():
    helpers = {"automatic", "encoding", "imported", "overwriting", "parser", "splitting", "start", "table"}
    helpers |= {"choosing", "forecasting", "restructuring", "staging", "transformer"}
    assert set(COMMANDS) | helpers == modules(commands)


@pytest.mark.parametrize("declared", [Options, TokenOptions, RunOptions])
def test_an_option(declared):
    """It says what it is for, and the README has it."""
    for field, option in declarations(declared).items():
        assert option.help and f"`{flag(field)}" in page("README.md")


@pytest.mark.parametrize("command", REPORTS)
def test_a_report_is_documented(command):
    """Its keys have a place, which ``scripts/tables.py`` fills."""
    assert f"<!-- report: {command} -->" in page("docs/formats.md")
