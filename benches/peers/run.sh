#!/bin/sh
# Compares manyhands with its peers: an environment of their own in .venvs/peers, manyhands built into it, one run.
# Arguments go to the benchmark: --quick, --group NAME..., --only ENGINE, --case CASE, --write. PYTHON chooses the
# interpreter.
set -eu
cd "$(dirname "$0")/../.."
environment=.venvs/peers
started=$(date +%s)
if [ ! -x "$environment/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$environment"
fi
install() { "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
echo "installing the peers into $environment"
# One that cannot be had must not cost the others: the benchmark says which are missing.
if ! install --upgrade -r benches/peers/requirements.txt; then
    grep -v '^#' benches/peers/requirements.txt | while read -r requirement; do
        install "$requirement" || echo "not installed: $requirement"
    done
fi
echo "building manyhands into it"
# Reinstalled at each run: what is measured must be this checkout, whose version number rarely changes.
install --force-reinstall --no-deps .
install "cloudpickle>=3.0"
# All in all no more than 21 minutes, except where installing alone takes most of them.
limit_s=$((1260 - $(date +%s) + started))
if [ "$limit_s" -lt 900 ]; then
    limit_s=900
fi
exec "$environment/bin/python" -m benches.peers --limit "$limit_s" "$@"
