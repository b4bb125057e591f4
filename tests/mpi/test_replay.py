"""A whole forward is one recording, in every format of messages, and computes what its calls do one by one.

So it does where MPI functions cannot be called by their address, and mpi4py makes the calls.
"""

import os
from unittest import mock

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.programs import make_program, run_program
from repurpose_hpc.model.comm_dtype import COMM_DTYPES
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT, available
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.runtime.schedule import mpi_functions as functions
from repurpose_hpc.runtime.schedule import replay, schedule

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(
        os.environ.get("NUMBA_DISABLE_JIT", "0") != "0", reason="without the compiler nothing is recorded"
    ),
]
COMM = MPI.COMM_WORLD


def outputs(network, plan, transport, **options):
    """All outputs, and the kinds of steps of each forward."""
    seen = []

    def carry_out(steps, seconds, *times):
        seen.append([type(step) for step in steps])
        replay.carry_out(steps, seconds, *times)

    x = np.random.default_rng(3).standard_normal((7, network.inputs))
    program = make_program(network, plan, 4, transport=transport, **options)
    with mock.patch.object(schedule, "carry_out", carry_out):
        y = run_program(program, network, x)
    program.free()
    return y, seen


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wire", COMM_DTYPES)
@pytest.mark.parametrize("more_workers", [0, 3])
def test_a_forward_is_one_recording(wire, dtype, more_workers):
    """With more workers than ranks there are local copies, and sums of several workers for one neuron."""
    network = small_plans.random_network(head="identity")
    plan = small_plans.random_plan(network, COMM.size + more_workers, "partitioned", 5)
    plan = small_plans.with_outliers(network, small_plans.scaled(network, plan))
    network = small_plans.pruned(network, plan)
    options = {"dtype": dtype, "formats": Formats(comm_dtype=wire)}
    with mock.patch.object(replay, "_can_be_recorded", return_value=False):
        expected, seen = outputs(network, plan, DEFAULT_TRANSPORT, **options)
    assert replay.Replay not in {kind for steps in seen for kind in steps}
    for name in available(COMM):
        if TRANSPORTS[name].is_replayable:
            y, seen = outputs(network, plan, name, **options)
            assert seen == [[replay.Replay]] * 2, name
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("more_workers", [0, 3])
def test_the_same_by_the_calls_of_mpi4py(more_workers, capfd):
    """Where the interface of the library is not the one assumed; one line says so."""
    network = small_plans.random_network(head="identity")
    plan = small_plans.random_plan(network, COMM.size + more_workers, "partitioned", 5)
    network = small_plans.pruned(network, plan)
    names = available(COMM)
    expected = [outputs(network, plan, name)[0] for name in names]
    functions._say_once.cache_clear()
    capfd.readouterr()
    with mock.patch.object(functions, "abi_problem", lambda: "handles have 3 bytes"):
        found = [outputs(network, plan, name) for name in names]
    for name, y, (same, seen) in zip(names, expected, found, strict=True):
        np.testing.assert_array_equal(same, y, err_msg=name)
        # One rank exchanges nothing, so every transport is recorded.
        recorded = TRANSPORTS[name].is_replayable or COMM.size == 1
        assert (seen == [[replay.Replay]] * 2) is recorded, name
    # One rank exchanges nothing, so it calls no function of MPI.  Open MPI has lines of its own.
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("MPI is called")]
    said = "MPI is called by mpi4py, which is slower: handles have 3 bytes"
    assert lines == ([said] if COMM.rank == 0 and COMM.size > 1 else [])


def test_this_library_is_called_by_address():
    assert functions.abi_problem() is None


def test_functions_of_mpi4py_report_errors():
    """As C functions do: with a code, which is raised as mpi4py does."""
    function = functions._by_mpi4py("MPI_Alltoallv")
    numbers, counts, places = np.zeros(1, np.intc), np.array([-1], np.intc), np.zeros(1, np.intc)
    side = (*(array.ctypes.data for array in (numbers, counts, places)), functions.handle(MPI.INT))
    with pytest.raises(MPI.Exception):
        function(*side, *side, functions.handle(MPI.COMM_SELF))


def test_arguments_of_mpi_functions_are_counted():
    with pytest.raises(ValueError, match="expected 3 arguments, found 2"):
        functions.function("MPI_Waitall")(0, 0)
