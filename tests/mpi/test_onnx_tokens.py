"""ONNX files for sequences of any length on any number of ranks, against NumPy on whole sequences."""

import warnings

import numpy as np
import pytest
from mpi4py import MPI

from helpers.cached_graphs import decoder
from helpers.token_graphs import PADDING, VOCABULARY, transformer
from repurpose_hpc.errors import Note
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_tokens
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.runtime.tokens import Tokens, TokenSession

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
# As many as ranks, and more than there are heads.
WORKERS = sorted({COMM.size, max(COMM.size, 5)})
LENGTHS = (5, 33, 1)
ENCODER = {"mask": "padding", "inputs": ("input_ids", "attention_mask")}
CACHED = {"kind": "grouped", "norms": "SimplifiedLayerNormalization"}
DECODERS = {
    "rotary": {"positions": "rotary"},
    "window": {"positions": "sinusoidal", "mask": "window"},
    "counted": {"positions": "counted"},
    "cached": CACHED,
}


def opened(folder, workers, round_cost=0.0, **options):
    """The network of a graph, and a session of it."""
    if COMM.rank == 0:
        make = decoder if options == CACHED else transformer
        onnx.save(make(**options), folder / "model.onnx")
    COMM.barrier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        network = load_tokens(folder / "model.onnx", longest=40, check=False)
    cut = split_network(network, workers, round_cost=round_cost)
    return network, TokenSession(cut, COMM, slots=3, chunk=7)


def texts():
    rng = np.random.default_rng(0)
    return [rng.integers(PADDING + 1, VOCABULARY, length) for length in LENGTHS]


def assert_is_reference(network, found):
    """Outputs of all texts, on the root, are those of NumPy."""
    assert (found is None) == (COMM.rank > 0)
    for rows, ids in zip(found or [], texts(), strict=False):
        expected = forward(network.at(ids.size), ids[None]).reshape(rows.shape)
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("round_cost", [0.0, 1e9])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("name", [*DECODERS, "encoder"])
def test_texts_of_mixed_lengths(mpi_tmp_path, name, workers, round_cost):
    network, session = opened(mpi_tmp_path, workers, round_cost, **DECODERS.get(name, ENCODER))
    found = session.run([Tokens(slot, ids) for slot, ids in enumerate(texts())])
    session.close()
    assert_is_reference(network, found)


@pytest.mark.parametrize("name", DECODERS)
def test_token_by_token(mpi_tmp_path, name):
    """Texts go on where they ended, one of them longer than the others."""
    network, session = opened(mpi_tmp_path, COMM.size, **DECODERS[name])
    rows = [[] for _ in LENGTHS]
    for position in range(max(LENGTHS)):
        further = [
            Tokens(slot, ids[position : position + 1])
            for slot, ids in enumerate(texts())
            if position < ids.size
        ]
        for tokens, row in zip(further, session.run(further) or [], strict=False):
            rows[tokens.slot].append(row)
    session.close()
    assert_is_reference(network, None if COMM.rank else [np.concatenate(each) for each in rows])
