"""Behind the last operations that look around in a sequence, the wanted tokens alone go on."""

import numpy as np
import pytest
from mpi4py import MPI

from helpers.small_transformers import LONGEST, branching, decoder, encoder, texts
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.pooling import Pool
from repurpose_hpc.runtime.program import MOST_SCHEDULES, Program
from repurpose_hpc.runtime.sequences import Piece, Sequences
from repurpose_hpc.runtime.tokens import Tokens, TokenSession

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
# As many as ranks, and more than there are heads.
WORKERS = sorted({COMM.size, max(COMM.size, 6)})
OWNED, COMMON = 0.0, 1e9
ROWS = {Pool.FIRST: slice(0, 1), Pool.LAST: slice(-1, None), Pool.NONE: slice(None)}


def programmed(network, workers, slots=1, round_cost=OWNED):
    """A program, and its sequences."""
    cut = split_network(network, workers, round_cost=round_cost)
    hosted = hosted_workers(workers, COMM.size, COMM.rank)
    sequences = Sequences(slots, LONGEST, LONGEST, np.dtype(np.float64))
    shards = [make_shard(cut.network, cut.plan, worker, np.float64) for worker in hosted]
    return Program(shards, COMM, LONGEST, sequences=sequences), sequences


def outputs_of(program, x, wanted=None):
    """All outputs, on every rank, (tokens, outputs)."""
    rows = program.forward(np.ascontiguousarray(x.T[program.input_columns]), wanted).copy()
    parts = COMM.allgather((program.output_columns, rows))
    y = np.full((rows.shape[1], sum(columns.size for columns, _ in parts)), np.nan)
    for columns, of_rank in parts:
        y[:, columns] = of_rank.T
    return y


def assert_those(found, whole, wanted):
    """Bit for bit; one alone but for rounding, as its inputs are added up in another order."""
    if wanted.size == 1:
        np.testing.assert_allclose(found, whole[wanted], rtol=0, atol=1e-12)
    else:
        np.testing.assert_array_equal(found, whole[wanted])


@pytest.mark.parametrize("seed", range(24))
def test_any_tokens_of_any_network_are_those_of_the_reference(seed):
    """Of two pieces, the second behind the first."""
    rng, network = np.random.default_rng(seed), branching(seed)
    x = rng.standard_normal((11, network.inputs))
    expected = forward(network.at(11), x.reshape(1, -1)).reshape(2, 11, -1)
    expected = expected.swapaxes(0, 1).reshape(11, -1)
    program, sequences = programmed(network, COMM.size + seed % 3)
    for first, end in ((0, 4), (4, 11)):
        sequences.place([Piece(0, end - first)])
        wanted = np.flatnonzero(rng.random(end - first) < rng.choice([0, 0.4, 1]))
        found = outputs_of(program, x[first:end], wanted)
        np.testing.assert_allclose(found, expected[first + wanted], rtol=0, atol=1e-12)
    program.free()


@pytest.mark.parametrize("round_cost", [OWNED, COMMON])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("make", [decoder, encoder])
def test_few_tokens_have_the_bits_of_all(make, workers, round_cost):
    """Products add up one input after the other, whatever the batch, unless it is of one."""
    program, sequences = programmed(make(workers), workers, 2, round_cost)
    x = np.random.default_rng(3).standard_normal((9, program.input_columns.max() + 1))

    def outputs(wanted=None):
        sequences.forget(0)
        sequences.forget(1)
        sequences.place([Piece(1, 4), Piece(0, 5)])
        return outputs_of(program, x, wanted)

    whole = outputs()
    for wanted in (np.array(tokens, int) for tokens in ([8], [], [0, 4], [3, 8], range(9), [0])):
        assert_those(outputs(wanted), whole, wanted)
    program.free()


def test_a_few_schedules_are_kept():
    """Of sizes and numbers of wanted tokens, again after they were forgotten."""
    program, sequences = programmed(decoder(1), COMM.size)
    x = np.random.default_rng(3).standard_normal((12, program.input_columns.max() + 1))
    sequences.place([Piece(0, 12)])
    whole = outputs_of(program, x)
    for _ in range(2):
        for count in range(MOST_SCHEDULES + 2):
            sequences.forget(0)
            sequences.place([Piece(0, 12)])
            wanted = np.arange(12 - count, 12)
            assert_those(outputs_of(program, x, wanted), whole, wanted)
            assert len(program._schedules) <= MOST_SCHEDULES
    program.free()


@pytest.mark.parametrize("wanted", [[3], [-1], [1, 0], [1, 1]])
def test_other_samples_are_refused(wanted):
    program, sequences = programmed(decoder(1), COMM.size)
    sequences.place([Piece(0, 3)])
    with pytest.raises(ValueError, match="expected samples from 0 to 2"):
        program.forward(np.zeros((program.input_columns.size, 3)), np.array(wanted))
    program.free()


def opened(network, workers, round_cost=OWNED, **options):
    cut = split_network(network, workers, round_cost=round_cost)
    return TokenSession(cut, COMM, **{"slots": 3, "dtype": np.float64, **options})


@pytest.mark.parametrize("round_cost", [OWNED, COMMON])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("chunk", [1, 3, 5, 64])
def test_pooled_texts_are_rows_of_the_whole_ones(chunk, workers, round_cost):
    network = decoder(workers)
    session = opened(network, workers, round_cost, chunk=chunk)
    for pool, rows in ROWS.items():
        for slot in range(3):
            session.forget(slot)
        found = session.run([Tokens(slot, ids) for slot, ids in enumerate(texts())], pool)
        assert (found is None) == (COMM.rank > 0)
        for ids, outputs in zip(texts(), found or [], strict=False):
            expected = forward(network.at(ids.size), ids[None]).reshape(ids.size, -1)[rows]
            np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-12)
    session.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_transport_carries_few_tokens(transport):
    network, (ids, *_) = decoder(2), texts(5, (14,))
    try:
        session = opened(network, max(COMM.size, 3), transport=transport, chunk=4)
    except UserError as refusal:
        assert "transport" in str(refusal)
        pytest.skip(str(refusal))
    expected = forward(network.at(14), ids[None]).reshape(14, -1)
    for pool in (Pool.LAST, Pool.NONE, Pool.FIRST, Pool.LAST):
        session.forget(0)
        found = session.run([Tokens(0, ids)], pool)
        if found is not None:
            np.testing.assert_allclose(found[0], expected[ROWS[pool]], rtol=0, atol=1e-12)
    session.close()


@pytest.mark.skipif(COMM.size == 1, reason="nothing is sent")
def test_less_is_sent_where_few_tokens_are_wanted():
    """As the transport that counts has it."""
    session, ids = opened(decoder(2), COMM.size, transport="sparse", chunk=4), texts(5, (12,))[0]
    sent = {}
    for pool in (Pool.NONE, Pool.LAST):
        session.program.reset()
        session.forget(0)
        session.run([Tokens(0, ids)], pool)
        sent[pool] = COMM.allreduce(session.program.sent_bytes_per_sample)
    session.close()
    # The last of two blocks sends its attention, its perceptron and the last normalisation for one in twelve.
    assert 0.4 * sent[Pool.NONE] < sent[Pool.LAST] < 0.8 * sent[Pool.NONE]
