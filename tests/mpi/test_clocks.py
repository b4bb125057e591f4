"""Clocks that are known to differ are found to differ by that, within the error that is stated."""

from functools import partial
from time import monotonic

import numpy as np
import pytest
from mpi4py import MPI

from repurpose_hpc.mpi.clocks import Alignment, Reading, read_clocks

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
# Ranks of one computer have one clock; these are ahead of it, and one of them goes slower.
AHEAD, RATE = 1000.0, 1.0 - 0.1 * (COMM.rank == 1)


def clock(ahead: float, rate: float) -> float:
    return ahead + rate * monotonic()


def test_offsets_are_as_they_are_within_the_stated_error():
    readings = read_clocks(COMM, partial(clock, AHEAD * COMM.rank, 1.0))
    assert len(readings) == (COMM.size if COMM.rank == 0 else 0)
    for rank, reading in enumerate(readings):
        assert abs(reading.offset - AHEAD * rank) <= reading.error + 1e-9
        assert (reading.error == 0) == (rank == 0)


def test_times_are_aligned_though_a_clock_is_slow():
    now = partial(clock, AHEAD * COMM.rank, RATE)
    before = read_clocks(COMM, now)
    COMM.Barrier()
    seen = COMM.gather((monotonic(), now(), monotonic()))
    after = read_clocks(COMM, now)
    for rank, readings in enumerate(zip(before, after, strict=True)):
        alignment, (earliest, time, latest) = Alignment(*readings), seen[rank]
        (aligned,) = alignment.by_root(np.array([time]))
        assert earliest - alignment.bound - 1e-9 <= aligned <= latest + alignment.bound + 1e-9
        assert rank != 1 or alignment.drift < 0


def test_between_two_readings_the_offset_changes_evenly():
    alignment = Alignment(Reading(10.0, 2.0, 0.01), Reading(20.0, 3.0, 0.04))
    times = np.array([0.0, 12.0, 17.5, 23.0, 40.0])
    np.testing.assert_allclose(alignment.by_root(times), [-2.0, 10.0, 15.0, 20.0, 37.0])
    assert alignment.drift == 1.0 and alignment.bound == 1.04


def test_a_drift_within_the_errors_stretches_nothing():
    alignment = Alignment(Reading(10.0, 2.0, 0.03), Reading(20.0, 2.03, 0.01))
    times = np.array([0.0, 12.0, 40.0])
    np.testing.assert_allclose(alignment.by_root(times), times - 2.03)
    assert alignment.bound == pytest.approx(0.06)
