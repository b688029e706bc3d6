#!/usr/bin/env bash
# Runs the public tuf-conformance suite against the agent's own TUF client: tools/conformance.sh CHECKOUT [pytest options]
# CHECKOUT is a clone of github.com/theupdateframework/tuf-conformance outside this repository. Every case must pass: no
# failure is expected. Needs `faketime`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/report.sh

(($# > 0)) && [[ -n $1 ]] || die "name a checkout of the suite: make conformance TUFC=/path/to/tuf-conformance"
[[ -d $1/tuf_conformance ]] || die "$1 is not a checkout of tuf-conformance"
command -v faketime >/dev/null || die "faketime is missing: apt-get install faketime"

readonly python=$PWD/.venv/bin/python
adapter=$(mktemp -d)
trap 'rm -rf "$adapter"' EXIT
printf '#!/bin/sh\nexec "%s" -m dsops_agent.cli tuf-client "$@"\n' "$python" >"$adapter/client"
chmod +x "$adapter/client"
: >"$adapter/client.xfails"

cd "$1"
shift
PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -q -p no:cacheprovider tuf_conformance --entrypoint "$adapter/client" "$@"
