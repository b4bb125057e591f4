"""Loads of unequal ranks as the report has them; the times are made up, so that no clock decides."""

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.programs import make_program
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.runtime import result
from repurpose_hpc.runtime.hosting import hosted_workers

pytestmark = pytest.mark.mpi(min_size=2)

COMM = MPI.COMM_WORLD
WIDTHS = (40, 48, 60, 24)
ODD = 1  # the rank with more or fewer neurons than the others


def ranks_of(share: float, more_workers: int) -> list | None:
    """Numbers of all ranks, on the root, where the workers of ODD have ``share`` times the neurons."""
    workers = COMM.size + more_workers
    network = small_plans.random_network(widths=WIDTHS)
    hosts = np.concatenate([[rank] * len(each) for rank, each in enumerate(_hosted(workers))])
    plan = dense_plan(network, workers, "partitioned", np.where(hosts == ODD, share, 1.0))
    program = make_program(network, plan, max_batch=3)
    return result.gather_ranks(program, {}, COMM)


def _hosted(workers: int) -> list[range]:
    return [hosted_workers(workers, COMM.size, rank) for rank in range(COMM.size)]


def suggested(ranks: list, seconds: list[float], more_workers: int) -> np.ndarray:
    """The suggestion if the ranks had computed for so long: that of each rank's workers together."""
    for rank, took in zip(ranks, seconds, strict=True):
        rank["seconds"]["compute"] = took
    workers = COMM.size + more_workers
    weights = result.balance_of(ranks, workers)["suggested_part_weights"]
    return np.array([sum(weights[worker] for worker in hosted) for hosted in _hosted(workers)])


@pytest.mark.parametrize("more_workers", [0, 3])
@pytest.mark.parametrize("share", [0.4, 2.5])
def test_the_odd_rank(share, more_workers):
    ranks = ranks_of(share, more_workers)
    if ranks is None:
        return
    load = np.array([rank["multiply_adds"] for rank in ranks], float)
    others = np.delete(load, ODD)
    assert (load[ODD] < others).all() if share < 1 else (load[ODD] > others).all()
    # As fast as the others: it took as long as its load says, and equal shares are right.
    even = suggested(ranks, (1e-9 * load).tolist(), more_workers)
    assert even == pytest.approx(even.mean(), rel=0.02)
    # As long as the others: its share was that of its speed.
    kept = suggested(ranks, [1.0] * COMM.size, more_workers)
    assert kept / kept.sum() == pytest.approx(load / load.sum(), rel=0.02)
    # Half as fast as the others: it should have half of their share, whatever it had.
    slow = 1e-9 * load
    slow[ODD] *= 2
    halved = suggested(ranks, slow.tolist(), more_workers)
    assert np.delete(halved, ODD) == pytest.approx(2 * halved[ODD], rel=0.02)
