#!/usr/bin/env bash
# Installs this checkout with the tested versions into a virtual environment.
#
#   deploy/install.sh FOLDER EXTRAS        for example: deploy/install.sh .venv gpaw
#
# PYTHON   interpreter to make the environment with, default python3; 3.11 or newer
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:?folder of the virtual environment}
extras=${2:?extras to install, such as gpaw or gpaw,test}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $python is too old; cure: set PYTHON to a Python 3.11 or newer" >&2
    exit 2
}
if ! command -v g++ >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq --no-install-recommends g++
    else
        echo "error: no g++, which builds GPAW; cure: install it (Debian: apt-get install g++)" >&2
        exit 2
    fi
fi

[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check -qq)
echo "installing into $folder (about three minutes the first time)"
# PyTorch first: what is installed later must not choose another build of it.
"${pip[@]}" install -c constraints.txt torch==2.13.0
# GPAW's sources are C with one header in C++: with g++ for both it needs no other library.
CC=g++ "${pip[@]}" install -c constraints.txt -e ".[$extras]"
