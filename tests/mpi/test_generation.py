"""Transformers of Hugging Face's library on any number of ranks, against what it has recorded."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from helpers import ROOT
from helpers.model_directories import VOCABULARY, llama
from helpers.small_transformers import decoder, texts
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_tokens
from repurpose_hpc.plan.files.store import hold_tokens, open_plan, write_plan
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.generation import Sampling, generate
from repurpose_hpc.runtime.pooling import Pool
from repurpose_hpc.runtime.tokens import Tokens, TokenSession

pytest.importorskip("ml_dtypes")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
DIRECTORY = ROOT / "tests/data/transformers"
DECODERS = ("gpt2", "linear", "llama", "llama3", "mistral", "qwen2", "qwen3", "retnet")
# As many as ranks, and more than there are heads.
WORKERS = sorted({COMM.size, max(COMM.size, 6)})
OWNED, COMMON = 0.0, 1e9
# Some of eight ranks have no output then.
VOCABULARY_OF_FEW = 3


def recorded(name):
    """Arrays of a fixture: ids and outputs at two lengths, and greedy continuations."""
    with np.load(DIRECTORY / name / "expected.npz") as file:
        return dict(file)


def opened(name, workers=COMM.size, round_cost=OWNED, **options):
    cut = split_network(load_tokens(DIRECTORY / name), workers, round_cost=round_cost)
    return TokenSession(cut, COMM, **{"slots": 2, **options})


def assert_close(found, expected):
    """Within the rounding of the float32 that both were computed in; found on the root."""
    assert (found is None) == (COMM.rank > 0)
    if found is not None:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("round_cost", [OWNED, COMMON])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("name", DECODERS)
def test_logits_are_those_recorded(name, workers, round_cost):
    """Two texts in batches that cut them, then token by token."""
    of, session = recorded(name), opened(name, workers, round_cost, chunk=7)
    found = session.run([Tokens(slot, ids[:20]) for slot, ids in enumerate(of["ids_31"])])
    rows = [] if found is None else [np.stack(found)]
    for position in range(20, 31):
        found = session.run([Tokens(slot, ids[position:][:1]) for slot, ids in enumerate(of["ids_31"])])
        rows.extend([] if found is None else [np.stack(found)])
    session.close()
    assert_close(np.concatenate(rows, axis=1) if rows else None, of["outputs_31"])


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("length", [9, 31])
def test_an_encoder_takes_whole_texts(length, workers):
    of, session = recorded("bert"), opened("bert", workers, chunk=4)
    found = session.run([Tokens(slot, ids) for slot, ids in enumerate(of[f"ids_{length}"])])
    with pytest.raises(UserError, match="whole sequences"):
        session.run([Tokens(0, np.array([1]))])
    session.close()
    assert_close(None if found is None else np.stack(found), of[f"outputs_{length}"])


@pytest.mark.parametrize("name", DECODERS)
def test_texts_are_those_recorded(name):
    """On every rank."""
    of, session = recorded(name), opened(name, chunk=5)
    expected = of["continuations"]
    found = generate(session, list(of["ids_9"]), expected.shape[1], Sampling(), comm=COMM)
    session.close()
    assert found.ids == expected.tolist()


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_texts_of_a_gguf_file_are_those_recorded(mpi_tmp_path, name):
    gguf_files, of = _gguf_files(), recorded(name)
    if COMM.rank == 0:
        gguf_files.write(mpi_tmp_path / "m.gguf", *gguf_files.contents(DIRECTORY / name))
    COMM.Barrier()
    network, expected = load_tokens(mpi_tmp_path / "m.gguf"), of["continuations"]
    session = TokenSession(split_network(network, COMM.size), COMM, slots=2, chunk=5)
    found = generate(session, list(of["ids_9"]), expected.shape[1], Sampling(), comm=COMM)
    session.close()
    assert found.ids == expected.tolist()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("workers", WORKERS)
def test_logits_of_a_quantised_file_are_those_of_the_reference(mpi_tmp_path, kind, workers):
    gguf_files = _gguf_files()
    if COMM.rank == 0:
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
        directory = llama(mpi_tmp_path / "model", **sizes, num_key_value_heads=2)
        gguf_files.write(mpi_tmp_path / "m.gguf", *gguf_files.contents(directory), kind)
    COMM.Barrier()
    network, ids = load_tokens(mpi_tmp_path / "m.gguf"), recorded("llama")["ids_31"] % VOCABULARY
    session = TokenSession(split_network(network, workers), COMM, slots=2, chunk=7)
    found = session.run([Tokens(slot, text) for slot, text in enumerate(ids)])
    session.close()
    expected = forward(network.at(31), ids).reshape(2, 31, VOCABULARY)
    assert_close(None if found is None else np.stack(found), expected)


def _gguf_files():
    """The writer of files, where its package is installed."""
    pytest.importorskip("gguf")
    import gguf_files

    return gguf_files


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_transport_carries_the_same(transport):
    try:
        session = opened("qwen3", max(COMM.size, 3), transport=transport, chunk=8)
    except UserError as refusal:
        assert "transport" in str(refusal)
        pytest.skip(str(refusal))
    of = recorded("qwen3")
    for _ in range(2):
        found = session.run([Tokens(slot, ids) for slot, ids in enumerate(of["ids_31"])])
        assert_close(None if found is None else np.stack(found), of["outputs_31"])
        for slot in range(2):
            session.forget(slot)
    session.close()


@pytest.mark.parametrize("top_k", [0, 1, 9, 40])
def test_what_is_drawn_does_not_depend_on_ranks_and_workers(top_k):
    network, sampling = decoder(4), Sampling(temperature=1.2, top_k=top_k, top_p=0.95, seed=3)
    options = {"slots": 3, "dtype": np.float64}
    alone = TokenSession(split_network(network, 1), **options)
    session = TokenSession(split_network(network, COMM.size + 2), COMM, **options)
    prompts = texts(7, (4, 1, 6))
    found = generate(session, prompts, 8, sampling, comm=COMM)
    session.close()
    assert found.ids == generate(alone, prompts, 8, sampling).ids


@pytest.mark.parametrize("round_cost", [OWNED, COMMON])
def test_shards_hold_a_network_of_tokens(mpi_tmp_path, round_cost):
    of, network = recorded("llama"), load_tokens(DIRECTORY / "llama")
    cut = split_network(network, COMM.size, round_cost=round_cost)
    if COMM.rank == 0:
        write_plan(mpi_tmp_path / "shards", cut.network, cut.plan, {})
    COMM.Barrier()
    session = TokenSession(mpi_tmp_path / "shards", COMM, slots=2)
    found = session.run([Tokens(slot, ids) for slot, ids in enumerate(of["ids_9"])])
    session.close()
    assert_close(None if found is None else np.stack(found), of["outputs_9"])


@pytest.mark.parametrize("workers", WORKERS)
def test_every_rank_keeps_what_its_heads_need(workers):
    """Two layers of two heads of keys, keys and values of four numbers, two texts of 32 tokens."""
    session = opened("llama", workers)
    kept = COMM.allgather(session.kept_bytes)
    session.close()
    head = 2 * (4 + 4) * 2 * 32 * 4
    assert sum(kept) == 2 * head and set(kept) <= {0, head, 2 * head}
    assert COMM.size == 1 or workers > COMM.size or max(kept) == head


REFUSED = {
    "outside the vocabulary": ([Tokens(0, np.array([31]))], "from 0 to 30"),
    "negative": ([Tokens(0, np.array([3, -1]))], "from 0 to 30"),
    "too long": ([Tokens(0, np.ones(33, int))], "32 tokens at most"),
    "no such slot": ([Tokens(2, np.array([1]))], "slot from 0 to 1"),
    "twice": ([Tokens(1, np.array([1])), Tokens(1, np.array([1]))], "one entry of a sequence"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_on_every_rank(name):
    """And what comes after it is right."""
    (further, words), of, session = REFUSED[name], recorded("gpt2"), opened("gpt2")
    with pytest.raises(UserError, match=words):
        session.run(further)
    found = session.run([Tokens(slot, ids) for slot, ids in enumerate(of["ids_9"])])
    session.close()
    assert_close(None if found is None else np.stack(found), of["outputs_9"])


def test_logits_that_are_not_finite_are_refused_on_every_rank():
    network = decoder(4)
    output = network.mixings[-1]
    network = network.with_mixings({output.name: replace(output, weights=3e38 * np.sign(output.weights))})
    session = TokenSession(split_network(network, COMM.size), COMM)
    with pytest.raises(UserError, match="expected finite logits"):
        generate(session, texts(4, (5,)), 3, Sampling(), comm=COMM)
    session.close()


@pytest.mark.parametrize("token", [0, VOCABULARY_OF_FEW - 1])
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=1.0, top_k=2), Sampling(temperature=1.0)]
)
def test_a_logit_that_is_not_finite_is_seen_wherever_it_is(sampling, token):
    """The others are, and most ranks have others."""
    network = decoder(4, vocabulary=VOCABULARY_OF_FEW)
    output = network.mixings[-1]
    weights = output.weights.copy()
    weights[token] = np.where(np.arange(weights.shape[1]) % 2, 3e38, -3e38)
    network = network.with_mixings({output.name: replace(output, weights=weights)})
    session = TokenSession(split_network(network, COMM.size), COMM)
    with pytest.raises(UserError, match="expected finite logits"):
        generate(session, [np.array([1, 2, 0, 1])], 3, sampling, comm=COMM)
    session.close()


@pytest.mark.parametrize("chunk", [2, 64])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("vocabulary", [VOCABULARY_OF_FEW, 19])
def test_candidates_are_the_largest_logits(vocabulary, workers, chunk):
    """Also where ranks have fewer than are asked for, or none."""
    network = decoder(1, vocabulary=vocabulary)
    session = TokenSession(split_network(network, workers), COMM, slots=3, chunk=chunk, dtype=np.float64)
    further = [Tokens(slot, ids % vocabulary) for slot, ids in enumerate(texts(7, (4, 1, 6)))]
    whole = session.run(further, Pool.LAST)
    for count in (1, 2, 7, 40):
        for slot in range(3):
            session.forget(slot)
        found = session.candidates(further, count)
        assert (found is None) == (COMM.rank > 0)
        for (ids, logits), (expected,) in zip(found or [], whole or [], strict=True):
            np.testing.assert_array_equal(ids, np.argsort(-expected, kind="stable")[:count])
            np.testing.assert_array_equal(logits, expected[ids])
    session.close()


@pytest.mark.parametrize("comm_dtype", ["float16", "int8", "int4"])
@pytest.mark.parametrize("workers", WORKERS)
def test_tokens_cross_in_fewer_bits(workers, comm_dtype):
    """In the format of the plan, one token or several, with outliers; shards keep them as well."""
    cut, (ids,) = split_network(decoder(5), workers, round_cost=OWNED), texts(7, (9,))
    network, rng = cut.network.at(ids.size), np.random.default_rng(0)
    neurons = {mixing.source: network.space(mixing.source).neurons for mixing in network.mixings}
    plan = replace(
        cut.plan,
        comm_dtype=comm_dtype,
        scales={tensor: np.full(count, 0.04, np.float32) for tensor, count in neurons.items()},
        outliers={tensor: rng.random(count) < 0.3 for tensor, count in neurons.items()},
    )
    compute = rounded_compute(network, plan, comm_dtype)
    exact, expected = (
        forward(network, ids[None], **how).reshape(ids.size, -1) for how in ({}, {"compute": compute})
    )
    crosses = any(plan.arriving(network, mixing).any() for mixing in network.mixings)
    assert crosses == (np.abs(exact - expected).max() > 1e-6) and (crosses or workers < 3)
    session = TokenSession(replace(cut, plan=plan), COMM, slots=1, dtype=np.float64)
    found = [session.run([Tokens(0, part)]) for part in (ids[:4], ids[4:5], ids[5:])]
    if COMM.rank == 0:
        rows = np.concatenate([of_part for (of_part,) in found])
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    session.close()


def test_shards_of_tokens_keep_outliers(mpi_tmp_path):
    cut = split_network(decoder(5), COMM.size)
    outliers = {cut.network.mixings[0].source: np.ones(cut.network.inputs, bool)}
    if COMM.rank == 0:
        plan = replace(cut.plan, outliers=outliers)
        write_plan(mpi_tmp_path / "shards", cut.network, plan, {})
    COMM.barrier()
    assert hold_tokens(mpi_tmp_path / "shards")
    found = open_plan(mpi_tmp_path / "shards").plan.outliers
    assert {name: mask.tolist() for name, mask in found.items()} == {
        name: mask.tolist() for name, mask in outliers.items()
    }


@pytest.mark.skipif(COMM.size == 1, reason="one rank is like itself")
@pytest.mark.parametrize(
    "differing",
    [{"slots": 2 + COMM.rank}, {"longest": 20 + COMM.rank}, {"chunk": 5 + COMM.rank}, "plan", "dtype"],
    ids=str,
)
def test_ranks_give_the_same(differing):
    is_last = COMM.rank == COMM.size - 1
    if differing == "plan":
        arguments = {"workers": COMM.size + is_last}
    elif differing == "dtype":
        arguments = {"dtype": np.float64 if is_last else np.float32}
    else:
        arguments = differing
    with pytest.raises(UserError, match="call it alike on all ranks"):
        opened("llama", **arguments)


@pytest.mark.skipif(COMM.size == 1, reason="there is a worker for one rank")
def test_more_ranks_than_workers_are_refused():
    with pytest.raises(UserError, match="worker"):
        opened("llama", COMM.size - 1)


def test_an_interrupt_ends_all_ranks_behind_the_same_token():
    def told(sequence, token):
        seen.append(token)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    seen: list[int] = []
    of, session = recorded("llama"), opened("llama", slots=1)
    found = generate(session, list(of["ids_9"][:1]), 12, Sampling(), comm=COMM, told=told)
    session.close()
    assert found.is_interrupted
    assert found.ids == of["continuations"][:1, :3].tolist()
    assert len(seen) == (3 if COMM.rank == 0 else 0)
