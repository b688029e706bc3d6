#!/usr/bin/env bash
# Makes the environments of the build benchmark's peers in .tools/peers: onnx2tf and TensorFlow, 2.3 GB in all. What is
# there already stays. Prints the settings that benchmarks/build.py reads; it looks into .tools/peers without them, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/report.sh

readonly peers="$PWD/.tools/peers"

# make_environment NAME REQUIREMENT...: the file `ready` tells a whole environment from one that was interrupted.
make_environment() {
  local name=$1
  shift
  [[ -e $peers/$name/ready ]] && return
  say "installing $name into .tools/peers/$name (this takes some minutes)"
  quietly "creating the environment of $name" "${PYTHON:-python3}" -m venv --clear "$peers/$name"
  quietly "installing $name" "$peers/$name/bin/python" -m pip install "$@"
  touch "$peers/$name/ready"
}

mkdir -p "$peers"
# onnx2tf 2 declares Python 3.12, and works with 3.11.
make_environment onnx2tf --ignore-requires-python "onnx2tf>=2.6,<3"
make_environment tensorflow "tensorflow-cpu>=2.20,<3"
echo "DSOPS_ONNX2TF=$peers/onnx2tf/bin/onnx2tf"
echo "DSOPS_TENSORFLOW_PYTHON=$peers/tensorflow/bin/python"
