#!/usr/bin/env bash
# Trains small runs and reads back what they leave for TensorBoard and Weights & Biases with those programs' own code; the
# service is a stand-in on this machine (tests/tracking). The two Python packages are fetched once, into .cache (150 MB).
#
#   scripts/check_tracking.sh [PROGRAM]     default: the release build, which is made where it is missing
#
# PYTHON names the interpreter (default python3, which needs pip); LIMIT the seconds that the check may take [300].
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
folder=$PWD/.cache/tracking
packages=(wandb==0.31.0 tensorboard==2.21.0)

"$python" -m pip --version >/dev/null 2>&1 || {
    echo "error: $python -m pip does not run; install python3 and pip (Debian: python3-pip)" >&2
    exit 1
}
if [[ "$(cat "$folder/packages" 2>/dev/null)" != "${packages[*]}" ]]; then
    rm -rf "$folder"
    "$python" -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --root-user-action ignore --target "$folder/site" "${packages[@]}"
    echo "${packages[*]}" >"$folder/packages"
fi
program=${1:-${CARGO_TARGET_DIR:-target}/release/emberformer}
if [[ $# -eq 0 ]]; then
    cargo build --locked --release
fi
# Neither the user's settings nor a login takes part.
for variable in $(compgen -e WANDB_); do
    unset "$variable"
done
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
HOME=$home PYTHONPATH=$folder/site PATH=$folder/site/bin:$PATH \
    timeout "${LIMIT:-300}" "$python" tests/tracking/check.py "$(realpath "$program")"
