#!/usr/bin/env bash
# All that only a machine with a GPU can show: `benchmarks/gpu_check.sh DIR`. Builds from what is installed (torch,
# transformers, ninja, pybind11, pytest-benchmark, nvcc; no network), runs the GPU tests, compute-sanitizer, kernel and
# end-to-end benchmarks, and prints a short table last. A part that fails or takes too long does not stop the next. DIR
# gets at most 8 files. About 10 minutes; --long adds the peers that compile for minutes.
set -uo pipefail

if [ $# -lt 1 ]; then
  echo "usage: benchmarks/gpu_check.sh DIR [--long]" >&2
  exit 2
fi
mkdir -p "$1"
readonly out=$(cd "$1" && pwd) long=${2:-}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly log=$out/log.txt parts=$out/parts.txt
: >"$log"
: >"$parts"

# part NAME SECONDS COMMAND...: its output goes to the log, its outcome to the table.
part() {
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  printf '\n== %s\n' "$name" | tee -a "$log"
  timeout --kill-after=10 "$limit" "$@" >>"$log" 2>&1 || code=$?
  printf '%-28s %-12s %4d s\n' "$name" "$([ $code = 0 ] && echo passed || echo "failed ($code)")" $((SECONDS - start)) |
    tee -a "$parts"
}

tests() { python3 -m pytest -q -p no:cacheprovider "$@"; }
sanitizer() {
  compute-sanitizer --tool "$1" --error-exitcode 9 --target-processes all python3 -m pytest -q -p no:cacheprovider \
    -m "gpu and not release" tests/ops/test_each_operator.py
}
mma_rate() {
  nvcc -std=c++20 -O3 -arch=native --expt-relaxed-constexpr -Icsrc -o "$1/mma_rate" benchmarks/gpu/mma_rate.cu &&
    "$1/mma_rate" >"$1/mma_tflops"
}
# bench NAME OPTIONS...: `vispec bench`, the installed one; its summary becomes DIR/NAME.json
bench() {
  (cd "$scratch" && python3 -m vispec bench --no-plots --explain --output "$1" "${@:2}") &&
    cp "$scratch/$1/summary.json" "$out/$1.json"
}
export -f tests sanitizer mma_rate bench
readonly scratch=$(mktemp -d)
export out scratch
trap 'rm -rf "$scratch"' EXIT
flags=() kernel_seconds=300 decoding=(--no-compile) decoding_seconds=180
[ "$long" = --long ] && flags=(--flex) kernel_seconds=900 decoding=() decoding_seconds=900

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.memory --format=csv | tee -a "$log"
part "build" 240 python3 -m pip install --quiet --no-build-isolation --no-deps --no-index --force-reinstall .
part "PTX against its host form" 60 bash -c 'tests -m "gpu and not release" tests/cuda/test_vocabulary.py'
part "operators" 150 bash -c 'tests -m "gpu and not release" tests/ops'
part "decoding" 120 bash -c 'tests -m "gpu and not release" tests/test_gpu.py tests/test_sampling.py'
part "memcheck" 90 bash -c 'sanitizer memcheck'
part "racecheck" 90 bash -c 'sanitizer racecheck'
part "rate of mma.sync" 60 bash -c "mma_rate $scratch"
[ -s "$scratch/mma_tflops" ] && flags+=(--mma-tflops "$(cat "$scratch/mma_tflops")")
part "kernels" "$kernel_seconds" bash -c 'tests benchmarks/kernels --device cuda "$@"' _ \
  --benchmark-json "$out/operators.json" "${flags[@]}"
for dtype in float32 bfloat16; do
  part "pair, $dtype" "$decoding_seconds" bash -c 'bench "$@"' _ \
    "pair_$dtype" --dtype "$dtype" --limit 13 --repeats 1 "${decoding[@]}"
done
for model in Qwen2.5-VL-7B LLaVA-1.6-7B; do
  part "$model, simulated" "$decoding_seconds" bash -c 'bench "$@"' _ "$model" --geometry "$model" "${decoding[@]}"
done
printf '\n'
python3 benchmarks/gpu/table.py "$out" || true
cat "$parts"
! grep -q failed "$parts"
