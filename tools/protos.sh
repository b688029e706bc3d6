#!/usr/bin/env bash
# protos.sh FOLDER: generates the Python code of protos/ below FOLDER (core/ in this repository).
# protos.sh --check: fails when the generated code that is committed is not what protos/ generates.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

generate() {
  local sources
  mapfile -t sources < <(find protos -name '*.proto' | sort)
  ((${#sources[@]})) || { echo "protos: no .proto file in protos/" >&2; exit 1; }
  mkdir -p "$1"
  PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m grpc_tools.protoc -I protos \
    --python_out="$1" --grpc_python_out="$1" --mypy_out=quiet:"$1" --mypy_grpc_out=quiet:"$1" "${sources[@]}"
}

if [[ ${1:?a folder or --check} == --check ]]; then
  fresh=$(mktemp -d)
  trap 'rm -rf "$fresh"' EXIT
  generate "$fresh"
  if ! diff -r -x __init__.py -x __pycache__ "$fresh/dsops/api" core/dsops/api; then
    echo "protos: core/dsops/api is not what protos/ generates; run make protos" >&2
    exit 1
  fi
else
  generate "$1"
fi
