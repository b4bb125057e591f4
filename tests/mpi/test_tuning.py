"""Forward and backward passes on any number of ranks are those of the whole network in one process."""

import numpy as np
import pytest
from hypothesis import given, settings
from mpi4py import MPI

from helpers.random_cases import cases
from helpers.tuned import RankPasses, gradients_of
from repurpose_hpc.model.forward import apply_heads, forward
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.exchange.transports import available

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
TOLERANCE = {np.float64: 1e-11, np.float32: 1e-4}


def check_passes(ranks: RankPasses, network, x, seed=0, tolerance=1e-11):
    """Outputs and gradients of a batch, against those of the whole network."""
    y, expected = apply_heads(network, ranks.forward(x)), forward(network, x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))
    g = np.random.default_rng(seed).normal(size=expected.shape)
    found, whole = ranks.gradients(g), gradients_of(network, x, g)
    for mine, theirs in zip(found.mixings, whole.mixings, strict=True):
        for name in ("weights", "bias"):
            array, reference = getattr(mine, name), getattr(theirs, name)
            scale = max(1, np.abs(reference).max(initial=0))
            np.testing.assert_allclose(array, reference, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(case=cases())
@settings(max_examples=60)
def test_passes_are_those_of_the_whole_network(dtype, case):
    ranks = RankPasses(case.network, case.plan, case.max_batch, dtype=dtype)
    for first in range(0, len(case.x), case.max_batch):
        x = case.x[first : first + case.max_batch]
        check_passes(ranks, case.network, x, first, TOLERANCE[dtype])
    ranks.passes.free()


@pytest.mark.parametrize("transport", TRANSPORTS)
@given(case=cases())
@settings(max_examples=15)
def test_every_transport(transport, case):
    if transport not in available(COMM):
        pytest.skip("this MPI has no such collective")
    ranks = RankPasses(case.network, case.plan, case.max_batch, transport=transport)
    for _ in range(3):
        check_passes(ranks, case.network, case.x[: case.max_batch])
    ranks.passes.free()
