#!/usr/bin/env bash
# Writes requirements.lock for every supported Python and machine, and requirements-tflite.lock for a device with
# tflite-runtime (Python 3.11, the newest that it has wheels for). Pins stay as they are where they still fit;
# "--upgrade" or "--upgrade-package NAME" move them. Where packages come from is the machine's business, never the
# file's: pip's own index is handed to uv, and uv's variables (UV_DEFAULT_INDEX, UV_INDEX, UV_FIND_LINKS) win.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/report.sh

find_uv() {
  local candidate
  for candidate in "$(command -v uv || true)" .venv/bin/uv .tools/uv/bin/uv; do
    if [[ -x $candidate ]]; then
      echo "$candidate"
      return
    fi
  done
}

pip_index() { echo "${PIP_INDEX_URL:-$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)}"; }

uv=$(find_uv)
if [[ -z $uv ]]; then
  [[ -x .venv/bin/python ]] || tools/venv.sh
  say "installing uv into .tools/uv"
  quietly "installing uv" .venv/bin/python -m pip install --target .tools/uv uv
  uv=.tools/uv/bin/uv
fi
index=${UV_DEFAULT_INDEX:-$(pip_index)}
[[ -z $index ]] || export UV_DEFAULT_INDEX=$index

fresh=$(mktemp requirements.lock.XXXXXX)
trap 'rm -f "$fresh" "${step_log:-}"' EXIT

# lock FILE OPTION...: pins what uv is told to in FILE.
lock() {
  local file=$1
  shift
  : >"$fresh"
  [[ ! -f $file ]] || cp "$file" "$fresh"
  "$uv" pip compile --quiet --generate-hashes --python-version 3.11 \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
    --constraints tools/lock-constraints.txt "$@" --output-file "$fresh" pyproject.toml
  {
    echo "# Made by \`make lock\` from pyproject.toml; do not edit."
    cat "$fresh"
  } >"$fresh.headed"
  chmod 644 "$fresh.headed"
  mv "$fresh.headed" "$file"
}

lock requirements.lock --universal --extra demo --extra postgresql --extra hsm --group dev "$@"
lock requirements-tflite.lock --extra agent-tflite "$@"
