"""The command ``export``: write the network in shards for other programs, whole or in parts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repurpose_hpc.commands.parser import parser_maker, plain_parse
from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.exporters.network import graph_of
from repurpose_hpc.exporters.onnx_file import write_onnx
from repurpose_hpc.exporters.onnx_model import axes_of, opsets
from repurpose_hpc.exporters.parts.directory import DESCRIPTION, write_parts
from repurpose_hpc.exporters.pytorch.file import write_torch
from repurpose_hpc.fields import Access, Declared, count, option, path
from repurpose_hpc.io.atomic import check_writable
from repurpose_hpc.io.speech import tell
from repurpose_hpc.model.ends import Port
from repurpose_hpc.plan.files.store import StoredPlan, open_plan, read_network, read_shard

if TYPE_CHECKING:
    from repurpose_hpc.commands.start import Context

ONNX, TORCH = ".onnx", (".pt2", ".pt")
_LOADED_BY_FILE = (
    "{to}: torch.export.load takes the names of .pt2 files alone without a warning, of others the open file: "
    "torch.export.load(open('{to}', 'rb'))"
)


def run(args: Arguments, context: Context) -> None:
    """Run the command in this process.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        UserError: shards cannot be read, something in them cannot be written, or a package is missing.
    """
    tell({"written": str(args.to)}, _export(open_plan(args.directory), args.to))


def _export(stored: StoredPlan, to: Path) -> str:
    """Write the network in the form that a name asks for; what was written, in words."""
    if not to.suffix:
        return _export_parts(stored, to)
    if to.suffix not in (ONNX, *TORCH):
        raise UserError(
            f"--to: expected the name of an {ONNX} file, of a {' or '.join(TORCH)} file for PyTorch, or of a "
            f"directory for the parts of the workers, without a suffix, got {to}; try --to model{ONNX}"
        )
    check_writable(to, text=False)
    graph = graph_of(read_network(stored), stored.plan)
    if to.suffix == ONNX:
        files, what = write_onnx(graph, to), f"an ONNX graph of opset {opsets(graph)['']}"
    else:
        write_torch(graph, to)
        files, what = [to], "a program for torch.export.load"
        if to.suffix != TORCH[0]:
            warnings.warn(_LOADED_BY_FILE.format(to=to), Note, stacklevel=2)
    names = " and ".join(map(str, files))
    ports = f"{_ports(graph.inputs)} -> {_ports(graph.outputs)}"
    return f"{names}: {what}, {count(len(graph.steps), 'node')}, {ports}"


def _ports(ports: Iterable[Port]) -> str:
    return ", ".join(f"{port.name} ({', '.join(map(str, axes_of(port)))}) {port.dtype}" for port in ports)


def _export_parts(stored: StoredPlan, directory: Path) -> str:
    """Write the parts of the workers; what was written, in words."""
    if stored.longest:
        raise UserError(
            f"{stored.directory}: expected shards of a network of samples, to be written in parts, found "
            "those of a transformer, of whose stream every worker has a copy; try --to model.onnx"
        )
    shards = (read_shard(stored, worker) for worker in range(stored.plan.workers))
    description = write_parts(read_shard(stored, 0).graph, stored.plan, shards, directory)
    rounds = description["rounds"]
    stages, messages = (sum(len(each[word]) for each in rounds) for word in ("stages", "messages"))
    return (
        f"{directory}: {count(stages, 'ONNX graph')} of {count(description['workers'], 'worker')}, "
        f"{count(messages, 'message')} between them after {count(len(rounds) - 1, 'round')}; {DESCRIPTION} "
        "says what goes where"
    )


@dataclass(frozen=True, kw_only=True)
class Arguments(Declared):
    """The shards, and what becomes of them."""

    directory: Path = option(
        kind=path("shards"), metavar="DIR", positional=True, help="directory of the shards"
    )
    to: Path = option(
        kind=path("model.onnx", Access.WRITES),
        metavar="NAME",
        help="NAME.onnx: one ONNX graph; NAME.pt2, .pt: a program for torch.export.load; a name without a "
        "suffix: a directory, which gets ONNX graphs of every worker",
    )


make_parser = parser_maker("export", Arguments)
parse = plain_parse(make_parser, Arguments)
