#!/usr/bin/env bash
# Runs the escape table, the benchmarks, the robustness tests, the spatial engine and the frameworks, one after the other, and sums up.
#
#   OUT_DIR   where the results go (default gpu-results)
#   CLEAVE    the cleave program (default target/release/cleave)
#   ONLY      which of: escape memory robust spatial frameworks compute (default all but compute, which takes 5 minutes by itself)
#   LIMIT     seconds for everything (default 460); what does not fit any more is cut short
#   PYTHON    the Python that has the frameworks (default python3)
#   BENCH     options of bench/memory.py (default --quick; see bench/README.md for --hami and --mps)
#   COMPUTE   options of bench/compute.py (default --quick)
# Exit status 0 when every test passed.
set -u

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${OUT_DIR:-gpu-results}
python=${PYTHON:-python3}
limit=${LIMIT:-460}
only=${ONLY:-escape memory robust spatial frameworks}
export CLEAVE=${CLEAVE:-$root/target/release/cleave}
export PYTHONDONTWRITEBYTECODE=1
mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)
export CLEAVE_TEST_DAEMON_LOG=${CLEAVE_TEST_DAEMON_LOG:-$out/daemon.log}

if [ ! -x "$CLEAVE" ]; then
    echo "no cleave at $CLEAVE: build it, or set CLEAVE" >&2
    exit 1
fi

{
    date -u +%Y-%m-%dT%H:%M:%SZ
    nvidia-smi --query-gpu=name,driver_version,memory.total,persistence_mode,mig.mode.current --format=csv,noheader 2>&1 | head -n 8
    echo "commit ${CLEAVE_COMMIT:-$(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)}"
    "$CLEAVE" --version 2>&1 | head -n 1
    uname -sr
} | tee "$out/machine.txt"

failed=0
# step NAME SECONDS SCRIPT OPTION…: runs one script within its own time and what is left of everybody's.
step() {
    case " $only " in *" $1 "*) ;; *) return ;; esac
    local left=$((limit - SECONDS)) seconds=$2
    if [ "$left" -lt 15 ]; then
        echo "SKIP  $1: no time left" | tee "$out/$1.txt"
        failed=1
        return
    fi
    [ "$seconds" -gt "$left" ] && seconds=$left
    echo "== $1 (at $SECONDS s, up to $seconds s)"
    timeout -k 15 "$seconds" "$python" -u "$3" --out "$out/$1.json" "${@:4}" >"$out/$1.txt" 2>"$out/$1.err"
    local status=$?
    cat "$out/$1.txt"
    if [ "$status" -ne 0 ]; then
        failed=1
        echo "== $1: exit $status (124: out of time)" | tee -a "$out/$1.txt"
        tail -n 15 "$out/$1.err"
    fi
}

step escape 160 "$here/escape.py"
read -ra bench <<<"${BENCH---quick}"
step memory 240 "$root/bench/memory.py" "${bench[@]}"
step robust 170 "$here/robust.py"
step spatial 90 "$here/spatial.py"
step frameworks 200 "$here/frameworks.py"
read -ra compute <<<"${COMPUTE---quick}"
step compute 540 "$root/bench/compute.py" "${compute[@]}"

echo
echo "== summary, $SECONDS s"
for name in $only; do
    [ -f "$out/$name.txt" ] || continue
    grep -E '^# .* PASS' "$out/$name.txt" || echo "# $name: not finished, $(grep -c '^PASS' "$out/$name.txt") PASS so far"
    grep -E '^FAIL' "$out/$name.txt"
done
exit "$failed"
