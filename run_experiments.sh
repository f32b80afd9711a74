#!/usr/bin/env bash
# From nothing to a verdict: builds emberformer, makes a data set if none is given, trains the experiments one after the
# other, and prints their comparison. Needs a Rust toolchain and a C++ compiler; nvcc and libclang are fetched where they are
# missing (330 MB, with python3 and pip).
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: ./run_experiments.sh [--config FILE]... [--data DIR] [OPTION]...

Without --config the small pair of experiments runs on a simulated data set: under five minutes on two cores, the build
included. The full experiment is
  ./run_experiments.sh --data ~/deep_crown --config configs/emberformer.yaml --config configs/emberformer_bce_dice.yaml

  --config FILE   a configuration; give it once for each experiment
  --data DIR      a data set in the Deep Crown layout (short for --set data.data_dir=DIR)
  OPTION          goes on to `emberformer experiments`: --set, --epochs, --device, --runs-dir, --logs-dir

Runs and their report, report.html, are in runs/, logs in logs/. A run that was interrupted goes on where its last checkpoint stands; finished runs are
only compared again.
TEXT
}

fail() {
    echo "run_experiments.sh: $*" >&2
    exit 1
}

start=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

# A path as seen from where the script was called, if it is there, else from the repository.
locate() {
    case $1 in
        /*) echo "$1" ;;
        *) if [ -e "$start/$1" ]; then echo "$start/$1"; else echo "$1"; fi ;;
    esac
}

arguments=()
configs=0
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --config)
            [ $# -ge 2 ] || fail "--config needs a file"
            arguments+=(--config "$(locate "$2")")
            configs=$((configs + 1))
            shift 2
            ;;
        --data)
            [ $# -ge 2 ] || fail "--data needs a folder"
            data=$(locate "$2")
            [ -d "$data" ] || fail "$2 is not a folder; give the root of a data set in the Deep Crown layout"
            arguments+=(--set "data.data_dir=$data")
            shift 2
            ;;
        *)
            arguments+=("$1")
            shift
            ;;
    esac
done
[ "$configs" -gt 0 ] || arguments+=(--quick)

if ! command -v cargo >/dev/null 2>&1; then
    [ -x "$HOME/.cargo/bin/cargo" ] || fail "there is no cargo; install Rust from https://rustup.rs and run this again"
    PATH="$HOME/.cargo/bin:$PATH"
fi
command -v c++ >/dev/null 2>&1 || fail "there is no C++ compiler (c++); install g++ or clang and run this again"

echo "building emberformer (a few minutes the first time)"
./scripts/toolchain.sh || fail "the compilers that the build needs could not be fetched; see the message above"
cargo build --release --locked --bin emberformer || fail "the build failed; see the messages above"
exec "${CARGO_TARGET_DIR:-target}/release/emberformer" experiments "${arguments[@]}"
