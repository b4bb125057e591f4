"""Options of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of an inference run, the same on every rank.

    Attributes:
        batch_size: samples per forward, 1 or more.
        verify: compare all outputs with the float64 reference of the same weights, on the root.
        repeat: forwards to time, by all ranks and by the root alone; 0: none.  Unless this is 0 and
            neither ``verify`` nor ``certify`` is set, the root reads every shard.
        dtype: float32 or float64, to compute in.
        certify: find the samples whose class provably is that of the original network, on the root.
        resume: go on where an earlier run with the same shards, input, batch size and dtype ended, and let
            the next one go on if this one ends early; needs an output file.
        comm_dtype: the format in which ghosts travel; None: that of the plan.
        weights_dtype: the format in which dense weights are kept in memory.
        transport: how exchanges are carried, one of ``choose.TRANSPORT_CHOICES``.
        threads: of each rank.
        micro_batches: parts, at most, in which a batch goes through the network.
    """

    batch_size: int = 256
    verify: bool = False
    repeat: int = 20
    dtype: np.dtype = np.dtype(np.float32)
    certify: bool = False
    resume: bool = False
    comm_dtype: str | None = None
    weights_dtype: str = EXACT
    transport: str = DEFAULT_TRANSPORT
    threads: int = 1
    micro_batches: int = 1
