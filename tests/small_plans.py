"""Small random networks with random plans, written as shards: what restructuring would leave."""

from pathlib import Path

import numpy as np

from repurpose_hpc.model.activations import IDENTITY, RELU
from repurpose_hpc.model.network import Network, chain
from repurpose_hpc.plan.files import write_plan
from repurpose_hpc.plan.plan import Plan, ghost_plan, input_owners, mixing_plan, partial_plan

WIDTHS = (12, 16, 14, 5)
SAMPLES = 23


def random_network(seed: int = 0, widths: tuple[int, ...] = WIDTHS, head: str = "softmax") -> Network:
    """A float64 network of dense layers with ReLU between them."""
    draw = np.random.default_rng(seed)
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [draw.normal(size=shape) / np.sqrt(shape[1]) for shape in shapes]
    biases = [draw.normal(size=shape[0]) for shape in shapes]
    return chain(weights, biases, [RELU] * (len(shapes) - 1) + [IDENTITY], head)


def random_plan(network: Network, workers: int, placement: str, seed: int = 0) -> Plan:
    """Random owners and sparse masks: ghosts for the first mixing, sums for the last, between them both."""
    draw = np.random.default_rng(seed)
    owners = {
        space.name: draw.integers(0, workers, space.neurons).astype(np.int32) for space in network.spaces
    }
    first = network.space_of[network.input]
    owners[first] = input_owners(network.inputs, placement, np.ones(workers))
    mixings = {}
    for mixing in network.mixings:
        m, n = mixing.weights.shape
        ghosts, sums = draw.random((workers, n)) < 0.3, draw.random((workers, m)) < 0.3
        ends = [owners[network.space_of[end]] for end in (mixing.source, mixing.target)]
        if mixing is network.mixings[0]:
            mixings[mixing.name] = ghost_plan(ghosts, *ends)
        elif mixing is network.mixings[-1]:
            mixings[mixing.name] = partial_plan(sums, *ends)
        else:
            mixings[mixing.name] = mixing_plan(ghosts, sums, *ends)
    return Plan(workers, placement, owners, mixings)


def pruned(network: Network, plan: Plan) -> Network:
    """``network`` with the weights zero that ``plan`` does not provide for."""
    mixings = {}
    for mixing in network.mixings:
        weights = np.where(plan.allowed(network, mixing), mixing.weights, 0)
        mixings[mixing.name] = type(mixing)(mixing.name, mixing.source, mixing.target, weights, mixing.bias)
    return network.with_mixings(mixings)


def write_shards(
    directory: Path, workers: int, placement: str = "replicated", dtype: type = np.float32, seed: int = 0
) -> tuple[Network, Plan]:
    """Shards of a random network; the restructured network and its plan."""
    network = random_network(seed)
    plan = random_plan(network, workers, placement, seed)
    restructured = pruned(network, plan)
    write_plan(directory, restructured, plan, {"model_fingerprint": network.fingerprint()}, dtype)
    return restructured, plan


def write_samples(path: Path, samples: int = SAMPLES, width: int = WIDTHS[0], seed: int = 1) -> np.ndarray:
    """Random samples with labels; the samples."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(samples, width))
    np.savez(path, x=x, y=draw.integers(0, WIDTHS[-1], samples))
    return x


def write_model(path: Path, network: Network) -> None:
    """``network``, as ``random_network`` makes them, as a model file."""
    arrays = {}
    for layer, mixing in enumerate(network.mixings):
        arrays[f"W{layer}"], arrays[f"b{layer}"] = mixing.weights, mixing.bias
    layers = len(network.mixings)
    arrays["activations"] = np.array(["relu"] * (layers - 1) + [network.head])
    np.savez(path, **arrays)
