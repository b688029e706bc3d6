#!/usr/bin/env bash
# Fuzzes what reads files of others (tests/fuzz), each target for its share of FUZZ_SECONDS (600). Fails on a finding.
# Corpus, logs and findings stay in build/fuzz; a finding is reproduced by: PYTHONPATH=core .tools/fuzz-venv/bin/python TARGET FILE
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/report.sh

readonly seconds=${FUZZ_SECONDS:-600} environment=.tools/fuzz-venv folder=build/fuzz
readonly memory_mb=2048 seconds_an_input=10
declare -rA longest_input=([fuzz_bundle]=4096 [fuzz_lint]=24000)

[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "FUZZ_SECONDS=$seconds is not a number of seconds"

if [[ ! -e $environment/ready ]]; then
  say "installing atheris into $environment"
  quietly "creating $environment" .venv/bin/python -m venv --clear "$environment"
  quietly "installing atheris (it has wheels for some versions of Python only)" \
    "$environment/bin/python" -m pip install "atheris>=3,<4" "pydantic>=2.10,<3" "cryptography>=45" "typing-extensions>=4.12"
  touch "$environment/ready"
fi

mkdir -p "$folder/seeds" "$folder/findings"
PYTHONPATH=tests/unit/core:tests/unit/build:tests/unit/runtime quietly "making the seeds" \
  .venv/bin/python tests/fuzz/seeds.py "$folder/seeds"

targets=(tests/fuzz/fuzz_*.py)
failed=0
for target in "${targets[@]}"; do
  name=$(basename "$target" .py)
  mkdir -p "$folder/corpus/$name"
  say "$name: $((seconds / ${#targets[@]})) s"
  PYTHONPATH=core "$environment/bin/python" "$target" "$folder/corpus/$name" "$folder/seeds/$name" \
    -max_total_time=$((seconds / ${#targets[@]})) -max_len="${longest_input[$name]}" -rss_limit_mb=$memory_mb \
    -timeout=$seconds_an_input -artifact_prefix="$folder/findings/$name-" -print_final_stats=1 \
    >"$folder/$name.log" 2>&1 || { failed=1 && tail -n 25 "$folder/$name.log" >&2; }
  grep -E '^stat::number|^stat::average|^stat::peak' "$folder/$name.log" || true
  grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [^ ]+' "$folder/$name.log" | tail -n 1 || true
done
((failed == 0)) || die "findings are in $folder/findings"
