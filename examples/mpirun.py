"""Under mpirun: every rank runs its part of the network, the root gets the outputs.

All ranks restructure together and have the same result.  Each then opens a session on the communicator
that it is given; only the root needs the samples, and only the root has the outputs.  Ranks share the
cores of a machine, so BLAS gets one thread in each.

    OMP_NUM_THREADS=1 mpirun -n 4 python examples/mpirun.py
"""

import numpy as np
from mpi4py import MPI

import repurpose_hpc as rp
from repurpose_hpc import bundled

comm = MPI.COMM_WORLD
network = rp.load_model(bundled.MODEL)
samples = rp.Samples.open(bundled.CALIBRATION)
cut = rp.restructure_network(network, samples, workers=comm.size, comm_budget=0.1, comm=comm)

test = np.load(bundled.TEST)
with rp.Session(cut, comm) as session:
    y = session.run(test["x"] if comm.rank == 0 else None)
if y is not None:
    accuracy = (y.argmax(axis=1) == test["y"]).mean()
    print(f"{comm.size} ranks, outputs {y.shape}, accuracy {accuracy:.4f}")
