#!/usr/bin/env bash
# All that only a machine with a GPU can show: `benchmarks/gpu_check.sh DIR`. Builds from what is installed (torch,
# transformers, ninja, pybind11, pytest-benchmark, nvcc; no network), runs the GPU tests and compute-sanitizer side by
# side, then kernel and end-to-end benchmarks one by one, and prints a short table last. A part that fails or takes too
# long does not stop the next; after 8 minutes no part goes on. DIR gets at most 8 files.
#
# --only build|checks|kernels|decoding: that alone, with what is installed; its files come to those in DIR.
# --long: as much time as all takes, more prompts, and the peers that compile for minutes.
set -uo pipefail

usage() {
  echo "usage: benchmarks/gpu_check.sh DIR [--only build|checks|kernels|decoding] [--long]" >&2
  exit 2
}
[ $# -ge 1 ] && [[ $1 != -* ]] || usage
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
only='' long=''
while [ $# -gt 0 ]; do
  case $1 in
    --long) long=yes && shift ;;
    --only) [[ ${2:-} =~ ^(build|checks|kernels|decoding)$ ]] && only=$2 && shift 2 || usage ;;
    *) usage ;;
  esac
done
wants() { [ -z "$only" ] || [ "$only" = "$1" ]; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly out only long log=$out/log.txt parts=$out/parts.txt most=$([ -n "$long" ] && echo 5400 || echo 480)
[ -n "$only" ] || : >"$log" >"$parts"

# part NAME SECONDS COMMAND...: its output goes to the log, its outcome to the table. After its time it gets $signal: to
# pytest INT says to save what it has.
part() {
  local name=$1 limit=$2 start=$SECONDS code=0 outcome=passed output left=$((most - SECONDS))
  shift 2
  [ "$limit" -le "$left" ] || limit=$left
  output=$(mktemp -p "$scratch")
  if [ "$limit" -ge 10 ]; then
    timeout --signal="${signal:-TERM}" --kill-after=20 "$limit" "$@" >"$output" 2>&1 || code=$?
    [ $code = 0 ] || outcome="failed ($code)"
    [ $code != 124 ] && [ $code != 137 ] || outcome="failed (no time)"
  else
    outcome="failed (not begun)"
  fi
  { printf '\n== %s\n' "$name" && cat "$output"; } >>"$log"
  printf '%-28s %-18s %4d s\n' "$name" "$outcome" $((SECONDS - start)) | tee -a "$parts"
}

tests() { python3 -m pytest -q -p no:cacheprovider -m "gpu and not release" "$@"; }
sanitizer() {
  compute-sanitizer --tool "$1" --report-api-errors no --error-exitcode 9 --target-processes all \
    python3 -m pytest -q -p no:cacheprovider -m "gpu and not release" tests/ops/test_each_operator.py
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
scratch=$(mktemp -d)
readonly scratch
export out scratch
trap 'rm -rf "$scratch"' EXIT
flags=() kernel_seconds=150 decoding=(--no-compile --repeats 1) prompts=6  # so that decoding has its turn
[ "$only" = kernels ] && kernel_seconds=1800
[ -n "$long" ] && flags=(--flex) kernel_seconds=1800 decoding=() prompts=13

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.memory --format=csv | tee -a "$log"
if wants build; then
  # in place: tests and benchmarks then find what was built from this folder, too
  part "build" 240 python3 -m pip install --quiet --no-build-isolation --no-deps --no-index --force-reinstall -e .
fi
if wants checks; then
  part "PTX against its host form" 60 bash -c 'tests tests/cuda/test_vocabulary.py'
  part "operators" 180 bash -c 'tests tests/ops' &
  part "decoding" 180 bash -c 'tests tests/test_gpu.py tests/test_sampling.py' &
  part "memcheck" 180 bash -c 'sanitizer memcheck' &
  part "racecheck" 180 bash -c 'sanitizer racecheck' &
  part "synccheck" 180 bash -c 'sanitizer synccheck' &
  wait
fi
if wants kernels; then
  part "rate of mma.sync" 60 bash -c "mma_rate $scratch"
  [ -s "$scratch/mma_tflops" ] && flags+=(--mma-tflops "$(cat "$scratch/mma_tflops")")
  signal=INT part "kernels" "$kernel_seconds" bash -c 'python3 -m pytest -q -p no:cacheprovider benchmarks/kernels --device cuda "$@"' _ \
    --benchmark-json "$out/operators.json" "${flags[@]}"
fi
if wants decoding; then
  for model in Qwen2.5-VL-7B LLaVA-1.6-7B; do
    part "$model, simulated" 900 bash -c 'bench "$@"' _ "$model" --geometry "$model" "${decoding[@]}"
  done
  for dtype in float32 bfloat16; do
    part "pair, $dtype" 900 bash -c 'bench "$@"' _ "pair_$dtype" --dtype "$dtype" --limit "$prompts" "${decoding[@]}"
  done
fi
printf '\n'
python3 benchmarks/gpu/table.py "$out" || true
cat "$parts"
! grep -q failed "$parts"
