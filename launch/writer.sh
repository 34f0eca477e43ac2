#!/usr/bin/env bash
# Starts vLLM, a local server of OpenAI's chat protocol, for `kstore rewrite` and `kstore ask`.
#
#   pip install vllm                              in a separate environment
#   launch/writer.sh [--dry-run] [--gpus=N] [MODEL] [vLLM's own flags …]
#
#   kstore rewrite --config=… --server=http://localhost:8000 --model=MODEL --out=runs/written --concurrency=256
#
# --gpus=N: N GPUs share the model (1).
#
# Environment, with defaults:
#   PORT          port of the server (8000)
#   CONTEXT       tokens of a prompt and its answer together (2048; a prompt has about 150, an answer
#                 at most 1024)
#   VLLM_API_KEY  if set, clients must send this key as OPENAI_API_KEY; vLLM reads it
# --dry-run prints the command and starts nothing.
set -euo pipefail

own_flags="gpus"
gpus=1
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
model="Qwen/Qwen2.5-7B-Instruct"
if [[ $# -gt 0 && "$1" != -* ]]; then
    model="$1"
    shift
fi
PORT="${PORT:-8000}" CONTEXT="${CONTEXT:-2048}"
expect_count --gpus "$gpus"
expect_count PORT "$PORT"
expect_count CONTEXT "$CONTEXT"
if ((gpus == 0 || PORT == 0 || CONTEXT == 0)); then
    refuse "--gpus=$gpus, PORT=$PORT, CONTEXT=$CONTEXT: expected at least 1"
fi

command=(
    vllm serve "$model"
    --served-model-name "$model"
    --host 127.0.0.1
    --port "$PORT"
    --tensor-parallel-size "$gpus"
    --max-model-len "$CONTEXT"
    --max-num-seqs 256
    --enable-prefix-caching
    "$@"
)
if "$dry_run"; then
    print_command "${command[@]}"
    exit 0
fi
if ! command -v vllm >/dev/null; then
    refuse "vllm: not found in PATH; pip install vllm"
fi
exec "${command[@]}"
