"""The checkout's virtual environment ``.venv`` and the MPI in it; demo.py and test.py share it.

Standard library only, and readable by older Pythons: this is what runs first on a fresh machine.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036 (nothing else has checked it yet)
    sys.exit(
        "repurpose-hpc needs Python 3.10 or newer, but {} is {}.{}: start this script with a newer one, "
        "for example python3.12".format(sys.executable, *sys.version_info[:2])
    )

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "repurpose_hpc.json"

# What the launchers need to start more ranks than cores, as root too (containers).
MPI_DEFAULTS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",  # Open MPI 4
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # Open MPI 5
}

TWO_RANKS = "import sys; from mpi4py import MPI; sys.exit(MPI.COMM_WORLD.allreduce(1) != 2)"


def argument_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the option that both scripts have: ``--mpi``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--mpi",
        choices=("auto", "wheel"),
        default="auto",
        help="auto: the machine's own MPI if it works, else the mpich wheel; wheel: the mpich wheel",
    )
    return parser


def prepare(extras: set[str], mpi: str) -> None:
    """Make ``.venv`` with the package (editable), ``extras`` and an MPI that starts two ranks.

    Exits with a message where that is impossible.
    """
    wheel = mpi == "wheel" or find_mpirun(VENV) is None
    wanted = extras | {"mpich"} if wheel else extras
    _ensure_installed(wanted)
    if _mpi_failure():
        print("No MPI here that works with mpi4py: taking the mpich wheel.", flush=True)
        _ensure_installed(wanted | {"mpich"})
        failure = _mpi_failure()
        if failure:
            sys.exit(f"No working MPI: two ranks did not start.\n{failure}")


def install(packages: list[str]) -> None:
    """Install further packages into ``.venv``, as pip names them; nothing happens where they are there."""
    if packages and subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", *packages]).returncode:
        sys.exit(f"pip could not install {' '.join(packages)} (its message is above)")


def find_mpirun(prefix: Path) -> str | None:
    """The launcher of the MPI library that mpi4py loads in the environment at ``prefix``.

    mpi4py's wheel loads the library inside its environment first and the machine's one otherwise.
    """
    inside = prefix / "bin" / "mpirun"
    return str(inside) if inside.exists() else shutil.which("mpirun") or shutil.which("mpiexec")


def mpi_command(python: Path, ranks: int) -> list[str]:
    """``mpirun -n RANKS python`` with the launcher that belongs to the environment of ``python``."""
    return [find_mpirun(python.parent.parent) or "mpirun", "-n", str(ranks), str(python)]


def mpi_environment() -> dict[str, str]:
    """The process environment for a launcher; what the user has set stays."""
    return {**MPI_DEFAULTS, **os.environ}


def run(
    command: list[str], env: dict[str, str], timeout: float, cwd: Path | None = None
) -> subprocess.CompletedProcess:
    """Run ``command`` to its end, in ``cwd``, with stdout and stderr captured as text.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``timeout`` seconds and was ended, with all
            that it started; carries what was printed until then.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        stop(process)
        raise subprocess.TimeoutExpired(command, timeout, *process.communicate()) from None
    finally:
        stop(process)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def stop(process: subprocess.Popen) -> None:
    """End ``process``, the leader of its own session, and all it started."""
    # SIGTERM first: launchers pass it on to ranks that they put into other process groups.
    for stop_signal in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, stop_signal)
            process.wait(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _ensure_installed(extras: set[str]) -> None:
    """Install the package with ``extras`` unless the stamp says that it is there."""
    origin, installed = _origin(), _installed_extras()
    if installed is None:
        _create()
        installed = set()
    elif extras <= installed:
        return
    extras = extras | installed
    STAMP.unlink(missing_ok=True)
    requirement = f"{ROOT}[{','.join(sorted(extras))}]" if extras else str(ROOT)
    print(f"Installing {requirement} into {VENV}", flush=True)
    done = subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "--editable", requirement])
    if done.returncode:
        sys.exit("pip could not install the requirements (its message is above); it needs a package index")
    STAMP.write_text(json.dumps({"origin": origin, "extras": sorted(extras)}))


def _create() -> None:
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            sys.exit(
                f"{sys.executable} has no module {module}, which making {VENV} needs: "
                "install it (Debian, Ubuntu: apt install python3-venv)"
            )
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV])
    if done.returncode:
        sys.exit(f"{sys.executable} -m venv could not make {VENV} (its message is above)")


def _origin() -> str:
    """A digest of everything that the environment was made from."""
    made_from = [f"{sys.base_prefix} {sys.version} {VENV}"]
    made_from += [(ROOT / name).read_text() for name in ("setup.py", "pyproject.toml")]
    return hashlib.sha256("\n".join(made_from).encode()).hexdigest()


def _installed_extras() -> set[str] | None:
    """The extras in ``.venv``; None where it is missing, unfinished or made from something else."""
    if not STAMP.exists():
        return None
    stamp = json.loads(STAMP.read_text())
    return set(stamp["extras"]) if stamp["origin"] == _origin() else None


def _mpi_failure() -> str:
    """The output of two ranks that do not work; empty if they work."""
    if find_mpirun(VENV) is None:  # it was in an environment that has been made anew
        return "there is no mpirun"
    command = [*mpi_command(PYTHON, 2), "-c", TWO_RANKS]
    try:
        done = run(command, mpi_environment(), timeout=60)
    except subprocess.TimeoutExpired as hang:
        return str(hang)
    if done.returncode == 0:
        return ""
    return f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}"
