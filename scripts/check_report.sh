#!/usr/bin/env bash
# Trains two tiny runs, writes their report and looks at it in headless Chromium: it renders without an error, shows the
# numbers of metrics.jsonl, fits a phone, has contrast in light and dark, works by keyboard, prints, and `watch` keeps it
# current. Takes half a minute; screenshots go to target/report-check. Installs Chromium where it is missing (apt-get).
# EMBERFORMER names another program than target/release/emberformer.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "error: $*" >&2
    exit 1
}

browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
if ! browser >/dev/null; then
    command -v apt-get >/dev/null || fail "there is no Chromium; install it and run this again"
    as_root=()
    [[ $EUID -eq 0 ]] || as_root=(sudo -n)
    echo "installing Chromium" >&2
    log=$(mktemp)
    { "${as_root[@]}" apt-get update && "${as_root[@]}" apt-get install -y --no-install-recommends chromium; } >"$log" 2>&1 ||
        { tail -5 "$log" >&2 && fail "Chromium could not be installed; install it and run this again"; }
fi
program=$(realpath "${EMBERFORMER:-target/release/emberformer}")
[[ -x "$program" ]] || fail "there is no $program; cargo build --release makes it"
exec timeout 180 python3 scripts/check_report.py "$program" "$(browser)" target/report-check
