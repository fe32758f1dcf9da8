#!/usr/bin/env bash
# Runs the fuzz targets, as many at once as there are processors. Needs the program that fuzz/build.sh makes.
#   fuzz/run.sh SECONDS [TARGET..]   so long each; all targets when none is named
# KUBEEDGE_FUZZ_CORPUS names a folder that keeps what was found to be worth trying (one below it for each target); without it
# every run begins with the seeds and the same random numbers. What fails is kept in fuzz/artifacts/TARGET/.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET..]}; shift
target_dir=${CARGO_TARGET_DIR:-../target}
program=$target_dir/debug/decoders
[ -x "$program" ] || { echo "$program is missing: fuzz/build.sh" >&2; exit 2; }
[ $# -gt 0 ] || mapfile -t all < <(KUBEEDGE_FUZZ=list "$program")
[ $# -gt 0 ] && all=("$@")
logs=$(mktemp -d); trap 'rm -rf "$logs"' EXIT

one() { # one TARGET: its log and, if it failed, a file TARGET.failed
  local target=$1 corpus options=()
  if [ -n "${KUBEEDGE_FUZZ_CORPUS:-}" ]; then corpus=$KUBEEDGE_FUZZ_CORPUS/$target
  else corpus=$logs/$target.corpus; options=(-seed=1); fi
  mkdir -p "$corpus" "$logs/artifacts/$target"
  local known=("seeds/$target")
  [ ! -d "regressions/$target" ] || known+=("regressions/$target")
  # An input may take 20 s on a busy machine, and all of it half a gigabyte.
  KUBEEDGE_FUZZ=$target RUST_BACKTRACE=1 "$program" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=640 -max_len=16384 \
    -print_final_stats=1 -artifact_prefix="$logs/artifacts/$target/" "${options[@]}" \
    "$corpus" "${known[@]}" >"$logs/$target.log" 2>&1 || touch "$logs/$target.failed"
}
export -f one; export logs seconds program KUBEEDGE_FUZZ_CORPUS
printf '%s\n' "${all[@]}" | xargs -P "$(nproc)" -I{} bash -c 'one {}'

for target in "${all[@]}"; do
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/$target.log")
  cov=$(grep -o 'cov: [0-9]*' "$logs/$target.log" | sed -n '1p;$p' | cut -d' ' -f2 | paste -sd' ')
  printf '%-16s %10s runs, edges %s\n' "$target" "${runs:-0}" "${cov/ / -> }"
done
failed=$(find "$logs" -name '*.failed' -printf '%f\n' | sed 's/\.failed$//' | sort)
for target in $failed; do
  echo "== $target"; grep -v -E '^#[0-9]+\s|^INFO|^NEW_FUNC' "$logs/$target.log" | tail -60
done
if [ -n "$failed" ]; then
  for target in $failed; do
    mkdir -p "artifacts/$target"
    find "$logs/artifacts/$target" -type f -exec cp {} "artifacts/$target/" \;
  done
  echo "found something: $(echo $failed). fuzz/README.md says what to do with the files in fuzz/artifacts" >&2
  exit 1
fi
