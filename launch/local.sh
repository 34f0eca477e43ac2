#!/usr/bin/env bash
# Runs a sweep on this machine: one process per GPU, or, without a GPU, one worker per core.
#
#   launch/local.sh [--dry-run] [--gpus=N] --config=FILE --workdir=DIR [more flags of kstore sweep …]
#
# --gpus=N: use N GPUs (all that CUDA_VISIBLE_DEVICES or nvidia-smi lists); 0: none.
# Each process sees one GPU (the script sets its CUDA_VISIBLE_DEVICES) and computes its share of the
# rows. Stages that several shares need are computed once. After a kill, the same command resumes.
# Ctrl-C or SIGTERM stops all processes; each writes a checkpoint first, and the status is 75.
# `kstore status DIR` prints the progress. A flag or field that kstore refuses is refused at once.
#
# Environment, with defaults:
#   CUDA_VISIBLE_DEVICES  the GPUs to use (all that nvidia-smi lists)
#   KSTORE                the command (kstore)
# --dry-run prints the commands and starts nothing.
set -euo pipefail

own_flags="gpus"
gpus=""
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
if [[ -v CUDA_VISIBLE_DEVICES ]]; then
    IFS=, read -ra devices <<<"$CUDA_VISIBLE_DEVICES"
    gpus="${gpus:-${#devices[@]}}"
elif [[ -z "$gpus" ]]; then
    gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)
fi
expect_count --gpus "$gpus"
if [[ -v devices ]] && ((gpus > ${#devices[@]})); then
    refuse "--gpus=$gpus: expected at most ${#devices[@]}, the number of GPUs in CUDA_VISIBLE_DEVICES"
fi
if ((gpus)); then expect_free "workers|shard" "$@"; fi
expect_run sweep "$@"
trap stop_running TERM INT

start() { # start COMMAND …: in the background, or prints it in a dry run
    if "$dry_run"; then
        print_command "$@"
    else
        "$@" &
        running+=("$!")
    fi
}

kstore=("${KSTORE:-kstore}" sweep "$@")
if ((gpus == 0)); then
    start "${kstore[@]}"
else
    for ((gpu = 0; gpu < gpus; gpu++)); do
        device="CUDA_VISIBLE_DEVICES=${devices[gpu]:-$gpu}"
        start env "$device" "${kstore[@]}" --workers=1 "--shard=$gpu/$gpus"
    done
fi
wait_for_running
