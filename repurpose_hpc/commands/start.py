"""The start of every command: threads, MPI where the command runs on ranks, agreement, then its module.

A command's module has three functions:

- ``make_parser(speaks)``: a ``Parser`` with its options;
- ``parse(words, ranks, speaks)``: the parsed command line, an object with attributes, perhaps dataclasses;
  without ``ranks`` in one process; ``speaks`` says whether this rank prints the help;
- ``run(args, context)``: the command itself; collective where it runs on ranks.

On ranks the order is: check the launch and import the module; compare the names of the ranks' commands;
parse; compare what the ranks have parsed; run.  A failure of any rank in one of these steps ends all ranks
before the next one, with one message.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Any

from repurpose_hpc import __version__
from repurpose_hpc.commands.table import COMMANDS, HELP, VERSION, Command, Runs, find, overview
from repurpose_hpc.errors import Note, UsageError, UserError
from repurpose_hpc.fields import declarations, flag
from repurpose_hpc.io.invocation import note
from repurpose_hpc.io.speech import Speech, choose, end_line
from repurpose_hpc.mpi.agreement import aborting, alone, collectively, difference_from_root
from repurpose_hpc.mpi.launch import check_launch, check_launcher, launched, start_mpi, too_many
from repurpose_hpc.mpi.limits import check_limits
from repurpose_hpc.process.system import age
from repurpose_hpc.process.terminal import be_patient, check_printed
from repurpose_hpc.process.threads import one_thread_per_rank

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True)
class Context:
    """Circumstances of a command.

    Attributes:
        threads: threads that may share the tasks of a process that is alone.
        import_seconds: seconds that importing the command took, and starting MPI where it runs on ranks.
        started: age of the process when that was done, seconds.
    """

    threads: int
    import_seconds: float
    started: float


@dataclass(frozen=True)
class RankContext(Context):
    """Circumstances of a command on ranks.

    Attributes:
        comm: communicator of the whole job.
        library: ``MPI.Get_library_version()``.
        launch_error: what is wrong with the launch; "": nothing, or the command would not have been started.
    """

    comm: MPI.Intracomm
    library: str
    launch_error: str = ""


def start(name: str, words: Sequence[str]) -> None:
    """Run a command in this process, which may be a rank of a job.

    Under a launcher MPI is started even if the command needs none: processes that end without it would leave
    the others, which may have been given another command, waiting for them.

    Args:
        name: a key of ``COMMANDS``, one of ``HELP``, or ``VERSION``, which needs neither MPI nor NumPy.
        words: those after it.

    Raises:
        SystemExit: after one message: 2 for a wrong command line, 1 for other failures; 0 after the help.
    """
    be_patient()  # before anything opens files
    if name == VERSION:
        _print_version(speaks=launched(os.environ)[1] == 0)
        return
    threads = one_thread_per_rank()  # before anything imports NumPy
    # Parsers know these words, which are nobody's values.
    note(name, words)
    choose(Speech(**{name: flag(name) in words for name in declarations(Speech)}))
    _print_notes(speaks=launched(os.environ)[1] == 0)
    command = COMMANDS.get(name)
    for prepare in command.prepare if command else ():
        prepare()
    on_ranks = command is not None and command.runs is Runs.ON_RANKS
    on_ranks = on_ranks or launched(os.environ)[0] > 1
    check_limits(on_ranks)
    if on_ranks:
        check_launcher(os.environ)
        _start_on_ranks(name, words, threads)
    else:
        _start_alone(name, words, threads)


def _print_version(speaks: bool) -> None:
    with alone():
        if speaks:
            print(f"repurpose-hpc {__version__}")
        check_printed()


def _print_notes(speaks: bool) -> None:
    """Have notes printed as one line each on stderr, by the rank that speaks."""
    warnings.simplefilter("default" if speaks else "ignore", Note)
    show, printed = warnings.showwarning, set[str]()

    def print_note(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if issubclass(category, Note):
            # Python forgets what it has shown where somebody catches warnings in between.
            if str(message) not in printed:
                end_line()
                print(f"note: {message}", file=sys.stderr, flush=True)
            printed.add(str(message))
        else:
            show(message, category, *place, **options)

    warnings.showwarning = print_note


def _start_alone(name: str, words: Sequence[str], threads: int) -> None:
    with alone():
        try:
            _run_alone(name, words, threads)
        except SystemExit as end:  # argparse leaves so when it has printed the help
            if end.code:
                raise
        end_line()
        check_printed()


def _run_alone(name: str, words: Sequence[str], threads: int) -> None:
    if name in HELP:
        print(overview())
        return
    began = perf_counter()
    module = import_module(find(name).module)
    context = Context(threads, perf_counter() - began, age())
    module.run(module.parse(words), context)


def _start_on_ranks(name: str, words: Sequence[str], threads: int) -> None:
    began, command = perf_counter(), COMMANDS.get(name)
    MPI = start_mpi()
    comm, library = MPI.COMM_WORLD, MPI.Get_library_version()
    with aborting(comm):
        with collectively(comm):
            launch_error = _launch_error(command, comm.size, library)
            module = import_module(command.module) if command else None
        context = RankContext(threads, perf_counter() - began, age(), comm, library, launch_error)
        check_same({"command": name}, comm)
        if name in HELP:
            if comm.rank == 0:
                print(overview())
            return
        with collectively(comm):
            if find(name).runs is Runs.ALONE:
                raise too_many(comm.size)
        if module is not None:
            module.run(_parse_together(module, words, comm), context)
        end_line()
        with collectively(comm):
            check_printed()


def _launch_error(command: Command | None, size: int, library: str) -> str:
    """The message on a wrong launch, for a command that judges it itself; "": nothing is wrong."""
    try:
        check_launch(size, library, command is not None and command.runs is Runs.ALONE)
    except UserError as error:
        if command is not None and command.judges_launch:
            return str(error)
        raise
    return ""


def _parse_together(module: ModuleType, words: Sequence[str], comm: MPI.Comm) -> object:
    """The command line, the same on all ranks; collective.

    Raises:
        SystemExit: on every rank: status 0 after the help, 2 after a message.
    """
    args = None
    with collectively(comm), suppress(SystemExit):  # argparse leaves so when it has printed the help
        args = module.parse(words, comm.size, comm.rank == 0)
    check_same({"--help": args is None}, comm)
    if args is None:
        raise SystemExit(0)
    labels = _labels(module.make_parser(False))
    check_same({labels.get(name, name): value for name, value in _values(args)}, comm)
    return args


def check_same(values: Mapping[str, object], comm: MPI.Comm) -> None:
    """Compare values that must be the same on every rank; collective.

    Args:
        values: by the names that users know.
        comm: of the whole job.

    Raises:
        SystemExit: status 2, on every rank, after a message that names the first value that differs.
    """
    difference = difference_from_root(values, comm)
    with collectively(comm):
        if difference:
            raise UsageError(f"{difference}; start all ranks with the same words")


def _values(args: object) -> Iterator[tuple[str, object]]:
    """Names and values of a parsed command line; of dataclasses in it, those of their fields."""
    names = [field.name for field in fields(args)] if is_dataclass(args) else vars(args)
    for name in names:
        value = getattr(args, name)
        if is_dataclass(value) and not isinstance(value, type):
            yield from _values(value)
        else:
            yield name, value


def _labels(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Names of the arguments of a parser as users write them, by the names that they have once parsed."""
    labels: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                labels |= _labels(subparser)
        metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        labels[action.dest] = action.option_strings[0] if action.option_strings else metavar
    return labels
