"""Which tensors have a loss of their own."""

import numpy as np
import pytest

from helpers import small_plans
from helpers.small_graphs import (
    branching_network,
    convolutional_network,
    filtered_network,
    normalised_network,
    residual_network,
)
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.tuning.local import LAST, cuts_of


@pytest.mark.parametrize(
    ("widths", "expected"),
    [((7, 5), ()), ((7, 6, 5), ()), ((7, 6, 6, 5), ("x1",)), ((7, 6, 6, 6, 5), ("x1", "x2"))],
)
def test_a_chain(widths, expected):
    """All that mixings read but the inputs and what the last of them reads."""
    network = small_plans.random_network(0, widths)
    assert cuts_of(network, network) == expected and len(expected) == max(len(widths) - 1 - LAST, 0)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (residual_network, ("a0.y", "p.y")),
        (filtered_network, ("a0.y", "a1.y")),
        (branching_network, ("reduced.a.y", "deep.a.y", "pooled.a.y")),
        (normalised_network, ("a.y",)),
        (convolutional_network, ("both.y", "block.a.y", "squeeze.y", "excite.a.y", "pool.y")),
    ],
)
def test_graphs(make, expected):
    """Fixed mixings do not count, nor do additions; a tensor counts by its longest way to an output.

    Filters of an input are a layer.
    """
    network = make()
    assert cuts_of(network, network) == expected


def test_relays_belong_to_their_mixing():
    network = small_plans.random_network(0, (12, 17, 15, 14, 5))
    x = np.random.default_rng(0).standard_normal((200, network.inputs))
    cut = restructure(network, Samples.of(x), Options(3, 0.3, "partitioned"))
    assert cut.plan.relays and len(cut.network.mixings) > len(network.mixings)
    assert cuts_of(cut.network, network) == ("x1", "x2")
