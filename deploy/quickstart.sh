#!/usr/bin/env bash
# Installs the tested versions into .venv and launches the quickstart campaign, real DFT included.
# Arguments go to the launch: deploy/quickstart.sh --run-dir /somewhere/else
set -euo pipefail
cd "$(dirname "$0")/.."

bash deploy/install.sh .venv gpaw
exec .venv/bin/campaign launch examples/quickstart.yaml "$@"
