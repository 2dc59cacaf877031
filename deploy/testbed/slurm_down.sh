#!/usr/bin/env bash
# Ends the cluster that slurm_up.sh started for SLURM_ROOT: its jobs, then its daemons by their pid files, also where a
# daemon died or was never started. WIPE=1 removes the folder.
set -uo pipefail

root=${SLURM_ROOT:?set SLURM_ROOT to the folder given to slurm_up.sh}
[ -d "$root" ] || exit 0
root=$(cd "$root" && pwd -P)
export SLURM_CONF=$root/etc/slurm.conf

alive() { # a pid file; a zombie is dead
    [ -s "$1" ] && grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$(cat "$1")/status"
}

# What jobs left running when their daemons died: slurmstepd, which holds its node's log open, and the jobs' processes.
processes_of_jobs() {
    find /proc/[0-9]*/fd -lname "$root/log/slurmd.*.log" 2>/dev/null | cut -d / -f 3
    grep -lzxF "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ 2>/dev/null | xargs -r grep -lz '^SLURM_JOB_ID=' 2>/dev/null \
        | cut -d / -f 3
}

patience=80 # tenths of a second that a daemon may take to end
end() { # pid files: SIGTERM, then SIGKILL
    local file
    for file in "$@"; do
        ! alive "$file" || kill -TERM "$(cat "$file")"
    done
    for file in "$@"; do
        for _ in $(seq "$patience"); do
            alive "$file" || break
            sleep 0.1
        done
        if alive "$file"; then
            echo "slurm_down.sh: ${file##*/} does not end, killed" >&2
            kill -KILL "$(cat "$file")"
        fi
        rm -f "$file"
    done
}

if alive "$root/run/slurmctld.pid"; then
    timeout 10 scancel --full --user="$(id -un)" 2>/dev/null
    for _ in $(seq 50); do
        [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] || break
        sleep 0.1
    done
else
    patience=10 # without their controller the nodes wait for it, in vain
fi
shopt -s nullglob
end "$root"/run/slurmd.*.pid "$root/run/slurmctld.pid"
for pid in $(processes_of_jobs | sort -u); do
    kill -KILL "$pid" 2>/dev/null
done
[ "${KEEP_MUNGE:-0}" = 1 ] || end "$root/run/munged.pid"
if [ "${WIPE:-0}" = 1 ]; then
    rm -rf "$root"
fi
exit 0
