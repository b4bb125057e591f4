"""Small random networks with random plans, written as shards: what restructuring would leave."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np

from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.activations import IDENTITY, RELU
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.comm_dtype import BITS, EXACT, scales_of
from repurpose_hpc.model.forward import trace
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.files.store import write_plan
from repurpose_hpc.plan.masks import EVERYBODY, MixingPlan, ghost_plan, mixing_plan, partial_plan
from repurpose_hpc.plan.plan import Plan, input_owners
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options

WIDTHS = (12, 16, 14, 5)
SAMPLES = 23
# For tests that look for the layers of the original network, and for nothing else, in what is restructured.
WITHOUT_RELAYS = ("ghosts", "sums")


def random_network(seed: int = 0, widths: tuple[int, ...] = WIDTHS, head: str = "softmax") -> Network:
    """A float64 network of dense layers with ReLU between them."""
    draw = np.random.default_rng(seed)
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [draw.normal(size=shape) / np.sqrt(shape[1]) for shape in shapes]
    biases = [draw.normal(size=shape[0]) for shape in shapes]
    return chain(weights, biases, [RELU] * (len(shapes) - 1) + [IDENTITY], head)


def random_plan(network: Network, workers: int, placement: str, seed: int = 0, density: float = 0.3) -> Plan:
    """Random owners and masks."""
    owners = random_owners(network, workers, placement, np.random.default_rng(seed))
    return Plan(workers, placement, owners, random_masks(network, owners, workers, density, seed))


def random_masks(
    network: Network, owners: dict[str, np.ndarray], workers: int, density: float = 0.3, seed: int = 0
) -> dict[str, MixingPlan]:
    """Random masks: ghosts for the first mixing, sums for the last, between them both."""
    draw = np.random.default_rng([seed, 1])
    mixings = {}
    for mixing in network.mixings:
        m, n = mixing.links.shape
        ghosts, sums = draw.random((workers, n)) < density, draw.random((workers, m)) < density
        ends = [owners[network.space_of[end]] for end in (mixing.source, mixing.target)]
        if mixing is network.mixings[0]:
            mixings[mixing.name] = ghost_plan(ghosts, *ends)
        elif mixing is network.mixings[-1]:
            mixings[mixing.name] = partial_plan(sums, *ends)
        else:
            mixings[mixing.name] = mixing_plan(ghosts, sums, *ends)
    return mixings


def random_owners(
    network: Network, workers: int, placement: str, draw: np.random.Generator
) -> dict[str, np.ndarray]:
    """Owners of all spaces: of the inputs as ``placement`` has it, of other free spaces at random."""
    free = {
        space.name: input_owners(space.neurons, placement, np.ones(workers))
        if space.name in network.input_spaces
        else draw.integers(0, workers, space.neurons).astype(np.int32)
        for space in network.free_spaces
    }
    return network.derive(free)


def pruned(network: Network, plan: Plan) -> Network:
    """``network`` with the weights zero that ``plan`` does not provide for."""
    return plan.pruned(network)


def scaled(network: Network, plan: Plan, samples: int = SAMPLES, wire: str = EXACT) -> Plan:
    """``plan`` with the scales that random samples ask for."""
    tensors = trace(network, np.random.default_rng(1).normal(size=(network.inputs, samples)))
    largest = {
        mixing.source: np.abs(x := tensors[mixing.source]).reshape(len(x), -1).max(axis=1)
        for mixing in network.mixings
    }
    scales = {tensor: scales_of(each) for tensor, each in largest.items()}
    return replace(plan, scales=scales, comm_dtype=wire)


def with_outliers(network: Network, plan: Plan, seed: int = 0) -> Plan:
    """``plan``, in which about a third of the neurons that mixings read are outliers."""
    draw = np.random.default_rng([seed, 2])
    sizes = {mixing.source: network.space(mixing.source).neurons for mixing in network.mixings}
    return replace(plan, outliers={tensor: draw.random(size) < 0.3 for tensor, size in sizes.items()})


def ghost_bytes(network: Network, plan: Plan, wire: str) -> int:
    """Bytes per sample of all ghosts between workers, counted one by one."""
    bits: dict[tuple[str, int, int], int] = {}
    for mixing in network.mixings:
        owner, wide = plan.owner(network, mixing.source), plan.outliers.get(mixing.source)
        for q, j in np.argwhere(plan.exchanged(network, mixing) & (owner != EVERYBODY)).tolist():
            is_wide = wide is not None and wide[j] and wire in ("int8", "int4")
            pair = mixing.name, int(owner[j]), q
            bits[pair] = bits.get(pair, 0) + (16 if is_wide else BITS[wire])
    values = {mixing.name: network.values(mixing.source) for mixing in network.mixings}
    return sum(values[name] * math.ceil(count / 8) for (name, *_), count in bits.items())


def write_shards(
    directory: Path,
    workers: int,
    placement: str = "replicated",
    dtype: type = np.float32,
    seed: int = 0,
    wire: str | None = None,
) -> tuple[Network, Plan]:
    """Shards of a random network, with scales if a wire is given; the restructured network and its plan."""
    network = random_network(seed)
    plan = random_plan(network, workers, placement, seed)
    restructured = pruned(network, plan)
    if wire is not None:
        plan = scaled(restructured, plan, wire=wire)
    write_plan(directory, restructured, plan, {"model_fingerprint": network.fingerprint()}, dtype)
    return restructured, plan


def write_relayed_shards(directory: Path, network: Network, workers: int) -> Cut:
    """Shards of a network that is restructured with relays; the restructured network and its plan."""
    x = np.random.default_rng(0).standard_normal((20 * network.inputs, network.inputs))
    cut = restructure(network, Samples.of(x), Options(workers, 0.3, "partitioned"))
    assert cut.plan.relays
    write_plan(directory, cut.network, cut.plan, {})
    return cut


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
    arrays["activations"] = np.array(["relu"] * (layers - 1) + [*network.heads])
    np.savez(path, **arrays)


def assert_same(actual, expected):
    """Equal to the last bit and dtype, through dataclasses, dictionaries (in order) and tuples."""
    if isinstance(expected, Mapping):
        assert isinstance(actual, Mapping) and list(actual) == list(expected)
        for key, value in expected.items():
            assert_same(actual[key], value)
        return
    assert type(actual) is type(expected)
    if is_dataclass(expected):
        for field in fields(expected):
            assert_same(getattr(actual, field.name), getattr(expected, field.name))
    elif isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for left, right in zip(actual, expected, strict=True):
            assert_same(left, right)
    elif isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)
    else:
        assert actual == expected
