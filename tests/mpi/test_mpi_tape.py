"""A whole forward is one tape, in every format of the wire, and computes what its calls do one by one."""

import os
from unittest import mock

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.programs import make_program, run_program
from repurpose_hpc.model.comm_dtype import WIRES
from repurpose_hpc.runtime.context import Formats
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT, available
from repurpose_hpc.runtime.schedule import replay as tape
from repurpose_hpc.runtime.schedule import schedule

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(
        os.environ.get("NUMBA_DISABLE_JIT", "0") != "0", reason="without the compiler nothing is taped"
    ),
]
COMM = MPI.COMM_WORLD


def outputs(network, plan, transport, **options):
    """All outputs, and the kinds of steps of each forward."""
    seen = []

    def carry_out(steps, seconds):
        seen.append([type(step) for step in steps])
        tape.carry_out(steps, seconds)

    x = np.random.default_rng(3).standard_normal((7, network.inputs))
    program = make_program(network, plan, 4, transport=transport, **options)
    with mock.patch.object(schedule, "carry_out", carry_out):
        y = run_program(program, network, x)
    program.free()
    return y, seen


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("more_workers", [0, 3])
def test_a_forward_is_one_tape(wire, dtype, more_workers):
    """With more workers than ranks there are local copies, and sums of several workers for one neuron."""
    network = small_plans.random_network(head="identity")
    plan = small_plans.random_plan(network, COMM.size + more_workers, "partitioned", 5)
    plan = small_plans.scaled(network, plan)
    network = small_plans.pruned(network, plan)
    options = {"dtype": dtype, "formats": Formats(comm_dtype=wire)}
    with mock.patch.object(tape, "_can_be_taped", return_value=False):
        expected, seen = outputs(network, plan, DEFAULT_TRANSPORT, **options)
    assert tape.Tape not in {kind for steps in seen for kind in steps}
    for name in available(COMM):
        if TRANSPORTS[name].is_replayable:
            y, seen = outputs(network, plan, name, **options)
            assert seen == [[tape.Tape]] * 2, name
            np.testing.assert_array_equal(y, expected)
