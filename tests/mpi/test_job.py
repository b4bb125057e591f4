"""A whole inference run on the ranks of this job, and how the ranks agree on failures."""

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.plan.files import store as plan_files
from repurpose_hpc.plan.files.store import shard_path
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.inference import run
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.runtime.setup import Job

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
INPUT, OUTPUT, SHARDS = "input.npz", "output.h5", "shards"


def make_job(folder: Path, workers: int, placement: str, **values) -> tuple:
    """Shards and samples, written by rank 0: the job, the restructured network, its plan, the samples."""
    made = None
    if COMM.rank == 0:
        network, plan = small_plans.write_shards(folder / SHARDS, workers, placement, np.float64)
        made = network, plan, small_plans.write_samples(folder / INPUT)
    defaults = {"batch_size": 7, "verify": True, "repeat": 2, "dtype": np.dtype(np.float64)}
    options = RunOptions(**{**defaults, **values})
    job = Job(folder / SHARDS, folder / INPUT, folder / OUTPUT, options)
    return job, *COMM.bcast(made, root=0)


@pytest.mark.parametrize("placement", ["replicated", "partitioned", "root"])
@pytest.mark.parametrize("more_workers", [0, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_output_is_that_of_the_restructured_network(mpi_tmp_path, placement, more_workers, dtype):
    workers = COMM.size + more_workers
    job, network, plan, x = make_job(mpi_tmp_path, workers, placement, dtype=np.dtype(dtype))
    report = run(job, None, COMM)
    if COMM.rank > 0:
        assert report is None
        return
    with h5py.File(job.output) as file:
        y = file["y"][()]
    expected = forward(network, x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, atol=1e-6 if dtype == np.float32 else 1e-14)
    assert report["max_abs_difference"] == pytest.approx(np.abs(y - expected).max(), rel=1e-2, abs=1e-15)
    assert report["weights_kept"] == network.weight_count
    if more_workers == 0:
        assert report["values_sent"] == sum(plan.values_sent(network, m) for m in network.mixings)
        assert report["dense_values"] == sum(plan.dense_values(network, m) for m in network.mixings)
    labels = np.load(job.input)["y"]
    assert report["accuracy"] == np.mean(expected.argmax(axis=1) == labels)


def test_original_network_gives_the_reference_accuracy(mpi_tmp_path):
    job, *_, x = make_job(mpi_tmp_path, COMM.size, "replicated")
    original = small_plans.random_network()
    report = run(job, original if COMM.rank == 0 else None, COMM)
    if COMM.rank == 0:
        right = forward(original, x).argmax(axis=1) == np.load(job.input)["y"]
        assert report["reference_accuracy"] == right.mean()


def test_a_rank_opens_its_own_shards_and_needed_columns_only(mpi_tmp_path, monkeypatch):
    job, network, plan, _ = make_job(mpi_tmp_path, COMM.size + 1, "root", repeat=0, verify=False)
    opened, columns = [], []
    read, batches = plan_files._reading, Samples.batches
    monkeypatch.setattr(plan_files, "_reading", lambda path, *more: opened.append(path) or read(path, *more))

    def counting(self, size, *rest, **types):
        if self.shape:  # labels have none
            columns.append(self.width if rest[0] is None else rest[0].size)
        return batches(self, size, *rest, **types)

    monkeypatch.setattr(Samples, "batches", counting)
    run(job, None, COMM)
    hosted = [shard_path(job.shards, w) for w in hosted_workers(COMM.size + 1, COMM.size, COMM.rank)]
    assert opened == ([job.shards / plan_files.PLAN_FILE] if COMM.rank == 0 else []) + hosted
    assert columns == ([network.inputs] if COMM.rank == 0 else [])


def test_a_wrong_result_leaves_no_output(mpi_tmp_path, monkeypatch, capfd):
    job, *_ = make_job(mpi_tmp_path, COMM.size, "replicated")
    if COMM.rank == 0:
        monkeypatch.setattr(
            "repurpose_hpc.runtime.inference.read_network", lambda shards: small_plans.random_network(7)
        )
    with pytest.raises(SystemExit) as leaving:
        run(job, None, COMM)
    COMM.Barrier()
    assert leaving.value.code == 1
    assert not job.output.exists()
    assert not list(mpi_tmp_path.glob(f".{OUTPUT}*"))
    assert ("float64 reference" in capfd.readouterr().err) is (COMM.rank == 0)


def test_all_leave_with_the_lowest_failing_rank_message(capfd):
    failing = {COMM.size - 1, COMM.size // 2}
    with pytest.raises(SystemExit) as leaving, collectively(COMM):
        if COMM.rank in failing:
            raise UsageError(f"rank {COMM.rank} does not like it")
    assert leaving.value.code == 2
    expected = (
        f"repurpose-hpc: error: rank {COMM.rank} does not like it\n" if COMM.rank == min(failing) else ""
    )
    assert capfd.readouterr().err == expected


def test_defects_show_a_traceback_and_mistakes_do_not(capfd):
    for error, has_traceback in ((ValueError("defect"), True), (UserError("mistake"), False)):
        with pytest.raises(SystemExit) as leaving, collectively(COMM):
            raise error
        assert leaving.value.code == 1
        message = capfd.readouterr().err
        assert ("Traceback" in message) is (has_traceback and COMM.rank == 0)
        assert message.count("repurpose-hpc: error: ") == (COMM.rank == 0)


def test_waiting_ranks_sleep():
    COMM.Barrier()
    began = time.process_time()
    with collectively(COMM):
        if COMM.rank == 0:
            time.sleep(1)
    assert time.process_time() - began < 0.3


def test_nothing_is_printed_where_nothing_fails(capfd):
    with collectively(COMM):
        pass
    assert capfd.readouterr() == ("", "")
