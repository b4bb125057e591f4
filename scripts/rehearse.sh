#!/usr/bin/env bash
# Rehearse on a network that this machine does not have: P hosts, a switch, and RATE on every cable.
#
#     scripts/rehearse.sh P RATE COMMAND...          RATE as tc has it: 1gbit, 100mbit; needs root
#     scripts/rehearse.sh 4 100mbit mpirun -n 4 python -m repurpose_hpc.infer
#     DELAY=200us scripts/rehearse.sh ...            delay on every cable too, if the kernel has netem
#
# Each host is a network namespace with one interface, whose peer is a port of a bridge.  Token bucket filters
# limit both directions of every cable.  COMMAND runs beside the hosts; the mpirun in it (MPICH's, as
# in the mpich wheel) starts its ranks on them, one after the other, and they talk TCP: never shared memory.
# At the end each host's counters are printed.
#
# All of this lives in namespaces of its own, with its processes: however the script ends, the kernel
# takes everything back, and nothing outside has ever seen it.
set -euo pipefail

NETWORK=10.0.0                # nobody else is in this network
CABLE=cable                   # one name everywhere, for Hydra looks for it on both ends
STATE=/run/netns

if [[ ${1:-} == -x ]]; then   # Hydra starts a proxy: -x HOST COMMAND...
    exec ip netns exec "$2" bash -c "${*:3}"
fi

fail() {
    echo "rehearse.sh: $1" >&2
    exit "${2:-1}"
}

# What passes a cable at once, in bytes: 64 us of its rate, at least a frame.  Less, and the timers of the kernel
# do not keep up with fast cables; more, and small messages pass as if there were no limit.
burst_of() {                  # rate
    [[ $1 =~ ^([0-9]+)([mg])bit$ ]] || fail "expected a RATE such as 100mbit or 1gbit, got $1" 2
    local megabits=${BASH_REMATCH[1]}
    [[ ${BASH_REMATCH[2]} == m ]] || megabits=$((megabits * 1000))
    local bytes=$((megabits * 8))
    echo $((bytes < 1600 ? 1600 : bytes > 65536 ? 65536 : bytes))
}

shape() {                     # interface in the current namespace
    local parent=(root)
    if [[ -n ${DELAY:-} ]]; then
        tc qdisc add dev "$1" root handle 1: netem delay "$DELAY" limit 100000 ||
            fail "expected netem in this kernel for DELAY, found none; leave DELAY out"
        parent=(parent 1:1 handle 10:)
    fi
    tc qdisc add dev "$1" "${parent[@]}" tbf rate "$RATE" burst "$BURST" limit 10mb
}

add_host() {                  # number
    local host="host$1"
    ip netns add "$host"
    ip link add "port$1" type veth peer name "$CABLE" netns "$host"
    ip link set "port$1" master "$CABLE" gso_max_size "$BURST" up
    ip -n "$host" link set lo up
    ip -n "$host" link set "$CABLE" gso_max_size "$BURST" up
    ip -n "$host" address add "$NETWORK.$(($1 + 1))/24" dev "$CABLE"
    shape "port$1"
    ip netns exec "$host" bash -c "$(declare -f shape fail); RATE=$RATE BURST=$BURST DELAY=${DELAY:-} shape $CABLE"
    echo "$host" >>"$STATE/.hosts"
}

print_counters() {
    echo "bytes and packets sent and received by the hosts:" >&2
    for host in $(cat "$STATE/.hosts"); do
        ip netns exec "$host" awk -v host="$host" -v cable="$CABLE:" \
            '$1 == cable { print "  " host ": " $10 " bytes, " $11 " packets; " $2 " bytes, " $3 " packets" }' \
            /proc/self/net/dev >&2
    done
}

build_network() {
    mount -t tmpfs rehearsal "$STATE"
    ip link set lo up
    ip link add "$CABLE" type bridge
    ip address add "$NETWORK.254/24" dev "$CABLE"
    ip link set "$CABLE" up
    for ((number = 0; number < HOSTS; number++)); do add_host "$number"; done
}

if [[ $# -lt 3 || ! $1 =~ ^[1-9][0-9]*$ || $1 -gt 250 ]]; then
    fail "expected P RATE COMMAND..., for example: 4 100mbit mpirun -n 4 python -m repurpose_hpc.infer" 2
fi
[[ $EUID -eq 0 ]] || fail "expected to be root, who may make network namespaces; start it with sudo"
for tool in ip tc setpriv unshare; do
    type "$tool" >/dev/null 2>&1 || fail "expected $tool, found none; install iproute2 and util-linux"
done

if [[ -z ${REHEARSAL:-} ]]; then
    mkdir -p "$STATE"
    export REHEARSAL=1
    # unshare is deaf to signals, but ends with this process, and everything inside ends with it.
    setpriv --pdeathsig KILL \
        unshare --net --mount --pid --fork --mount-proc --kill-child bash "$0" "$@" <&0 &
    trap 'kill -KILL $!' HUP INT TERM
    wait $!
    exit
fi

VENV=$(dirname "$0")/../.venv/bin
[[ ! -x $VENV/python ]] || export PATH="$(realpath "$VENV"):$PATH"
HOSTS=$1 RATE=$2 BURST=$(burst_of "$2")
shift 2
build_network || fail "expected a network of $HOSTS hosts at $RATE, could not make it (see above)"

export HYDRA_LAUNCHER=ssh HYDRA_LAUNCHER_EXEC="$(realpath "$0")" HYDRA_HOST_FILE="$STATE/.hosts" HYDRA_IFACE="$CABLE"
export UCX_TLS=tcp,self UCX_NET_DEVICES="$CABLE" FI_PROVIDER=tcp FI_TCP_IFACE="$CABLE"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Where there are more ranks than cores, those that wait leave theirs to the others; see docs/performance.md.
# nproc would take OMP_NUM_THREADS for the number of cores.
((HOSTS <= $(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc))) || export MPIR_CVAR_ENABLE_HEAVY_YIELD="${MPIR_CVAR_ENABLE_HEAVY_YIELD-1}"
status=0
"$@" || status=$?
print_counters
exit "$status"
