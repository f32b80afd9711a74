#!/usr/bin/env bash
# Every check of this repository: format, lints, documentation, release build, all tests. Needs a Rust toolchain.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo >/dev/null || {
    echo "error: cargo is not on the PATH; install Rust from https://rustup.rs and run this again" >&2
    exit 1
}

step() { printf '\n== %s\n' "$*"; "$@"; }

step cargo fmt --check
step cargo clippy --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps --document-private-items
step cargo build --locked --release
step cargo test --locked
