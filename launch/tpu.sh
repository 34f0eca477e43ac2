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
# sweep: on the first host alone, with all its chips. For a sweep over several TPU VMs give each its
#   --shard=I/N and a shared DIR.
# A command goes on after its terminal is closed (its output: kstore.log in the home of each host);
# typed again after a preemption, it goes on from the newest checkpoint.
#
# TPU: its name (kstore). ZONE: (us-central2-b). TYPE: (v4-8). VERSION: of its software
# (tpu-ubuntu2204-base). SPOT: 1 for preemptible machines. The project is gcloud's own.
#
# --dry-run prints the commands and runs none.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/dry_run.bash"
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
        on all "cd $home && python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt && .venv/bin/pip install -q -e '.[tpu]'"
        ;;
    run) started all run "$@" --distributed ;;
    sweep) started 0 sweep "$@" ;;
    delete) run gcloud compute tpus tpu-vm delete "${where[@]}" --quiet ;;
    *)
        echo "tpu.sh: ${action:-nothing}: expected create, run, sweep or delete" >&2
        exit 2
        ;;
esac
