#!/usr/bin/env bash
# Starts a private Slurm cluster on loopback for trials and tests: real daemons, without systemd. It needs root, because
# slurmd starts jobs as their users, and the Debian packages slurm-wlm and munge. Several clusters may run at once.
#
#   SLURM_ROOT=/path/to/folder deploy/testbed/slurm_up.sh      prints the configuration file: export it as SLURM_CONF
#   SLURM_ROOT=/path/to/folder deploy/testbed/slurm_down.sh    ends it; WIPE=1 removes the folder
#
# SLURM_ROOT    folder for keys, state, logs and process ids (needed; made if missing; at most 60 letters)
# NODES, CPUS, GPUS, MEMORY_MB   nodes n1, n2, ... and what each has: 2 nodes of 4 CPUs, 2 GPUs, 8000 MB. Nothing of it
#               has to exist: the nodes are processes of this machine, the GPUs are device files that read as /dev/null
# MIN_JOB_AGE   how long `squeue` still tells of an ended job [s], default 300
# SLURMD_TIMEOUT   after how long the controller takes a silent node for lost [s], default 30
# SLURM_LINES   further lines of slurm.conf. Without accounting (slurmdbd) there is no `sacct`; ended jobs are listed
#               in log/ended_jobs.txt
#
# Partitions: main (all nodes, the default), gpu (n1 alone), cpu (the last node alone).
set -euo pipefail

root=${SLURM_ROOT:?set SLURM_ROOT to a folder for this cluster}
nodes=${NODES:-2} cpus=${CPUS:-4} gpus=${GPUS:-2} memory=${MEMORY_MB:-8000}
here=$(cd "$(dirname "$0")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "slurm_up.sh: $*" >&2
    exit 1
}

alive() { # a pid file; a zombie is dead
    [ -s "$1" ] && grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$(cat "$1")/status"
}

[ "$(id -u)" = 0 ] || fail "only root can start a Slurm cluster (slurmd starts jobs as their users)"
for program in slurmctld slurmd munged sbatch; do
    command -v "$program" >/dev/null || fail "no $program found (Debian: apt-get install slurm-wlm munge)"
done
mkdir -p "$root"
root=$(cd "$root" && pwd -P)
# A step's socket is ROOT/spool/n1/n1_12345.4294967294; an address of a socket ends at 107 letters.
[ "${#root}" -le 60 ] || fail "the path of SLURM_ROOT is too long for sockets; got ${#root} letters: $root"
for file in "$root"/run/*.pid; do
    ! alive "$file" || fail "a cluster of $root is running already (process $(cat "$file") of ${file##*/})"
done

mkdir -p "$root"/{devices,etc,log,munge,run,spool,state}
chmod 755 "$root"
chmod 711 "$root/munge" # munged refuses a key that others can read; its socket must be reachable
rm -f "$root"/run/*.pid

# The key of this cluster alone. --force: parents of the folder may be writable by a group, as /tmp is.
if [ ! -f "$root/munge/key" ]; then
    (umask 077 && head -c 128 /dev/urandom >"$root/munge/key")
fi
munged --force --key-file="$root/munge/key" --socket="$root/munge/socket" --pid-file="$root/run/munged.pid" \
    --log-file="$root/log/munged.log" --seed-file="$root/munge/seed" --num-threads=2

for node in $(seq "$nodes"); do
    for gpu in $(seq 0 $((gpus - 1))); do
        device=$root/devices/n${node}_gpu$gpu
        [ -e "$device" ] || mknod "$device" c 1 3
    done
done

# Ports below those that the kernel gives to outgoing connections, so that none is taken between the choice and the use.
free_ports() {
    python3 - "$1" <<'PYTHON'
import random
import socket
import sys

held = []
while len(held) < int(sys.argv[1]):
    one = socket.socket()
    try:
        one.bind(("127.0.0.1", random.randrange(12000, 32000)))
    except OSError:  # taken
        one.close()
    else:
        held.append(one)
print(*(one.getsockname()[1] for one in held))
PYTHON
}

write_configuration() { # arguments: port of slurmctld, ports of the nodes
    local host controller=$1 node
    host=$(hostname -s)
    shift
    cat >"$root/etc/slurm.conf" <<CONF
ClusterName=testbed
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
# Without these two the daemons listen on all interfaces.
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$root/munge/socket
CredType=cred/munge
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool/%n
SlurmctldPidFile=$root/run/slurmctld.pid
SlurmdPidFile=$root/run/slurmd.%n.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd.%n.log
JobCompType=jobcomp/filetxt
JobCompLoc=$root/log/ended_jobs.txt
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,defer
# The nodes have what the file says, not what this machine has.
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=2
MinJobAge=${MIN_JOB_AGE:-300}
InactiveLimit=0
MessageTimeout=10
SlurmctldTimeout=30
SlurmdTimeout=${SLURMD_TIMEOUT:-30}
MailProg=/bin/true
PartitionName=main Nodes=n[1-$nodes] Default=YES MaxTime=INFINITE
PartitionName=gpu Nodes=n1 MaxTime=INFINITE
PartitionName=cpu Nodes=n$nodes MaxTime=INFINITE
CONF
    : >"$root/etc/gres.conf"
    [ "$gpus" = 0 ] || echo "GresTypes=gpu" >>"$root/etc/slurm.conf"
    for node in $(seq "$nodes"); do
        local gres=""
        if [ "$gpus" != 0 ]; then
            gres="Gres=gpu:$gpus"
            echo "NodeName=n$node Name=gpu File=$root/devices/n${node}_gpu[0-$((gpus - 1))]" >>"$root/etc/gres.conf"
        fi
        echo "NodeName=n$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$1 CPUs=$cpus RealMemory=$memory $gres" \
            >>"$root/etc/slurm.conf"
        shift
    done
    printf '%s\n' "${SLURM_LINES:-}" >>"$root/etc/slurm.conf"
}

idle_nodes() {
    timeout 5 sinfo -h -N -p main -o %t 2>/dev/null | grep -c '^idle$' || true
}

start_daemons() { # true when all nodes are idle within 15 s
    slurmctld >>"$root/log/start.log" 2>&1 || return 1
    for node in $(seq "$nodes"); do
        slurmd -N "n$node" >>"$root/log/start.log" 2>&1 || return 1
    done
    for _ in $(seq 150); do
        [ "$(idle_nodes)" != "$nodes" ] || return 0
        sleep 0.1
    done
    return 1
}

export SLURM_CONF=$root/etc/slurm.conf
for attempt in 1 2 3; do # another cluster may have taken a port since
    # shellcheck disable=SC2046  # one word per port
    write_configuration $(free_ports $((nodes + 1)))
    if start_daemons; then
        echo "$SLURM_CONF"
        exit 0
    fi
    echo "slurm_up.sh: the daemons did not come up (attempt $attempt)" >&2
    KEEP_MUNGE=1 SLURM_ROOT=$root "$here/slurm_down.sh" || true
done
tail -n 5 "$root"/log/*.log >&2
SLURM_ROOT=$root "$here/slurm_down.sh" || true
fail "no cluster; the logs are in $root/log"
