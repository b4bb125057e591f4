"""A plan looked at: who owns what, and who sends how much to whom.

``open_plan`` reads the plan in a directory of shards, not the weights.  Neither it nor the rest of this
program starts MPI.

    python examples/plan.py [DIR]       DIR: of shards; without it some are made
"""

import sys
import tempfile

import numpy as np

import repurpose_hpc as rp
from repurpose_hpc import bundled


def make_shards(directory: str) -> None:
    """Shards of the bundled network for three workers."""
    samples = rp.Samples.open(bundled.CALIBRATION)
    network = rp.load_model(bundled.MODEL)
    rp.restructure_network(network, samples, workers=3, comm_budget=0.1).save(directory)


with tempfile.TemporaryDirectory() as temporary:
    directory = sys.argv[1] if len(sys.argv) > 1 else f"{temporary}/shards"
    if len(sys.argv) == 1:
        make_shards(directory)
    stored = rp.open_plan(directory)

plan = stored.plan
print(f"{plan.workers} workers, input {plan.input_placement}")
for space, owner in plan.owners.items():
    if owner.min() >= 0:  # of a replicated input every worker has what it needs
        print(f"{space:<10} neurons of each worker: {np.bincount(owner, minlength=plan.workers)}")
print("values per sample from worker (row) to worker (column):")
print(stored.traffic_matrix())
