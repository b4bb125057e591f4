"""``python -m repurpose_hpc doctor``: it sees what is there, and warns of what is wrong."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import ROOT, small_plans
from repurpose_hpc.commands.doctor import render, summarise
from repurpose_hpc.doctor import facts as doctor_facts
from repurpose_hpc.doctor import findings as doctor_findings
from repurpose_hpc.doctor.facts import Facts
from repurpose_hpc.errors import PREFIX

MODULE = ("-m", "repurpose_hpc", "doctor")
GIB = 2**30
GOOD = Facts(
    host="a",
    cpus=(0,),
    host_cpus=4,
    threads=1,
    slurm_cpus=1,
    memory=GIB,
    blas="OpenBLAS (SkylakeX)",
    avx512=True,
    versions="1",
    import_seconds=1.0,
    cache="/tmp/numba",
    cache_filesystem="ext4",
    locks=True,
)


def ranks(*changes: dict) -> list[Facts]:
    """Facts of ranks that are bound to a core each, but for ``changes``."""
    return [replace(GOOD, **{"cpus": (rank,), **change}) for rank, change in enumerate(changes)]


def complaints(facts: list[Facts], exchange_us: float = 10.0, workers: int | None = None, **env: str):
    """Errors and warnings, each by its own."""
    return (
        doctor_findings.errors(facts, workers),
        doctor_findings.warnings(facts, exchange_us, workers, env),
    )


def test_nothing_is_wrong():
    assert complaints(ranks({}, {}), workers=2) == ([], [])
    assert "nothing to complain of" in render(summarise(ranks({}), 1.0, None))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (ranks({"cpus": (0, 1)}, {"cpus": (0, 1)}), "bound to cores of its own: srun --cpu-bind"),
        (ranks({"cpus": (0,)}, {"cpus": (0,)}), "2 ranks with 2 threads in all on 1 core"),
        (ranks({"threads": 2}, {"cpus": (1, 2, 3)}), "rank 0 has more BLAS threads than cores: lower OMP"),
        (ranks({"slurm_cpus": 4}), "asks for 4 for each task: srun does not always"),
        (ranks({}, {"versions": "2"}), "different versions (a: 1; a: 2)"),
        (ranks({}, {"cache": None}), "set NUMBA_CACHE_DIR to one that can be written"),
        (ranks({"cache_filesystem": "lustre"}), "/tmp/numba, on lustre"),
        (ranks({}, {"import_seconds": 60.0}), "importing took 60 s on the slowest rank"),
        (ranks({"blas": "OpenBLAS (Haswell)"}), "OPENBLAS_CORETYPE=SkylakeX"),
        (ranks({"locks": False}), "HDF5_USE_FILE_LOCKING=FALSE"),
    ],
)
def test_pitfalls_are_named_with_the_remedy(facts, expected):
    wrong, slow = complaints(facts)
    assert not wrong and len(slow) == 1 and expected in slow[0]


def test_no_false_alarms():
    assert complaints(ranks({"blas": "OpenBLAS (Haswell)", "avx512": False})) == ([], [])
    assert complaints(ranks({"locks": False}), HDF5_USE_FILE_LOCKING="FALSE") == ([], [])
    assert complaints(ranks({"blas": ""})) == ([], [])


CROWDED = ranks(*[{"cpus": (0, 1), "versions": "MPICH Version: 5.0.2"}] * 3)
ROOMY = ranks(*[{"versions": "MPICH Version: 5.0.2"}] * 3)


@pytest.mark.parametrize(
    ("facts", "value", "expected"),
    [
        (CROWDED, None, "3 ranks on 2 cores, and ranks of MPICH that wait keep their cores busy"),
        (ROOMY, "1", "MPIR_CVAR_ENABLE_HEAVY_YIELD=1, although every rank has a core"),
        (CROWDED, "0", ""),
        (CROWDED, "1", ""),
        (ROOMY, None, ""),
        (ROOMY, "0", ""),
        (ranks({"versions": "MPICH"}), "1", ""),
        (ranks(*[{"cpus": (0,), "versions": "Open MPI v5.0.11"}] * 3), None, ""),
    ],
)
def test_ranks_that_wait(facts, value, expected):
    given = {} if value is None else {doctor_findings.HEAVY_YIELD: value}
    about = [text for text in complaints(facts, **given)[1] if "YIELD" in text]
    assert len(about) == bool(expected) and expected in "".join(about)


def test_slow_exchange():
    assert "takes 2,000 µs even when nothing is sent" in complaints(ranks({}), exchange_us=2000.0)[1][0]


@pytest.mark.parametrize(
    ("facts", "workers", "expected"),
    [
        (ranks({}, {}, {}), 2, "3 ranks, but the shards are of 2 workers: start at most 2 ranks"),
        (ranks({}, {"missing": "/x/worker-0001.h5"}), 2, "rank 1 on a does not see /x/worker-0001.h5"),
        (ranks(*[{"shard_bytes": GIB // 3}] * 2), 2, "up to 1,365.3 MiB, of which 1,024.0 MiB are left"),
    ],
)
def test_what_would_fail(facts, workers, expected):
    wrong, _ = complaints(facts, workers=workers)
    assert len(wrong) == 1 and expected in wrong[0]


def test_the_root_needs_memory_for_all_shards_when_it_verifies():
    facts = ranks({"shard_bytes": GIB // 4}, {"shard_bytes": GIB // 3, "host": "b"})
    wrong, slow = complaints(facts, workers=2)
    assert not wrong and len(slow) == 1 and "--repeat 0 and without --verify" in slow[0]


@pytest.mark.parametrize(
    ("path", "expected"), [("/home/me/x", "nfs4"), ("/homes", "ext4"), ("/home/me/fast/y", "tmpfs")]
)
def test_file_systems(path, expected):
    mounts = "disk / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\ntmpfs /home/me/fast tmpfs rw 0 0\n"
    assert doctor_facts.filesystem(Path(path), mounts) == expected


@pytest.mark.parametrize(("text", "expected"), [("3", 3), ("4,2", 4), ("all cores", 8)])
def test_threads(text, expected):
    assert doctor_facts.blas_threads(text, 8) == expected


def test_it_says_what_is_there(mpirun, tmp_path):
    small_plans.write_shards(tmp_path / "shards", 3)
    report = tmp_path / "report.json"
    env = {"OMP_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    done = mpirun(2, *MODULE, "--shards", tmp_path / "shards", "--report", report, env=env)
    assert done.returncode == 0, done.stderr
    result = json.loads(report.read_text())
    assert result["ranks"] == result["launched"] == 2 and result["workers"] == 3
    assert str(tmp_path / "numba") in result["numba_cache"] and result["exchange_us"] > 0
    assert sum(host["ranks"] for host in result["hosts"]) == 2
    files = sum(path.stat().st_size for path in (tmp_path / "shards").iterdir())
    assert files <= sum(host["shard_bytes"] for host in result["hosts"]) < 2 * files
    for shown in ("versions", "2, of 2 that the launcher", "HDF5 locks", "OpenBLAS"):
        assert shown in done.stdout


def test_too_many_ranks_end_with_one_message(mpirun, tmp_path):
    small_plans.write_shards(tmp_path / "shards", 2)
    done = mpirun(3, *MODULE, "--shards", tmp_path / "shards")
    assert done.returncode == 1
    assert "ERROR: 3 ranks, but the shards are of 2 workers" in done.stdout
    assert done.stderr.count(PREFIX) == 1


def test_singletons_are_an_error():
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}
    outcomes = [
        subprocess.run(
            [sys.executable, *MODULE], env={**env, "SLURM_PROCID": rank}, capture_output=True, text=True
        )
        for rank in ("0", "1")
    ]
    assert [done.returncode for done in outcomes] == [1, 1]
    assert "the launcher started 4 processes, but MPI sees 1 rank" in outcomes[0].stdout
    assert not outcomes[1].stdout and PREFIX not in outcomes[1].stderr


def test_a_damaged_shard_is_an_error(mpirun, tmp_path):
    """Only the rank that would host its worker reads it."""
    small_plans.write_shards(tmp_path / "shards", 2)
    shard = tmp_path / "shards" / "worker-0001.h5"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    done = mpirun(2, *MODULE, "--shards", tmp_path / "shards")
    assert done.returncode == 1
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("ERROR: ")]
    assert "rank 1 on " in error and "worker-0001.h5: expected a readable file" in error
