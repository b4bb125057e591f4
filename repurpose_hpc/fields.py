"""Fields of options, each declared once: name, default, kind, range, unit and help.

A class of options is a frozen dataclass that inherits ``Declared``; ``option`` declares its fields.  From
that follow the checks on construction, the arguments of a command (``commands.parser``) and the tables of
the README (``scripts/tables.py``).

Messages name fields as Python writes them: ``comm_budget: expected …; try comm_budget=0.05``.  ``typed``
turns them into what is typed on a command line: ``--comm-budget: expected …; try --comm-budget 0.05``.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from ast import literal_eval
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from repurpose_hpc.errors import UserError

PRECISIONS = ("float32", "float64")
_KEY = "option"
# Field -> its option on a command line, of all classes of options.
_FLAGS: dict[str, str] = {}
# A field and its value in a message: a string, a tuple, a number or a word.
_GIVEN = re.compile(r"\b([a-z_]+)=('[^']*'|\([^()]*\)|[\w+-]+(?:\.[\w+-]+)?)")


class FieldError(UserError):
    """A value that a field cannot have.

    Args:
        fields: its name, or names joined by `` and ``.
        text: what was expected, what was found, what to do.
    """

    def __init__(self, fields: str, text: str) -> None:
        super().__init__(f"{fields}: {text}")
        self.fields, self.text = fields, text


class Access(Enum):
    """What a command does with a file or directory that a field names."""

    READS = "reads"
    WRITES = "writes"
    REPLACES = "replaces"
    ADDS = "adds files to"


@dataclass(frozen=True)
class Kind:
    """Values that a field can have.

    Attributes:
        noun: of them, such as ``an integer``.
        parse: makes a value of a word; raises ValueError or TypeError.
        accepts: tells whether a value is one of them.
        example: one of them.
        range: of numbers, such as ``1 or more``.
        choices: all of them, if they are few.
        plain: makes a plain Python value of one that is accepted, such as a float of a NumPy number.
        access: of names of files; None: the values are no names.
    """

    noun: str
    parse: Callable[[str], Any]
    accepts: Callable[[Any], bool]
    example: Any
    range: str = ""
    choices: tuple[str, ...] = ()
    plain: Callable[[Any], Any] = lambda value: value
    access: Access | None = None

    @property
    def expected(self) -> str:
        """Noun and range."""
        comma = "" if self.range.startswith(("from ", "above ")) else ","
        return f"{self.noun}{comma} {self.range}" if self.range else self.noun


@dataclass(frozen=True)
class Option:
    """Declaration of a field.

    Attributes:
        kind: of its values, where it is not None.
        help: one line.
        more: the same in more words, for the README; "": help is enough.
        metavar: name of a value.
        unit: of a number.
        flag: option on a command line; "": the name of the field.
        aliases: other names of the option.
        default_text: what None, or what a command fills in, stands for.
        positional: given by its place on a command line instead of an option.
        negatable: has an option ``--no-…``, too.
        repeated: may be given several times; ``kind`` parses a word to a tuple, and all are one.
        excludes: options with the same word here exclude each other.
        remedy: advice to who gave a value out of range; "": an example.
        instead: advice for words that are not accepted any more.
    """

    kind: Kind
    help: str
    more: str = ""
    metavar: str = ""
    unit: str = ""
    flag: str = ""
    aliases: tuple[str, ...] = ()
    default_text: str = ""
    positional: bool = False
    negatable: bool = False
    repeated: bool = False
    excludes: str = ""
    remedy: str = ""
    instead: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def parse(self, name: str, word: str) -> Any:
        """The value that ``word`` stands for.

        Raises:
            FieldError: it stands for none.
        """
        try:
            value = self.kind.parse(word)
        except (ValueError, TypeError):
            raise self._refusal(name, word) from None
        if not self.kind.accepts(value):
            raise self._refusal(name, word if isinstance(value, tuple) else value)
        return value

    def check(self, name: str, value: Any) -> None:
        """Refuse a value.

        Raises:
            FieldError: it is not of the kind.
        """
        if not self.kind.accepts(value):
            raise self._refusal(name, value)

    def _refusal(self, name: str, value: Any) -> FieldError:
        advice = self.instead.get(value) if isinstance(value, str) else None
        remedy = advice or self.remedy or f"try {name}={_python(self.kind.example)}"
        expected = f"{self.kind.expected} {self.unit}".rstrip()
        return FieldError(name, f"expected {expected}, got {value!r}; {remedy}")


def option(default: Any = MISSING, *, kind: Kind, help: str, **attributes: Any) -> Any:
    """A dataclass field; see ``Option``.

    Args:
        default: of the field; None also stands for "not given".
        kind, help, attributes: attributes of ``Option``.
    """
    return dataclasses.field(default=default, metadata={_KEY: Option(kind, help, **attributes)})


def like(origin: type[Declared], name: str, default: Any = MISSING, **changes: Any) -> Any:
    """A field as another class declares it, with another default or attributes of ``Option`` changed.

    Another ``help`` without ``more`` is enough for the README, too.
    """
    declared = declarations(origin)[name]
    if "help" in changes:
        changes = {"more": "", **changes}
    if default is MISSING:
        default = defaults(origin)[name]
    return dataclasses.field(default=default, metadata={_KEY: dataclasses.replace(declared, **changes)})


class Declared:
    """Base of the classes of options: checks every field when an object is made.

    Raises:
        FieldError: a value out of range.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        lines = []
        for name, attribute in vars(cls).items():
            if isinstance(attribute, dataclasses.Field) and _KEY in attribute.metadata:
                declared = attribute.metadata[_KEY]
                _register(name, declared)
                lines.append(f"    {name}: {declared.help}.")
        if lines:
            cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Attributes:", *lines])

    def __post_init__(self) -> None:
        for name, declared in declarations(type(self)).items():
            value = getattr(self, name)
            if value is not None or defaults(type(self))[name] is not None:
                declared.check(name, value)
                object.__setattr__(self, name, declared.kind.plain(value))


def _register(name: str, declared: Option) -> None:
    """Note the option of a field; it must be the same wherever the field is declared."""
    chosen = declared.flag or "--" + name.replace("_", "-")
    if declared.positional:
        chosen = declared.metavar or name.upper()
    if _FLAGS.setdefault(name, chosen) != chosen:
        raise TypeError(f"{name}: expected {_FLAGS[name]} as elsewhere, got {chosen}")


def declarations(declared: type[Declared]) -> dict[str, Option]:
    """The options of a class, by field, in their order; those that exclude each other stand together."""
    options = {name: field.metadata[_KEY] for name, field in _fields(declared).items()}
    group_place: dict[str, int] = {}
    places = {
        name: group_place.setdefault(entry.excludes or name, place)
        for place, (name, entry) in enumerate(options.items())
    }
    return {name: options[name] for name in sorted(options, key=places.__getitem__)}


def defaults(declared: type[Declared]) -> dict[str, Any]:
    """The default of each field; MISSING: it must be given."""
    return {name: field.default for name, field in _fields(declared).items()}


def purpose(declared: type[Declared]) -> str:
    """The first line of a class's docstring."""
    return (declared.__doc__ or "").partition("\n")[0]


def _fields(declared: type[Declared]) -> dict[str, dataclasses.Field[Any]]:
    fields: dict[str, dataclasses.Field[Any]] = vars(declared)["__dataclass_fields__"]
    return {name: field for name, field in fields.items() if _KEY in field.metadata}


def flag(name: str) -> str:
    """The option that stands for a field, or the name of a positional argument."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def _python(value: Any) -> str:
    return repr(value) if isinstance(value, (bool, int, float, str, tuple)) else repr(str(value))


def shown(value: Any) -> str:
    """A value as it is typed on a command line."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def count(number: int, noun: str) -> str:
    """A number of things, in words: ``1 worker``, ``8 workers``, ``2 branches``."""
    ending = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}{ending}"


def typed(error: BaseException) -> str:
    """The message of an error on a command line: fields are written as options."""
    if not isinstance(error, FieldError):
        return str(error)
    names = " and ".join(flag(name) for name in error.fields.split(" and "))
    return f"{names}: {_GIVEN.sub(_as_option, error.text)}"


def _as_option(match: re.Match[str]) -> str:
    name, value = match[1], match[2]
    if name not in _FLAGS:
        return match[0]
    if value in ("True", "False"):
        return flag(name) if value == "True" else flag(name).replace("--", "--no-", 1)
    with suppress(ValueError, SyntaxError):  # of a word
        value = shown(literal_eval(value))
    return f"{flag(name)} {value}" if flag(name).startswith("--") else value


def integer(least: int) -> Kind:
    """Integers of ``least`` or more."""
    return Kind(
        noun="an integer",
        parse=int,
        accepts=lambda value: _is(value, Integral) and value >= least,
        example=max(least, 1),
        range=f"{least} or more",
        plain=int,
    )


def number(
    noun: str = "a number",
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    finite: bool = True,
    example: float = 1.0,
) -> Kind:
    """Numbers between limits: from ``least`` or above ``above``, to ``most`` or below ``below``."""

    def accepts(value: Any) -> bool:
        return (
            _is(value, Real)
            and not math.isnan(value)
            and not (finite and math.isinf(value))
            and (least is None or value >= least)
            and (above is None or value > above)
            and (most is None or value <= most)
            and (below is None or value < below)
        )

    return Kind(noun, float, accepts, example, _range(least, above, most, below), plain=float)


def _range(least: float | None, above: float | None, most: float | None, below: float | None) -> str:
    if least is not None and most is not None:
        return f"from {least:g} to {most:g}"
    limits = {"{:g} or more": least, "above {:g}": above, "at most {:g}": most, "below {:g}": below}
    return " and ".join(text.format(limit) for text, limit in limits.items() if limit is not None)


def choice(*names: str, example: str = "") -> Kind:
    """One of some names."""
    listed_names = ", ".join(names)
    return Kind(f"one of {listed_names}", str, lambda value: value in names, example or names[0], "", names)


def listed(kind: Kind, noun: str, example: tuple[Any, ...] = ()) -> Kind:
    """Some values of a kind, separated by commas on a command line; a tuple."""
    return Kind(
        noun=f"{noun} separated by commas",
        parse=lambda word: tuple(kind.parse(part) for part in word.split(",")),
        accepts=lambda value: (
            isinstance(value, (tuple, list)) and value != () and all(map(kind.accepts, value))
        ),
        example=example or (kind.example, kind.example),
        range=f"each {kind.range}" if kind.range else "",
        plain=lambda value: tuple(map(kind.plain, value)),
    )


def path(example: str = "DIR", access: Access = Access.READS) -> Kind:
    """Names of files and directories."""
    return Kind("a path", Path, lambda value: isinstance(value, Path), Path(example), access=access)


def paths(example: str = "DIR", access: Access = Access.READS) -> Kind:
    """Names of several files and directories, each a word of a command line; a tuple."""
    return Kind(
        noun="a path",
        parse=lambda word: (Path(word),),
        accepts=lambda value: isinstance(value, tuple) and all(isinstance(entry, Path) for entry in value),
        example=(Path(example),),
        access=access,
    )


def text(noun: str, example: str, access: Access | None = None) -> Kind:
    """Any words."""
    return Kind(noun, str, lambda value: isinstance(value, str), example, access=access)


def yes() -> Kind:
    """True or False; on a command line an option without a value."""
    return Kind("True or False", bool, lambda value: isinstance(value, bool), True)


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def report_file(help: str = "the report, for scripts", **attributes: Any) -> Any:
    """Field ``report``: where the report goes."""
    kind = path("report.json", Access.WRITES)
    return option(None, kind=kind, metavar="FILE.json", help=help, **attributes)


def trace_file() -> Any:
    """Field ``trace``: where the trace goes."""
    return option(
        None,
        kind=path("trace.json", Access.WRITES),
        metavar="FILE.json",
        help="what every rank does when, layer by layer, for Perfetto or chrome://tracing",
        more="what every rank does when, layer by layer and phase by phase, for "
        "[Perfetto](https://ui.perfetto.dev) or chrome://tracing "
        "([how to read it](docs/performance.md#traces))",
    )


def check_import() -> Any:
    """Field ``check``: whether an imported network is compared with its file."""
    return option(
        True,
        kind=yes(),
        negatable=True,
        help="compare the network read from an .onnx file with what another program makes of the file",
        more="compare the network that is read from an `.onnx` file with what onnxruntime, or the reference "
        "of the onnx package, computes on a few inputs "
        "([how](docs/models.md#how-an-import-is-checked)); `--no-check` skips that",
    )


def longest_text() -> Any:
    """Field ``longest``: tokens that a text may have, of a graph for any number of them."""
    return option(
        None,
        kind=integer(1),
        metavar="TOKENS",
        default_text="as many as the file has positions for, 2048 at most",
        help="tokens that a text may have, of an .onnx file whose axis of tokens is free",
        more="of an `.onnx` file whose axis of tokens is free: tokens that a text may have; the file is read "
        "in less time and memory for fewer ([which files](docs/transformers.md#onnx-files))",
    )


def precision(default: Any = "float32", help: str = "numbers to compute in") -> Any:
    """Field ``dtype``: float32 or float64."""
    return option(default, kind=choice(*PRECISIONS), help=help)


def batches(default: Any = (1, 16, 256)) -> Any:
    """Field ``batches``: several batch sizes."""
    sizes = listed(integer(1), "integers", (1, 16))
    return option(default, kind=sizes, metavar="B,B,...", help="samples per forward")
