#!/usr/bin/env bash
# Fetches what the build needs and this machine lacks: nvcc 13.0 for the GPU kernels and libclang for bindgen, from PyPI into
# .toolchain (330 MB), where build.rs looks after everywhere else. Does nothing where both are there.
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

fail() {
    echo "error: $*" >&2
    exit 1
}

has_nvcc() {
    local home
    for home in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda; do
        [[ -n "$home" && -x "$home/bin/nvcc" ]] && return
    done
    [[ -x "${NVCC:-}" ]] || command -v nvcc >/dev/null
}

has_libclang() {
    [[ -n "${LIBCLANG_PATH:-}" ]] || PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | grep 'libclang[-.0-9]*\.so' >/dev/null
}

if has_nvcc && has_libclang; then
    exit 0
fi
if [[ "$(cat "$folder/packages" 2>/dev/null)" == "${packages[*]}" ]]; then
    exit 0
fi
python3 -m pip --version >/dev/null 2>&1 || fail "python3 -m pip does not run; install python3 and pip (Debian: python3-pip)"
rm -rf "$folder"
python3 -m pip install --quiet --disable-pip-version-check --no-deps --root-user-action ignore \
    --target "$folder/lib/python/site-packages" "${packages[@]}"
echo "${packages[*]}" >"$folder/packages"
touch build.rs # so that cargo looks again
