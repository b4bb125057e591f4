"""The setting of the sensor experiment in plain NumPy: composite samples, counts, and the model of time.

Six sensors stand in a row, each sees one image.  The class of a sample is the *number of changes* along
the row: how many of the five pairs of neighbours see footwear on one side only.

*Time per inference* (batch 1) is modelled, not measured:

    2 · weights of the busiest worker / operations per second
    + Σ over exchanges of 4 bytes · values received by the busiest worker / bandwidth

It includes every multiplication and addition, at the platform's peak rate, and every float32 value that
the busiest worker of an exchange receives, through its one link.  It leaves out latency per message (which
decides at such sizes), how fast memory delivers the weights, biases and activations, waiting for workers
that are busiest in different layers, what a worker sends, contention between links, overlap of computation
and exchange, and the collection of the outputs.  So it ranks methods by what they compute and receive; it
predicts no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import ghost_plan, partial_plan
from repurpose_hpc.plan.plan import Plan, contiguous_owners

SENSORS = 6
PIXELS = 28 * 28
CLASSES = SENSORS  # 0 .. SENSORS - 1 changes
FOOTWEAR = (5, 7, 9)  # sandal, sneaker, ankle boot
VALUE_BYTES = 4


@dataclass(frozen=True)
class Platform:
    """Operations that one worker computes per second, and bytes that its link carries per second."""

    operations: float
    bandwidth: float


# The two platforms of the paper: arXiv 2008.08289.
PLATFORMS = {
    "data_centre": Platform(operations=125e12, bandwidth=150e9),
    "edge": Platform(operations=0.5e12, bandwidth=100e6),
}


@dataclass(frozen=True, eq=False)
class SampleCost:
    """Weights and values of each worker for one sample.

    Attributes:
        weights: multiplied by each worker, (P,).
        received: values received by each worker in each exchange, (exchanges, P).
    """

    weights: np.ndarray
    received: np.ndarray

    @property
    def values_sent(self) -> int:
        """All values that cross between workers."""
        return int(self.received.sum())

    def seconds(self, platform: Platform) -> float:
        """Modelled time per inference; see the module."""
        busiest = int(self.received.max(axis=1).sum())
        computing = 2 * int(self.weights.max()) / platform.operations
        return computing + VALUE_BYTES * busiest / platform.bandwidth


def count_changes(kinds: np.ndarray) -> np.ndarray:
    """The class of each sample: neighbours of different kind; kinds is bool (samples, SENSORS)."""
    return np.count_nonzero(kinds[:, 1:] != kinds[:, :-1], axis=1)


def draw_composites(
    labels: np.ndarray, samples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the image of each sensor; footwear or not is a fair coin for every sensor.

    Args:
        labels: Fashion-MNIST class of each image, (images,).
        samples: how many to draw.
        rng: where they come from.

    Returns:
        image of each sensor, (samples, SENSORS) int64; class, (samples,) int64.
    """
    footwear = np.isin(labels, FOOTWEAR)
    kinds = rng.integers(0, 2, (samples, SENSORS)).astype(bool)
    index = np.where(
        kinds,
        rng.choice(np.flatnonzero(footwear), kinds.shape),
        rng.choice(np.flatnonzero(~footwear), kinds.shape),
    )
    return index, count_changes(kinds)


def compose(images: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Samples with the image of sensor q in block q: (samples, SENSORS · PIXELS), the dtype of ``images``."""
    return images[index].reshape(len(index), -1)


def plan_cost(network: Network, plan: Plan) -> SampleCost:
    """Weights and values of a restructured network, counted from its plan and its nonzero weights."""
    received = np.stack([plan.traffic(network, mixing).sum(axis=0) for mixing in network.mixings])
    return SampleCost(plan.weights_held(network), received)


def everywhere_cost(network: Network) -> SampleCost:
    """Every sensor sends its image to all others, and every worker runs the whole network."""
    return SampleCost(np.full(SENSORS, network.weight_count), np.full((1, SENSORS), (SENSORS - 1) * PIXELS))


def direct_plan(network: Network) -> Plan:
    """Direct parallel: the network cut contiguously, every neuron sent to every other worker."""
    plan = _own_images(network, {})
    masks = {
        mixing.name: ghost_plan(
            np.ones((SENSORS, mixing.weights.shape[1]), bool), *_owners(plan, network, mixing)
        )
        for mixing in network.mixings
    }
    return replace(plan, mixings=masks)


def one_worker_plan(network: Network) -> Plan:
    """Every sensor sends its image to worker 0, which runs the whole network."""
    return _own_images(network, dict.fromkeys(_spaces(network)[1:], 0))


def independent_plan(network: Network, fused: bool) -> Plan:
    """The plan of independent parts.

    Args:
        network: its first mixings are block diagonal, one block for each sensor; their outputs meet
            in the last mixing or, if ``fused``, in the last two.
        fused: worker 0 receives what the parts found and owns the rest; otherwise the last mixing
            adds up partial sums.
    """
    spaces = _spaces(network)
    if fused:
        return _own_images(network, dict.fromkeys(spaces[-2:], 0))
    plan = _own_images(network, {})
    last_mixing = network.mixings[-1]
    partial = partial_plan(np.ones((SENSORS, network.outputs), bool), *_owners(plan, network, last_mixing))
    return replace(plan, mixings={**plan.mixings, last_mixing.name: partial})


def part_width(weights: int) -> int:
    """Largest h such that SENSORS networks PIXELS-h-h have at most ``weights`` weights together."""
    return int(np.sqrt(PIXELS**2 / 4 + weights / SENSORS) - PIXELS / 2)


def _own_images(network: Network, owner_of: dict[str, int]) -> Plan:
    """Spaces are owned by one worker each where ``owner_of`` says so, contiguously otherwise.

    A worker reads what it owns, and everything where it alone owns the target space.
    """
    even = np.ones(SENSORS)
    owners = {
        space.name: np.full(space.neurons, owner_of[space.name], np.int32)
        if space.name in owner_of
        else contiguous_owners(space.neurons, even)
        for space in network.spaces
    }
    mixings = {}
    for mixing in network.mixings:
        source, target = network.space_of[mixing.source], network.space_of[mixing.target]
        mask = np.zeros((SENSORS, mixing.weights.shape[1]), bool)
        if target in owner_of:
            mask[owner_of[target]] = True
        mixings[mixing.name] = ghost_plan(mask, owners[source], owners[target])
    return Plan(SENSORS, "partitioned", owners, mixings)


def _spaces(network: Network) -> list[str]:
    return [space.name for space in network.spaces]


def _owners(plan: Plan, network: Network, mixing: Mixing) -> tuple[np.ndarray, np.ndarray]:
    """Owners of the two spaces of ``mixing``."""
    return plan.owners[network.space_of[mixing.source]], plan.owners[network.space_of[mixing.target]]
