#!/usr/bin/env bash
# A SLURM of your own on one machine, to try job scripts: munged, slurmctld and a slurmd for each node.
#
#   eval "$(scripts/slurm_sandbox.sh start DIR [NODES [CPUS]])"    2 nodes of 4 CPUs by default
#   sbatch ...; squeue; srun ...
#   scripts/slurm_sandbox.sh stop DIR
#
# Everything is in DIR (configuration, key, sockets, state, logs) and on free ports of 127.0.0.1; a SLURM that
# the machine may have, and its munge, are neither used nor touched.  All nodes are this machine: there is no
# MPI between machines here, CPUS are what SLURM counts, not cores that exist, and nothing is bound or limited.
# Needs Debian's slurm-wlm (or slurmctld, slurmd, slurm-client) and munge; runs as root or as any user.
set -Eeuo pipefail
PATH="$PATH:/usr/sbin:/sbin"

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

fail() {
    echo "slurm_sandbox.sh: error: $*" >&2
    exit 1
}

# So many TCP ports that nobody uses, one a line.
free_ports() {
    python3 - "$1" <<'PYTHON'
import socket
import sys

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in sockets), sep="\n")
PYTHON
}

write_configuration() {
    local dir=$1 nodes=$2 cpus=$3 host ports node
    host=$(hostname -s)
    mapfile -t ports < <(free_ports $((nodes + 1)))
    cat >"$dir/slurm.conf" <<CONF
ClusterName=sandbox
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
TmpFS=$dir/tmp-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
# A job past its limit is ended as on a cluster, but without waiting for the next full minute.
OverTimeLimit=0
KillWait=5
MinJobAge=600
# MPICH names shared memory by job, and a killed one leaves its own behind, which must not meet another's.
FirstJobId=$(($(date +%s) % 60000000 + 1))
MailProg=/bin/true
CONF
    for ((node = 1; node <= nodes; node++)); do
        echo "NodeName=node$node NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[node]} CPUs=$cpus"
    done >>"$dir/slurm.conf"
    echo "PartitionName=all Nodes=node[1-$nodes] Default=YES MaxTime=INFINITE State=UP" >>"$dir/slurm.conf"
}

start_munge() {
    local dir=$1
    (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
    munged --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge.seed" >&2
}

wait_until_idle() {
    local nodes=$1
    for _ in $(seq 300); do
        [[ $(sinfo --noheader --Node --states=idle 2>/dev/null | wc -l) == "$nodes" ]] && return
        sleep 0.1
    done
    return 1
}

start() {
    local dir=$1 nodes=${2:-2} cpus=${3:-4} node program
    for program in munged slurmctld slurmd sbatch python3; do
        command -v "$program" >/dev/null || fail "needs $program: apt-get install slurm-wlm munge"
    done
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    [[ -z $(ls -A "$dir") ]] || fail "$dir is not empty: stop what runs there and remove it, or take another"
    chmod 711 "$dir" # what munged demands
    write_configuration "$dir" "$nodes" "$cpus"
    mkdir "$dir/state"
    export SLURM_CONF="$dir/slurm.conf"
    trap 'stop "$dir"; fail "SLURM did not start; see the logs in $dir"' ERR
    start_munge "$dir"
    slurmctld >&2
    for ((node = 1; node <= nodes; node++)); do
        mkdir "$dir/spool-node$node" "$dir/tmp-node$node"
        slurmd -N "node$node" >&2
    done
    wait_until_idle "$nodes"
    trap - ERR
    printf 'export SLURM_CONF=%q\n' "$SLURM_CONF"
}

# End the process of a pid file and wait until it is gone.
end() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    kill "$pid" 2>/dev/null || return 0
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
}

stop() {
    local dir pid_file
    dir=$(cd "$1" && pwd)
    [[ -f $dir/slurm.conf ]] || fail "$dir was not made by start"
    export SLURM_CONF="$dir/slurm.conf"
    if [[ -f $dir/slurmctld.pid ]]; then
        timeout 10 scancel --quiet --user="$(id -un)" 2>/dev/null || true
        for _ in $(seq 100); do
            [[ -z $(timeout 10 squeue --noheader 2>/dev/null) ]] && break
            sleep 0.1
        done
    fi
    for pid_file in "$dir"/slurmd-*.pid "$dir"/slurmctld.pid "$dir"/munged.pid; do
        end "$pid_file"
    done
}

case "${1:-} $#" in
"start 2" | "start 3" | "start 4") start "${@:2}" ;;
"stop 2") stop "$2" ;;
*) usage ;;
esac
