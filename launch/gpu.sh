#!/usr/bin/env bash
# What this project measures on one GPU, in pieces of under ten minutes each.
#
#   launch/gpu.sh [--dry-run] DIR [PIECE …]
#
# Without names all pieces, in this order:
#   train-B    kstore bench train: the paper's 124M, window 512, bfloat16, all of GPT-2's vocabulary,
#              batch B: tokens/s, both MFU, memory, what a checkpoint costs
#   profile    what the time of its steps goes to
#   peers      the same beside PyTorch's, compiled: a GPT in the manner of nanoGPT, and Hugging Face's
#   together   sixteen small models in one program, beside one by one
#   run-NAME   the experiment configs/NAME.py:gpu, into DIR/runs/NAME; run-NAME:SCALE, into
#              DIR/runs/NAME-SCALE, at another scale; `together` pretrains up to sixteen rows in one
#              program
#
# A benchmark leaves DIR/PIECE.json, an experiment the results.json of its folder; a piece that is
# there already is not made again. Nine minutes after it began an experiment gets SIGTERM, writes a
# checkpoint and ends with status 75; called again, it goes on. Without names the script calls it
# until it is done, or until a try brings nothing new, as where a stage that has no checkpoints takes
# longer. A piece that fails (a batch that is too large, say) is told, and the next one made; the
# script ends with its status.
#
# BATCHES: of the train-B ("8 16 32 64 96"). CONFIGS: the NAME or NAME:SCALE of the run-…; others
# are refused. KSTORE, PYTHON: the commands (kstore, python). `peers` needs the extra `bench`.
# --dry-run prints the commands and starts nothing.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
if [[ -z "${1:-}" ]]; then refuse "expected the folder of the results"; fi
if [[ "$1" == -* ]]; then refuse "$1: no such flag; expected [--dry-run] DIR [PIECE …]"; fi
out=$(realpath -m -- "$1")
if [[ -e "$out" && ! -d "$out" ]]; then refuse "$1 is no folder"; fi
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."

read -ra batches <<<"${BATCHES:-8 16 32 64 96}"
scaled="datasets qa_ratio finetuning mixed celebrities directions couples"
read -ra configs <<<"${CONFIGS:-datasets:together mixed:together $scaled}"
for name in "${configs[@]}"; do
    if [[ ! -f "configs/${name%%:*}.py" ]]; then refuse "CONFIGS: no configs/${name%%:*}.py"; fi
done
pieces=("${batches[@]/#/train-}" profile peers together "${configs[@]/#/run-}")
looping=false
if (($# == 0)); then
    looping=true
    set -- "${pieces[@]}"
fi
for piece in "$@"; do
    if [[ ! " ${pieces[*]} " == *" $piece "* ]]; then
        refuse "expected one of ${pieces[*]}, not $piece"
    fi
done

kstore="${KSTORE:-kstore}"
paper=(--config=configs/paper.py --config.model.dtype=bfloat16 --config.data.vocabulary=full)

command_of() { # sets `command` to that of a piece, and `result` to what it leaves
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

make_piece() {
    if [[ "$1" == run-* ]]; then
        "${command[@]}"
    else
        "${command[@]}" >"$result.part" && mv "$result.part" "$result"
    fi
}

there() { # the names of what a piece has left so far, but for what every try adds
    local folder
    folder=$(dirname "$result")
    [[ ! -d "$folder" ]] || find "$folder" -not -name 'provenance-*' | sort
}

worst=0
for piece in "$@"; do
    command_of "$piece"
    if "$dry_run"; then
        shown "${command[@]}"
        continue
    fi
    mkdir -p "$out"
    status=75
    while [[ ! -e "$result" ]] && ((status == 75)); do
        status=0
        before=$(there)
        make_piece "$piece" || status=$?
        if ((status)); then echo "gpu.sh: $piece: status $status" >&2; fi
        if "$looping" && ((status == 75)) && [[ "$(there)" == "$before" ]]; then
            echo "gpu.sh: $piece: nothing new in nine minutes; without a limit: ${command[*]:5}" >&2
            status=1
        fi
        if ((status > worst)) && { ((status != 75)) || ! "$looping"; }; then worst=$status; fi
        if ! "$looping"; then break; fi
    done
done
exit "$worst"
