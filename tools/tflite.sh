#!/usr/bin/env bash
# Makes .tools/tflite hold what requirements-tflite.lock pins: the libraries of a device with tflite-runtime, which has
# wheels up to Python 3.11. Silent when that is so already. tests/integration/runtime/test_older_runtime.py runs on it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/report.sh

readonly environment=.tools/tflite
readonly stamp=$environment/lock # what was installed; written last

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" .venv/bin/python python3.11; do
    if [[ -n $candidate ]] && "$candidate" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      "$candidate" -c 'import sys; print(sys._base_executable)'
      return
    fi
  done
  die "no Python 3.11 found: tflite-runtime has no wheel for a newer one"
}

cmp --quiet requirements-tflite.lock "$stamp" && "$environment/bin/python" -c '' 2>/dev/null && exit
python=$(find_python)
say "installing $(grep -c '==' requirements-tflite.lock) pinned requirements into $environment"
quietly "creating $environment" "$python" -m venv --clear "$environment"
quietly "installing requirements-tflite.lock" \
  "$environment/bin/python" -m pip install --require-hashes --only-binary=:all: -r requirements-tflite.lock
cp requirements-tflite.lock "$stamp"
