#!/usr/bin/env bash
# Every check of this repository: format, lints, documentation, release build, all tests, those of the GPU kernels on the
# emulated device included, the report in a browser, and what runs leave for TensorBoard and Weights & Biases. Needs a Rust
# toolchain, a C++ compiler, python3 with pip, and Chromium, which is installed where apt-get can.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo >/dev/null || {
    echo "error: cargo is not on the PATH; install Rust from https://rustup.rs and run this again" >&2
    exit 1
}

command -v c++ >/dev/null || {
    echo "error: no C++ compiler (c++) is on the PATH; install g++ or clang and run this again" >&2
    exit 1
}
./scripts/toolchain.sh
# The architectures that matter most; a kernel that keeps registers in memory fails the build.
export EMBERFORMER_CUDA_ARCHS="${EMBERFORMER_CUDA_ARCHS:-86,90}" EMBERFORMER_DENY_SPILLS=1

step() { printf '\n== %s\n' "$*"; "$@"; }

step cargo fmt --check
step cargo clippy --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps --document-private-items
step cargo build --locked --release
step cargo test --locked
step ./scripts/check_tracking.sh
step ./scripts/check_report.sh
