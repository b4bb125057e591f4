"""Machine models for tests: numbers that make times easy to add up."""

from dataclasses import replace

from repurpose_hpc.forecast.machine import Link, MachineModel, Memory, Rates

FREE = Link(latency_us=0, overhead_us=0, gap_us=0, gb_per_s=1e9, overlap=1)
# Weights cost nothing to read, calls and values nothing at all; 1 GFLOP/s.
PLAIN = MachineModel(
    name="plain",
    source="made up",
    ranks_per_node=1,
    call_us=0,
    value_ns=0,
    window_ns=0,
    exchange_us=0,
    rank_us=0,
    memory=Memory((1.0,), (1e9,), (1e9,)),
    dense=Rates((1,), (1,), ((1.0,),)),
    sparse=Rates((1,), (1,), ((1.0,),)),
    convolution=Rates((1,), (1,), ((1.0,),)),
    local=FREE,
    network=FREE,
)


def with_network(machine: MachineModel = PLAIN, **changes: float) -> MachineModel:
    """``machine`` with some numbers of its network changed."""
    return replace(machine, network=replace(machine.network, **changes))
