"""Directories of sparse matrices from the command line: restructured, run, and compared with SciPy."""

import json

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from helpers.sparse_networks import dense_forward, sparse_chain

WORKERS, WIDTHS = 4, (40, 120, 90, 70, 6)


@pytest.fixture(scope="module")
def network():
    return sparse_chain(0, WIDTHS, 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, network):
    path = tmp_path_factory.mktemp("sparse")
    (path / "chain").mkdir()
    for number, mixing in enumerate(network.mixings):
        scipy.io.mmwrite(path / "chain" / f"W{number}.mtx", mixing.weights.matrix, precision=17)
        np.save(path / "chain" / f"b{number}.npy", mixing.bias)
    x = scipy.sparse.random_array((90, WIDTHS[0]), density=0.3, rng=np.random.default_rng(1), format="csr")
    scipy.sparse.save_npz(path / "x.npz", x)
    return path


def samples(folder):
    return scipy.sparse.load_npz(folder / "x.npz").toarray()


def test_owners_by_hypergraph_send_less_and_change_nothing(mpirun, folder, network):
    sent = {}
    for assignment in ("contiguous", "hypergraph"):
        words = ["restructure", folder / "chain", "--workers", WORKERS, "--calibration", folder / "x.npz"]
        words += ["--comm-budget", 1, "--assignment", assignment, "--out", folder / assignment]
        done = mpirun(2, "-m", "repurpose_hpc", *words, "--report", folder / "report.json")
        assert done.returncode == 0, done.stderr
        sent[assignment] = json.loads((folder / "report.json").read_text())["values_sent"]
    assert sent["hypergraph"] < sent["contiguous"]
    words = ["infer", "--shards", folder / "hypergraph", "--input", folder / "x.npz", "--verify"]
    done = mpirun(3, "-m", "repurpose_hpc", *words, "--output", folder / "y.h5")
    assert done.returncode == 0, done.stderr
    with h5py.File(folder / "y.h5") as file:
        np.testing.assert_allclose(file["y"][()], dense_forward(network, samples(folder)), atol=1e-5)


def test_a_directory_of_matrices_is_no_place_for_results(mpirun, folder):
    words = ["restructure", folder / "chain", "--workers", WORKERS, "--calibration", folder / "x.npz"]
    done = mpirun(2, "-m", "repurpose_hpc", *words, "--comm-budget", 1, "--out", folder / "chain")
    assert done.returncode == 2 and "which MODEL reads" in done.stderr, done.stderr
    assert len([*(folder / "chain").iterdir()]) == 8
