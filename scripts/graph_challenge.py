"""The Sparse DNN Graph Challenge: its networks, what --lossless leaves of them, categories, and rates.

    python scripts/graph_challenge.py make neuron1024 --neurons 1024 --layers 120
    python scripts/graph_challenge.py sizes --neurons 1024 --layers 120
    python scripts/graph_challenge.py categories neuron1024 --layers 120 \\
        --images sparse-images-1024.tsv --truth neuron1024-l120-categories.tsv
    python scripts/graph_challenge.py rates --neurons 1024 --layers 120

Layer k of a block of b layers joins a neuron to those with its own number and with that 2ᵏ less, modulo 2ᵇ:
32 inputs each, all weights 1/16.  In every block but the first the inputs of all its layers are in another
order.  Those of the official network of 1,024 neurons and 120 layers are in ``challenge_orders.npz``, so that
it is made as it is; orders of others are drawn at random, in this alone they are not the official ones.

``rates`` has random inputs of which none dies, and no neurons merged unless it says so.  Edges are those of
the whole network.  One row needs python-graphblas, another a C++ compiler.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
from rows import markdown

import repurpose_hpc as rp
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.importers.matrices import BIASES, CLIPPED, load_matrices
from repurpose_hpc.model.lossless import reduced
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.weights import SparseWeights
from repurpose_hpc.plan.plan import dense_plan, single_worker_plan
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.lossless import neurons

# Layers of a block, by neurons of a layer.
BITS = {1024: 6, 4096: 8, 16384: 10, 65536: 12}
LAYERS = (120, 480, 1920)
WORKERS = 8
WEIGHT = 1 / 16
# Of pixels that are 1 in random inputs: of so many no sample dies, so that nobody has anything to skip.
DENSITY = 0.5
BATCH = 128
# Programs that are given a single batch.
SLOW = ("GraphBLAS",)

CPLUSPLUS = """
#include <algorithm>
#include <cstdint>
extern "C" void layer(int rows, int batch, const int64_t* starts, const int32_t* columns,
                      const float* values, const float* bias, const float* x, float* y) {
    for (int i = 0; i < rows; ++i) {
        float* out = y + (int64_t)i * batch;
        for (int b = 0; b < batch; ++b) out[b] = bias[i];
        for (int64_t k = starts[i]; k < starts[i + 1]; ++k) {
            const float* in = x + (int64_t)columns[k] * batch;
            const float value = values[k];
            for (int b = 0; b < batch; ++b) out[b] += value * in[b];
        }
        for (int b = 0; b < batch; ++b) out[b] = std::min(std::max(out[b], 0.0f), 32.0f);
    }
}
"""


def challenge(neurons: int, layers: int, bits: int, bias: float, seed: int = 0) -> Network:
    """A network of ``layers`` layers, clipped at 32; its weights are sparse, float32.

    Args:
        neurons: of a layer and of the input, a multiple of 2 ** bits.
        layers: one or more.
        bits: layers of a block.
        bias: of every neuron.
        seed: of the orders that are not official.
    """
    orders = _orders(neurons, -(-layers // bits), bits, seed)
    weights = [layer(orders[number // bits], number % bits, bits) for number in range(layers)]
    return chain(weights, [np.full(neurons, bias, np.float32)] * layers, [CLIPPED] * layers)


def official(neurons: int, layers: int) -> Network:
    """A network of the challenge by its numbers of neurons and layers."""
    return challenge(neurons, layers, BITS[neurons], BIASES[neurons])


def _orders(neurons: int, blocks: int, bits: int, seed: int) -> list[np.ndarray]:
    """For each block the number, modulo 2 ** bits, that each input counts as, (neurons,)."""
    rng, size = np.random.default_rng(seed), 2**bits
    orders = [np.arange(neurons) % size]
    if (neurons, bits) == (1024, BITS[1024]):
        with np.load(Path(__file__).with_name("challenge_orders.npz")) as known:
            orders += [*known["n1024"].astype(np.int64)]
    while len(orders) < blocks:
        orders.append(rng.permutation(orders[-1]))
    return orders[:blocks]


def layer(order: np.ndarray, k: int, bits: int) -> SparseWeights:
    """Layer k of a block, rows being outputs.

    Args:
        order: of its inputs, (neurons,).
        k: from 0.
        bits: layers of a block.
    """
    size, n = 2**bits, len(order)
    inputs_of = [np.flatnonzero(order == number) for number in range(size)]
    read = [np.sort(np.concatenate([inputs_of[c], inputs_of[(c + 2**k) % size]])) for c in range(size)]
    columns = np.concatenate([read[row % size] for row in range(n)]).astype(np.int32)
    starts = np.arange(n + 1, dtype=np.int64) * (len(columns) // n)
    return SparseWeights((n, n), starts, columns, np.full(len(columns), WEIGHT, np.float32))


def write(network: Network, directory: Path) -> None:
    """Write the layers as the files of the challenge: triples in which rows are inputs."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, mixing in enumerate(network.mixings, 1):
        weights = mixing.weights
        outputs = np.repeat(np.arange(len(weights)), np.diff(weights.starts)) + 1
        order = np.lexsort((weights.columns, outputs))
        lines = (f"{weights.columns[e] + 1}\t{outputs[e]}\t{weights.values[e]:e}\n" for e in order)
        path = directory / f"n{len(weights)}-l{number}.tsv"
        path.write_text("".join(lines), encoding="ascii")


def categories(network: Network, images: Samples) -> np.ndarray:
    """Numbers, from 1, of the samples whose outputs are not all 0."""
    found: list[int] = []
    session, first = one_process(network), 0
    for batch in images.batches(1024):
        y = session.run(batch)
        found += (first + 1 + np.flatnonzero(y.any(axis=1))).tolist()
        first += len(batch)
    return np.array(found)


def one_process(network: Network) -> rp.Session:
    """A session in which one worker has all of the network."""
    return rp.Session(Cut(network, single_worker_plan(network)))


def sizes(network: Network) -> None:
    """Print neurons, weights and dense values before and after the pass, and its seconds."""
    began = perf_counter()
    smaller = reduced(network)
    seconds = perf_counter() - began
    for name, count in (("neurons", neurons), ("weights", _weights), ("values", _values)):
        print(f"{name:<8} {count(network):>13,} -> {count(smaller):>9,}")
    print(f"{seconds:.1f} s")


def _weights(network: Network) -> int:
    return network.weight_count


def _values(network: Network) -> int:
    plan = dense_plan(network, WORKERS, "partitioned", np.ones(WORKERS))
    return int(sum(plan.values_sent(network, mixing) for mixing in network.mixings))


def compare(directory: Path, layers: int | None, images: Path, truth: Path) -> None:
    """Print how many categories are those of the truth."""
    expected = np.loadtxt(truth, np.int64, ndmin=1)
    samples = Samples.open(images)
    if expected.size and not 1 <= expected.min() <= expected.max() <= samples.samples:
        raise SystemExit(
            f"{truth}: expected numbers from 1 to {samples.samples}, the samples of {images}, found "
            f"{expected.min()} to {expected.max()}; the truth belongs to other images"
        )
    found = categories(load_matrices(directory, layers), samples)
    right = np.intersect1d(found, expected)
    print(f"{found.size} categories, {expected.size} in the truth, {right.size} of both")
    raise SystemExit(0 if right.size == found.size == expected.size else 1)


def rates(network: Network, inputs: int) -> None:
    """Print edges per second of one process, of several programs in turns; of each the best of three."""
    x = (np.random.default_rng(0).random((inputs, network.inputs)) < DENSITY).astype(np.float32)
    programs = {name: make() for name, make in _programs(network).items()}
    best = dict.fromkeys(programs, 0.0)
    for _ in range(3):
        for name, run in programs.items():
            samples = x[:BATCH] if name in SLOW else x
            began = perf_counter()
            run(samples)
            rate = network.weight_count * len(samples) / (perf_counter() - began)
            best[name] = max(best[name], rate)
    ours = best["this program"]
    rows = [(name, f"{rate:.2g}", f"{ours / rate:.2g}") for name, rate in best.items()]
    print(markdown(["program", "edges a second", "this program is as fast so many times"], rows))


def _programs(network: Network) -> dict[str, Callable[[], Callable[[np.ndarray], object]]]:
    smaller = reduced(network)
    programs: dict[str, Callable[[], Callable[[np.ndarray], object]]] = {
        "this program": lambda: _ours(network),
        "SciPy": lambda: _with_scipy(network),
    }
    if shutil.which("g++"):
        programs["C++ loop"] = lambda: _with_cplusplus(network)
    try:
        import graphblas  # noqa: F401

        programs["GraphBLAS"] = lambda: _with_graphblas(network)
    except ImportError:
        pass
    programs["this program, merged"] = lambda: _ours(smaller)
    return programs


def _ours(network: Network) -> Callable[[np.ndarray], object]:
    session = rp.Session(Cut(network, single_worker_plan(network)), batch_size=BATCH)
    return session.run


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(x), BATCH):
        yield np.ascontiguousarray(x[first : first + BATCH].T)


def _with_scipy(network: Network) -> Callable[[np.ndarray], object]:
    layers = [(mixing.weights.matrix, mixing.bias[:, None]) for mixing in network.mixings]

    def run(x: np.ndarray) -> None:
        for block in _blocks(x):
            for W, bias in layers:
                block = W @ block
                block += bias
                np.clip(block, 0, 32, out=block)

    return run


def _with_cplusplus(network: Network) -> Callable[[np.ndarray], object]:
    with tempfile.TemporaryDirectory() as directory:
        source, library = Path(directory, "layer.cpp"), Path(directory, "layer.so")
        source.write_text(CPLUSPLUS, encoding="ascii")
        flags = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
        subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
        function = ctypes.CDLL(str(library)).layer

    def address(array: np.ndarray) -> ctypes.c_void_p:
        return array.ctypes.data_as(ctypes.c_void_p)

    def run(x: np.ndarray) -> None:
        for block in _blocks(x):
            for mixing in network.mixings:
                weights, result = mixing.weights, np.empty((len(mixing.bias), block.shape[1]), np.float32)
                arrays = weights.starts, weights.columns, weights.values, mixing.bias, block, result
                function(len(result), block.shape[1], *map(address, arrays))
                block = result

    return run


def _with_graphblas(network: Network) -> Callable[[np.ndarray], object]:
    import graphblas as gb

    gb.init("suitesparse", blocking=True)
    gb.ss.config["nthreads"] = 1
    single, plus, products = gb.dtypes.FP32, gb.binary.plus, gb.semiring.plus_times
    low, high = (gb.Scalar.from_value(np.float32(level), dtype=single) for level in (0, 32))
    layers = [(gb.io.from_scipy_sparse(m.weights.matrix), np.float32(m.bias[0])) for m in network.mixings]

    def run(x: np.ndarray) -> None:
        for block in _blocks(x):
            Y = gb.Matrix.from_dense(block)
            for W, bias in layers:
                C = gb.Matrix.from_scalar(bias, *Y.shape, dtype=single)
                C(plus) << products(W @ Y)
                C << C.apply(gb.binary.max, right=low)
                C << C.apply(gb.binary.min, right=high)
                Y = C

    return run


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("make", "sizes", "rates"):
        command = commands.add_parser(name)
        command.add_argument("--neurons", type=int, choices=sorted(BITS), default=1024)
        command.add_argument("--layers", type=int, default=LAYERS[0])
    commands.choices["make"].add_argument("directory", type=Path)
    commands.choices["rates"].add_argument("--inputs", type=int, default=1024)
    command = commands.add_parser("categories")
    command.add_argument("directory", type=Path)
    command.add_argument("--layers", type=int)
    command.add_argument("--images", type=Path, required=True)
    command.add_argument("--truth", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "categories":
        compare(args.directory, args.layers, args.images, args.truth)
        return
    network = official(args.neurons, args.layers)
    if args.command == "make":
        write(network, args.directory)
    elif args.command == "sizes":
        sizes(network)
    else:
        rates(network, args.inputs)


if __name__ == "__main__":
    main()
