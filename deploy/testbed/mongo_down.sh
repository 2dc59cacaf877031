#!/usr/bin/env bash
# Stops the server that mongo_up.sh started for MONGO_ROOT, found by its process id. MONGO_WIPE=1 removes the data.
set -euo pipefail

root=${MONGO_ROOT:?set MONGO_ROOT to the folder given to mongo_up.sh}
pid=$(cat "$root/mongod.pid" 2>/dev/null || true)
if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then
    kill -TERM "$pid"
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    if kill -0 "$pid" 2>/dev/null; then
        echo "process $pid does not end; kill -9 $pid ends it" >&2
        exit 1
    fi
fi
rm -f "$root/mongod.pid"
if [ "${MONGO_WIPE:-0}" = 1 ]; then
    rm -rf "$root"
fi
