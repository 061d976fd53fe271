#!/bin/sh
# Tests and times smoothxent on a machine with an NVIDIA GPU and no Rust. Written by
# `cargo xtask bundle`; everything it needs lies beside it. Each call ends within ten minutes.
set -eu

usage() {
    cat <<'TEXT'
usage: run.sh tests|sanitize|bench|tune|compare OUT_DIR

  tests     runs the device tests
  sanitize  runs some of them under compute-sanitizer's memcheck, racecheck, initcheck, synccheck
            (SANITIZE_FILTER: what their names contain; default "edges::")
  bench     times the loss beside a copy of the same size, both passes together and each alone, the other
            operations and kinds of targets on a few shapes, what a call costs the CPU, and, where
            PyTorch is, what else people use beside it: PyTorch eager and compiled, and each of the peers
            in peers/requirements.txt that is installed (BENCH_SECONDS: all of it; default 570.
            PEERS_OPTIONS: more options of peers.py, such as "--shapes 8192x32000 --head").
            Fails where a result of smoothxent's is wrong
  tune      runs the tests and a few of them under each tool of compute-sanitizer, then times every
            strategy that can take a shape beside a copy: which one should be chosen, and which shapes
            miss their aim (TUNE_SECONDS: all of it; default 570. TUNE_OPTIONS: more options of ./fused,
            such as "--shapes 8192x32000 --pass fused"; TUNE_SKIP_TESTS: if set, only times)
  compare   runs single instructions beside the emulated ones; compare.csv is a record for
            emulator/record/GPU/arithmetic.csv

All output goes to OUT_DIR, which must not have results of another build; a short summary comes last.
TEXT
}

if [ $# -ne 2 ]; then
    usage >&2
    exit 2
fi
task=$1
mkdir -p -- "$2"
out=$(CDPATH='' cd -- "$2" && pwd)
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd -- "$here"

BENCH_SECONDS=${BENCH_SECONDS:-570}

# What the results were measured on. A record has the results of one commit.
describe_machine() {
    build=$(head -n 1 build.txt)
    if [ -f "$out/machine.txt" ] && [ "$(head -n 1 -- "$out/machine.txt")" != "$build" ]; then
        echo "$out has results of another build than of $build: choose another folder" >&2
        exit 2
    fi
    {
        cat build.txt
        date -u +%Y-%m-%dT%H:%M:%SZ
        uname -srm
        nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks_throttle_reasons.active,temperature.gpu,power.draw \
            --format=csv 2>&1 || echo "nvidia-smi does not answer"
    } >"$out/machine.txt"
}

# The machine's GPUs; the first that CUDA_VISIBLE_DEVICES shows is the one that is used.
devices() {
    if grep -q '^name, ' -- "$out/machine.txt"; then
        sed '1,/^name, /d' -- "$out/machine.txt"
    else
        tail -n 1 -- "$out/machine.txt"
    fi
    [ -z "${CUDA_VISIBLE_DEVICES:-}" ] || echo "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES"
}

# Runs a command for so many seconds at most, its output in a file; its status is in $status. `timeout` keeps it
# out of the terminal's reach, so that Ctrl-C is handed on, and ends the run once it has said what it knows.
run_into() {
    file=$1
    seconds=$2
    shift 2
    status=0
    stopped=
    timeout -k 5 "$seconds" "$@" >"$file" 2>&1 &
    running=$!
    trap 'stopped=1; kill -TERM "$running" 2>/dev/null' INT TERM
    wait "$running" || status=$?
    if [ -n "$stopped" ]; then
        wait "$running" 2>/dev/null || true
        echo "stopped; what was known until then is in $out" >&2
        exit 130
    fi
    trap - INT TERM
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        echo "stopped after $seconds seconds" >>"$file"
    fi
}

# Runs the device tests for so many seconds at most; their status is in $status.
test_for() {
    run_into "$out/tests.txt" "$1" ./device
    if [ "$status" -ne 0 ]; then
        echo "--- the end of $out/tests.txt:"
        tail -n "$2" -- "$out/tests.txt"
    fi
    echo "--- tests on:"
    devices
    grep '^test result:' -- "$out/tests.txt" || echo "no result (status $status)"
}

run_tests() {
    test_for 570 60
    exit "$status"
}

find_sanitizer() {
    for candidate in "$(command -v compute-sanitizer || true)" \
        "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" \
        "${CUDA_PATH:-/usr/local/cuda}/bin/compute-sanitizer" \
        /usr/local/cuda*/bin/compute-sanitizer \
        /usr/local/cuda*/compute-sanitizer/compute-sanitizer \
        /opt/cuda/bin/compute-sanitizer \
        /opt/cuda/extras/compute-sanitizer/compute-sanitizer; do
        if [ -x "$candidate" ]; then
            echo "$candidate"
            return
        fi
    done
}

# Runs the tests whose names contain $2 under each tool, for $1 seconds at most a tool; $worst is 1 where
# one found something, $unfinished where one had too little time.
sanitize_for() {
    worst=0
    unfinished=0
    sanitizer=$(find_sanitizer)
    if [ -z "$sanitizer" ]; then
        echo "skipped: compute-sanitizer is not installed (it comes with the CUDA toolkit; looked in" \
            "PATH, CUDA_HOME, CUDA_PATH, /usr/local/cuda*, /opt/cuda)"
        return
    fi
    : >"$out/sanitize.txt"
    # What the tools say of themselves.
    quiet='^========= \(COMPUTE-SANITIZER\|ERROR SUMMARY: 0\|RACECHECK SUMMARY: 0\)'
    for tool in memcheck racecheck initcheck synccheck; do
        log=$out/$tool.txt
        run_into "$log" "$1" "$sanitizer" --tool "$tool" --error-exitcode 99 \
            ./device --test-threads=1 "$2"
        if [ "$status" -eq 0 ]; then
            verdict=clean
        elif [ "$status" -eq 124 ] && ! grep -v "$quiet" -- "$log" | grep -q '^========= [A-Z]'; then
            verdict="not finished in $1 s, nothing found so far"
            unfinished=1
        else
            verdict="FAILED (status $status), see $log"
            worst=1
        fi
        tests=$(sed -n 's/^test result: [A-Za-z]*\. \([0-9]* passed; [0-9]* failed\).*/\1/p' "$log")
        # Nothing that ran is nothing that was checked.
        if [ "$status" -eq 0 ] && { [ -z "$tests" ] || [ "${tests%% *}" -eq 0 ]; }; then
            verdict="FAILED, no test ran, see $log"
            worst=1
        fi
        printf '%-10s %-28s %s\n' "$tool" "${tests:-no tests finished}" "$verdict" >>"$out/sanitize.txt"
    done
    echo "--- compute-sanitizer on:"
    devices
    cat -- "$out/sanitize.txt"
}

run_sanitizer() {
    sanitize_for 140 "${SANITIZE_FILTER:-edges::}"
    exit $((worst | unfinished))
}

# What a call costs the CPU: the lower, middle and upper estimate of each, by criterion.
run_host() {
    CRITERION_HOME=$out/criterion run_into "$out/host.txt" $((BENCH_SECONDS / 6)) ./fused --host
    echo "--- CPU time of a call; the driver's own part is 'bare cuLaunchKernel'"
    awk '/^(without|with) a driver\// { name = $0; sub(/ +time:.*/, "", name) }
         /time: +\[/ { sub(/.*time: +/, ""); printf "%-48s %s\n", name, $0 }
         /skipped/' "$out/host.txt"
}

# The crate's own benchmark first, then what else people use, for as long as there is time.
run_bench() {
    began=$(date +%s)
    worst=0
    # What an earlier call left must not pass for this one's.
    rm -f -- "$out/fused.csv" "$out/variants.csv" "$out/peers.csv" "$out/accuracy.csv" "$out/head.csv"
    # A fifth of the time, an eighth, a sixth, and the rest for others.
    run_into "$out/fused.txt" $((BENCH_SECONDS / 5 + 20)) ./fused --csv "$out/fused.csv" \
        --pass fused,forward,backward --budget-seconds $((BENCH_SECONDS / 5))
    fused=$status
    case $fused in
        # What had to be stopped may have lines all the same.
        0 | 124 | 137) lines=$out/fused.csv ;;
        *) lines= ;;
    esac
    if [ ! -f "$lines" ]; then
        cat -- "$out/fused.txt"
        exit 1
    fi
    [ "$fused" -eq 0 ] || worst=1
    # The other operations and kinds of targets, on a few shapes.
    run_into "$out/variants.txt" $((BENCH_SECONDS / 8 + 10)) ./fused --quick --csv "$out/variants.csv" \
        --budget-seconds $((BENCH_SECONDS / 8)) \
        --pass fused,forward,backward --variants weighted,probabilities,log_softmax,binary
    variants=$status
    run_host
    run_peers $((BENCH_SECONDS - $(date +%s) + began))
    echo "--- the loss, label smoothing 0.1, on $(head -n 1 -- "$out/fused.txt")"
    sed -n 's/^This device is emulated/    This device is emulated/p' -- "$out/fused.txt"
    awk -F, '
        FNR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
        FNR == 2 { printf "%-31s %10s %8s %8s\n", "rows x classes dtype pass", "ms", "GB/s", "of copy" }
        {
            key = $column["rows"] " x " $column["classes"] " " $column["dtype"] " " $column["pass"]
            time = $column["p50_us"]
            if (time == "") { printf "%-31s %10s\n", key, "no time"; next }
            printf "%-31s %10.4f %8.0f %8.3f\n", key, time / 1000, $column["gb_per_s"], $column["share_of_copy"]
        }' "$out/fused.csv" | tee "$out/summary.txt"
    sed -n '/^left out/,$p' -- "$out/fused.txt" | tee -a "$out/summary.txt"
    [ "$fused" -eq 0 ] || echo "./fused had to be stopped: cases are missing" | tee -a "$out/summary.txt"
    {
        echo "--- other operations and kinds of targets"
        if [ "$variants" -eq 0 ]; then
            sed 1d -- "$out/variants.txt"
        else
            echo "./fused ended with status $variants:"
            tail -n 5 -- "$out/variants.txt"
        fi
    } | tee -a "$out/summary.txt"
    {
        echo "--- beside other implementations; all times: $out/peers.csv, errors: $out/accuracy.csv"
        cat -- "$out/peers_summary.txt"
    } | tee -a "$out/summary.txt"
    exit "$worst"
}

# Times other implementations for so many seconds at most; what there is to say is in peers_summary.txt.
# $worst is 1 where a result of smoothxent's is wrong or the device was lost.
run_peers() {
    if [ "$1" -lt 60 ]; then
        echo "not measured: only $1 seconds were left" >"$out/peers_summary.txt"
        return
    fi
    left=$1
    set --
    case " ${PEERS_OPTIONS:-} " in
        *head*) set -- --head-csv "$out/head.csv" ;;
    esac
    # The last case, and the start, may take a while.
    # shellcheck disable=SC2086
    run_into "$out/peers.txt" "$left" python3 -B peers.py --budget-seconds $((left - 30)) \
        --csv "$out/peers.csv" --accuracy-csv "$out/accuracy.csv" "$@" ${PEERS_OPTIONS:-}
    if grep -q '^--- summary$' -- "$out/peers.txt"; then
        sed '1,/^--- summary$/d' "$out/peers.txt" >"$out/peers_summary.txt"
        [ "$status" -ne 1 ] || worst=1
    else
        # One line that says what is missing, or the end of what went wrong.
        tail -n 5 -- "$out/peers.txt" >"$out/peers_summary.txt"
        # That there is no PyTorch, no GPU for it, or no Python, is no fault.
        grep -q 'which is not there\|finds none here' -- "$out/peers_summary.txt" || [ "$status" -eq 127 ] || worst=1
    fi
}

# Seconds that are left of a call that began at $began.
seconds_left() {
    echo $((${TUNE_SECONDS:-570} - $(date +%s) + began))
}

# Everything that one call on a new machine should tell: whether it is right, and which strategy is the
# fastest. Faults do not keep it from measuring.
run_tune() {
    began=$(date +%s)
    worst=0
    if [ -z "${TUNE_SKIP_TESTS:-}" ]; then
        test_for 150 20
        tests=$status
        # Few enough that every tool comes to see every strategy.
        sanitize_for 25 "${SANITIZE_FILTER:-edges::classes::Bf16}"
        [ "$tests" -eq 0 ] || worst=1
    fi
    left=$(seconds_left)
    # The last case, and what comes after it, may take a while.
    # shellcheck disable=SC2086
    run_into "$out/tune.txt" "$left" ./fused --tune --csv "$out/tune.csv" \
        --budget-seconds $((left > 60 ? left - 20 : left)) ${TUNE_OPTIONS:-}
    echo "--- strategies on $(head -n 1 -- "$out/tune.txt"); all times: $out/tune.txt, $out/tune.csv"
    sed -n 's/^This device is emulated/This device is emulated/p' -- "$out/tune.txt"
    if [ "$status" -ne 0 ]; then
        echo "./fused ended with status $status:"
        tail -n 5 -- "$out/tune.txt"
        worst=1
    fi
    sed '1,/^--- summary$/d' "$out/tune.txt" | tee "$out/summary.txt"
    exit "$worst"
}

# Exact instructions have to agree with the emulator, approximate ones to stay within their bounds.
run_compare() {
    run_into "$out/compare.txt" 290 ./compare --csv "$out/compare.csv"
    echo "--- instructions that differ more than they may, on:"
    devices
    grep ' FAILED ' -- "$out/compare.txt" || echo "none that ran"
    echo "--- the end of $out/compare.txt:"
    tail -n 2 -- "$out/compare.txt"
    exit "$status"
}

describe_machine
case $task in
    tests) run_tests ;;
    sanitize) run_sanitizer ;;
    bench) run_bench ;;
    tune) run_tune ;;
    compare) run_compare ;;
    *)
        usage >&2
        exit 2
        ;;
esac
