"""Command lines: parsers whose arguments follow from declared fields (``repurpose_hpc.fields``)."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol, TypeVar

import numpy as np

from repurpose_hpc.commands.automatic import (
    MachineSource,
    measured_part_weights,
    modelled_round_cost,
    modelled_time,
)
from repurpose_hpc.commands.overwriting import check_apart
from repurpose_hpc.commands.table import described
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.fields import (
    Declared,
    FieldError,
    Kind,
    Option,
    declarations,
    defaults,
    flag,
    shown,
    typed,
)
from repurpose_hpc.io.arrays import read_npy
from repurpose_hpc.io.reading import check_finite_length, reason_of
from repurpose_hpc.io.speech import Speech
from repurpose_hpc.restructure.constraints import node_links
from repurpose_hpc.restructure.options import AUTO, INSIDE_NODE, TIME, Options

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

D = TypeVar("D", bound=Declared)
D_co = TypeVar("D_co", covariant=True)
SPIKING = "spiking networks"
"""Title of the arguments that say how one is read."""
Given = dict[str, Any]
"""Values by field, of those that are on a command line."""


class ParseFunction(Protocol[D_co]):
    """A command's function ``parse``; see ``commands.start``."""

    def __call__(self, argv: Sequence[str], ranks: int | None = None, speaks: bool = True) -> D_co:
        """The command line."""


class Argument(NamedTuple):
    """An argument that a parser has.

    Attributes:
        field: that it stands for.
        option: its declaration.
        default: of the field; MISSING: it must be given.
        filled_in: default in words, if the command finds one.
        title: of its group; "": none.
    """

    field: str
    option: Option
    default: Any
    filled_in: str
    title: str

    @property
    def metavar(self) -> str:
        """Name of a value; "" where there is none."""
        if isinstance(self.option.kind.example, bool):
            return ""
        choices = self.option.kind.choices
        return self.option.metavar or ("{" + ",".join(choices) + "}" if choices else self.field.upper())

    @property
    def range(self) -> str:
        """Range and unit of a number; "" if there is nothing to say."""
        return f"{self.option.kind.range} {self.option.unit}".strip()

    @property
    def standing(self) -> str:
        """Value, or words for it, of an argument that is not given; "": it must be given, or has none."""
        if self.filled_in or self.option.default_text:
            return self.filled_in or self.option.default_text
        if self.default is MISSING or self.default is None or self.default is False:
            return ""
        return shown(self.default)

    @property
    def help(self) -> str:
        """One line of help: what the argument is, its range, unit and default."""
        limits = [self.range, f"default: {self.standing}" if self.standing else ""]
        details = "; ".join(filter(None, limits))
        return f"{self.option.help} ({details})".replace(" ()", "").replace("%", "%%")


class Parser(argparse.ArgumentParser):
    """An argument parser for a program of several ranks.

    Args:
        speaks: whether this rank prints the help.

    Every rank parses the same command line; a wrong one raises ``UsageError`` instead of printing.
    ``arguments`` are those that ``add`` has added.
    """

    def __init__(self, *, speaks: bool = True, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self.speaks = speaks
        self.arguments: list[Argument] = []
        self._exclusive: dict[str, argparse._ActionsContainer] = {}

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help, on the rank that speaks."""
        if self.speaks:
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UsageError(f"{message}; see {self.prog} --help")

    def add(
        self, declared: type[Declared], title: str = "", filled_in: Mapping[str, str] | None = None
    ) -> None:
        """Add the arguments that stand for the fields of a class, unless the parser has them already.

        Args:
            declared: the class.
            title: of their group in the help; "": none.
            filled_in: fields that the command finds a value for, and that value in words.
        """
        group: argparse._ActionsContainer = self.add_argument_group(title) if title else self
        added = {argument.field for argument in self.arguments}
        for name, declaration in declarations(declared).items():
            if name in added:
                continue
            target = group
            if word := declaration.excludes:
                if word not in self._exclusive:
                    self._exclusive[word] = group.add_mutually_exclusive_group()
                target = self._exclusive[word]
            text = (filled_in or {}).get(name, "")
            default = None if text else defaults(declared)[name]
            argument = Argument(name, declaration, default, text, title)
            _add(target, argument)
            self.arguments.append(argument)

    def complete(self) -> None:
        """Add what every command has, behind its own arguments."""
        self.add(Speech, "printing")

    def read(self, argv: Sequence[str]) -> Given:
        """The values on a command line.

        Raises:
            UsageError: it is wrong.
        """
        self.complete()
        try:
            namespace = vars(self.parse_args(argv))
        except FieldError as error:
            raise UsageError(typed(error)) from None
        given = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in namespace.items()
            if value is not None
        }
        self.check_files(given)
        return given

    def check_files(self, given: Given) -> None:
        """Refuse results that would be written over files that are read.

        Raises:
            UsageError: names both options.
        """
        options = {argument.field: argument.option for argument in self.arguments}
        check_apart({name: given[name] for name in given if name in options}, options)


def parser_maker(
    name: str, *declared: type[Declared], titled: Mapping[str, type[Declared]] | None = None
) -> Callable[[bool], Parser]:
    """A command's function ``make_parser``, whose arguments are the fields of some classes.

    Args:
        name: of the command.
        declared: the classes.
        titled: further ones, in groups with titles.
    """

    def make_parser(speaks: bool) -> Parser:
        parser = Parser(speaks=speaks, **described(name))
        for fields in declared:
            parser.add(fields)
        for title, fields in (titled or {}).items():
            parser.add(fields, title)
        return parser

    return make_parser


def plain_parse(make_parser: Callable[[bool], Parser], declared: type[D]) -> ParseFunction[D]:
    """A command's function ``parse``, where what is declared is all that there is to check.

    Args:
        make_parser: of the command.
        declared: class of the parsed command line.
    """

    def parse(argv: Sequence[str], ranks: int | None = None, speaks: bool = True) -> D:
        return make(declared, make_parser(speaks).read(argv))

    return parse


def make(declared: type[D], given: Mapping[str, Any], **fields: Any) -> D:
    """An object of a class, from those of ``given`` that it has fields for.

    Args:
        declared: its class.
        given: values by field.
        fields: further fields.

    Raises:
        UsageError: a value out of range.
    """
    values = {name: given[name] for name in declarations(declared) if name in given}
    try:
        return declared(**values, **fields)
    except UserError as error:
        raise UsageError(typed(error)) from None


def argument_type(kind: Kind) -> Callable[[str], Any]:
    """Type of an argument of a plain ``argparse`` parser, as scripts have them."""

    def read(word: str) -> Any:
        with suppress(ValueError):
            if kind.accepts(value := kind.parse(word)):
                return value
        raise argparse.ArgumentTypeError(f"expected {kind.expected}, got {word!r}")

    return read


def refuse(given: Collection[str], fields: Collection[str], why: str) -> None:
    """Refuse options that cannot be meant together with others.

    Args:
        given: fields that are on the command line.
        fields: those that should not be.
        why: such as ``has no effect: …``.

    Raises:
        UsageError: one of ``fields`` is given.
    """
    for name in fields:
        if name in given:
            raise UsageError(f"{flag(name)} {why}; leave it out")


class _Joined(argparse.Action):
    """The values of several words, each of which stands for a tuple, as one."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        setattr(namespace, self.dest, tuple(entry for value in values for entry in value))


def _add(target: argparse._ActionsContainer, argument: Argument) -> None:
    name, option, required = argument.field, argument.option, argument.default is MISSING
    keywords: dict[str, Any] = {"help": argument.help, "default": None}
    if isinstance(option.kind.example, bool):
        keywords["action"] = argparse.BooleanOptionalAction if option.negatable else "store_true"
    else:
        keywords |= {"type": partial(option.parse, name), "metavar": argument.metavar}
        if option.repeated:
            keywords["action"] = "extend"
    if option.positional and option.repeated:
        target.add_argument(name, nargs="+", **{**keywords, "action": _Joined})
    elif option.positional:
        target.add_argument(name, nargs=None if required else "?", **keywords)
    else:
        target.add_argument(flag(name), *option.aliases, dest=name, required=required, **keywords)


def add_restructuring(parser: Parser, filled_in: Mapping[str, str]) -> None:
    """Add the arguments from which ``restructure_options`` follow; for ``filled_in`` see ``Parser.add``."""
    for declared in (Options, MachineSource):
        parser.add(declared, "restructuring", filled_in)


def restructure_options(given: Given, ranks: int | None, hosts: int | None = None) -> Options:
    """The options of restructuring on a command line; see ``without_words``."""
    return make(Options, without_words(given, ranks, hosts))


def without_words(
    given: Given, ranks: int | None, hosts: int | None = None, forecasts: bool = False
) -> Given:
    """The values on a command line with numbers in the place of words that stand for them.

    Args:
        given: values on the command line.
        ranks: workers, if the command line does not say how many; None: it must.
        hosts: ranks that will run the network; None: not known.
        forecasts: whether the machine counts without such words.

    Raises:
        UsageError: a value is missing or out of range.
    """
    workers = given.get("workers", ranks)
    if workers is None:
        raise UsageError("expected --workers P, the number of parts; add it")
    if workers == AUTO:  # only a restructuring with samples knows that word
        raise UsageError(
            f"--workers: expected a number, got {AUTO}, which is for networks of samples; ask forecast which "
            "number pays"
        )
    if given.get("stages") == AUTO:
        raise UsageError(
            f"--stages: expected a number, got {AUTO}, which only restructure takes, with a number of "
            "workers and a network of samples; give a number"
        )
    values = {**given, "workers": workers}
    words = {"part_weights": AUTO, "round_cost": AUTO, "minimise": TIME}
    automatic = [name for name, word in words.items() if given.get(name) == word]
    if not automatic and not forecasts:
        typed_words = [f"{flag(name)} {word}" for name, word in words.items()]
        refuse(given, ("machine",), f"has no effect without {' or '.join(typed_words)}")
    if "minimise" in automatic and "round_cost" not in given:
        automatic.append("round_cost")
    machine = given.get("machine", defaults(MachineSource)["machine"])
    try:
        if "link_costs" in given:
            values["link_costs"] = link_costs(given["link_costs"], workers)
        if "part_weights" in automatic:
            values["part_weights"] = measured_part_weights(machine, workers, hosts)
        if "round_cost" in automatic:
            values["round_cost"] = modelled_round_cost(machine, hosts or workers)
        if "minimise" in automatic:
            values["minimise"] = modelled_time(machine, workers, hosts)
    except UserError as error:
        raise UsageError(typed(error)) from None
    return values


def link_costs(word: str, workers: int) -> tuple[tuple[float, ...], ...]:
    """The prices that ``--link-cost`` names, P rows of P.

    Raises:
        FieldError: neither a readable table nor ``nodes:K``.
    """
    if word.startswith("nodes:"):
        per_node = word.removeprefix("nodes:")
        if not per_node.isdecimal() or int(per_node) == 0:
            raise FieldError(
                "link_costs",
                f"expected nodes:K with K workers per node, 1 or more, got {word!r}; try nodes:4",
            )
        costs = node_links(workers, int(per_node), INSIDE_NODE)
    else:
        try:
            costs = _read_table(Path(word))
        except Exception as error:  # of NumPy's parsers
            raise FieldError(
                "link_costs",
                f"expected nodes:K or a file of {workers} rows of {workers} prices separated by spaces, "
                f"found {word}: {reason_of(error)}; name another file or mend this one",
            ) from None
    return tuple(map(tuple, costs.tolist()))


def _read_table(file: Path) -> np.ndarray:
    """Numbers in rows, float64; raises what NumPy raises."""
    if file.suffix == ".npy":
        table = read_npy(file)
    else:
        check_finite_length(file)
        with warnings.catch_warnings():
            # An empty file is refused for its shape.
            warnings.simplefilter("ignore")
            table = np.loadtxt(file, ndmin=2)
    table = np.asarray(table, np.float64)
    if table.ndim != 2 or not table.shape[1]:  # any number of empty rows would fit into a file
        raise ValueError(f"an array of shape {table.shape}")
    return table
