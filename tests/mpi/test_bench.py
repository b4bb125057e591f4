"""What ``bench inference`` runs on all ranks begins with the input where it is said to be, and is right."""

from contextlib import nullcontext
from importlib.util import find_spec

import numpy as np
import pytest
from mpi4py import MPI

from repurpose_hpc.bench.candidate import check
from repurpose_hpc.bench.entrants import PARTITIONED, Chain, on_all_ranks
from repurpose_hpc.model.forward import forward

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
BLOCK = 16
WIDTH = BLOCK * COMM.size
PLACEMENTS = ("replicated", PARTITIONED)
HAS_TORCH = find_spec("torch") is not None


@pytest.fixture
def gloo():
    """``peers.gloo`` with a process group; None where torch is missing."""
    if not HAS_TORCH:
        yield None
        return
    from repurpose_hpc.bench.peers import gloo

    with gloo.group(nullcontext, COMM):
        yield gloo


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_entrants_of_all_ranks(gloo, placement):
    """With a partitioned input each rank knows its block alone: the rest of X is NaN."""
    chain = Chain(WIDTH, COMM.size, 0.25, 3, np.dtype(np.float32), placement)
    entrants = on_all_ranks(chain, gloo, COMM)
    assert ({"gloo", "dtensor"} <= set(entrants)) == HAS_TORCH
    for batch in (1, 3):
        X = np.random.default_rng(batch).standard_normal((WIDTH, batch), np.float32)
        mine = np.full_like(X, np.nan) if placement == PARTITIONED else X.copy()
        rows = slice(COMM.rank * BLOCK, (COMM.rank + 1) * BLOCK)
        mine[rows] = X[rows]
        for name, entrant in entrants.items():
            candidate = entrant.make(mine)
            candidate.call()
            found = candidate.output(candidate.call())
            if COMM.rank == 0:
                check(name, found, forward(entrant.network, X.T).T, X.dtype)


def test_the_first_layer_of_a_partitioned_input_is_cut():
    replicated, partitioned = (
        Chain(WIDTH, COMM.size, 0.25, 1, np.dtype(np.float32), placement) for placement in PLACEMENTS
    )
    kept = [np.count_nonzero(each.cut.mixings[0].weights) for each in (replicated, partitioned)]
    assert kept[0] == WIDTH**2
    assert (kept[1] < WIDTH**2) == (COMM.size > 1)
