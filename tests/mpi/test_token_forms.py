"""Restructured transformers, their halves in forms of all kinds, compute what the reference does."""

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from helpers.programs import counting
from helpers.small_transformers import decoder, encoder, normalised_behind, texts
from helpers.token_forms import WISHES, cut_of
from repurpose_hpc.forecast.tokens import Piece, piece_demand
from repurpose_hpc.model.forward import forward
from repurpose_hpc.runtime.tokens import Tokens, TokenSession

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
WORKERS = sorted({COMM.size, 5, 8} - set(range(COMM.size)) - {1})
# Ghosts that are rounded the other way are a unit of their format apart.
TOLERANCE = {"float32": 2e-5, "bfloat16": 5e-3, "int8": 5e-3}
NETWORKS = {
    "decoder": decoder(1, layers=8),
    "encoder": encoder(2, layers=2),
    "normalised behind": normalised_behind(3),
    "one head": decoder(4, heads=1, groups=1),
}
TEXTS = texts(5, (9, 1, 14))


def mixed(network, workers, comm_dtype="float32", first=0):
    """A cut in which halves have forms of all kinds, by turns."""
    wishes = [*WISHES.values()]
    return cut_of(network, wishes[first:] + wishes[:first], np.ones(workers), comm_dtype)


def expected(cut, ids, dtype):
    network = cut.network.at(ids.size)
    return forward(network, ids[None], dtype, cut.compute()).reshape(ids.size, -1)


def outputs(cut, comm=COMM, dtype=np.float32):
    session = TokenSession(cut, comm, slots=3, chunk=7, dtype=dtype)
    found = session.run([Tokens(slot, ids) for slot, ids in enumerate(TEXTS)])
    session.close()
    return found


@pytest.mark.parametrize("comm_dtype", TOLERANCE)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_are_those_of_the_reference(network, workers, comm_dtype):
    """With one head all but one worker have none, and a stream of three neurons has no numbers for all."""
    cut = mixed(NETWORKS[network], workers, comm_dtype, first=workers)
    found = outputs(cut)
    assert (found is None) == (COMM.rank > 0)
    for ids, rows in zip(TEXTS, found or [], strict=False):
        wanted = expected(cut, ids, np.float32)
        np.testing.assert_allclose(rows, wanted, rtol=0, atol=TOLERANCE[comm_dtype] * np.abs(wanted).max())


@pytest.mark.skipif(COMM.size == 1, reason="one worker is not restructured")
@pytest.mark.parametrize("comm_dtype", TOLERANCE)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_forecast_counts_what_is_handed_to_mpi(network, comm_dtype):
    """With a rank for every worker: values, bytes and rounds of a token whose outputs are wanted."""
    cut = mixed(NETWORKS[network], COMM.size, comm_dtype)
    session = TokenSession(cut, COMM)
    demand = piece_demand(cut.network, cut.plan, 1, Piece(1, 0))
    bytes_sent = sum(each.bytes_out.sum() for each in demand.exchanges)
    assert session.sent() == (demand.values_sent, bytes_sent)
    assert session.program.rounds == len(demand.exchanges)
    session.close()


@pytest.mark.parametrize("wish", WISHES)
def test_every_form_alone_in_double_precision(wish):
    for workers in WORKERS:
        for network in (decoder(6, layers=1), decoder(7, layers=1, heads=1, groups=1)):
            cut = cut_of(network.astype(np.float64), [WISHES[wish]], np.ones(workers))
            found = outputs(cut, dtype=np.float64)
            for ids, rows in zip(TEXTS, found or [], strict=False):
                np.testing.assert_allclose(rows, expected(cut, ids, np.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("comm_dtype", TOLERANCE)
def test_what_is_handed_to_mpi_is_what_the_plan_says(comm_dtype):
    """Values of a token, where every rank is a worker."""
    for network in NETWORKS.values():
        cut = mixed(network, max(COMM.size, 2), comm_dtype)
        with counting() as handed:
            session = TokenSession(cut, COMM, chunk=4)
            before = COMM.allreduce(int(handed.values.sum()))
            session.run([Tokens(0, TEXTS[0][:4])])
            counted = COMM.allreduce(int(handed.values.sum())) - before
            sent, _ = session.sent()
        session.close()
        assert counted == 4 * sent
        if COMM.size > 1:
            assert sent == cut.traffic_matrix().sum()


@pytest.mark.skipif(COMM.size > 5, reason="there are five workers")
@pytest.mark.parametrize("comm_dtype", TOLERANCE)
@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_do_not_depend_on_who_hosts_the_workers(network, comm_dtype):
    """Copies of common neurons are the same everywhere, so that one rank and many agree.

    Sums are added in other orders: a value may be rounded to the code beside it.
    """
    cut = mixed(NETWORKS[network], 5, comm_dtype, first=3)
    found, alone = outputs(cut), outputs(cut, MPI.COMM_SELF)
    for rows, others in zip(found or [], alone, strict=False):
        np.testing.assert_allclose(rows, others, rtol=0, atol=TOLERANCE[comm_dtype] * np.abs(others).max())


def test_workers_of_other_capacities_and_some_that_own_nothing():
    """Two workers have nearly everything."""
    part_weights = np.ones(max(COMM.size, 3))
    part_weights[[0, -1]] = 100
    cut = cut_of(NETWORKS["decoder"], [*WISHES.values()], part_weights, "bfloat16")
    found = outputs(cut)
    for ids, rows in zip(TEXTS, found or [], strict=False):
        wanted = expected(cut, ids, np.float32)
        np.testing.assert_allclose(rows, wanted, rtol=0, atol=TOLERANCE["bfloat16"] * np.abs(wanted).max())


def test_rounding_is_seen():
    """The tolerances of above tell a network with exact ghosts from one with rounded ones."""
    cut = mixed(NETWORKS["decoder"], 5, "int8")
    exact = replace(cut, plan=replace(cut.plan, comm_dtype="float32"))
    wanted, others = (expected(each, TEXTS[0], np.float32) for each in (cut, exact))
    assert np.abs(wanted - others).max() > TOLERANCE["int8"] * np.abs(wanted).max()
