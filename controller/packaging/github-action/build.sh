#!/usr/bin/env bash
# What the action does between setting up Python and keeping the artifacts; it runs on any machine with dsops installed.
#
# Reads DSOPS_RECIPE, DSOPS_RELEASE (empty: no bundles) and DSOPS_VARIANTS. Writes to RUNNER_TEMP/dsops, appends figures to
# GITHUB_STEP_SUMMARY and the places of the results to GITHUB_OUTPUT. Ends with the exit code of dsops: 7 when a gate fails.
set -euo pipefail

recipe=${DSOPS_RECIPE:?name the folder that holds bundle.toml}
out=$(mktemp -d "${RUNNER_TEMP:-/tmp}/dsops.XXXXXX")
printf 'out=%s\n' "$out" >>"$GITHUB_OUTPUT"

only=()
set -f # names, no patterns
for variant in ${DSOPS_VARIANTS:-}; do
    only+=(--variant "$variant")
done
set +f

dsops model build "$recipe" --to "$out/build" --summary "$GITHUB_STEP_SUMMARY" ${only[@]+"${only[@]}"}
printf 'build=%s\n' "$out/build" >>"$GITHUB_OUTPUT"

if [[ -n ${DSOPS_RELEASE:-} ]]; then
    mkdir "$out/bundles"
    dsops bundle build "$out/build" --release "$DSOPS_RELEASE" --to "$out/bundles"
    printf 'bundles=%s\n' "$out/bundles" >>"$GITHUB_OUTPUT"
fi
