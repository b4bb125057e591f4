"""Whatever goes wrong, on whatever rank: one message, a non-zero status, no hang, nothing half-written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers import ROOT, small_plans
from repurpose_hpc.errors import PREFIX
from repurpose_hpc.mpi.launch import launched
from repurpose_hpc.plan.files.store import PLAN_FILE, shard_path

MODULE = ("-m", "repurpose_hpc.infer")
WORKERS = 3
SHARDS, INPUT, OUTPUT, MODEL = "shards", "input.npz", "output.h5", "model.npz"

# Runs the command after making the forward of rank 1 fail at its second batch with ERROR.
FAILING_RANK = """
from mpi4py import MPI
from repurpose_hpc.infer import main
from repurpose_hpc.runtime.program import Program

forward, calls = Program.forward, []

def failing(self, X, **others):
    calls.append(X)
    if len(calls) == 2:
        raise ERROR
    return forward(self, X, **others)

if MPI.COMM_WORLD.rank == 1:
    Program.forward = failing
main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards, samples and the original model."""
    small_plans.write_shards(tmp_path / SHARDS, WORKERS)
    small_plans.write_samples(tmp_path / INPUT)
    small_plans.write_model(tmp_path / MODEL, small_plans.random_network())
    return tmp_path


@pytest.fixture
def refused(mpirun, folder):
    """A function that runs the command and checks that it fails as it should: its message."""

    def run(*args: object, ranks: int = 2, status: int = 1, program: tuple = MODULE) -> str:
        before = snapshot(folder)
        env = {"REPURPOSE_HPC_CACHE": str(folder / "cache")}
        done = mpirun(ranks, *program, *args, env=env, timeout=60)
        assert done.returncode == status, done.stdout + done.stderr
        assert snapshot(folder) == before, "something was left behind"
        return only_message(done.stderr)

    return run


def only_message(stderr: str) -> str:
    messages = [line for line in stderr.splitlines() if PREFIX in line]
    assert len(messages) == 1 and messages[0].startswith(PREFIX), stderr
    return messages[0].removeprefix(PREFIX)


def snapshot(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def usual(folder: Path, **changed: object) -> list[object]:
    """The options of a run that works, but for those ``changed``; None leaves one out."""
    options = {"shards": folder / SHARDS, "input": folder / INPUT, "output": folder / OUTPUT, **changed}
    pairs = [(f"--{name.replace('_', '-')}", value) for name, value in options.items() if value is not None]
    return [word for pair in pairs for word in pair]


def test_the_usual_run_works(mpirun, folder):
    done = mpirun(2, *MODULE, *usual(folder))
    assert done.returncode == 0 and (folder / OUTPUT).exists(), done.stderr


def test_more_ranks_than_workers(refused, folder):
    message = refused(*usual(folder), ranks=WORKERS + 1)
    assert "3 ranks" in message and "found 4" in message and "restructure for 4" in message


def test_groups_that_do_not_divide_the_ranks(refused, folder):
    """Said before anything is restructured, too."""
    of_model = [folder / MODEL, *usual(folder, shards=None, calibration=folder / INPUT)]
    for given in (usual(folder), of_model):
        message = refused(*given, "--groups", 2, ranks=3)
        assert "--groups: expected a number that divides the 3 ranks, got 2; start a multiple" in message


def test_groups_of_more_ranks_than_workers(refused, folder):
    small_plans.write_shards(folder / "one", 1)
    message = refused(*usual(folder, shards=folder / "one"), "--groups", 2, ranks=4)
    assert "at most 1 rank in each of 2 groups" in message and "mpirun -n 2" in message


def test_a_sample_of_another_group(refused, folder):
    """Found by ranks of the second group alone, which speak for all."""
    expected = not_a_number(folder / INPUT)
    given = usual(folder, batch_size=8, repeat=0)
    assert expected in refused(*given, "--groups", 2, "--no-verify")


# Runs the command where there is next to no shared memory.
NO_ROOM = """
from repurpose_hpc.infer import main
from repurpose_hpc.runtime.exchange.transports import shared

shared._free_bytes = lambda: 100
main()
"""


@pytest.mark.parametrize("repeat", [0, 2])
def test_too_little_shared_memory(refused, folder, repeat):
    message = refused(*usual(folder, exchange="shared", repeat=repeat), ranks=3, program=("-c", NO_ROOM))
    assert "--exchange: expected" in message and "bytes of shared memory for shared" in message


def test_more_threads_than_cores(refused, folder):
    message = refused(*usual(folder, threads=4097))
    assert "--threads: expected at most" in message and "got 4097" in message and "--cpus-per-task" in message


@pytest.mark.parametrize(
    "started_by", [{"OMPI_COMM_WORLD_SIZE": "8"}, {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8"}]
)
def test_singletons(folder, started_by):
    outcomes = [run_singleton(folder, started_by, rank) for rank in range(2)]
    message = only_message(outcomes[0].stderr)
    assert "8 processes" in message and "1 rank" in message and "mpirun of" in message and "--mpi=" in message
    assert PREFIX not in outcomes[1].stderr
    assert [done.returncode for done in outcomes] == [1, 1]
    assert not (folder / OUTPUT).exists()


def run_singleton(folder: Path, started_by: dict, rank: int) -> subprocess.CompletedProcess:
    env = {**os.environ, **started_by, "OMPI_COMM_WORLD_RANK": str(rank), "SLURM_PROCID": str(rank)}
    env["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, *MODULE, *map(str, usual(folder))]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (1, 0)),
        ({"SLURM_NTASKS": "8"}, (1, 0)),  # in an allocation, without srun
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, (1, 0)),  # a batch script
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "3", "SLURM_STEP_ID": "0"}, (8, 3)),
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0"}, (2, 0)),
        ({"PMI_SIZE": "1", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "0"}, (1, 0)),  # mpirun -n 1 in a step
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2"}, (4, 2)),
    ],
)
def test_what_launchers_say(environment, expected):
    assert launched(environment) == expected


def remove_shard(folder: Path) -> Path:
    shard_path(folder / SHARDS, 2).unlink()
    return shard_path(folder / SHARDS, 2)


def damage_weights(folder: Path) -> Path:
    path = shard_path(folder / SHARDS, 2)
    with h5py.File(path, "r+") as file:
        next(iter(file["blocks"].values()))["bias"][:1] = 7
    return path


def truncate_shard(folder: Path) -> Path:
    path = shard_path(folder / SHARDS, 2)
    path.write_bytes(path.read_bytes()[:500])
    return path


def foreign_shard(folder: Path) -> Path:
    small_plans.write_shards(folder / "other", WORKERS, seed=5)
    return Path(shutil.copy(shard_path(folder / "other", 2), shard_path(folder / SHARDS, 2)))


def remove_plan(folder: Path) -> Path:
    (folder / SHARDS / PLAN_FILE).unlink()
    return folder / SHARDS / PLAN_FILE


def newer_format(folder: Path) -> Path:
    path = folder / SHARDS / PLAN_FILE
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    return path


@pytest.mark.parametrize(
    "damage", [remove_shard, damage_weights, truncate_shard, foreign_shard, remove_plan, newer_format]
)
def test_damaged_shards(refused, folder, damage):
    path = damage(folder)
    assert str(path) in refused(*usual(folder))


def no_file(path: Path) -> str:
    path.unlink()
    return "found none"


def no_archive(path: Path) -> str:
    path.write_bytes(b"not an archive")
    return "readable data file"


def no_samples(path: Path) -> str:
    np.savez(path, x=np.zeros((0, 12)))
    return "empty"


def too_wide(path: Path) -> str:
    np.savez(path, x=np.zeros((4, 13)))
    return "expected 12 values per sample as the network has 12 inputs, found 13"


def not_a_number(path: Path) -> str:
    x = np.zeros((23, 12))
    x[20, 3] = np.nan
    np.savez(path, x=x)
    return "found nan in sample 20, column 3"


@pytest.mark.parametrize("placement", ["replicated", "root"])
@pytest.mark.parametrize("spoil", [no_file, no_archive, no_samples, too_wide, not_a_number])
def test_bad_samples(refused, folder, spoil, placement):
    small_plans.write_shards(folder / SHARDS, WORKERS, placement, seed=3)
    expected = spoil(folder / INPUT)
    message = refused(*usual(folder), "--batch-size", 8, "--verify")
    assert str(folder / INPUT) in message and expected in message


@pytest.mark.parametrize("option", ["output", "report"])
@pytest.mark.parametrize("place", ["missing/out", f"{INPUT}/out", SHARDS, "/proc/out"])
def test_places_that_cannot_be_written(refused, folder, option, place):
    path = folder / place
    assert str(path) in refused(*usual(folder, **{option: path}))


def test_another_model_than_that_of_the_shards(refused, folder):
    small_plans.write_model(folder / MODEL, small_plans.random_network(seed=9))
    assert "another model" in refused(folder / MODEL, *usual(folder))


def test_a_model_that_is_none(refused, folder):
    message = refused(folder / INPUT, *usual(folder, shards=None, calibration=folder / INPUT))
    assert str(folder / INPUT) in message


def test_samples_that_do_not_fit_are_found_before_restructuring(refused, folder):
    expected = too_wide(folder / INPUT)
    arguments = usual(folder, shards=None, calibration=folder / INPUT)
    assert expected in refused(folder / MODEL, *arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["--batch-size", "0"], "1 or more"),
        (["--repeat", "many"], "0 or more"),
        (["--dtype", "float16"], "float16"),
        (["--workers", "3"], "--workers has no effect"),
        (["--pool", "mean"], "--pool belongs to a transformer"),
        (["--longest", "20"], "--longest belongs to a transformer"),
    ],
)
def test_wrong_options(refused, folder, arguments, expected):
    assert expected in refused(*usual(folder), *arguments, status=2)


@pytest.mark.parametrize("more", [(), ("--pool", "mean")])
def test_shards_that_are_not_there(refused, folder, more):
    """Whatever else is asked for."""
    expected = "absent/plan.h5: expected a file of a restructured network, found none"
    assert expected in refused(*usual(folder, shards=folder / "absent"), *more)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--comm-budget", "1.5"], "0 to 1, got 1.5"),
        (["--comm-budget", "nan"], "0 to 1, got nan"),
        (["--workers", "0"], "1 or more, got 0"),
        (["--workers", "1"], "number of ranks, 2, got 1"),
        (["--seed", "-1"], "0 or more, got -1"),
        (["--part-weights", "1,2,3"], "each of 2 workers, got 3"),
        (["--part-weights", "0,0"], "not all 0"),
        (["--part-weights", "1,inf"], "finite"),
        (["--part-weights", "1,heavy"], "'1,heavy'"),
        (["--assignment", "best"], "munkres"),
        (["--method", "best"], "frobenius"),
        (["--input-placement", "nowhere"], "replicated"),
    ],
)
def test_wrong_restructuring_options(refused, folder, arguments, expected):
    given = usual(folder, shards=None, calibration=folder / INPUT)
    assert expected in refused(folder / MODEL, *given, *arguments, status=2)


@pytest.mark.parametrize("left_out", ["input", "calibration"])
def test_options_that_are_needed(refused, folder, left_out):
    given = usual(folder, **{"shards": None, "calibration": folder / INPUT, left_out: None})
    assert f"--{left_out}" in refused(folder / MODEL, *given, status=2)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("ZeroDivisionError('oh')", "rank 1 failed with ZeroDivisionError: oh"),
        ("KeyboardInterrupt", "interrupted"),
    ],
)
@pytest.mark.parametrize("way", ["ialltoallv", "shared"])
def test_a_rank_that_raises_in_the_middle_of_inference(
    refused, folder, tmp_path_factory, error, expected, way
):
    script = tmp_path_factory.mktemp("program") / "failing.py"
    script.write_text(FAILING_RANK.replace("ERROR", error))
    arguments = usual(folder, batch_size=4, repeat=0, exchange=way)
    assert expected in refused(*arguments, ranks=3, program=(script,))
