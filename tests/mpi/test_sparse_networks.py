"""Networks with sparse weights over the ranks: the outputs of SciPy's products."""

import numpy as np
import pytest
from mpi4py import MPI

import repurpose_hpc as rp
from helpers.sparse_networks import dense_forward, sparse_chain
from repurpose_hpc.plan.plan import PLACEMENTS

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
WIDTHS = (13, 40, 29, 31, 4)


def restructured(network, x, **options):
    return rp.restructure_network(network, rp.Samples.of(x), comm=COMM, dtype=np.float64, **options)


@pytest.mark.parametrize("placement, lossless", [*((each, False) for each in PLACEMENTS), ("root", True)])
@pytest.mark.parametrize("more_workers", [0, 3])
def test_outputs_are_those_of_scipy(mpi_tmp_path, placement, more_workers, lossless):
    network = sparse_chain(0, WIDTHS, 0.2)
    x = np.random.default_rng(0).standard_normal((23, network.inputs))
    options = {"workers": COMM.size + more_workers, "comm_budget": 1.0, "input_placement": placement}
    cut = restructured(network, x, lossless=lossless, **options)
    assert all(mixing.is_sparse for mixing in cut.network.mixings)
    if COMM.rank == 0:
        cut.save(mpi_tmp_path / "shards")
    COMM.barrier()
    y = rp.Session(mpi_tmp_path / "shards", comm=COMM, dtype=np.float64).run(x)
    if COMM.rank == 0:
        np.testing.assert_allclose(y, dense_forward(network, x), atol=1e-12)


def test_what_is_eliminated_stays_sparse_and_is_that_of_the_dense_network():
    network = sparse_chain(0, WIDTHS, 0.2)
    x = np.random.default_rng(0).standard_normal((80, network.inputs))
    cuts = [restructured(each, x, workers=3, comm_budget=0.4) for each in (network, network.dense())]
    assert all(mixing.is_sparse for mixing in cuts[0].network.mixings)
    assert cuts[0].plan.identity() == cuts[1].plan.identity()
    for ours, theirs in zip(cuts[0].network.mixings, cuts[1].network.mixings, strict=True):
        np.testing.assert_array_equal(ours.weights.matrix.toarray(), theirs.weights)


@pytest.mark.parametrize("comm_dtype", ["float16", "int8"])
def test_ghosts_of_sparse_networks_travel_rounded(comm_dtype):
    network = sparse_chain(0, WIDTHS, 0.2)
    x = np.random.default_rng(0).standard_normal((40, network.inputs))
    workers = max(3, COMM.size)
    cut = restructured(network, x, workers=workers, comm_budget=1.0, comm_dtype=comm_dtype)
    dense = restructured(network.dense(), x, workers=workers, comm_budget=1.0, comm_dtype=comm_dtype)
    y, expected = (rp.Session(each, comm=COMM, dtype=np.float64).run(x) for each in (cut, dense))
    if COMM.rank == 0:
        np.testing.assert_allclose(y, expected, atol=1e-12)
        assert 0 < np.abs(y - dense_forward(network, x)).max() < 0.2
