# What the job scripts beside this file share; they source it after their heads.
#
# Defines ON_LOCAL, a directory on storage of its own on every node, that goes when the job ends, and LAUNCH, what
# starts the ranks.
set -euo pipefail

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
# srun takes over --cpus-per-task from the job in some versions only; a rank that fails ends the others.
LAUNCH="srun --mpi=${PMI:-none} --cpus-per-task=${SLURM_CPUS_PER_TASK:-1} --cpu-bind=cores --kill-on-bad-exit=1"

# MPICH from PyPI: across nodes, srun --mpi=pmi2 stumbles over what it says of UCX, its first network layer ("value
# not properly terminated in client request"), not over what it says of its second.
[[ ! -e $(dirname "$PYTHON")/mpichversion ]] || export MPIR_CVAR_CH4_NETMOD="${MPIR_CVAR_CH4_NETMOD:-ofi}"

# Shared file systems are slow to share compiled kernels, and some know no locks.  Each is compiled by one rank
# of a node.
ON_LOCAL="${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/repurpose-hpc-${SLURM_JOB_ID:?submit this with sbatch}"
export NUMBA_CACHE_DIR="${NUMBA_CACHE_DIR-$ON_LOCAL/numba}"

on_each_node() {
    srun --mpi=none --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        --cpus-per-task=1 "$@"
}

# Copy the files of directory $1 to $ON_LOCAL/shards on every node; the shared file system is read once.
stage() {
    local file
    on_each_node mkdir -p "$ON_LOCAL/shards"
    for file in "$1"/*.h5; do
        sbcast --force "$file" "$ON_LOCAL/shards/${file##*/}"
    done
}

tidy_up() {
    rm -rf "$ON_LOCAL"
    # At its time limit a job can start nothing any more.
    ((SLURM_JOB_NUM_NODES == 1)) || on_each_node rm -rf "$ON_LOCAL" || true
}
trap tidy_up EXIT
