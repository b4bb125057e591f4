"""Write the tables of the documents that follow from declarations; with ``--check``, only compare them.

README.md and docs/finetuning.md have the options of commands between ``<!-- options: COMMAND -->`` and
``<!-- end -->``, docs/formats.md the keys of reports between ``<!-- report: COMMAND -->`` and the same.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING
from importlib import import_module
from pathlib import Path

from repurpose_hpc.commands.parser import SPIKING, Argument, Parser
from repurpose_hpc.fields import declarations, flag
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.report.schema import REPORTS, keys, name_of

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/finetuning.md", "docs/formats.md")
_TABLE = re.compile(r"(<!-- (options|report): ([a-z ]+) -->\n).*?(<!-- end -->)", re.S)
_PLAIN_OPTION = re.compile(r"(?<![\w`-])(--[a-z][a-z-]*)")


def main() -> int:
    """Write or compare; the exit status is 1 if a document differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something would change")
    check, differs = parser.parse_args().check, False
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = with_tables(before)
        if after != before and check:
            differs = True
            lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="")
            print(*lines, "run scripts/tables.py", sep="\n")
        elif after != before:
            path.write_text(after, encoding="utf-8")
            print(f"written: {name}")
    return int(differs)


def with_tables(text: str) -> str:
    """A document with the tables between its markers made anew."""

    def table(marked: re.Match[str]) -> str:
        return marked[1] + _TABLES[marked[2]](marked[3]) + marked[4]

    return _TABLE.sub(table, text)


def option_table(command: str) -> str:
    """The options of a command, those that it shares with ``restructure`` named in the last rows."""
    parser: Parser = import_module(f"repurpose_hpc.commands.{command}").make_parser(False)
    rows = [
        _option_row(argument)
        for argument in parser.arguments
        if not argument.title or command == "restructure"
    ]
    shared = {argument.title for argument in parser.arguments if argument.title}
    if command != "restructure" and SPIKING in shared:
        first, *_ = declarations(SpikingOptions)
        rows.append(f"| `{flag(first)}` and others of `restructure` | how a `.nir` MODEL is read | | |")
    if command != "restructure" and shared - {SPIKING}:
        rows.append("| all others of `restructure` | where MODEL is restructured first | | |")
    return "\n".join(["| option | | values | default |", "|---|---|---|---|", *rows]) + "\n"


def _option_row(argument: Argument) -> str:
    option = argument.option
    if option.positional:
        name = argument.metavar
    else:
        metavar = "" if option.kind.choices else argument.metavar
        name = f"{flag(argument.field)} {metavar}".rstrip().replace("...", "…").replace("|", "\\|")
    aliases = "".join(f", `{alias}`" for alias in option.aliases)
    text = option.more or _PLAIN_OPTION.sub(r"`\1`", option.help)
    values = ", ".join(f"`{name_of_choice}`" for name_of_choice in option.kind.choices) or argument.range
    default = "required" if argument.default is MISSING else argument.standing
    if default in option.kind.choices:
        default = f"`{default}`"
    return f"| `{name}`{aliases} | {text} | {values} | {default} |"


def report_table(command: str) -> str:
    """The keys of the report of a command."""
    rows = []
    for name, kind, key in keys(REPORTS[command]):
        condition = f"; {key.when}" if key.when else ""
        rows.append(f"| `{name}` | {name_of(kind)} | {key.unit} | {key.text}{condition} |")
    return "\n".join(["| key | type | unit | meaning |", "|---|---|---|---|", *rows]) + "\n"


_TABLES: dict[str, Callable[[str], str]] = {"options": option_table, "report": report_table}


if __name__ == "__main__":
    sys.exit(main())
