"""Networks by the rules of the Sparse DNN Graph Challenge, and what --lossless leaves of them.

    python scripts/challenge_networks.py --neurons 1024 --layers 120

Layer k of a block of b layers joins a neuron to those with its own number and with that 2ᵏ less, modulo 2ᵇ:
32 inputs each, all weights 1/16.  In every block but the first the inputs of all its layers are in another
order, drawn at random; in this alone they are not the official ones.  Prints neurons and weights before and
after, values that cross between eight workers if nothing is pruned, and seconds.
"""

from __future__ import annotations

import argparse
from time import perf_counter

import numpy as np

from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.chain import sequence
from repurpose_hpc.model.lossless import reduced
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.restructure.lossless import neurons

# Layers of a block, and the bias, by neurons of a layer.
BITS = {1024: 6, 4096: 8, 16384: 10, 65536: 12}
BIASES = {1024: -0.3, 4096: -0.35, 16384: -0.4, 65536: -0.45}
WORKERS = 8


def challenge(neurons: int, layers: int, bits: int, bias: float, seed: int = 0) -> Network:
    """A network of ``layers`` layers, clipped at 32; its weights are dense arrays, float32.

    Args:
        neurons: of a layer and of the input, a multiple of 2 ** bits.
        layers: one or more.
        bits: layers of a block.
        bias: of every neuron.
        seed: of the orders.
    """
    rng, steps, size = np.random.default_rng(seed), [], 2**bits
    column = np.arange(neurons) % size
    row = column[:, None]
    for layer in range(layers):
        k = layer % bits
        if not k and layer:
            column = rng.permutation(column)
        weights = ((column == row) | (column == (row - 2**k) % size)).astype(np.float32) / 16
        steps += [(weights, np.full(neurons, bias, np.float32)), Activation("clip", 0.0, 32.0)]
    return sequence(neurons, steps)


def main() -> None:
    """Make one, reduce it, and print what is left."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--neurons", type=int, choices=sorted(BITS), default=1024)
    parser.add_argument("--layers", type=int, default=120)
    args = parser.parse_args()
    network = challenge(args.neurons, args.layers, BITS[args.neurons], BIASES[args.neurons])
    began = perf_counter()
    smaller = reduced(network)
    seconds = perf_counter() - began
    for name, count in (("neurons", neurons), ("weights", _weights), ("values", _values)):
        print(f"{name:<8} {count(network):>12,} -> {count(smaller):>9,}")
    print(f"{seconds:.1f} s")


def _weights(network: Network) -> int:
    return network.weight_count


def _values(network: Network) -> int:
    plan = dense_plan(network, WORKERS, "partitioned", np.ones(WORKERS))
    return sum(plan.dense_values(network, mixing) for mixing in network.mixings)


if __name__ == "__main__":
    main()
