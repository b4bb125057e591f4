"""The command ``completion``: prints what lets a shell complete command lines, by the package shtab.

It follows from the parsers of all commands.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from repurpose_hpc.commands.parser import Parser, parser_maker, plain_parse
from repurpose_hpc.commands.table import COMMANDS
from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import Declared, choice, option

if TYPE_CHECKING:
    from repurpose_hpc.commands.start import Context

PROGRAM = "repurpose-hpc"
SHELLS = ("bash", "zsh", "fish", "tcsh")


def run(args: Arguments, context: Context) -> None:
    """Run the command in this process.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        UserError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise UserError(
            "expected the package shtab, which writes completions, found none; "
            "pip install 'repurpose-hpc[completion]'"
        ) from None
    print(shtab.complete(_all_commands(shtab.FILE), args.shell), flush=True)


def _all_commands(files: object) -> argparse.ArgumentParser:
    """A parser of all command lines; ``files`` is shtab's word for names of files."""
    parser = argparse.ArgumentParser(prog=PROGRAM)
    commands = parser.add_subparsers(dest="command")
    for name, row in COMMANDS.items():
        if row.listed:
            own = import_module(row.module).make_parser(False)
            own.complete()
            _mark(own, files)
            # shtab goes through the parsers that there are; argparse would make others.
            commands.choices[name] = own
            commands._choices_actions.append(commands._ChoicesPseudoAction(name, [], row.help))
    return parser


def _mark(parser: Parser, files: object) -> None:
    """Say which arguments are names of files, and which are one of a few words."""
    kinds = {argument.field: argument.option.kind for argument in parser.arguments}
    for action in parser._actions:
        kind = kinds.get(action.dest)
        if kind is not None and kind.access is not None:
            action.complete = files  # type: ignore[attr-defined]  # shtab's
        elif kind is not None and kind.choices:
            action.choices = kind.choices


@dataclass(frozen=True, kw_only=True)
class Arguments(Declared):
    """The shell."""

    shell: str = option(
        kind=choice(*SHELLS), positional=True, metavar="SHELL", help="whose script is printed"
    )


make_parser = parser_maker("completion", Arguments)
parse = plain_parse(make_parser, Arguments)
