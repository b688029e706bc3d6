#!/usr/bin/env bash
# peers.sh [NAME...]: makes the environments of the benchmarks' peers in .tools/peers, all or those that are named:
# onnx2tf and tensorflow for benchmarks/build.py (2.3 GB), mlserver for benchmarks/inference.py (0.4 GB), river, frouros
# and alibi-detect for benchmarks/drift.py (1.7 GB), prometheus for benchmarks/ingest.py (Debian's package, unpacked and not
# installed; 0.1 GB). What is there already stays. Prints the settings that the benchmarks read; they look into .tools/peers without them, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/report.sh

readonly peers="$PWD/.tools/peers"
readonly wanted="${*:-onnx2tf tensorflow mlserver river frouros alibi-detect prometheus}"

# make_environment NAME REQUIREMENT...: the file `ready` tells a whole environment from one that was interrupted.
make_environment() {
  local name=$1
  shift
  [[ " $wanted " == *" $name "* ]] || return 0
  [[ -e $peers/$name/ready ]] && return
  say "installing $name into .tools/peers/$name (this takes some minutes)"
  quietly "creating the environment of $name" "${PYTHON:-python3}" -m venv --clear "$peers/$name"
  quietly "installing $name" "$peers/$name/bin/python" -m pip install "$@"
  touch "$peers/$name/ready"
}

# unpack NAME: Debian's package, as apt finds it, without installing it: no root, no service.
unpack() {
  local name=$1
  [[ " $wanted " == *" $name "* ]] || return 0
  [[ -e $peers/$name/ready ]] && return
  say "unpacking $name into .tools/peers/$name"
  mkdir -p "$peers/$name"
  (
    cd "$peers/$name"
    quietly "downloading $name" apt-get download "$name"
    quietly "unpacking $name" dpkg -x "$name"_*.deb .
    rm -f "$name"_*.deb
    touch ready
  )
}

mkdir -p "$peers"
# onnx2tf 2 declares Python 3.12, and works with 3.11.
make_environment onnx2tf --ignore-requires-python "onnx2tf>=2.6,<3"
make_environment tensorflow "tensorflow-cpu>=2.20,<3"
make_environment mlserver "mlserver>=1.7,<2" ai-edge-litert
make_environment river "river>=0.26,<0.27"
make_environment frouros "frouros>=0.9,<0.10"
make_environment alibi-detect "alibi-detect>=0.13,<0.14"
unpack prometheus
echo "DSOPS_ONNX2TF=$peers/onnx2tf/bin/onnx2tf"
echo "DSOPS_TENSORFLOW_PYTHON=$peers/tensorflow/bin/python"
echo "DSOPS_MLSERVER_PYTHON=$peers/mlserver/bin/python"
echo "DSOPS_RIVER_PYTHON=$peers/river/bin/python"
echo "DSOPS_FROUROS_PYTHON=$peers/frouros/bin/python"
echo "DSOPS_ALIBI_DETECT_PYTHON=$peers/alibi-detect/bin/python"
echo "DSOPS_PROMETHEUS=$peers/prometheus/usr/bin/prometheus"
