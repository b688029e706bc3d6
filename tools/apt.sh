# Debian and Ubuntu packages: installed as root, unpacked below .tools without root. To be sourced after report.sh.

apt_options=(-o DPkg::Lock::Timeout=300)

have_apt() { command -v apt-get >/dev/null && command -v dpkg >/dev/null; }

is_root() { ((EUID == 0)); }

# The sbin folders are for dpkg: a root shell got by plain su lacks them.
apt_get() { PATH=$PATH:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive apt-get "${apt_options[@]}" "$@"; }

# Fetches the package lists; without root into .tools/apt, which apt_get uses from then on.
apt_update() {
  if ! is_root; then
    local state=$PWD/.tools/apt
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    apt_options+=(-o "Dir::State::lists=$state/lists" -o "Dir::Cache=$state/cache")
  fi
  quietly "apt-get update" apt_get update
}

# apt_retried COMMAND...: a machine's package lists may be missing or too old, so a failure is tried again with new ones.
apt_retried() {
  attempt "$@" && return
  apt_update
  quietly "$*" "$@"
}

apt_install() { apt_retried apt_get install -y --no-install-recommends "$@"; }

apt_download() (
  cd "$1"
  apt_get download "${@:2}"
)

# apt_unpack FOLDER PACKAGE...: leaves FOLDER untouched, or replaces it by what is in the packages.
apt_unpack() {
  local folder=$1 fresh archive
  mkdir -p "$(dirname "$folder")"
  rm -rf "$folder".new-*
  fresh=$(mktemp -d "$folder.new-XXXXXX")
  chmod 755 "$fresh"
  apt_retried apt_download "$fresh" "${@:2}"
  for archive in "$fresh"/*.deb; do
    quietly "unpacking $(basename "$archive")" dpkg -x "$archive" "$fresh"
    rm "$archive"
  done
  rm -rf "$folder"
  mv "$fresh" "$folder"
}
