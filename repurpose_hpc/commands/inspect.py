"""The command ``inspect``: spaces, mixings and dense traffic of a model, or all that is not supported in it.

Of shards it shows the network that runs, what crosses in it, its relays, and how they were made.

The keys of the report are those of ``report.schema.InspectReport``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repurpose_hpc.commands.imported import holds_shards, import_report
from repurpose_hpc.commands.parser import SPIKING, make, parser_maker, refuse
from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import (
    Declared,
    check_import,
    count,
    declarations,
    integer,
    option,
    path,
    report_file,
)
from repurpose_hpc.io.atomic import check_writable
from repurpose_hpc.model.ends import Subgraph
from repurpose_hpc.model.importers.input_shapes import InputShapes, option_of_shapes, shapes_of
from repurpose_hpc.model.importers.load import NIR, ONNX, load_model, load_tokens, takes_any_length
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.weights import nonzeros
from repurpose_hpc.plan.files.origin import sweeps_of
from repurpose_hpc.plan.files.store import StoredPlan, missing_shards, open_plan, read_network
from repurpose_hpc.plan.plan import REPLICATED, Plan, dense_plan
from repurpose_hpc.plan.relays import relay_counts
from repurpose_hpc.plan.stages import named_stages
from repurpose_hpc.report import text as report
from repurpose_hpc.report.made import made, summary
from repurpose_hpc.report.stages import stages_in_words

if TYPE_CHECKING:
    from repurpose_hpc.commands.start import Context


def run(args: Arguments, context: Context) -> None:
    """Run the command in this process.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        UserError: a file cannot be read, or something in the model is not supported.
    """
    if args.report is not None:
        check_writable(args.report)
    if holds_shards(args.subject):
        result = inspect_shards(args.subject)
    else:
        shapes = shapes_of(args.input_shape)
        result = inspect(args.subject, args.workers, shapes, args.check, args.spiking)
    report.deliver(result, render(result), args.report)
    if "missing" in result:
        missing = result["missing"]
        more = f" and {count(len(missing) - 1, 'other')}" if len(missing) > 1 else ""
        raise UserError(
            f"{args.subject}: expected a file for each of {count(result['workers'], 'worker')}, found no "
            f"{missing[0]}{more}; copy all files of the plan there, or restructure again"
        )
    if not result["supported"]:
        nodes = len(result["unsupported"])
        raise UserError(
            f"{args.subject}: {count(nodes, 'node')} {'is' if nodes == 1 else 'are'} not supported; "
            "change the model before exporting it"
        )


def inspect(
    path: Path,
    workers: int,
    shapes: InputShapes | None = None,
    check: bool = True,
    spiking: SpikingOptions | None = None,
) -> dict[str, Any]:
    """The report on a model file for a number of workers; see the keys above, and ``load_model``.

    Raises:
        UserError: the file cannot be read, or the ``check`` of its import finds a difference.
    """
    try:
        if not shapes and path.suffix != ONNX and takes_any_length(path):
            network = load_tokens(path)
        else:
            network = load_model(path, shapes, check=False, spiking=spiking)
    except UserError:
        problems = _problems(path, shapes)
        if not problems:
            raise
        return {"model": str(path), "supported": False, "unsupported": problems}
    plan = dense_plan(network, workers, REPLICATED, np.ones(workers))
    description = _description(path, network, plan)
    if path.suffix == NIR and spiking is not None:
        description["reading"] = str(spiking.settled())
    return description | import_report(path, network, None, shapes, check)


def inspect_shards(directory: Path) -> dict[str, Any]:
    """The report on the network in shards and on its plan; see the keys above.

    Raises:
        UserError: they cannot be read.
    """
    stored = open_plan(directory)
    if missing := missing_shards(stored):
        return _without_network(stored, missing)
    network, plan = read_network(stored), stored.plan
    relays = [each._asdict() for each in relay_counts(network, plan)]
    sent = _of_plan(stored) | {"relays": relays} | named_stages(network, plan)
    # Where every worker has a copy of the stream, its plan does not say what owners would send.
    dense = dense_plan(network, plan.workers, REPLICATED, np.ones(plan.workers)) if stored.longest else plan
    return _description(directory, network, dense) | sent


def _of_plan(stored: StoredPlan) -> dict[str, Any]:
    """What a plan says itself."""
    found: dict[str, Any] = {"values_sent": int(stored.traffic_matrix().sum())}
    if (sweeps := sweeps_of(stored)) is not None:
        found["sweeps"] = sweeps
    # Plans of tests and tools may know less.
    if {"model_fingerprint", "dtype", "versions"} <= stored.provenance.keys():
        found["made"] = made(stored.provenance)
    return found


def _without_network(stored: StoredPlan, missing: list[str]) -> dict[str, Any]:
    """The report on shards of which some are missing, so that nobody knows the network."""
    about = {"model": str(stored.directory), "supported": True, "unsupported": [], "missing": missing}
    plan = {"workers": stored.plan.workers, "input_placement": stored.plan.input_placement}
    longest = {"longest": stored.longest} if stored.longest else {}
    return {**about, **plan, **longest, **_of_plan(stored)}


def _problems(path: Path, shapes: InputShapes | None) -> list[str]:
    """All that is not supported in a model that was refused; nothing: there is another reason."""
    if path.suffix != ".onnx":
        return []
    from repurpose_hpc.model.importers.onnx import unsupported

    return [refusal.line for refusal in unsupported(path, shapes)]


def _end(subgraph: Subgraph | None) -> dict[str, Any] | None:
    if subgraph is None:
        return None
    return {
        "operators": list(subgraph.operators),
        "inputs": sum(port.size for port in subgraph.inputs),
        "outputs": sum(port.size for port in subgraph.outputs),
        "onnxruntime": bool(subgraph.model),
    }


def _description(path: Path, network: Network, plan: Plan) -> dict[str, Any]:
    tensors = Counter(network.space_of.values())
    mixings = [_mixing(network, mixing, plan.dense_values(network, mixing)) for mixing in network.mixings]
    return {
        "model": str(path),
        "supported": True,
        "unsupported": [],
        "inputs": network.inputs,
        "outputs": network.outputs,
        "front": _end(network.ends.front),
        "back": _end(network.ends.back),
        "spaces": [
            {
                "name": space.name,
                "neurons": space.neurons,
                "tensors": tensors[space.name],
                "derived": bool(space.parts),
            }
            for space in network.spaces
        ],
        "mixings": mixings,
        "workers": plan.workers,
        "input_placement": plan.input_placement,
        **({"longest": network.longest} if network.longest else {}),
        **{
            key: sum(mixing[key] for mixing in mixings)
            for key in ("weights", "multiply_adds", "dense_values")
        },
    }


def _mixing(network: Network, mixing: Mixing, dense_values: int) -> dict[str, Any]:
    outputs, links = mixing.weights.shape
    positions = network.positions_of[mixing.target]
    weights = nonzeros(mixing.weights)
    return {
        "name": mixing.name,
        "source": mixing.source,
        "target": mixing.target,
        "inputs": links // mixing.taps,
        "outputs": outputs,
        "kernel": list(mixing.window.kernel) if mixing.window else [],
        "positions": list(positions),
        "weights": weights,
        "multiply_adds": weights * network.values(mixing.target),
        "dense_values": dense_values,
    }


def render(result: dict[str, Any]) -> str:
    """The report for people, several lines."""
    if not result["supported"]:
        from repurpose_hpc.model.importers.onnx import SUPPORTED

        problems = (f"  {problem}" for problem in result["unsupported"])
        return "\n".join(["not supported:", *problems, f"supported operators: {SUPPORTED}"])
    stages = [f"stages: {stages_in_words(result['stages'])}"] if "stages" in result else []
    history = [*stages, *([summary(result["made"])] if "made" in result else [])]
    if "missing" in result:
        return "\n\n".join([_plan_line(result), *history])
    spaces: list[tuple[str, ...]] = [("space", "neurons", "tensors", "")]
    spaces += [
        (space["name"], f"{space['neurons']:,}", str(space["tensors"]), "derived" if space["derived"] else "")
        for space in result["spaces"]
    ]
    mixings: list[tuple[str, ...]] = [
        ("mixing", "from", "to", "size", "kernel", "positions", "weights", "multiply-adds", "dense")
    ]
    mixings += [_row(mixing) for mixing in result["mixings"]]
    tables = [_table(spaces), _table(mixings), *_relays(result)]
    ends = [_described(result[name], name, _unit(result)) for name in ("front", "back") if result[name]]
    ends += [result["reading"]] if "reading" in result else []
    return "\n\n".join((*ends, *tables, _totals(result), *history, *report.import_summary(result)))


def _totals(result: dict[str, Any]) -> str:
    unit = _unit(result)
    sweeps = f" in {result['sweeps']} sweeps with late exchanges" if "sweeps" in result else ""
    sent = f"{result['values_sent']:,} values sent per {unit}{sweeps}; " if "values_sent" in result else ""
    readers = " that all read the input" if result["input_placement"] == REPLICATED else ""
    return (
        f"{count(result['inputs'], 'input')}, {count(result['outputs'], 'output')}, "
        f"{count(result['weights'], 'weight')}, {result['multiply_adds']:,} multiply-adds per {unit}; {sent}"
        f"dense: {result['dense_values']:,} values sent per {unit} between "
        f"{count(result['workers'], 'worker')}{readers}"
    )


def _plan_line(result: dict[str, Any]) -> str:
    """What is known of shards without their network."""
    return (
        f"plan for {count(result['workers'], 'worker')}, input {result['input_placement']}; "
        f"{result['values_sent']:,} values sent per {_unit(result)}"
    )


def _unit(result: dict[str, Any]) -> str:
    """What numbers are counted for."""
    return "token" if "longest" in result else "sample"


def _relays(result: dict[str, Any]) -> list[str]:
    """A table of relays by mixing and pair of workers; none where there are none."""
    rows: list[tuple[str, ...]] = [("layer", "from", "to", "relays", "values")]
    rows += [tuple(map(str, each.values())) for each in result.get("relays", [])]
    return [_table(rows)] if len(rows) > 1 else []


def _described(end: dict[str, Any], name: str, unit: str) -> str:
    where = {"front": f"before the network, of every {unit}", "back": "behind the network"}[name]
    by = "onnxruntime" if end["onnxruntime"] else "NumPy"
    return (
        f"{name}, computed {where} by {by}: {', '.join(end['operators']) or 'nothing'} "
        f"({end['inputs']:,} to {end['outputs']:,} values)"
    )


def _row(mixing: dict[str, Any]) -> tuple[str, ...]:
    sizes = ("x".join(map(str, mixing[key])) or "-" for key in ("kernel", "positions"))
    counts = (f"{mixing[key]:,}" for key in ("weights", "multiply_adds", "dense_values"))
    size = f"{mixing['outputs']} x {mixing['inputs']}"
    return (mixing["name"], mixing["source"], mixing["target"], size, *sizes, *counts)


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


@dataclass(frozen=True, kw_only=True)
class Arguments(Declared):
    """The model, and the workers to count its traffic for; or the shards."""

    subject: Path = option(
        kind=path("model.npz"),
        positional=True,
        metavar="SHARDS|MODEL",
        help=".onnx, .npz, .safetensors, .nir, .gguf, a directory of a transformer, or one "
        "written by restructure",
    )
    workers: int = option(4, kind=integer(1), metavar="P", help="of a MODEL: parts to count the traffic for")
    check: bool = check_import()
    input_shape: tuple[str, ...] = option_of_shapes()
    report: Path | None = report_file()
    spiking: SpikingOptions = SpikingOptions()


make_parser = parser_maker("inspect", Arguments, titled={SPIKING: SpikingOptions})


def parse(argv: Sequence[str], ranks: int | None = None, speaks: bool = True) -> Arguments:
    """The command line; for the arguments see ``commands.start``.

    Raises:
        UsageError: it is wrong.
    """
    given = make_parser(speaks).read(argv)
    if holds_shards(given["subject"]):
        fields = ("workers", "check", "input_shape", *declarations(SpikingOptions))
        refuse(given, fields, f"has no effect: {given['subject']} is restructured")
    return make(Arguments, given, spiking=make(SpikingOptions, given))
