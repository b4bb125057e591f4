"""Every option of every command: what its help says is what is parsed, and the rest is refused."""

import os
from dataclasses import MISSING
from importlib import import_module

import numpy as np
import pytest

from repurpose_hpc.bench.options import ExchangeOptions as BenchExchangeOptions
from repurpose_hpc.bench.options import InferenceOptions, KernelOptions
from repurpose_hpc.commands.parser import Argument, Parser, UsageError, make
from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import FieldError, declarations, flag, shown
from repurpose_hpc.restructure.options import METHODS, Options
from repurpose_hpc.runtime.options import RunOptions

COMMANDS = (
    *(
        "restructure",
        "infer",
        "generate",
        "finetune",
        "inspect",
        "export",
        "doctor",
        "forecast",
        "scaling",
        "study",
        "probe",
        "report",
        "completion",
        "point",
    ),
)
BENCHES = (KernelOptions, BenchExchangeOptions, InferenceOptions)
FREE = ("a path", "a command line", "a machine", "nodes:K", "texts")
WRONG = "!"


def _parsers() -> dict[str, Parser]:
    found = {name: import_module(f"repurpose_hpc.commands.{name}").make_parser(False) for name in COMMANDS}
    for declared in BENCHES:
        found[f"bench {declared.subject}"] = parser = Parser(prog="bench")
        parser.add(declared)
    return found


PARSERS = _parsers()
ARGUMENTS = [
    pytest.param(PARSERS[name], argument, id=f"{name} {argument.field}")
    for name in PARSERS
    for argument in PARSERS[name].arguments
]


def words(argument: Argument, value: object) -> list[str]:
    if isinstance(argument.option.kind.example, bool):
        return [flag(argument.field)]
    typed_value = "/".join(map(str, value)) if argument.field == "part" else shown(value)
    return [typed_value] if argument.option.positional else [flag(argument.field), typed_value]


def needed(parser: Parser, but: Argument) -> tuple[list[str], list[str]]:
    """Words for what a command line cannot do without, before and after an argument."""
    found: tuple[list[str], list[str]] = [], []
    for each in parser.arguments:
        if each.default is MISSING and each != but:
            is_later = parser.arguments.index(each) > parser.arguments.index(but)
            found[is_later].extend(words(each, each.option.kind.example))
    return found


def is_free(argument: Argument) -> bool:
    kind = argument.option.kind
    return kind.noun.startswith(FREE) or isinstance(kind.example, bool) or argument.field == "methods"


@pytest.mark.parametrize(("parser", "argument"), ARGUMENTS)
def test_what_help_says_is_parsed(parser, argument):
    kind = argument.option.kind
    for value in kind.choices or (kind.example,):
        before, after = needed(parser, argument)
        given = parser.read([*before, *words(argument, value), *after])
        assert str(given[argument.field]) == str(value)
    for alias in argument.option.aliases:
        before, after = needed(parser, argument)
        given = parser.read([*before, alias, shown(kind.example), *after])
        assert given[argument.field] == kind.example
    text = " ".join(parser.format_help().split())
    for part in (argument.metavar, argument.range, argument.standing):
        assert part in text or part.replace("-", "- ") in text
    if not argument.option.positional:
        assert flag(argument.field) in text


@pytest.mark.parametrize(("parser", "argument"), [each for each in ARGUMENTS if not is_free(each.values[1])])
def test_what_is_out_of_range_is_refused(parser, argument):
    name, option = argument.field, argument.option
    before, after = needed(parser, argument)
    with pytest.raises(UsageError) as refused:
        parser.read([*before, *words(argument, WRONG)[:-1], WRONG, *after])
    message = str(refused.value)
    assert refused.value.status == 2
    assert message.startswith(f"{flag(name)}: expected {option.kind.expected}")
    assert f"got {WRONG!r}; try " in message or "; the original" in message
    assert f"{name}=" not in message
    with pytest.raises(FieldError, match=f"^{name}: expected .*, got .*; .*="):
        option.check(name, WRONG)


@pytest.mark.parametrize("declared", [Options, RunOptions, *BENCHES])
def test_library_users_are_told_of_fields(declared):
    needs = {"workers": 2} if declared is Options else {}
    for name, option in declarations(declared).items():
        if option.kind.noun.startswith(FREE):
            continue
        with pytest.raises(FieldError, match=f"^{name}: expected .*, got .*; .*="):
            declared(**{**needs, name: WRONG})
        assert getattr(declared(**{**needs, name: option.kind.example}), name) == option.kind.example


def test_values_of_a_command_line_become_an_object():
    line = "m.npz --dtype float64 --wire int8 --no-verify --seed 4"
    given = PARSERS["infer"].read(line.split())
    run, options = make(RunOptions, given), make(Options, {**given, "workers": 3})
    assert run.dtype == np.dtype(np.float64) and run.comm_dtype == options.comm_dtype == "int8"
    assert run.verify is False and options.seed == 4 and run.batch_size == 256


def test_options_that_exclude_each_other():
    both = ["--comm-budget", "0.1", "--max-output-error", "0.1"]
    with pytest.raises(UsageError, match="--max-output-error: not allowed with argument --comm-budget"):
        PARSERS["restructure"].read([*both, "m", "--out", "o", "--calibration", "c"])
    with pytest.raises(UserError, match="max_accuracy_drop and max_output_error: expected one of them"):
        Options(2, max_accuracy_drop=1.0, max_output_error=0.1)


def test_independent_is_a_budget_of_nothing():
    assert "independent" not in METHODS
    with pytest.raises(UsageError, match="--method: .*got 'independent'; take --comm-budget 0 .*which"):
        PARSERS["restructure"].read(["--method", "independent", "m", "--out", "o", "--calibration", "c"])
    with pytest.raises(UserError, match="^method: .*take comm_budget=0"):
        Options(2, method="independent")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"part_weights": (1.0,)}, "part_weights: expected one number for each of 2 workers, got 1; "),
        ({"part_weights": (0, 0)}, "part_weights: expected weights that are not all 0, got 0,0; "),
        (
            {"memory_limits": (1.0, 2.0, 3.0)},
            "memory_limits: .*number for each of 2 workers, got 3",
        ),
        ({"link_costs": ((0, 1),)}, "link_costs: expected 2 rows of 2 prices, .*got 1 rows of .2.; "),
        ({"link_costs": ((0, 1), (1, 1))}, "link_costs: .*found 1.0 from worker 1 to 1; "),
    ],
)
def test_what_must_fit_the_workers(values, message):
    with pytest.raises(FieldError, match=message):
        Options(2, **values)


def test_options_are_hashable_and_plain():
    assert len({Options(2), Options(2), Options(2, seed=1)}) == 2
    assert os.fspath(make(RunOptions, {}).transport) == "ialltoallv"
