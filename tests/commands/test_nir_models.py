"""Spiking networks in ``.nir`` files from the command line."""

import h5py
import numpy as np
import pytest

from helpers.nir_files import recorded


@pytest.mark.parametrize("name, read_out", [("sinabs", "count"), ("snntorch_recurrent", "trains")])
def test_a_file_is_restructured_and_run(mpirun, tmp_path, name, read_out):
    path, x, spikes = recorded(name)
    trains = spikes[max(spikes)].astype(np.float64)
    expected = trains.sum(axis=1) if read_out == "count" else trains
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32))
    reading = ["--steps", x.shape[1], "--convention", name.partition("_")[0], "--read-out", read_out]
    words = ["infer", path, *reading, "--calibration", tmp_path / "x.npz", "--input", tmp_path / "x.npz"]
    words += ["--comm-budget", 1, "--dtype", "float64", "--verify", "--output", tmp_path / "y.h5"]
    done = mpirun(2, "-m", "repurpose_hpc", *words, env={"REPURPOSE_HPC_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: ") == 1 and f"{x.shape[1]} steps" in done.stderr
    with h5py.File(tmp_path / "y.h5") as file:
        np.testing.assert_array_equal(file["y"][()].reshape(expected.shape), expected)
