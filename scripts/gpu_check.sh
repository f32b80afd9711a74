#!/usr/bin/env bash
# The gate on a real GPU, in one call from the binaries that scripts/gpu_pack.sh made: neither compiler nor cargo is needed.
#
#   scripts/gpu_check.sh [FOLDER]     the folder of gpu_pack.sh [default: where this script lies, or .carry]
#
# Every stage runs, whatever became of the ones before; a table comes last. Exits 1 where a stage failed. Variables:
#   DEVICE      cuda:0; `emulated` or `cpu` try out the script itself, with smaller data
#   OUT         log.txt, table.md, kernels_*.md, step_* and ops_* go there [target/gpu_check]
#   LIMIT       seconds for everything: stages that no longer fit are skipped [570]
#   STAGES      which ones, by name [all]
#   SEQUENCES, EPOCHS   fires and epochs of the training runs [120, 8]
#   PYTHON      an interpreter with PyTorch, to compare with [python3]
set -euo pipefail

self=$(realpath "${BASH_SOURCE[0]}")
DEVICE=${DEVICE:-cuda:0}
PYTHON=${PYTHON:-python3}
kinds="mean pixels"
case $DEVICE in
    cuda:*) precisions="bfloat16 float32" sequences=120 epochs=8 steps=40 ;;
    emulated) precisions="bfloat16 float32" sequences=10 epochs=1 steps=2 kinds=pixels ;; # the other learns too slowly
    *) precisions=float32 sequences=20 epochs=2 steps=10 ;;
esac
SEQUENCES=${SEQUENCES:-$sequences}
EPOCHS=${EPOCHS:-$epochs}
# The stages in order, each with the most seconds that it may take.
ALL=(doctor:20 golden:90 numerics:120 determinism:60 training:180 memcheck:120 racecheck:120
    step:240 kernels_bfloat16:150 torch_ops:90 epoch:120 kernels_float32:120)
SKIPPED=77 # exit status of a stage that this machine cannot run
TOLERANCE=0.02

skip() {
    echo "skipped: $*"
    exit "$SKIPPED"
}

on_a_gpu() {
    [[ $DEVICE == cuda:* ]] || skip "$1 needs a GPU, the device is $DEVICE"
}

# The last line that a stage prints is its result in the table.

stage_doctor() {
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit --format=csv
    fi
    "$WORK/bin/emberformer" doctor
    if [[ $DEVICE == cuda:* ]]; then
        nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | sed -n 1p
    fi
}

stage_golden() {
    "$WORK/bin/emberformer" verify --device "$DEVICE"
}

numerics() {
    EMBERFORMER_TEST_DEVICE=$DEVICE "$@" | tee "$WORK/tests.txt"
    sed -n 's/^test result: \(.*\)$/\1/p' "$WORK/tests.txt" | tail -n 1
}

stage_numerics() {
    [[ $DEVICE != cpu ]] || skip "the CPU is what kernels are compared with"
    local whole_windows=()
    if [[ $DEVICE == cuda:* ]]; then whole_windows=(--include-ignored); fi
    numerics "$WORK/bin/gpu" "${whole_windows[@]}"
}

# Every op's small cases under one tool of compute-sanitizer. The kernels of cuBLAS are NVIDIA's to check.
sanitize() {
    on_a_gpu "$1"
    local sanitizer
    sanitizer=$(PATH=$PATH:/usr/local/cuda/bin:/opt/cuda/bin command -v compute-sanitizer) ||
        skip "compute-sanitizer is not installed"
    local excluded=()
    for name in cublas gemm cutlass nvjet; do
        excluded+=(--kernel-name-exclude "kns=$name")
    done
    numerics "$sanitizer" --tool "$1" --error-exitcode 9 --print-limit 20 "${excluded[@]}" \
        "$WORK/bin/gpu" --test-threads 1 --skip model:: --skip device:: --skip real_size
}

stage_memcheck() { sanitize memcheck; }
stage_racecheck() { sanitize racecheck; }

# A small data set, the same on every machine.
data() {
    if [[ ! -e $WORK/data.done ]]; then
        rm -rf "$WORK/data"
        "$WORK/bin/emberformer" synth --out "$WORK/data" --sequences "$SEQUENCES" --size 64 --seed 1
        touch "$WORK/data.done"
    fi
}

# train NAME DEVICE OPTION...: the small configuration in $WORK/NAME/run.
train() {
    local name=$1 device=$2
    shift 2
    data
    "$WORK/bin/emberformer" train --config "$FOLDER/emberformer_quick.yaml" --device "$device" --quiet \
        --runs-dir "$WORK/$name" --name run --set "data.data_dir=$WORK/data" \
        --set "patchify_on_disk.cache_dir=$WORK/store" --set train.early_stopping.enabled=false \
        --set train.schedule=cosine --epochs "$EPOCHS" "$@"
}

stage_determinism() {
    local precision name
    for precision in $precisions; do
        for name in a b; do
            train "same_$name$precision" "$DEVICE" --set "train.precision=$precision" --max-steps "$steps"
        done
        cmp "$WORK/same_a$precision/run/checkpoints/last.safetensors" \
            "$WORK/same_b$precision/run/checkpoints/last.safetensors"
        echo "$precision: the same bytes after $steps steps"
    done
    echo "same bytes in $precisions"
}

best_f1() {
    sed -n 's/^ *"best_value": \(0\.[0-9]\{1,4\}\).*/\1/p' "$WORK/$1/run/result.json"
}

# The published embedding and the one of pixels, on the CPU in float and on the device in each type.
stage_training() {
    local kind extra precision expected got results="" failed=0
    for kind in $kinds; do
        extra=()
        if [[ $kind == pixels ]]; then
            extra=(--set model.temporal.fire_embedding=pixels --set model.refinement.last_frame_skip=true)
        fi
        train "cpu_$kind" cpu --set train.precision=float32 "${extra[@]}"
        expected=$(best_f1 "cpu_$kind")
        results+="$kind: CPU $expected"
        for precision in $precisions; do
            train "$precision$kind" "$DEVICE" --set "train.precision=$precision" "${extra[@]}"
            got=$(best_f1 "$precision$kind")
            results+=", $precision $got"
            awk -v a="$expected" -v b="$got" -v most="$TOLERANCE" \
                'BEGIN { d = a - b; exit !(a > 0 && b > 0 && d <= most && -d <= most) }' || failed=1
        done
        results+="; "
        echo "$results"
    done
    echo "validation F1, ${results%; }"
    return "$failed"
}

# A table of criterion's output: name, time and rate of each bench.
criterion_table() {
    echo "| bench | time | rate |"
    echo "|---|---|---|"
    awk '/time: +\[/ {
            before = $0; sub(/ *time: .*/, "", before); if (before != "") name = before
            line = $0; sub(/.*\[/, "", line); sub(/\].*/, "", line); split(line, t, " "); time = t[3] " " t[4]
            if (pending != "") print "| " pending " | " was " | |"
            pending = name; was = time; next
        }
        /thrpt: +\[/ {
            line = $0; sub(/.*\[/, "", line); sub(/\].*/, "", line); split(line, t, " ")
            print "| " pending " | " was " | " t[3] " " t[4] " |"; pending = ""; next
        }
        /^[^ ].*\// && !/Benchmarking/ { name = $0 }
        END { if (pending != "") print "| " pending " | " was " | |" }' "$1"
}

kernels() {
    on_a_gpu "the speed of kernels"
    EMBERFORMER_BENCH_DEVICE=$DEVICE EMBERFORMER_BENCH_PRECISION=$1 CRITERION_HOME=$WORK/criterion \
        "$WORK/bin/kernels" --bench --warm-up-time 0.2 --measurement-time 0.5 | tee "$WORK/kernels.txt"
    criterion_table "$WORK/kernels.txt" | tee "$OUT/kernels_$1.md"
    echo "$(($(wc -l <"$OUT/kernels_$1.md") - 2)) benches, see kernels_$1.md"
}

stage_kernels_bfloat16() { kernels bfloat16; }
stage_kernels_float32() { kernels float32; }

# The whole training step beside PyTorch's, each at its best.
stage_step() {
    on_a_gpu "the speed of a step"
    local precision ours=""
    for precision in $precisions; do
        "$WORK/bin/emberformer" bench --device "$DEVICE" --batch 4,16,64 --steps 30 --set "train.precision=$precision" \
            --json >"$OUT/step_$precision.json"
        "$WORK/bin/emberformer" bench --device "$DEVICE" --batch 4,16,64 --steps 30 --set "train.precision=$precision" |
            tee "$OUT/step_$precision.txt"
        ours+="$precision $(tr -d ' \n' <"$OUT/step_$precision.json" |
            grep -o '"samples_per_second":[0-9.]*' | sed 's/.*://; s/\..*//' | paste -sd ' ' -) samples/s, "
    done
    "$PYTHON" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || {
        echo "batch 4, 16, 64: ${ours%, }; no PyTorch with a GPU to compare with"
        return
    }
    PYTHONUNBUFFERED=1 "$PYTHON" "$FOLDER/torch_emberformer.py" bench --device cuda --dtype bf16 --batch 4 16 64 \
        --modes eager,channels_last,graph,compile --json "$OUT/step_torch_bf16.json" || echo "PyTorch: failed"
    echo "batch 4, 16, 64: ${ours%, }; PyTorch in step_torch_bf16.json"
}

# PyTorch's single operations, for the benches of the kernels to be held against.
stage_torch_ops() {
    on_a_gpu "the speed of PyTorch's operations"
    "$PYTHON" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || skip "no PyTorch with a GPU"
    local batch
    for batch in 4 16; do
        PYTHONUNBUFFERED=1 "$PYTHON" "$FOLDER/torch_emberformer.py" ops --device cuda --batch "$batch" \
            --json "$OUT/ops_torch_$batch.json" || echo "batch $batch: failed"
    done
    echo "see ops_torch_*.json"
}

# Seconds of a command.
seconds_of() {
    local began=$EPOCHREALTIME
    "$@" >/dev/null
    awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }'
}

# From the start of the program to its first step with the packed store at hand, and steps on resident and on streamed data,
# whose numbers must be the same; then how long a GPU is idle in an epoch.
stage_epoch() {
    local first steps=60 placement results=""
    if [[ $DEVICE != cuda:* ]]; then steps=2; fi
    data
    local options=(--config "$FOLDER/emberformer_quick.yaml" --device "$DEVICE" --quiet --name run
        --set "data.data_dir=$WORK/data" --set "patchify_on_disk.cache_dir=$WORK/store" --set train.log_metrics_every=2)
    "$WORK/bin/emberformer" train "${options[@]}" --runs-dir "$WORK/warm" --max-steps 1
    first=$(seconds_of "$WORK/bin/emberformer" train "${options[@]}" --runs-dir "$WORK/first" --max-steps 1)
    for placement in device stream; do
        if [[ $DEVICE == cpu ]]; then continue; fi
        results+="$placement $(seconds_of "$WORK/bin/emberformer" train "${options[@]}" --runs-dir "$WORK/$placement" \
            --set "data.residency=$placement" --max-steps "$steps") s, "
    done
    if [[ $DEVICE != cpu ]]; then
        cmp "$WORK/device/run/metrics.jsonl" "$WORK/stream/run/metrics.jsonl"
    fi
    if [[ $DEVICE == cuda:* ]]; then results+="idle in an epoch $(idle) %, "; fi
    echo "start, one step and its checkpoint $first s; $steps steps: ${results%, }"
}

# How much longer than its steps by themselves an epoch of the published network takes, data included, in percent: whole
# windows with histories of one frame, so that all steps are alike; the third epoch, when all is recorded.
idle() {
    "$WORK/bin/emberformer" synth --out "$WORK/windows" --sequences 30 --size 400 --seed 1 >/dev/null
    "$WORK/bin/emberformer" train --config "$FOLDER/emberformer.yaml" --device "$DEVICE" --quiet --name run \
        --runs-dir "$WORK/windows_runs" --set "data.data_dir=$WORK/windows" --epochs 3 \
        --set "patchify_on_disk.cache_dir=$WORK/windows_store" --set train.early_stopping.enabled=false \
        --set train.log_metrics_every=0 --set model.temporal.max_seq_len=1 --set data.batch_size=4 >/dev/null
    local step seconds samples
    step=$("$WORK/bin/emberformer" bench --config "$FOLDER/emberformer.yaml" --device "$DEVICE" --batch 4 --history 1 \
        --steps 50 --json | tr -d ' \n' | sed 's/.*"step_ms":\([0-9.]*\).*/\1/')
    seconds=$(sed -n 's/.*"train_seconds":\([0-9.]*\).*/\1/p' "$WORK/windows_runs/run/timing.jsonl" | tail -n 1)
    samples=$(sed -n 's/.*"train_samples":\([0-9]*\).*/\1/p' "$WORK/windows_runs/run/timing.jsonl" | tail -n 1)
    awk -v ms="$step" -v s="$seconds" -v n="$samples" 'BEGIN { printf "%.1f", 100 * (1 - n / 4 * ms / 1000 / s) }'
}

# cuBLAS under the name that the program looks for: where it came with a Python package it has a version in its name only.
find_cublas() {
    if ldconfig -p 2>/dev/null | grep 'libcublas\.so ' >/dev/null; then return; fi
    local found
    found=$({
        ls /usr/local/cuda*/lib64/libcublas.so* /usr/local/cuda*/targets/*/lib/libcublas.so*
        "$PYTHON" -c 'import nvidia; print("\n".join(nvidia.__path__))' | while read -r path; do
            find "$path" -name 'libcublas.so*'
        done
    } 2>/dev/null | head -n 1) || true
    [[ -n $found ]] || return 0
    mkdir -p "$WORK/lib"
    ln -sf "$found" "$WORK/lib/libcublas.so"
    export LD_LIBRARY_PATH=$WORK/lib:$(dirname "$found")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    echo "cuBLAS: $found"
}

main() {
    FOLDER=$(realpath "${1:-$(dirname "$self")}")
    if [[ ! -e $FOLDER/binaries.tar.gz && $# -eq 0 ]]; then FOLDER=$(realpath .carry); fi
    [[ -e $FOLDER/binaries.tar.gz ]] || {
        echo "error: $FOLDER/binaries.tar.gz is not there; run scripts/gpu_pack.sh first" >&2
        exit 2
    }
    OUT=$(realpath -m "${OUT:-target/gpu_check}")
    mkdir -p "$OUT"
    WORK=$(mktemp -d)
    trap 'rm -rf "$WORK"' EXIT
    mkdir "$WORK/bin"
    tar -xzf "$FOLDER/binaries.tar.gz" -C "$WORK/bin"
    export FOLDER OUT WORK DEVICE PYTHON SEQUENCES EPOCHS
    exec > >(tee "$OUT/log.txt") 2>&1
    echo "emberformer $(paste -sd ' ' "$FOLDER/version"), device $DEVICE, $(date -u +%FT%TZ)"
    find_cublas

    local -a rows=()
    local stage most began status verdict seconds failures=0 limit=${LIMIT:-570}
    for stage in "${ALL[@]}"; do
        name=${stage%:*} most=${stage#*:}
        if [[ -n ${STAGES:-} && " $STAGES " != *" $name "* ]]; then continue; fi
        printf '\n== %s\n' "$name"
        began=$SECONDS status=0
        if ((limit - SECONDS < 10)); then
            echo "skipped: no time left of $limit s" | tee "$WORK/stage.txt"
            status=$SKIPPED
        else
            if ((most > limit - SECONDS)); then most=$((limit - SECONDS)); fi
            timeout --kill-after=5 "$most" bash "$self" --stage "$name" 2>&1 | tee "$WORK/stage.txt" || status=$?
        fi
        seconds=$((SECONDS - began))
        case $status in
            0) verdict=passed ;;
            "$SKIPPED") verdict=skipped ;;
            124 | 137) verdict="FAILED after $most s" ;;
            *) verdict=FAILED ;;
        esac
        if [[ $verdict == FAILED* ]]; then failures=$((failures + 1)); fi
        rows+=("| $name | $verdict | $seconds | $({ grep -v '^[[:space:]]*$' "$WORK/stage.txt" || true; } | tail -n 1 | tr '|' '/' | cut -c -160) |")
    done
    printf '\n'
    {
        echo "| stage | result | seconds | |"
        echo "|---|---|---|---|"
        printf '%s\n' "${rows[@]}"
    } | tee "$OUT/table.md"
    echo "$failures of ${#rows[@]} stages failed; logs in $OUT"
    ((failures == 0))
}

if [[ ${1:-} == --stage ]]; then
    "stage_$2"
else
    main "$@"
fi
