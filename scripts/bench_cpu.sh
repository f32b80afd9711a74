#!/usr/bin/env bash
# One training step on the CPU beside PyTorch's, in turns: B = 4, T = 6, 400×400 pixels, float32, all cores.
# PYTHON names an interpreter with torch (default python3); ROUNDS how often the two take turns (default 3).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import torch' 2>/dev/null || {
    echo "error: $python has no torch; set PYTHON to an interpreter that has (pip install torch)" >&2
    exit 1
}

bench=$(cargo bench --locked --bench step --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))/\1/p')
measure() { # runs a command and reports its peak resident memory
    "$python" -c '
import resource, subprocess, sys
out = subprocess.run(sys.argv[1:], capture_output=True, text=True)
print(out.stdout.strip(), out.stderr.strip() if out.returncode else "")
print(f"peak resident memory {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")
sys.exit(out.returncode)' "$@"
}

date -u +%F
grep -m1 'model name' /proc/cpuinfo | cut -d: -f2-
echo "$(nproc) cores, torch $("$python" -c 'import torch; print(torch.__version__)')"
for round in $(seq "${ROUNDS:-3}"); do
    echo "== round $round: emberformer"
    measure "$bench" --bench | grep -E 'time:|peak'
    for mode in eager channels_last; do
        echo "== round $round: PyTorch, $mode"
        measure "$python" benches/peers/torch_emberformer.py bench --device cpu --dtype fp32 --batch 4 --modes "$mode" --warmup 2 --runs 8
    done
done
