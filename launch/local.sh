#!/usr/bin/env bash
# A sweep on this machine: a process for each GPU, or, without one, a worker for each core.
#
#   launch/local.sh [--dry-run] --config=FILE --workdir=DIR [more flags of kstore sweep …]
#
# Each process sees one GPU (its CUDA_VISIBLE_DEVICES is set before it starts) and computes its share
# of the rows; stages that shares have in common are computed once. The same line goes on after a kill.
# Ctrl-C or SIGTERM ends all, after a checkpoint each. `kstore status DIR` tells how far it is.
#
# CUDA_VISIBLE_DEVICES: those to use (those that nvidia-smi lists). GPUS: how many of them (all).
# KSTORE: the command (kstore).
# --dry-run prints the commands and starts nothing.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
expect_run "$@"
if [[ -v CUDA_VISIBLE_DEVICES ]]; then
    IFS=, read -ra devices <<<"$CUDA_VISIBLE_DEVICES"
    GPUS="${GPUS:-${#devices[@]}}"
elif [[ -z "${GPUS:-}" ]]; then
    GPUS=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)
fi
expect_count GPUS
if [[ -v devices ]] && ((GPUS > ${#devices[@]})); then
    refuse "GPUS=$GPUS: expected no more than CUDA_VISIBLE_DEVICES has, ${#devices[@]}"
fi

running=()
trap 'kill -TERM "${running[@]}" 2>/dev/null || true' TERM INT # in the background INT is not heeded

started() {
    if "$dry_run"; then
        shown "$@"
    else
        "$@" &
        running+=("$!")
    fi
}

kstore=("${KSTORE:-kstore}" sweep "$@")
if ((GPUS == 0)); then
    started "${kstore[@]}"
else
    for ((gpu = 0; gpu < GPUS; gpu++)); do
        sees="CUDA_VISIBLE_DEVICES=${devices[gpu]:-$gpu}"
        started env "$sees" "${kstore[@]}" --workers=1 "--shard=$gpu/$GPUS"
    done
fi

worst=0
for process in "${running[@]}"; do
    while :; do
        status=0
        wait "$process" || status=$?
        kill -0 "$process" 2>/dev/null || break # else a signal ended the waiting, not the process
    done
    if ((status > worst)); then worst=$status; fi
done
exit "$worst"
