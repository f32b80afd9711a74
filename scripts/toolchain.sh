#!/usr/bin/env bash
# Fetches what the build needs and a machine without CUDA lacks: nvcc 13.0 and libclang, from PyPI into .toolchain (360 MB).
# build.rs looks there after everywhere else. Needs python3 with pip, and a C++ compiler on the PATH for the build itself.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=.toolchain
packages=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-cuda-cccl==13.0.85
    nvidia-cuda-runtime==13.0.96
    libclang==18.1.1
)

if [[ "$(cat "$folder/packages" 2>/dev/null)" == "${packages[*]}" ]]; then
    exit 0
fi
command -v c++ >/dev/null || {
    echo "error: no C++ compiler (c++) on the PATH; install g++ or clang" >&2
    exit 1
}
python3 -m pip --version >/dev/null 2>&1 || {
    echo "error: python3 -m pip does not run; install python3 and pip (Debian: python3-pip)" >&2
    exit 1
}
rm -rf "$folder"
python3 -m pip install --quiet --disable-pip-version-check --no-deps \
    --target "$folder/lib/python/site-packages" "${packages[@]}"
echo "${packages[*]}" >"$folder/packages"
touch build.rs # so that cargo looks again
