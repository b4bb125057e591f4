"""Exchanges without zeros: the same outputs bit for bit, and as many bytes as the form takes."""

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.programs import make_program, run_program
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, encode
from repurpose_hpc.model.forward import trace
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.runtime.resources import Formats

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
# Added to all biases: how many numbers are zero after ReLU.
ZEROS = {"none": 100.0, "some": 0.0, "most": -1.5, "all": -100.0}


def setting(workers: int, shift: float, with_sums: bool = True):
    """A network, pruned, its plan with scales, and samples."""
    network = small_plans.random_network(widths=(12, 60, 50, 5), head="identity")
    shifted = {each.name: replace(each, bias=each.bias + shift) for each in network.mixings}
    network = network.with_mixings(shifted)
    plan = small_plans.random_plan(network, workers, "partitioned", 5, density=0.6)
    if not with_sums:
        nothing = {name: replace(each, sums=np.zeros_like(each.sums)) for name, each in plan.mixings.items()}
        plan = replace(plan, mixings=nothing)
    plan = small_plans.scaled(network, plan)
    x = np.random.default_rng(3).standard_normal((17, network.inputs))
    return small_plans.pruned(network, plan), plan, x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wire", COMM_DTYPES)
@pytest.mark.parametrize("zeros", ZEROS)
@pytest.mark.parametrize("workers", [COMM.size, 11])
def test_outputs_are_those_of_the_default_transport(workers, zeros, wire, dtype):
    """For batches of several sizes one after the other, and after the transport was changed."""
    network, plan, x = setting(workers, ZEROS[zeros])
    plain, sparse = (
        make_program(network, plan, 7, dtype=dtype, formats=Formats(comm_dtype=wire), transport=name)
        for name in ("ialltoallv", "sparse")
    )
    for samples in (x, x[:2], x[::-1], x[3:4]):
        expected = run_program(plain, network, samples)
        assert run_program(sparse, network, samples).tobytes() == expected.tobytes()
    sparse.use_transport("p2p")
    sparse.use_transport("sparse")
    assert run_program(sparse, network, x).tobytes() == run_program(plain, network, x).tobytes()
    assert sparse.bytes_sent == plain.bytes_sent and plain.sent_bytes_per_sample is None
    if COMM.size > 1:
        sent = COMM.allreduce(sparse.sent_bytes_per_sample)
        whole = COMM.allreduce(sparse.bytes_sent)
        # Where weights are pruned a partial sum may be zero, whatever the neurons are.
        assert 0.95 * whole < sent <= whole if zeros == "none" else sent < whole
    sparse.free()


def squeezed_bytes(block: np.ndarray) -> int:
    """What the shorter form of a block of numbers takes."""
    bits = block.view(f"u{block.itemsize}")
    words = -(-bits.size // (8 * block.itemsize))
    return block.itemsize * min(bits.size, words + np.count_nonzero(bits))


def paired(codes: np.ndarray) -> np.ndarray:
    """Rows of codes of int4, two in one row of bytes."""
    halves = np.zeros((codes.shape[0] + codes.shape[0] % 2, codes.shape[1]), np.uint8)
    halves[: len(codes)] = codes.view(np.uint8) & 15
    return halves[::2] | halves[1::2] << 4


def bytes_of_batch(network, plan, x: np.ndarray, wire: str) -> int:
    """Of all messages of ghosts between all pairs of workers, from the reference's activations."""
    tensors = trace(network, x.T, compute=rounded_compute(network, plan, wire))
    total = 0
    for mixing in network.mixings:
        codes = encode(tensors[mixing.source], wire, plan.scales[mixing.source])
        pair = paired if wire == "int4" else lambda block: block
        owner = plan.owner(network, mixing.source)
        for ghosts in plan.mixings[mixing.name].ghosts:
            total += sum(squeezed_bytes(pair(codes[ghosts & (owner == p)])) for p in range(plan.workers))
    return total


@pytest.mark.parametrize("wire", COMM_DTYPES)
@pytest.mark.parametrize("zeros", ZEROS)
def test_as_many_bytes_as_the_form_takes(zeros, wire):
    if COMM.size == 1:
        pytest.skip("one rank sends nothing")
    network, plan, x = setting(COMM.size, ZEROS[zeros], with_sums=False)
    program = make_program(network, plan, 7, formats=Formats(comm_dtype=wire), transport="sparse")
    assert program.sent_bytes_per_sample is None
    run_program(program, network, x[:3])
    program.reset()
    run_program(program, network, x)
    expected = sum(bytes_of_batch(network, plan, x[first : first + 7], wire) for first in (0, 7, 14))
    assert COMM.allreduce(program.sent_bytes_per_sample) * len(x) == pytest.approx(expected, rel=1e-12)
    program.use_transport("ialltoallv")
    assert program.sent_bytes_per_sample is None
