"""The names of the library, and what a process alone gets from them."""

import os
import subprocess
import sys

import repurpose_hpc as rp
from helpers import ROOT

NAMES = {
    *("Options", "Restructured", "Samples", "Session", "SpikingOptions", "TokenSession", "UserError"),
    *(
        "from_snntorch",
        "from_torch",
        "load_model",
        "load_tokens",
        "open_plan",
        "restructure_network",
        "split_network",
        "exchange_operator",
    ),
}
# All that a notebook does, then what it must not have done.
ALONE = """
import sys
import numpy as np
import repurpose_hpc as rp
from repurpose_hpc import bundled
network = rp.load_model(bundled.MODEL)
x = np.load(bundled.CALIBRATION)["x"][:300]
cut = rp.restructure_network(network, rp.Samples.of(x), workers=3, comm_budget=0.1)
cut.save(sys.argv[1])
plan = rp.open_plan(sys.argv[1])
assert plan.traffic_matrix().shape == (3, 3)
for source in (cut, plan, sys.argv[1]):
    with rp.Session(source) as session:
        assert session.run(x).shape == (300, 10)
assert "mpi4py.MPI" not in sys.modules
"""


def test_names_are_these():
    assert set(rp.__all__) == NAMES
    assert set(dir(rp)) == NAMES | {"__version__"}
    for name in NAMES:
        assert getattr(rp, name).__name__ == name
    assert not hasattr(rp, "restructure_all")


def run(code: str, *arguments: object) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr


def test_nothing_is_imported_before_it_is_used():
    run("import sys, repurpose_hpc; assert not {'numpy', 'numba', 'mpi4py', 'h5py'} & set(sys.modules)")


def test_a_process_alone_does_all_without_mpi(tmp_path):
    run(ALONE, tmp_path / "shards")
