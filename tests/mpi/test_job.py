"""A whole inference run on the ranks of this job, and how the ranks agree on failures."""

import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.covering import covering
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.plan.files import store as plan_files
from repurpose_hpc.plan.files.store import shard_path
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.runtime.exchange.transports import shared
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.inference import run
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.runtime.setup import Job
from repurpose_hpc.runtime.streams import blocks
from repurpose_hpc.runtime.streams.outputs import OutputFile

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
GROUPS = [groups for groups in range(1, COMM.size + 1) if COMM.size % groups == 0]
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


def outputs_of(job: Job) -> np.ndarray:
    with h5py.File(job.output) as file:
        return file["y"][()]


@pytest.mark.parametrize(
    ("groups", "batch_size", "placement"), covering(GROUPS[1:] or GROUPS, [1, 7, 1000], PLACEMENTS)
)
def test_groups_give_the_outputs_of_one_group(mpi_tmp_path, groups, batch_size, placement):
    """The same bits as the ranks of a group give alone; what is sent is what the plan says.

    With 1000 all groups but one have nothing to compute.
    """
    size = COMM.size // groups
    job, *_, x = make_job(
        mpi_tmp_path, size + 1, placement, groups=groups, batch_size=batch_size, repeat=int(batch_size == 7)
    )
    alone = replace(job, output=job.output.with_name("alone.h5"), options=replace(job.options, groups=1))
    part = COMM.Split(0 if COMM.rank < size else MPI.UNDEFINED)
    expected = None
    if part != MPI.COMM_NULL:
        expected = run(alone, None, part)
        part.Free()
    report = run(job, None, COMM)
    if report is None or expected is None:
        return
    np.testing.assert_array_equal(outputs_of(job), outputs_of(alone))
    assert (report["ranks"], report["groups"], report["samples"]) == (COMM.size, groups, len(x))
    same = (
        "values_sent",
        "dense_values",
        "bytes_sent",
        "messages",
        "rounds",
        "load",
        "weights_kept",
        "formats",
    )
    same += ("accuracy", "max_abs_difference", "relative_difference", "labels")
    assert {name: report[name] for name in same} == {name: expected[name] for name in same}
    assert report["first_result_seconds"] > 0
    if batch_size == 7:  # every group has computed something
        assert len(report["suggested_part_weights"]) == size + 1
        assert len(report["compute_seconds"]) == COMM.size


@pytest.mark.parametrize("groups", GROUPS[1:])
@pytest.mark.parametrize(
    ("transport", "batch_size"), [("auto", 4), ("shared", 4), ("sparse", 4), ("sparse", 1000)]
)
def test_groups_with_other_transports(mpi_tmp_path, groups, transport, batch_size):
    """Zeros that are left out are counted over the samples of all groups, of which some may have none."""
    values = {"groups": groups, "batch_size": batch_size, "transport": transport, "repeat": 0}
    job, network, _, x = make_job(mpi_tmp_path, COMM.size + 2, "partitioned", **values)
    report = run(job, None, COMM)
    if report is None:
        return
    np.testing.assert_allclose(outputs_of(job), forward(network, x), atol=1e-14)
    if transport == "sparse" and COMM.size > groups:
        assert 0 < report["sent_bytes_per_sample"] <= report["bytes_sent"]


def test_a_run_of_groups_is_gone_on_with_by_others(mpi_tmp_path, monkeypatch):
    """An output file knows no groups: what some have left others complete."""
    monkeypatch.setattr(blocks, "MOST_BATCHES", 1)
    job, network, _, x = make_job(
        mpi_tmp_path, COMM.size, "replicated", groups=GROUPS[-1], verify=False, resume=True, batch_size=1
    )
    with monkeypatch.context() as patched:
        append = OutputFile.append

        def failing(self, rows):
            if self.written:
                raise UserError("enough")
            append(self, rows)

        patched.setattr(OutputFile, "append", failing)
        with pytest.raises(SystemExit):
            run(job, None, COMM)
    report = run(replace(job, options=replace(job.options, groups=1)), None, COMM)
    if report is not None:
        assert report["resumed_samples"] == GROUPS[-1]
        np.testing.assert_allclose(outputs_of(job), forward(network, x), atol=1e-14)


def test_a_group_that_lacks_something_ends_all(mpi_tmp_path, monkeypatch, capfd):
    """The last group finds no memory to share: all leave, with one message."""
    groups = GROUPS[-1]
    job, *_ = make_job(mpi_tmp_path, COMM.size, "replicated", groups=groups, transport="shared")
    if COMM.rank == COMM.size - 1:
        monkeypatch.setattr(shared, "_free_bytes", lambda: 0)
    with pytest.raises(SystemExit):
        run(job, None, COMM)
    COMM.Barrier()
    assert ("bytes of shared memory for shared" in capfd.readouterr().err) is (COMM.rank == 0)
    assert not job.output.exists()


@pytest.mark.parametrize("groups", [COMM.size + 1, 2 * COMM.size])
def test_ranks_that_groups_do_not_divide(mpi_tmp_path, groups, capfd):
    job, *_ = make_job(mpi_tmp_path, COMM.size, "replicated", groups=groups)
    with pytest.raises(SystemExit):
        run(job, None, COMM)
    expected = (
        f"error: --groups: expected a number that divides the {COMM.size} ranks, got {groups}; start a "
    )
    assert (expected in capfd.readouterr().err) is (COMM.rank == 0)


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
    read, stretches = plan_files._reading, Samples.stretches
    monkeypatch.setattr(plan_files, "_reading", lambda path, *more: opened.append(path) or read(path, *more))

    def counting(self, wanted, chosen, dtype):
        if self.shape:  # labels have none
            columns.append(self.width if chosen is None else chosen.size)
        return stretches(self, wanted, chosen, dtype)

    monkeypatch.setattr(Samples, "stretches", counting)
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
