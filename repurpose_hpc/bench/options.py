"""Options of benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repurpose_hpc.bench.turns import REPEATS
from repurpose_hpc.fields import (
    Declared,
    batches,
    choice,
    integer,
    like,
    listed,
    option,
    path,
    precision,
    report_file,
)
from repurpose_hpc.plan.plan import PARTITIONED, REPLICATED
from repurpose_hpc.restructure.options import Options

# Kinds of files of samples, and how HDF5 stores the data set; None: no HDF5.
FILES: dict[str, dict | None] = {"h5": {}, "h5-gzip": {"compression": "gzip"}, "npy": None}


def _sizes(default: tuple[int, ...], metavar: str, help: str) -> Any:
    return option(default, kind=listed(integer(1), "integers"), metavar=metavar, help=help)


def _repeats() -> Any:
    return option(
        REPEATS,
        kind=integer(1),
        metavar="N",
        help="timed calls of each candidate; a tenth where one takes long",
    )


def _results() -> Any:
    return report_file(help="the results, for scripts", aliases=("--out",))


@dataclass(frozen=True, kw_only=True)
class KernelOptions(Declared):
    """Products with one block of weights, in one process."""

    subject: str = field(default="kernels", init=False)
    sizes: tuple[int, ...] = _sizes((1024, 2048, 4096, 8192), "N,N,...", "rows and columns of the weights")
    repeat: int = _repeats()
    report: Path | None = _results()


@dataclass(frozen=True, kw_only=True)
class ExchangeOptions(Declared):
    """The exchange alone, with two ranks or more."""

    subject: str = field(default="exchange", init=False)
    bytes: tuple[int, ...] = _sizes(
        tuple(4 << shift for shift in range(0, 19, 2)), "B,B,...", "bytes per pair of ranks, multiples of 4"
    )
    repeat: int = _repeats()
    report: Path | None = _results()


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(Declared):
    """Four layers, end to end."""

    subject: str = field(default="inference", init=False)
    widths: tuple[int, ...] = _sizes((1024, 4096, 8192), "N,N,...", "neurons of each layer")
    batches: tuple[int, ...] = batches()
    comm_budget: float = like(
        Options, "comm_budget", excludes="", help="fraction of the dense communication that is left"
    )
    input_placement: str = like(
        Options,
        "input_placement",
        kind=choice(REPLICATED, PARTITIONED),
        help="who has the input: every rank all of it, or its block",
    )
    dtype: str = precision()
    repeat: int = _repeats()
    report: Path | None = _results()


@dataclass(frozen=True, kw_only=True)
class StreamOptions(Declared):
    """A restructured network from file to file."""

    subject: str = field(default="stream", init=False)
    shards: Path = option(kind=path("shards"), metavar="DIR", help="what to run")
    batches: tuple[int, ...] = batches((1, 16, 256))
    samples: int = option(10_000, kind=integer(1), metavar="N", help="in the file")
    files: tuple[str, ...] = option(
        ("h5",), kind=listed(choice(*FILES), "kinds of files"), metavar="KIND,...", help="h5, h5-gzip, npy"
    )
    repeat: int = _repeats()
    report: Path | None = _results()
