#!/usr/bin/env bash
# Makes sure that there is a mosquitto 2 broker. Silent when there is one already; --path prints where it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/report.sh
. tools/apt.sh

readonly wrapper=$PWD/.tools/bin/mosquitto

is_mosquitto_2() {
  local first
  first=$("$1" -h 2>/dev/null | head -n 1) || true
  [[ $first =~ ^mosquitto\ version\ ([0-9]+) ]] && ((BASH_REMATCH[1] >= 2))
}

find_broker() {
  local candidate
  if [[ -n ${DSOPS_MOSQUITTO:-} ]]; then
    is_mosquitto_2 "$DSOPS_MOSQUITTO" || die "DSOPS_MOSQUITTO=$DSOPS_MOSQUITTO is not a mosquitto 2 broker"
    echo "$DSOPS_MOSQUITTO"
    return
  fi
  for candidate in "$(command -v mosquitto || true)" /usr/sbin/mosquitto /usr/local/sbin/mosquitto "$wrapper"; do
    if [[ -x $candidate ]] && is_mosquitto_2 "$candidate"; then
      echo "$candidate"
      return
    fi
  done
}

write_wrapper() {
  local folders
  folders=$(cd .tools/mosquitto && find . -name '*.so*' -printf '%h\n' | sort -u | sed 's|^\.|$here|' | paste -sd:)
  mkdir -p "$(dirname "$wrapper")"
  cat >"$wrapper.new" <<EOF
#!/bin/sh
here=\$(dirname "\$(readlink -f "\$0")")/../mosquitto
LD_LIBRARY_PATH="$folders\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "\$here/usr/sbin/mosquitto" "\$@"
EOF
  chmod 755 "$wrapper.new"
  mv "$wrapper.new" "$wrapper"
}

unpack() {
  local packages
  say "unpacking mosquitto into .tools/mosquitto (none is installed and this is not root)"
  # What apt would install is mosquitto and the libraries that this machine lacks. Another libc than the running
  # system's cannot be loaded beside it.
  apt_retried apt_get --simulate install --no-install-recommends mosquitto
  mapfile -t packages < <(awk '$1 == "Inst" && $2 ~ /^(mosquitto$|lib)/ && $2 != "libc6" { print $2 }' "$step_log")
  ((${#packages[@]})) || return 0
  apt_unpack .tools/mosquitto "${packages[@]}"
  write_wrapper
}

obtain() {
  if ! have_apt; then
    die "no mosquitto 2 broker found; install it (dnf, pacman, apk or brew install mosquitto) or set DSOPS_MOSQUITTO to its path"
  elif is_root; then
    say "installing mosquitto with apt-get"
    apt_install mosquitto
  else
    unpack
  fi
}

broker=$(find_broker)
if [[ -z $broker && ${1:-} != --path ]]; then
  obtain
  broker=$(find_broker)
  [[ -n $broker ]] || die "this system's mosquitto is older than 2 or does not start; install mosquitto 2 and set DSOPS_MOSQUITTO to its path"
fi
[[ ${1:-} != --path ]] || echo "$broker"
