"""The table of docs/sparse.md: values that eight workers send if nothing is pruned, by owners.

    python scripts/hypergraph_table.py --density 0.1 --out docs/results/hypergraph.csv

A network of the Graph Challenge (``graph_challenge.py``), as it is and after ``--lossless``; with
``--density D`` also the bundled network, of whose weights the smallest are zero.  The input is partitioned.
*values*: of a sample.  *without zeros*: what is left of them on test images, the mean, where a zero is a bit,
1/32 of a value.  The data-aware owners know calibration images alone.  Mt-KaHyPar's rows need the extra
``hypergraph``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
from graph_challenge import BITS, WORKERS, official
from rows import markdown, write_csv

from repurpose_hpc import bundled
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.lossless import reduced
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import PARTITIONED, Plan, dense_plan, dense_plan_for
from repurpose_hpc.restructure.calibration.propagation import Propagation
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.owners.exact import ExactProblem, exact_owners
from repurpose_hpc.restructure.owners.mt_kahypar import mt_kahypar_start
from repurpose_hpc.restructure.team import ALONE
from repurpose_hpc.restructure.unpruned import measure_activity

SEED = 0
EVEN = np.ones(WORKERS)
# Images that are looked at, and their sides.
IMAGES, SIDE = 500, 28


def main() -> None:
    """Find all owners, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--neurons", type=int, choices=sorted(BITS), default=1024)
    parser.add_argument("--layers", type=int, default=120)
    parser.add_argument("--density", type=float)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = []
    for name, network, calibration, test in networks(args):
        known, unseen = (activity(network, samples) for samples in (calibration, test))
        for owners, plan, seconds in plans(network, calibration, known):
            row = {"network": name, "owners": owners, **counts(network, plan, unseen), "seconds": seconds}
            rows.append(row)
            print(row, flush=True)
    write_csv(args.out, rows)
    formats = {"values": ",", "without_zeros": ",.0f", "of_dense": ".3f", "seconds": ".1f"}
    names = ["network", "owners", *formats]
    lines = [
        [*map(row.get, names[:2]), *(format(row[k], spec) for k, spec in formats.items())] for row in rows
    ]
    print(markdown([name.replace("_", " ") for name in names], lines))


def networks(args: argparse.Namespace) -> Iterator[tuple[str, Network, Samples, Samples]]:
    """Names, networks, and samples for calibration and for tests."""
    calibration, test = (pixels(path) for path in (bundled.CALIBRATION, bundled.TEST))
    network = official(args.neurons, args.layers)
    images = [Samples.of(enlarged(x, args.neurons)) for x in (calibration, test)]
    yield "Graph Challenge", network, *images
    yield "the same, `--lossless`", reduced(network), *images
    if args.density is not None:
        samples = (Samples.of(x) for x in (calibration, test))
        yield f"bundled, density {args.density:g}", thinned(load_model(bundled.MODEL), args.density), *samples


def pixels(path: Path) -> np.ndarray:
    """The first images, (IMAGES, 784) float32."""
    return next(iter(open_samples(path).batches(IMAGES)))


def enlarged(images: np.ndarray, neurons: int) -> np.ndarray:
    """Images as the Graph Challenge has them: of 32 x 32 pixels or more, 0 or 1; (IMAGES, neurons)."""
    side = int(np.sqrt(neurons))
    index = np.arange(side) * SIDE // side
    squares = images.reshape(-1, SIDE, SIDE)[:, index][:, :, index]
    return (squares > 127).reshape(len(images), -1).astype(np.float32)


def thinned(network: Network, density: float) -> Network:
    """The network with the largest weights of each mixing alone."""
    mixings = {}
    for mixing in network.mixings:
        sizes = np.abs(mixing.W)
        kept = sizes >= np.quantile(sizes, 1 - density)
        mixings[mixing.name] = replace(mixing, weights=np.where(kept, mixing.W, 0))
    return network.with_mixings(mixings)


def activity(network: Network, samples: Samples) -> dict[str, np.ndarray]:
    """Values of every neuron that are sent without zeros, by tensor."""
    propagation = Propagation(network, network.mixings, samples, ALONE)
    return measure_activity(network, propagation, dense_plan(network, WORKERS, PARTITIONED, EVEN))


def plans(
    network: Network, calibration: Samples, known: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, Plan, float]]:
    """Names of owners, the plan for them, and the seconds that finding them took."""
    for assignment in ("random", "contiguous"):
        began = perf_counter()
        cut = restructure(network, calibration, Options(WORKERS, 1, PARTITIONED, assignment, seed=SEED))
        yield assignment, cut.plan, perf_counter() - began
    package = mt_kahypar_start(SEED)
    if package is not None:
        began = perf_counter()
        problem = ExactProblem(network, PARTITIONED, EVEN)
        summed = problem.narrow()
        partitioner = problem.partitioner(summed, SEED)
        partitioner.start(package)
        seconds = perf_counter() - began
        owners = problem.of_spaces(partitioner.owner)
        yield "Mt-KaHyPar", dense_plan_for(network, WORKERS, PARTITIONED, owners, summed), seconds
    starts = {"our own": (None, None), "our own, data-aware": (None, known)}
    if package is not None:
        starts |= {
            "Mt-KaHyPar, refined": (package, None),
            "Mt-KaHyPar, refined, data-aware": (package, known),
        }
    for name, (start, of_data) in starts.items():
        began = perf_counter()
        found = exact_owners(network, PARTITIONED, EVEN, SEED, activity=of_data, starts=[start])
        seconds = perf_counter() - began
        yield name, dense_plan_for(network, WORKERS, PARTITIONED, found.owners, found.summed), seconds


def counts(network: Network, plan: Plan, active: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Values of a sample that are sent, without zeros as well, and of those that a dense network sends."""
    values, without_zeros, dense = 0, 0.0, 0
    for mixing in network.mixings:
        values += plan.values_sent(network, mixing)
        without_zeros += float((plan.exchanged(network, mixing) @ active[mixing.source]).sum())
        without_zeros += float(plan.sum_traffic(network, mixing).sum())
        dense += plan.dense_values(network, mixing)
    return {"values": values, "without_zeros": without_zeros, "of_dense": values / dense}


if __name__ == "__main__":
    main()
