#!/usr/bin/env bash
# An experiment or a sweep on a TPU VM, of one host or of several, through gcloud.
#
#   launch/tpu.sh [--dry-run] create                  makes the TPU VM and installs this checkout there
#   launch/tpu.sh [--dry-run] run --config=FILE --workdir=DIR [more flags of kstore run …]
#   launch/tpu.sh [--dry-run] sweep --config=FILE --workdir=DIR [more flags of kstore sweep …]
#   launch/tpu.sh [--dry-run] delete
#
# run: on all hosts at once, joined by `kstore run --distributed`, which asks the TPU for the others;
#   DIR lies on a folder that all hosts share (Filestore by NFS; Cloud Storage FUSE has no locks).
# sweep: on a TPU VM of one host, with all its chips (of several hosts, one alone would wait for the
#   others: refused). For a sweep over several TPU VMs give each its --shard=I/N and a shared DIR.
# FILE and DIR are paths on the TPU VM; create copies configs/ there (to ~/kstore_jax), and a file of
#   later goes there by `gcloud compute tpus tpu-vm scp FILE TPU:kstore_jax/configs/ --worker=all`.
# A command goes on after its terminal is closed (its output: kstore.log in the home of each host);
# typed again after a preemption, it goes on from the newest checkpoint.
#
# create installs uv (https://docs.astral.sh/uv) on each host, and by it Python 3.12, into an
# environment of kstore's own: the Python of the image is older than kstore needs.
#
# TPU: its name (kstore). ZONE: (us-central2-b). TYPE: (v4-8). VERSION: of its software
# (tpu-ubuntu2204-base; v2-alpha-tpuv5 for v5p, v2-alpha-tpuv5-lite for v5e, v2-alpha-tpuv6e for v6e).
# SPOT: 1 for preemptible machines. The project is gcloud's own.
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
        shown "$@"
    else
        "$@"
    fi
}

on() { # on WORKERS COMMAND: by ssh
    run gcloud compute tpus tpu-vm ssh "${where[@]}" "--worker=$1" "--command=$2"
}

started() { # started WORKERS COMMAND …: as on, but it outlives ssh, which does not wait for it
    local workers="$1" words
    shift
    words=$(printf '%q ' "$@")
    on "$workers" "cd $home && { nohup .venv/bin/kstore $words</dev/null >>~/kstore.log 2>&1 & }"
}

if [[ "$action" == create || "$action" == delete ]] && (($#)); then
    refuse "$1: expected nothing after $action; TPU names the TPU VM"
fi
case "$action" in
    create)
        spot=()
        if [[ "${SPOT:-}" == 1 ]]; then spot=(--spot); fi
        run gcloud compute tpus tpu-vm create "${where[@]}" "--accelerator-type=${TYPE:-v4-8}" \
            "--version=${VERSION:-tpu-ubuntu2204-base}" "${spot[@]}"
        on all "mkdir -p $home"
        here=$(cd "$(dirname "$0")/.." && pwd)
        run gcloud compute tpus tpu-vm scp --recurse "$here/kstore_jax" "$here/configs" \
            "$here/pyproject.toml" "$here/requirements.txt" "$here/README.md" "$here/LICENSE" \
            "$tpu:$home/" "${where[@]:1}" --worker=all
        uv=\~/.local/bin/uv
        install="curl -LsSf https://astral.sh/uv/install.sh | sh && cd $home && $uv venv --python 3.12"
        install+=" && $uv pip install -q -r requirements.txt && $uv pip install -q -e '.[tpu]'"
        on all "$install"
        ;;
    run)
        expect_run "$@"
        started all run "$@" --distributed
        ;;
    sweep)
        expect_run "$@"
        hosts=$(run gcloud compute tpus tpu-vm describe "${where[@]}" \
            "--format=value(networkEndpoints.len())")
        if "$dry_run"; then
            echo "$hosts"
        elif [[ "$hosts" != 1 ]]; then
            refuse "sweep: expected a TPU of one host, $tpu has $hosts; \`run\` uses all"
        fi
        started 0 sweep "$@"
        ;;
    delete) run gcloud compute tpus tpu-vm delete "${where[@]}" --quiet ;;
    *)
        refuse "${action:-nothing}: expected create, run, sweep or delete"
        ;;
esac
