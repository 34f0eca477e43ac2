#!/usr/bin/env bash
# Runs this project's GPU benchmarks and experiments on one GPU, each piece in under ten minutes.
#
#   launch/gpu.sh [--dry-run] DIR [PIECE …]
#
# Without PIECE it runs all pieces, in this order:
#   train-B         kstore bench train on the paper's 124M model with batch size B: tokens/s, MFU in
#                   both definitions, memory, cost of a checkpoint (window 512, bfloat16, full GPT-2
#                   vocabulary)
#   profile         time per operation of its training step
#   peers           the same training step in PyTorch, compiled: a nanoGPT-style GPT and Hugging Face's
#   together        sixteen small models in one program, compared with training them one by one
#   run-NAME        the experiment configs/NAME.py:gpu, written to DIR/runs/NAME
#   run-NAME:SCALE  the same at another scale, written to DIR/runs/NAME-SCALE; the scale `together`
#                   pretrains up to sixteen rows in one program
#
# A benchmark writes DIR/PIECE.json, an experiment writes results.json in its folder. Pieces whose
# result exists are skipped. After nine minutes an experiment gets SIGTERM, writes a checkpoint and
# exits with status 75; the next call resumes it. Without PIECE the script calls an experiment until
# it is done, or until a call writes nothing new, which happens where a stage without checkpoints
# takes longer than nine minutes. If a piece fails, for example because a batch does not fit, the
# script reports it and continues with the next piece. It exits with the highest status of all pieces.
# SIGTERM or Ctrl-C stops the piece, which writes a checkpoint first, and the script, with status 75.
#
# Environment, with defaults:
#   BATCHES         batch sizes of the train-B pieces ("8 16 32 64 96")
#   CONFIGS         NAME or NAME:SCALE of the run-… pieces; every configs/NAME.py must exist
#   KSTORE, PYTHON  the commands (kstore, python); `peers` needs the extra `bench`
# --dry-run prints the commands and starts nothing.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
if [[ -z "${1:-}" ]]; then refuse "DIR is missing; expected a folder for the results"; fi
if [[ "$1" == -* ]]; then refuse "$1: no such flag; expected [--dry-run] DIR [PIECE …]"; fi
out=$(realpath -m -- "$1")
if [[ -e "$out" && ! -d "$out" ]]; then refuse "$1 is not a folder; expected a folder for the results"; fi
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."

read -ra batches <<<"${BATCHES:-8 16 32 64 96}"
scaled="datasets qa_ratio finetuning mixed celebrities directions couples"
read -ra configs <<<"${CONFIGS:-datasets:together mixed:together $scaled}"
for name in "${configs[@]}"; do
    if [[ ! -f "configs/${name%%:*}.py" ]]; then
        refuse "CONFIGS: $name: no file configs/${name%%:*}.py; expected NAME or NAME:SCALE of such a file"
    fi
done
pieces=("${batches[@]/#/train-}" profile peers together "${configs[@]/#/run-}")
repeat=false
if (($# == 0)); then
    repeat=true
    set -- "${pieces[@]}"
fi
for piece in "$@"; do
    if [[ ! " ${pieces[*]} " == *" $piece "* ]]; then
        refuse "$piece: no such piece; expected one of: ${pieces[*]}"
    fi
done

kstore="${KSTORE:-kstore}"
paper=(--config=configs/paper.py --config.model.dtype=bfloat16 --config.data.vocabulary=full)

command_of() { # command_of PIECE: sets `command` and `result`, the file that the command writes
    result="$out/$1.json"
    case "$1" in
        train-*) command=("$kstore" bench train "${paper[@]}" "--config.pretrain.batch_size=${1#train-}" --json) ;;
        profile) command=("$kstore" bench profile "${paper[@]}" --config.pretrain.batch_size=32 --json) ;;
        peers)
            command=("${PYTHON:-python}" -m benchmarks.train --json --rounds=3 --device=gpu --compile)
            command+=(--dtype=bfloat16 --layers=12 --width=768 --heads=12 --window=512 --batch=32)
            command+=(--vocabulary=50304)
            ;;
        together) command=("$kstore" bench train --config=configs/quickstart.py --together=16 --json) ;;
        run-*)
            local name="${1#run-}" scale=gpu
            local workdir="$out/runs/${name/:/-}"
            result="$workdir/results.json"
            if [[ "$name" == *:* ]]; then scale="${name#*:}"; fi
            command=("$kstore" sweep "--config=configs/${name%%:*}.py:$scale" "--workdir=$workdir")
            if [[ "$scale" == together ]]; then command+=(--together=16); fi
            ;;
    esac
    command=(timeout --foreground --preserve-status --kill-after=50 540 "${command[@]}")
}

run_piece() { # run_piece PIECE: runs `command`; a benchmark's output becomes `result`
    if [[ "$1" == run-* ]]; then
        "${command[@]}" &
        running=("$!")
        wait_for_running
    else
        "${command[@]}" >"$result.part" &
        running=("$!")
        wait_for_running && mv "$result.part" "$result"
    fi
}
trap stop_running TERM INT

outputs() { # lists the files beside `result`, without provenance-*, which every call adds
    local folder
    folder=$(dirname "$result")
    [[ ! -d "$folder" ]] || find "$folder" -not -name 'provenance-*' | sort
}

worst=0
for piece in "$@"; do
    command_of "$piece"
    if "$dry_run"; then
        print_command "${command[@]}"
        continue
    fi
    mkdir -p "$out"
    status=75
    while [[ ! -e "$result" ]] && ((status == 75)); do
        status=0
        before=$(outputs)
        run_piece "$piece" || status=$?
        if "$stopped"; then exit 75; fi
        if ((status)); then echo "gpu.sh: $piece: status $status" >&2; fi
        if "$repeat" && ((status == 75)) && [[ "$(outputs)" == "$before" ]]; then
            echo "gpu.sh: $piece: no progress in nine minutes; to run it without a time limit: ${command[*]:5}" >&2
            status=1
        fi
        if ((status > worst)) && { ((status != 75)) || ! "$repeat"; }; then worst=$status; fi
        if ! "$repeat"; then break; fi
    done
done
exit "$worst"
