# How the set-up scripts speak: one line a step, the whole log only when a step fails. To be sourced.

say() { printf 'setup: %s\n' "$*" >&2; }

die() {
  say "$*"
  exit 1
}

# attempt COMMAND...: runs it without a terminal and keeps what it prints in $step_log.
attempt() {
  step_log=${step_log:-$(mktemp)}
  "$@" >"$step_log" 2>&1 </dev/null
}

# quietly WHAT COMMAND...: runs COMMAND; when it fails, shows the end of its output and stops with "WHAT failed".
quietly() {
  local what=$1
  shift
  if ! attempt "$@"; then
    tail -n 25 "$step_log" >&2
    die "$what failed; the lines above say why"
  fi
}

trap 'rm -f "${step_log:-}"' EXIT
