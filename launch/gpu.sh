#!/usr/bin/env bash
# Measures this project on one GPU, in pieces of under nine minutes; half an hour gives the first three.
#
#   launch/gpu.sh [--dry-run] [--size=smallest] DIR [PIECE …]
#
# Without PIECE it runs all pieces, in this order:
#   train-full-B, train-compact-B
#                   kstore bench train on the paper's 124M model with batch size B, with GPT-2's
#                   vocabulary and with the tokens in use: tokens/s, MFU in both definitions, memory,
#                   cost of a checkpoint (window 512, bfloat16)
#   profile         the ten kinds of operation that cost most in its training step
#   headline        configs/paper.py:gpu, a tenth of the paper: multi5+permute, single, and single with
#                   questions mixed in, one after the other (one such model fills the GPU); with
#                   finetuning, questions and both probes
#   peers           the 124M training step in PyTorch, compiled: a nanoGPT-style GPT and Hugging Face's
#   together        sixteen small models in one program, compared with training them one by one
#   headline-seedN  the headline with seed N, of SEEDS
#   run-NAME        the experiment configs/NAME.py:gpu, of CONFIGS
#   run-NAME:SCALE  the same at another scale; the scale `together` pretrains up to sixteen rows in one
#                   program
#
# DIR/results is what to bring back: PIECE.json of a benchmark, a folder PIECE of an experiment, which
# `kstore status` and `kstore report` read. It has results, metrics and single answers, and no
# checkpoints; these are in DIR/runs. It is written after every call, also where a call is cut.
#
# Pieces whose result exists are skipped. After eight minutes an experiment gets SIGTERM, writes a
# checkpoint and exits with status 75; the next call resumes it. Without PIECE the script calls an
# experiment until it is done, or until a call writes nothing new, which happens where a stage without
# checkpoints takes longer than that. If a piece fails, for example because a batch does not fit, the
# script reports it and continues with the next piece. It exits with the highest status of all pieces.
# SIGTERM or Ctrl-C stops the piece, which writes a checkpoint first, and the script, with status 75.
#
# Environment, with defaults:
#   BATCHES         batch sizes of the train pieces ("32 96 192")
#   SEEDS           of the headline-seedN pieces ("1 2")
#   CONFIGS         NAME or NAME:SCALE of the run-… pieces (none); every configs/NAME.py must exist
#   LIMIT           seconds of a call (480)
#   KSTORE, PYTHON  the commands (kstore, python); `peers` needs the extra `bench`
# --size=smallest runs the same pieces with configs/paper.py:smallest on any machine, to see that they run.
# --dry-run starts nothing. It prints the commands, and what `kstore … --on=H200` predicts for each piece.
set -euo pipefail

own_flags="size"
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
if [[ -z "${1:-}" ]]; then refuse "DIR is missing; expected a folder for the results"; fi
if [[ "$1" == -* ]]; then refuse "$1: no such flag; expected [--dry-run] [--size=smallest] DIR [PIECE …]"; fi
out=$(realpath -m -- "$1")
if [[ -e "$out" && ! -d "$out" ]]; then refuse "$1 is not a folder; expected a folder for the results"; fi
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."

peer=(--layers=12 --width=768 --heads=12 --window=512 --batch=96 --vocabulary=50304)
paper=configs/paper.py
headline=configs/paper.py:gpu
small=(--config=configs/quickstart.py --together=16)
default_batches="32 96 192"
profiled=96
case "${size:-}" in
    "") peer+=(--device=gpu --compile) ;;
    smallest)
        paper=configs/paper.py:smallest headline=configs/paper.py:smallest default_batches=2 profiled=2
        peer=(--layers=1 --width=32 --heads=2 --window=16 --batch=2 --vocabulary=512 --device=cpu)
        small=(--config=configs/quickstart.py:smallest --together=2)
        ;;
    *) refuse "--size=$size: expected smallest" ;;
esac
limit="${LIMIT:-480}"
expect_count LIMIT "$limit"

read -ra batches <<<"${BATCHES:-$default_batches}"
read -ra seeds <<<"${SEEDS-1 2}"
read -ra configs <<<"${CONFIGS:-}"
for name in "${configs[@]}"; do
    if [[ ! -f "configs/${name%%:*}.py" ]]; then
        refuse "CONFIGS: $name: no file configs/${name%%:*}.py; expected NAME or NAME:SCALE of such a file"
    fi
done
pieces=("${batches[@]/#/train-full-}" "${batches[@]/#/train-compact-}" profile headline peers together)
pieces+=("${seeds[@]/#/headline-seed}" "${configs[@]/#/run-}")
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

train_command() { # train_command VOCABULARY BATCH: sets `command`
    command=("$kstore" bench train "--config=$paper" --config.model.dtype=bfloat16)
    command+=("--config.data.vocabulary=$1" "--config.pretrain.batch_size=$2")
}

run_command() { # run_command PIECE FLAG …: sets `command` and `result` of an experiment
    result="$out/runs/${1/:/-}/results.json"
    command=("$kstore" sweep "${@:2}" "--workdir=$out/runs/${1/:/-}")
}

command_of() { # command_of PIECE: sets `command` and `result`, the file that the command writes
    result="$out/results/$1.json"
    case "$1" in
        train-*)
            train_command "$(cut -d- -f2 <<<"$1")" "${1##*-}"
            command+=(--json)
            ;;
        profile)
            train_command full "$profiled"
            command=("${command[@]/#train/profile}" --kinds --json)
            ;;
        headline) run_command headline "--config=$headline" ;;
        headline-seed*) run_command "$1" "--config=$headline" "--config.seed=${1#headline-seed}" ;;
        peers)
            command=("${PYTHON:-python}" -m benchmarks.train --json --rounds=3 --dtype=bfloat16 "${peer[@]}")
            ;;
        together) command=("$kstore" bench train "${small[@]}" --json) ;;
        run-*)
            local name="${1#run-}" scale=gpu
            if [[ "$name" == *:* ]]; then scale="${name#*:}"; fi
            run_command "$name" "--config=configs/${name%%:*}.py:$scale"
            if [[ "$scale" == together ]]; then command+=(--together=16); fi
            ;;
    esac
    command=(timeout --foreground --preserve-status --kill-after=50 "$limit" "${command[@]}")
}

is_experiment() { # is_experiment PIECE
    [[ "$1" == headline* || "$1" == run-* ]]
}

run_piece() { # run_piece PIECE: runs `command`; a benchmark's output becomes `result`
    if is_experiment "$1"; then
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

collect() { # collect PIECE: copies what an experiment has found so far to DIR/results, without checkpoints
    local workdir to
    workdir=$(dirname "$result") to="$out/results/${1/:/-}"
    if ! is_experiment "$1" || [[ ! -d "$workdir" ]]; then return; fi
    mkdir -p "$to"
    (
        cd "$workdir"
        find . \( -name checkpoints -o -name dataset -o -name figures \) -prune -o -type f \
            \( -name '*.json' -o -name '*.jsonl' -o -name cases.npz -o -name report.html \) -print0 |
            xargs -0 -r cp --parents -t "$to"
    )
}

outputs() { # lists the files beside `result`, without provenance-*, which every call adds
    local folder
    folder=$(dirname "$result")
    [[ ! -d "$folder" ]] || find "$folder" -not -name 'provenance-*' | sort
}

seconds_of() { # seconds_of PIECE: prints the seconds that kstore predicts on an H200, or nothing
    local found
    case "$1" in
        profile | peers) train_command full "$profiled" ;;
        *)
            command_of "$1"
            command=("${command[@]:5}")
            ;;
    esac
    if is_experiment "$1"; then command+=(--dry-run); fi
    found=$("${command[@]}" --on=H200 --json 2>/dev/null) || true
    found=$(sed -nE 's/.*"seconds(_left)?": ([0-9.]+), "(device|stages_without).*/\2/p' <<<"$found")
    found="${found%.*}"
    if [[ "$1" == peers && -n "$found" ]]; then found=$((3 * found)); fi # three programs
    echo "$found"
}

worst=0
total=0
for piece in "$@"; do
    if "$dry_run"; then
        seconds=$(seconds_of "$piece")
        total=$((total + ${seconds:-0}))
        if [[ -n "$seconds" ]]; then seconds="about $seconds s"; fi
        echo "# $piece: ${seconds:-no time} predicted on an H200"
        command_of "$piece"
        print_command "${command[@]}"
        continue
    fi
    command_of "$piece"
    mkdir -p "$out/results"
    status=75
    while [[ ! -e "$result" ]] && ((status == 75)); do
        status=0
        before=$(outputs)
        run_piece "$piece" || status=$?
        collect "$piece"
        if "$stopped"; then exit 75; fi
        if ((status)); then echo "gpu.sh: $piece: status $status" >&2; fi
        if "$repeat" && ((status == 75)) && [[ "$(outputs)" == "$before" ]]; then
            echo "gpu.sh: $piece: no progress in $limit s; to run it without a time limit: ${command[*]:5}" >&2
            status=1
        fi
        if ((status > worst)) && { ((status != 75)) || ! "$repeat"; }; then worst=$status; fi
        if ! "$repeat"; then break; fi
    done
done
if "$dry_run"; then echo "# all: about $((total / 60)) min predicted on an H200"; fi
exit "$worst"
