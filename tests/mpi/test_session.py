"""Sessions on all ranks: where samples come from, and who is told what is wrong."""

from itertools import product

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_graphs, small_plans
from helpers.roots import from_root
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.files.store import write_plan
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.runtime.session import Session

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
SAMPLES = 11


def cut_of(network, workers=COMM.size):
    """A network cut at random, and samples; the same on every rank."""
    plan = small_plans.scaled(network, small_plans.random_plan(network, workers, "partitioned", 5))
    x = np.random.default_rng(3).standard_normal((SAMPLES, network.inputs))
    return Cut(small_plans.pruned(network, plan), plan), x


def small_cut(more_workers=0):
    return cut_of(small_plans.random_network(), COMM.size + more_workers)


@pytest.mark.parametrize("more_workers", [0, 3])
@pytest.mark.parametrize("have_it", ["root", "all", "some"])
def test_the_root_has_the_outputs(have_it, more_workers):
    """What other ranks say is not looked at where one of them says nothing."""
    cut, x = small_cut(more_workers)
    mine = have_it == "all" or COMM.rank == 0 or (have_it == "some" and COMM.rank % 2 == 0)
    expected = forward(cut.network, x)
    for batch_size, dtype in product((4, SAMPLES, 100), (np.float32, np.float64)):
        with Session(cut, COMM, batch_size=batch_size, dtype=dtype) as session:
            for count in (SAMPLES, 3):
                y = session.run(x[:count] if mine else None)
                assert (y is None) == (COMM.rank > 0)
                if y is not None:
                    atol = 1e-6 if dtype == np.float32 else 1e-14
                    np.testing.assert_allclose(y, expected[:count], rtol=0, atol=atol)


@pytest.mark.parametrize("network", [small_graphs.residual_network(), small_graphs.branching_network()])
def test_owners_by_hypergraph_give_the_outputs(network):
    """All ranks have the same owners, whoever found them, and compute what one process does."""
    x = np.random.default_rng(2).standard_normal((SAMPLES, *network.input_shape))
    options = {"comm_budget": 1, "assignment": "hypergraph", "input_placement": "partitioned"}
    samples = Samples.of(x)
    cut = restructure_network(network, samples, workers=COMM.size, comm=COMM, dtype=np.float64, **options)
    assert len({*COMM.allgather(cut.plan.identity())}) == 1
    with Session(cut, COMM, dtype=np.float64) as session:
        y = session.run(x if COMM.rank == 0 else None)
    if COMM.rank == 0:
        np.testing.assert_allclose(y, forward(network, x), rtol=0, atol=1e-12)


def test_several_outputs_with_maps():
    cut, x = cut_of(small_graphs.convolutional_network(1))
    with Session(cut, COMM, batch_size=4, dtype=np.float64) as session:
        outputs = session.run(x if COMM.rank == 0 else None)
    if COMM.rank > 0:
        assert outputs is None
        return
    classes, maps = outputs
    assert maps.shape == (SAMPLES, 2, 3, 2)
    y = np.hstack([classes, maps.reshape(SAMPLES, -1)])
    np.testing.assert_allclose(y, forward(cut.network, x), rtol=0, atol=1e-12)


def test_from_a_directory(mpi_tmp_path):
    cut, x = small_cut(1)
    if COMM.rank == 0:
        write_plan(mpi_tmp_path / "shards", cut.network, cut.plan, {}, np.float64)
    COMM.Barrier()
    with Session(mpi_tmp_path / "shards", COMM, dtype=np.float64) as session:
        y = session.run(x)
    if y is not None:
        np.testing.assert_allclose(y, forward(cut.network, x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("more_workers", [0, 3])
def test_a_signal_in_blocks(more_workers):
    """The outputs of a network for all of it; a wrong block is refused on every rank."""
    layers, workers = [(3, 1, 1, (1, 1)), (3, 2, 1, (1, 1))], COMM.size + more_workers
    short, whole = (small_graphs.signal_network(length, layers) for length in (40, 40 + 4 * 57))
    plan = dense_plan(short, workers, "partitioned", np.ones(workers))
    x = np.random.default_rng(3).standard_normal(whole.input_shape)
    blocks = [*np.split(x, [7, 41, 190], axis=1), np.empty((2, 0))]
    with Session(Cut(short, plan), COMM, batch_size=2, dtype=np.float64) as session:
        with pytest.raises(UserError, match=r"blocks: expected a signal of shape \(2, length\)"):
            list(session.signal([x[:1]] if COMM.rank == 0 else [None]))
        with pytest.raises(UserError, match="blocks: expected a signal of 40 positions and a multiple of 4"):
            list(session.signal([x[:, :41]] if COMM.rank == 0 else [None]))
        found = list(session.signal(blocks if COMM.rank == 0 else [None] * len(blocks)))
    assert len(found) == len(blocks) + 1
    if COMM.rank == 0:
        y = np.concatenate(found)
        np.testing.assert_allclose(y.T, forward(whole, x.reshape(1, -1)).reshape(3, -1), rtol=0, atol=1e-12)
    else:
        assert found == [None] * len(found)


def test_more_ranks_than_workers_are_refused_on_every_rank():
    if COMM.size == 1:
        pytest.skip("a rank is not more than a worker")
    cut, _ = small_cut(-1)
    with pytest.raises(UserError, match="workers"):
        Session(cut, COMM)


def test_a_missing_directory_is_refused_on_every_rank(mpi_tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        Session(mpi_tmp_path / "nowhere", COMM)


def test_one_rank_that_cannot_read_its_shard_fails_all(mpi_tmp_path):
    cut, _ = small_cut()
    if COMM.rank == 0:
        write_plan(mpi_tmp_path / "shards", cut.network, cut.plan, {})
        (mpi_tmp_path / "shards" / f"worker-{COMM.size - 1:04d}.h5").unlink()
    COMM.Barrier()
    with pytest.raises(UserError, match="worker-"):
        Session(mpi_tmp_path / "shards", COMM)


@pytest.mark.parametrize("wrong", ["nothing", "nan", "shape"])
def test_wrong_samples_are_refused_on_every_rank_and_the_session_lives_on(wrong):
    cut, x = small_cut()
    samples = {"nothing": None, "nan": np.where(x > 1, np.nan, x), "shape": x[:, 1:]}[wrong]
    with Session(cut, COMM) as session:
        with pytest.raises(UserError, match="x: expected"):
            session.run(samples if COMM.rank == 0 else None)
        y = session.run(x if COMM.rank == 0 else None)
    if y is not None:
        np.testing.assert_allclose(y, forward(cut.network, x), rtol=0, atol=1e-6)


def test_a_rank_that_leaves_by_an_exception_does_not_wait():
    """For others that go on: these leave as they please."""
    cut, x = small_cut()
    session = Session(cut, COMM, transport="persistent")
    session.run(x)
    if COMM.rank == COMM.size - 1:
        with pytest.raises(ZeroDivisionError), session:
            raise ZeroDivisionError
    COMM.Barrier()
    session.close()


def test_restructured_by_all_ranks_to_the_last_bit_as_by_one():
    network = small_plans.random_network()
    x = np.random.default_rng(3).standard_normal((60, network.inputs))
    options = {"workers": COMM.size, "comm_budget": 0.3}
    together = restructure_network(network, Samples.of(x), comm=COMM, **options)
    alone = from_root(lambda: restructure_network(network, Samples.of(x), **options))
    assert together.network.fingerprint() == alone.network.fingerprint()
    assert {name: owner.tobytes() for name, owner in together.plan.owners.items()} == {
        name: owner.tobytes() for name, owner in alone.plan.owners.items()
    }
    np.testing.assert_array_equal(together.traffic_matrix(), alone.traffic_matrix())
    with Session(together, COMM, dtype=np.float64) as session:
        y = session.run(x)
    if y is not None:
        np.testing.assert_allclose(y, forward(alone.network, x), rtol=0, atol=1e-12)
