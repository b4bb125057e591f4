"""Options of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repurpose_hpc.fields import PRECISIONS, Declared, Kind, choice, integer, option, yes
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, EXACT, WEIGHTS_DTYPES
from repurpose_hpc.runtime.exchange.choose import TRANSPORT_CHOICES
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT

_PRECISION = Kind(
    noun=f"one of {', '.join(PRECISIONS)}",
    parse=np.dtype,
    accepts=lambda value: isinstance(value, np.dtype) and value.name in PRECISIONS,
    example=np.dtype(np.float32),
    choices=PRECISIONS,
)


@dataclass(frozen=True, kw_only=True)
class RunOptions(Declared):
    """Wishes for a run of a restructured network.

    Raises:
        FieldError: a value out of range.
    """

    resume: bool = option(
        False,
        kind=yes(),
        help="if this run ends early, let the same command go on where it ended, and do so now",
        more="keep the outputs of a run that ends early, and go on after those of an earlier one",
    )
    signal: bool = option(
        False,
        kind=yes(),
        help="DATA is one signal, longer than what the network takes; run it piece by piece",
        more="DATA is one signal, longer along time than what the network takes. It is cut into pieces that "
        "overlap, which are its samples, and `y` has a row for each output along time: exactly those of the "
        "network built for the whole signal ([how](docs/convolutions.md#signals))",
    )
    batch_size: int = option(256, kind=integer(1), metavar="N", help="samples per forward")
    verify: bool = option(
        False,
        kind=yes(),
        negatable=True,
        help="compare with the float64 reference of the same weights",
        more="compare all outputs with a float64 NumPy reference of the same weights, and fail if they "
        "differ by more than 1e-5 of the largest (float64: 1e-12), with `--comm-dtype` by a step of its "
        "format more; where the network itself amplifies rounding errors, by more than four times what "
        "NumPy in float32 does, which is then said",
    )
    certify: bool = option(
        False,
        kind=yes(),
        help="count the samples whose class provably is that of the original MODEL",
        more="with MODEL: the share of samples whose class provably is that of the original network",
    )
    groups: int = option(
        1,
        kind=integer(1),
        metavar="G",
        help="groups of ranks that hold a copy of the network each, and share the samples",
        more="groups of ranks that hold a copy of the network each, and share the samples: of N ranks N / G "
        "run a batch together ([when](docs/performance.md#groups))",
    )
    repeat: int = option(
        20,
        kind=integer(0),
        metavar="N",
        help="forwards to time",
        more="forwards of the first batch to time; 0: none",
    )
    dtype: np.dtype = option(np.dtype(np.float32), kind=_PRECISION, help="numbers to compute in")
    transport: str = option(
        DEFAULT_TRANSPORT,
        kind=choice(*TRANSPORT_CHOICES),
        flag="--exchange",
        help="how what ranks exchange is carried; auto: measures all transports first",
        more="how what ranks exchange is carried: `ialltoallv`, `alltoallv`, `persistent` (MPI 4), "
        "`neighbor`, `p2p`, `sparse` (zeros are left out of the messages, for slow networks), `shared` "
        "(memory of one node, without messages); `auto` tries all of them on this network before it begins, "
        "takes the fastest and says so ([what they are](docs/performance.md#exchange))",
    )
    threads: int = option(
        1,
        kind=integer(1),
        metavar="N",
        help="threads of each rank, which share the rows of every product",
        more="threads of each rank, which share the rows of every product: a rank per machine or socket has "
        "fewer workers, and fewer ghosts, than one per core. No more than there are cores for each rank: "
        "some launchers bind it to one ([how](docs/performance.md#threads))",
    )
    micro_batches: int = option(
        1,
        kind=integer(1),
        metavar="N",
        help="parts of a batch that take turns to compute and to wait for ghosts",
        more="a batch goes through the network in up to so many parts, which take turns to compute and to "
        "wait for ghosts ([when that pays](docs/performance.md#on-slow-networks))",
    )
    exchange_late: int | None = option(
        None,
        kind=integer(1),
        metavar="K",
        default_text="the exact order",
        help="compute in K sweeps, each from what others had in the one before: K - 1 rounds of messages",
        more="compute all layers in K sweeps; in each, ranks take ghosts and sums of others as they were in "
        "the sweep before, so that K - 1 rounds of messages are all there are, however many layers exchange. "
        "Exact with a sweep more than there are layers that do; with fewer an approximation, which "
        "`--verify` compares with its own reference ([when that pays](docs/late.md))",
    )
    deterministic: bool = option(
        False,
        kind=yes(),
        help="let outputs have the same bits for any ranks, batch size, exchange, micro-batches and threads",
        more="let the bits of outputs depend on the shards, the formats and the sample alone: not on the "
        "number of ranks, the batch size, the place in the batch, `--exchange`, `--micro-batches` or "
        "`--threads`. With MODEL give `--workers`, which is the number of ranks otherwise. [What they still "
        "depend on, and what it costs](docs/performance.md#the-same-bits)",
    )
    weights_dtype: str = option(
        EXACT,
        kind=choice(*WEIGHTS_DTYPES),
        help="how weights are kept in memory; float32: as they are; int8 with a scale for each row",
        more="how weights of dense layers and convolutions are kept in memory: `float32` (as they are), "
        "`bfloat16`, `float16`, or `int8` with a scale for each row; expanded while they are multiplied, so "
        "that one sample of a dense layer takes as long as its bytes. Depthwise filters and blocks in CSR "
        "stay as they are. [What it costs](docs/performance.md#weights-in-fewer-bits)",
    )
    comm_dtype: str | None = option(
        None,
        kind=choice(*COMM_DTYPES),
        aliases=("--wire",),
        default_text="that of the shards",
        help="format in which ghost neurons travel, whatever the shards were adjusted for",
        more="as of `restructure`; with `--shards` any of them, whatever the shards were adjusted for",
    )
