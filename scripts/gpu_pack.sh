#!/usr/bin/env bash
# Builds what scripts/gpu_check.sh runs and puts it into a folder that can go to a machine with a GPU and no toolchain:
#
#   scripts/gpu_pack.sh [FOLDER]      default .carry, which git ignores
#   there: FOLDER/gpu_check.sh
#
# EMBERFORMER_CUDA_ARCHS names the GPUs (see build.rs), PROFILE the cargo profile (default release). Folder and tracked files
# together must stay under 64 MiB, which is what such machines are commonly lent with.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-.carry}
profile=${PROFILE:-release}
for program in cargo strip; do
    command -v "$program" >/dev/null || {
        echo "error: $program is not on the PATH; install Rust (https://rustup.rs) and binutils" >&2
        exit 1
    }
done

# The path of a target's executable, as cargo names it on standard error.
executable() {
    cargo "$@" --locked --profile "$profile" --no-run 2>&1 | tee /dev/stderr |
        sed -n 's/^ *Executable.*(\(.*\))$/\1/p' | tail -n 1
}

cargo build --locked --profile "$profile" --bin emberformer
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
if [[ $profile == dev ]]; then built=debug; else built=$profile; fi
gpu=$(executable test --test gpu)
kernels=$(executable bench --bench kernels)

rm -rf "$folder"
mkdir -p "$folder"
bare=$(mktemp -d)
trap 'rm -rf "$bare"' EXIT
strip -o "$bare/emberformer" "$target/$built/emberformer"
strip -o "$bare/gpu" "$gpu"
strip -o "$bare/kernels" "$kernels"
tar -czf "$folder/binaries.tar.gz" -C "$bare" .
cp scripts/gpu_check.sh benches/peers/torch_emberformer.py configs/emberformer{,_quick}.yaml "$folder/"
{
    git describe --always --dirty 2>/dev/null || echo "no commit"
    date -u +%FT%TZ
} >"$folder/version"

du -h "$folder"/*
tracked=$(git ls-files -z | xargs -0 du -cb | tail -n 1 | cut -f 1)
packed=$(du -cb "$folder"/* | tail -n 1 | cut -f 1)
echo "$(((tracked + packed) >> 20)) MiB with the tracked files"
if ((tracked + packed > 64 << 20)); then
    echo "error: more than 64 MiB; name fewer GPUs in EMBERFORMER_CUDA_ARCHS" >&2
    exit 1
fi
