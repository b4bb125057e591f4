"""Description of a machine for forecasts: links, memory, kernels; a JSON file.

The keys of the file are the attributes of ``MachineModel``, those of its parts one level below.  GB are
10^9 bytes.  ``docs/forecast.md`` says where the numbers of the files in ``machines/`` come from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import Access, FieldError, option, text
from repurpose_hpc.io.atomic import write_text
from repurpose_hpc.io.reading import read_object, reading

FOLDER = Path(__file__).resolve().parent / "machines"
THIS = "this"
# In the cache directory, written by the command ``probe``.
THIS_FILE = "machine.json"


@dataclass(frozen=True)
class Link:
    """A link in LogGP terms.

    Attributes:
        latency_us: L, from the end of sending a small message to the beginning of receiving it.
        overhead_us: o, the time of the processor for sending, and again for receiving, a message.
        gap_us: g, what a message occupies the link for beside its bytes: 1 / message rate.
        gb_per_s: 1 / G, bytes per second in each direction; 0 is not allowed, ``math.inf`` is.
        overlap: which part of a transfer goes on while the ranks compute, 0 to 1.
        burst_bytes: what passes at once, in each direction and round, before the rate counts.
    """

    latency_us: float
    overhead_us: float
    gap_us: float
    gb_per_s: float
    overlap: float
    burst_bytes: float = 0.0


@dataclass(frozen=True)
class Memory:
    """Speed at which a rank reads weights, by how many bytes of them it reads in one forward.

    Between entries the logarithms are interpolated, beyond them the last one holds.

    Attributes:
        bytes: ascending.
        rank_gb_per_s: of a rank that has the node to itself.
        node_gb_per_s: of all ranks of a full node together, each reading so many bytes.
    """

    bytes: tuple[float, ...]
    rank_gb_per_s: tuple[float, ...]
    node_gb_per_s: tuple[float, ...]

    def seconds_per_byte(self, weights: np.ndarray, sharing: int) -> np.ndarray:
        """Seconds per byte on ranks with so many bytes of weights, ``sharing`` ranks on a node."""
        rank_rate, node_rate = (
            _interpolated(weights, self.bytes, rates) for rates in (self.rank_gb_per_s, self.node_gb_per_s)
        )
        return 1e-9 / np.minimum(rank_rate, node_rate / sharing)


@dataclass(frozen=True)
class Rates:
    """Speed at which a rank multiplies a block whose weights are in the nearest cache.

    Attributes:
        rows: of the block, ascending.
        columns: samples times positions, ascending; of a convolution the positions alone.
        gflops: for each of ``rows`` one for each of ``columns``; 10^9 multiplications and additions per
            second.  Interpolated like ``Memory``.
    """

    rows: tuple[float, ...]
    columns: tuple[float, ...]
    gflops: tuple[tuple[float, ...], ...]

    def seconds_per_flop(self, rows: np.ndarray, columns: float) -> np.ndarray:
        """Seconds per operation for blocks of so many rows and columns."""
        at_columns = [_interpolated(columns, self.columns, rates) for rates in self.gflops]
        return 1e-9 / _interpolated(np.maximum(rows, 1), self.rows, at_columns)


@dataclass(frozen=True)
class MachineModel:
    """A machine: nodes joined by a network, each with some ranks.

    Attributes:
        name, source: what it is, and where the numbers come from.
        ranks_per_node: consecutive ranks share a node, its memory and its one link to the network.
        call_us: time of every call of a kernel, whatever it computes.
        value_ns: time of every value that is packed, added or leaves a product.
        window_ns: time of a row of a map for every entry of a window, of a pooling or depthwise convolution.
        exchange_us: time of posting a collective and waiting for it, without any message.
        rank_us: time that each rank adds to that.
        memory: of a rank and a node.
        dense, sparse, convolution: products of dense blocks, of CSR, and of windows.
        local: between ranks of a node; None: there is one rank per node, or nothing is known.
        network: between nodes; None: there is one node, or nothing is known.
        all_ranks_gb_per_s: speed at which each rank of a job reads weights while all do; None: not known.
            Forecasts do without, but for the choice of ``forecast.choice``.
        shared_cores: cores of the one machine that all ranks run on, whatever counts as a node; None: there
            are several machines, or nothing is known.  More ranks than these take turns.
    """

    name: str
    source: str
    ranks_per_node: int
    call_us: float
    value_ns: float
    window_ns: float
    exchange_us: float
    rank_us: float
    memory: Memory
    dense: Rates
    sparse: Rates
    convolution: Rates
    local: Link | None
    network: Link | None
    all_ranks_gb_per_s: tuple[float, ...] | None = None
    shared_cores: int | None = None

    @property
    def most_ranks(self) -> float:
        """Number of ranks that the known links can join; ``math.inf``: any number."""
        if self.network is None:
            return self.ranks_per_node if self.local else 1
        return math.inf

    def check_links(self, ranks: int, remedy: str = "describe the network in the machine file") -> None:
        """Refuse numbers of ranks that no known link joins.

        Args:
            ranks: their number.
            remedy: what helps beside probing.

        Raises:
            UserError: there are too many.
        """
        if ranks > self.most_ranks:
            raise UserError(
                f"expected links for {ranks} ranks, found those of {self.most_ranks} in {self.name}; probe "
                f"on more nodes, or {remedy}"
            )


def machine_file(default: Any = MISSING, help: str = "", **attributes: Any) -> Any:
    """Field ``machine``: the name of a machine, see ``read_machine``; for the arguments see ``option``."""
    names = f"a machine file, {THIS} (written by probe), or one of {', '.join(shipped())}"
    kind = text("a machine", "gigabit", Access.READS)
    return option(default, kind=kind, metavar="FILE", help=help or names, **attributes)


def shipped() -> list[str]:
    """Names of the machines that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_machine(name: str, this_path: Path) -> MachineModel:
    """The machine called ``name``: ``THIS``, one of ``shipped``, or a file.

    Args:
        this_path: the file that describes this machine.

    Raises:
        UserError: there is no such file, or what it says is no machine.
    """
    if name == THIS and not this_path.exists():
        raise FieldError(
            "machine",
            f"expected {this_path} for {THIS}, found none; measure this machine first: mpirun -n R python -m "
            "repurpose_hpc probe, with a rank for every core",
        )
    path = this_path if name == THIS else FOLDER / f"{name}.json" if name in shipped() else Path(name)
    remedy = "mend the file or write one with repurpose_hpc probe"
    with reading(path, f"machine file, as {FOLDER / 'gigabit.json'} is one", remedy):
        if not path.exists():
            raise FieldError(
                "machine",
                f"expected {THIS}, a file, or one of {', '.join(shipped())}, got {name!r}; name another",
            )
        return parse_machine(read_object(path))


def write_machine(path: Path, machine: MachineModel) -> None:
    """Write a file that ``read_machine`` reads.

    Raises:
        UserError: it cannot be written.
    """
    write_text(path, json.dumps(asdict(machine), indent=1) + "\n")


def parse_machine(described: dict) -> MachineModel:
    """The machine that a dictionary describes.

    Raises:
        ValueError, TypeError: something is missing, unknown or out of range.
    """
    machine = dict(_checked(MachineModel, described, "the machine"))
    for field in fields(MachineModel):
        if field.name in machine and field.type in _PARSERS:
            machine[field.name] = _PARSERS[field.type](machine[field.name], field.name)
    if machine["network"] and machine["ranks_per_node"] > 1 and not machine["local"]:
        raise ValueError("ranks share a node, but there is no link local")
    return MachineModel(**machine)


def _checked(kind: type, described: dict, name: str) -> dict:
    """``described`` if its keys are the attributes of ``kind``; those with a default may be left out."""
    if not isinstance(described, dict):
        raise TypeError(f"{name} is {described!r}, not an object with keys")
    known = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    for problem, keys in (("lacks", needed - set(described)), ("has unknown", set(described) - known)):
        if keys:
            raise ValueError(f"{name} {problem} {', '.join(sorted(keys))}")
    return described


def _link(described: dict | None, name: str) -> Link | None:
    if described is None:
        return None
    link = Link(**_checked(Link, described, name))
    for key, value in asdict(link).items():
        _check_number(value, f"{name}.{key}")
    if link.gb_per_s == 0 or link.overlap > 1:
        raise ValueError(f"{name}.gb_per_s is 0 or {name}.overlap is more than 1")
    return link


def _memory(described: dict, name: str) -> Memory:
    table = _checked(Memory, described, name)
    memory = Memory(**{key: tuple(values) for key, values in table.items()})
    for key, values in asdict(memory).items():
        _check_table(values, len(memory.bytes), f"{name}.{key}")
    _check_ascending(memory.bytes, f"{name}.bytes")
    return memory


def _rates(described: dict, name: str) -> Rates:
    table = _checked(Rates, described, name)
    rates = Rates(tuple(table["rows"]), tuple(table["columns"]), tuple(map(tuple, table["gflops"])))
    if len(rates.gflops) != len(rates.rows):
        raise ValueError(f"{name}.gflops has {len(rates.gflops)} rows, {name}.rows {len(rates.rows)}")
    for row in rates.gflops:
        _check_table(row, len(rates.columns), f"{name}.gflops")
    for key in ("rows", "columns"):
        _check_ascending(getattr(rates, key), f"{name}.{key}")
    return rates


def _numbers(values: list | None, name: str) -> tuple[float, ...] | None:
    if values is None:
        return None
    numbers = tuple(values)
    _check_table(numbers, len(numbers), name)
    return numbers


def _count(value: int | None, name: str) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{name} is {value!r}, not an integer of 1 or more")
    return value


def _number(value: float, name: str) -> float:
    _check_number(value, name)
    return value


# By the types of the fields of ``MachineModel``, as they are written there.
_PARSERS: dict[Any, Callable[[Any, str], object]] = {
    "Memory": _memory,
    "Rates": _rates,
    "Link | None": _link,
    "float": _number,
    "tuple[float, ...] | None": _numbers,
    "int": _count,
    "int | None": _count,
}


def _check_number(value: float, name: str) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}, not a number of 0 or more")


def _check_table(values: tuple, length: int, name: str) -> None:
    for value in values:
        _check_number(value, name)
    if len(values) != length or not length or min(values) == 0:
        raise ValueError(f"{name} is {values}, not {max(length, 1)} numbers above 0")


def _check_ascending(values: tuple[float, ...], name: str) -> None:
    _check_table(values, len(values), name)
    if list(values) != sorted(set(values)):
        raise ValueError(f"{name} is {values}, not ascending")


def _interpolated(at: np.ndarray | float, places: tuple[float, ...], values: list | tuple) -> np.ndarray:
    """Values at ``at``, the logarithms of all interpolated; constant beyond the ends."""
    at = np.maximum(at, places[0])
    return np.exp(np.interp(np.log(at), np.log(places), np.log(values)))
