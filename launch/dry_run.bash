# Sourced by the scripts here: `dry_run` is whether --dry-run is among the arguments, wherever it
# stands; the others stay. `shown COMMAND …` prints a command as it would be typed.
# shellcheck shell=bash

# shellcheck disable=SC2034 # asked by who sources this
dry_run=false
arguments=()
for argument in "$@"; do
    if [[ "$argument" == --dry-run ]]; then dry_run=true; else arguments+=("$argument"); fi
done
set -- "${arguments[@]}"

shown() {
    printf '%q ' "$@"
    echo
}
