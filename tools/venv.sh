#!/usr/bin/env bash
# Makes .venv hold what requirements.lock pins, and this project in editable form. Silent when that is so already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/report.sh
. tools/apt.sh

readonly stamp=.venv/dsops-setup          # the key of the last set-up that went through
readonly unfinished=.venv/dsops-unfinished # there while pip works: such an environment is thrown away

is_recent() { [[ $("$1" -c 'import sys; print(sys.version_info >= (3, 11))' 2>/dev/null) == True ]]; }

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# What an environment depends on: the interpreter, the place of the checkout, the lock and the project's metadata.
key_of() {
  "$1" - <<'EOF'
import hashlib, pathlib, sys
key = hashlib.sha256(f"{sys.version_info[:3]} {pathlib.Path.cwd()}".encode())
for name in ("requirements.lock", "pyproject.toml"):
    key.update(pathlib.Path(name).read_bytes())
print(key.hexdigest())
EOF
}

is_current() {
  [[ -f $stamp && ! -e $unfinished ]] && is_recent .venv/bin/python || return
  [[ $(key_of "${PYTHON:-.venv/bin/python}" 2>/dev/null) == "$(<"$stamp")" ]]
}

find_python() {
  local candidate
  if [[ -n ${PYTHON:-} ]]; then
    is_recent "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.11 or newer"
    command -v "$PYTHON"
    return
  fi
  for candidate in .venv/bin/python python3 python3.14 python3.13 python3.12 python3.11; do
    if is_recent "$candidate"; then
      # Of an environment, the interpreter it was made from: that one survives when the environment is replaced.
      "$candidate" -c 'import sys; print(sys._base_executable)'
      return
    fi
  done
  die "no Python 3.11 or newer found; install python3 (Debian, Ubuntu: apt install python3) or run make PYTHON=/path/to/python3"
}

is_reusable() {
  [[ ! -e $unfinished ]] && .venv/bin/python -m pip --version >/dev/null 2>&1 &&
    [[ $(version_of .venv/bin/python) == "$(version_of "$1")" ]]
}

# Debian keeps ensurepip in a package of its own, which a fresh machine lacks.
create_with_pip_of_debian() {
  local python=$1 wheel
  say "unpacking pip into .tools/pip (python3-venv is not installed and this is not root)"
  apt_unpack .tools/pip python3-pip-whl python3-setuptools-whl
  wheel=$(find "$PWD/.tools/pip" -name 'pip-*.whl' | head -n 1)
  [[ -n $wheel ]] || die "python3-pip-whl holds no pip; install python3-venv and run make again"
  quietly "creating .venv" "$python" -m venv --clear --without-pip .venv
  quietly "installing pip" .venv/bin/python "$wheel/pip" install --no-index --no-deps "$wheel"
}

create() {
  local python=$1
  say "creating .venv with Python $(version_of "$python")"
  if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    quietly "creating .venv" "$python" -m venv --clear .venv
  elif ! have_apt; then
    die "$python cannot make virtual environments; install its venv and ensurepip modules and run make again"
  elif is_root; then
    say "installing python3-venv with apt-get"
    apt_install "python$(version_of "$python")-venv"
    quietly "creating .venv" "$python" -m venv --clear .venv
  else
    create_with_pip_of_debian "$python"
  fi
}

install() {
  say "installing $(grep -c '^[a-z].*==' requirements.lock) pinned requirements into .venv (this takes some minutes)"
  touch "$unfinished"
  quietly "installing requirements.lock" .venv/bin/python -m pip install --require-hashes -r requirements.lock
  say "installing dsops into .venv"
  quietly "installing dsops" .venv/bin/python -m pip install --no-deps --no-build-isolation -e .
  key_of .venv/bin/python >"$stamp.new"
  mv "$stamp.new" "$stamp"
  rm "$unfinished"
}

is_current && exit
python=$(find_python)
is_reusable "$python" || create "$python"
install
