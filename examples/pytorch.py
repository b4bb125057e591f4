"""PyTorch to shards: a module becomes one HDF5 file for each worker.

``from_torch`` exports the module with torch.onnx and reads the graph; what it cannot do is refused with
the name of the operator.  ``save`` writes the plan and the shards; ``mpirun -n 4 repurpose-hpc infer
--shards DIR --input DATA`` runs them.  Needs the packages torch and onnx.

    python examples/pytorch.py [DIR]
"""

import sys

import numpy as np
import torch
from torch import nn

import repurpose_hpc as rp

directory = sys.argv[1] if len(sys.argv) > 1 else "shards"

torch.manual_seed(0)
module = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
network = rp.from_torch(module, torch.zeros(1, 64))

# Samples like those that the network will see.  Here they are drawn: 64 values that depend on 8.
rng = np.random.default_rng(0)
x = rng.standard_normal((4000, 8)) @ rng.standard_normal((8, 64))
cut = rp.restructure_network(network, rp.Samples.of(x), workers=4, comm_budget=0.1)
cut.save(directory)

# What the shards compute beside what the module does.
with torch.no_grad():
    expected = module(torch.from_numpy(x[:100]).float()).numpy()
error = np.abs(rp.Session(directory).run(x[:100]) - expected).max() / np.abs(expected).max()
print(f"4 shards in {directory}; largest difference from the module: {error:.2%} of the largest output")
