#!/usr/bin/env bash
# Runs an experiment or a sweep on a TPU VM of one or several hosts, through gcloud.
#
#   launch/tpu.sh [--dry-run] create                  creates the TPU VM and installs this checkout on it
#   launch/tpu.sh [--dry-run] run --config=FILE --workdir=DIR [more flags of kstore run …]
#   launch/tpu.sh [--dry-run] sweep --config=FILE --workdir=DIR [more flags of kstore sweep …]
#   launch/tpu.sh [--dry-run] delete
#
# create: installs uv (https://docs.astral.sh/uv) on each host, and with it Python 3.12 in a virtual
#   environment, because the image's Python is too old for kstore. Copies configs/ to ~/kstore_jax.
# run: one process per host, joined by `kstore run --distributed`, which finds the other processes
#   through the TPU. DIR must be on a file system that all hosts share (Filestore over NFS; Cloud
#   Storage FUSE has no locks).
# sweep: on a TPU VM of one host, with all its chips. A TPU VM of several hosts is refused, because
#   one host would wait for the others. For a sweep over several TPU VMs give each one --shard=I/N
#   and a shared DIR.
#
# FILE and DIR are paths on the TPU VM. To copy a file after create:
#   gcloud compute tpus tpu-vm scp FILE TPU:kstore_jax/configs/ --worker=all
# A command keeps running after its terminal is closed and writes to ~/kstore.log on each host. After
# a preemption, the same command resumes from the newest checkpoint.
#
# Environment, with defaults:
#   TPU      name of the TPU VM (kstore)
#   ZONE     (us-central2-b)
#   TYPE     accelerator type (v4-8)
#   VERSION  software version (tpu-ubuntu2204-base; for v5p v2-alpha-tpuv5, for v5e
#            v2-alpha-tpuv5-lite, for v6e v2-alpha-tpuv6e)
#   SPOT     1 for preemptible machines
#   KSTORE   the command on this machine, which checks the flags of run and sweep first (kstore)
# The project is the one gcloud is configured for.
#
# --dry-run prints the commands and runs none.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
action="${1:-}"
shift || true
tpu="${TPU:-kstore}"
where=("$tpu" "--zone=${ZONE:-us-central2-b}")
home=kstore_jax

run() {
    if "$dry_run"; then
        print_command "$@"
    else
        "$@"
    fi
}

run_on() { # run_on WORKERS COMMAND: over ssh
    run gcloud compute tpus tpu-vm ssh "${where[@]}" "--worker=$1" "--command=$2"
}

start_on() { # start_on WORKERS COMMAND …: starts it and returns; it keeps running without ssh
    local workers="$1" words
    shift
    words=$(printf '%q ' "$@")
    run_on "$workers" "cd $home && { nohup .venv/bin/kstore $words</dev/null >>~/kstore.log 2>&1 & }"
}

if [[ "$action" == create || "$action" == delete ]] && (($#)); then
    refuse "$1: unexpected argument; $action takes none, and TPU sets the name of the TPU VM"
fi
case "$action" in
    create)
        spot=()
        if [[ "${SPOT:-}" == 1 ]]; then spot=(--spot); fi
        run gcloud compute tpus tpu-vm create "${where[@]}" "--accelerator-type=${TYPE:-v4-8}" \
            "--version=${VERSION:-tpu-ubuntu2204-base}" "${spot[@]}"
        run_on all "mkdir -p $home"
        here=$(cd "$(dirname "$0")/.." && pwd)
        run gcloud compute tpus tpu-vm scp --recurse "$here/kstore_jax" "$here/configs" \
            "$here/pyproject.toml" "$here/requirements.txt" "$here/README.md" "$here/LICENSE" \
            "$tpu:$home/" "${where[@]:1}" --worker=all
        uv=\~/.local/bin/uv
        install="curl -LsSf https://astral.sh/uv/install.sh | sh && cd $home && $uv venv --python 3.12"
        install+=" && $uv pip install -q -r requirements.txt && $uv pip install -q -e '.[tpu]'"
        run_on all "$install"
        ;;
    run)
        expect_free distributed "$@"
        expect_run run "$@"
        start_on all run "$@" --distributed
        ;;
    sweep)
        expect_run sweep "$@"
        hosts=$(run gcloud compute tpus tpu-vm describe "${where[@]}" \
            "--format=value(networkEndpoints.len())")
        if "$dry_run"; then
            echo "$hosts"
        elif [[ "$hosts" != 1 ]]; then
            refuse "sweep: $tpu has $hosts hosts; expected a TPU VM of one host (\`run\` uses all hosts)"
        fi
        start_on 0 sweep "$@"
        ;;
    delete) run gcloud compute tpus tpu-vm delete "${where[@]}" --quiet ;;
    *)
        if [[ -z "$action" ]]; then refuse "expected one of: create, run, sweep, delete"; fi
        refuse "$action: no such action; expected create, run, sweep or delete"
        ;;
esac
