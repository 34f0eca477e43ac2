#!/usr/bin/env bash
# Runs a sweep on this machine: one process per GPU, or, without a GPU, one worker per core.
#
#   launch/local.sh [--dry-run] --config=FILE --workdir=DIR [more flags of kstore sweep …]
#
# Each process sees one GPU (the script sets its CUDA_VISIBLE_DEVICES) and computes its share of the
# rows. Stages that several shares need are computed once. After a kill, the same command resumes.
# Ctrl-C or SIGTERM stops all processes; each writes a checkpoint first. `kstore status DIR` prints
# the progress.
#
# Environment, with defaults:
#   CUDA_VISIBLE_DEVICES  the GPUs to use (all that nvidia-smi lists)
#   GPUS                  how many of them to use (all)
#   KSTORE                the command (kstore)
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
    refuse "GPUS=$GPUS: expected at most ${#devices[@]}, the number of GPUs in CUDA_VISIBLE_DEVICES"
fi

running=()
trap 'kill -TERM "${running[@]}" 2>/dev/null || true' TERM INT # background processes ignore INT

start() { # start COMMAND …: in the background, or prints it in a dry run
    if "$dry_run"; then
        print_command "$@"
    else
        "$@" &
        running+=("$!")
    fi
}

kstore=("${KSTORE:-kstore}" sweep "$@")
if ((GPUS == 0)); then
    start "${kstore[@]}"
else
    for ((gpu = 0; gpu < GPUS; gpu++)); do
        device="CUDA_VISIBLE_DEVICES=${devices[gpu]:-$gpu}"
        start env "$device" "${kstore[@]}" --workers=1 "--shard=$gpu/$GPUS"
    done
fi

worst=0
for process in "${running[@]}"; do
    while :; do
        status=0
        wait "$process" || status=$?
        kill -0 "$process" 2>/dev/null || break # otherwise a signal interrupted wait
    done
    if ((status > worst)); then worst=$status; fi
done
exit "$worst"
