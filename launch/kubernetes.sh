#!/usr/bin/env bash
# A sweep as an indexed Job, or one experiment over several hosts as a JobSet, on Kubernetes.
#
#   launch/kubernetes.sh [--dry-run] --tasks=N --config=FILE --workdir=DIR [flags of kstore sweep …]
#   launch/kubernetes.sh [--dry-run] --nodes=N --config=FILE --workdir=DIR [flags of kstore run …]
#
# --tasks=N: pod I of the Job computes rows I, I + N, I + 2 N, …; the last one to end writes the page.
# --nodes=N: one process a pod, joined by `kstore run --distributed`; needs JobSet
#   (https://jobset.sigs.k8s.io) in the cluster.
#
# A pod that is evicted or preempted gets SIGTERM, writes a checkpoint and ends with status 75.
#   --tasks: it is started again and goes on, as often as it takes. Any other failure counts, a kill
#   for lack of memory (137) say, and the fourth is an index's last; bad input (2) and a damaged file
#   (1) fail it at once.
#   --nodes: where one pod ends, for whatever reason, all are started again, 100 times at most; bad
#   input (2) fails the JobSet at once.
#
# FILE and DIR are paths in the pod, whose folder is /runs: --config=configs/a.py is /runs/configs/a.py,
# on the claim; what the image brings is told by its whole path.
#
# IMAGE: an image with kstore in it, such as one of this checkout and three lines: FROM python:3.12,
# COPY . /kstore, RUN cd /kstore && pip install -r requirements.txt && pip install -e '.[gpu]'.
# CLAIM: a PersistentVolumeClaim (ReadWriteMany, on a file system whose locks work between nodes:
# README, "Running many") that is mounted at /runs, below which DIR lies. NAME: of the Job (kstore).
# GPUS, CPUS, MEMORY: of each pod (0, 4, 16Gi).
#
# --dry-run prints the manifest, exactly as kubectl would get it.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
tasks=""
nodes=""
flags=()
for argument in "$@"; do
    case "$argument" in
        --tasks=*) tasks="${argument#*=}" ;;
        --nodes=*) nodes="${argument#*=}" ;;
        *) flags+=("$argument") ;;
    esac
done
expect_size "$tasks" "$nodes"
expect_run "${flags[@]}"
if [[ -z "${IMAGE:-}" || -z "${CLAIM:-}" ]]; then
    refuse "expected IMAGE and CLAIM in the environment"
fi
NAME="${NAME:-kstore}"
if [[ ! "$NAME" =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]]; then
    refuse "NAME=$NAME: expected at most 40 of a-z, 0-9 and -, a letter first and no - last"
fi
GPUS="${GPUS:-0}"
expect_count GPUS

quoted() { # each word as a string of YAML, with commas between
    local word words=""
    for word in "$@"; do
        word=${word//\\/\\\\}
        word=${word//\"/\\\"}
        word=${word//\$/\$\$} # or Kubernetes takes $(WORD) for a variable
        words+="${words:+, }\"$word\""
    done
    printf '%s' "$words"
}

if [[ -n "$tasks" ]]; then
    template=sweep.yaml
    args=$(quoted sweep "${flags[@]}" "--shard=auto/$tasks")
else
    template=run.yaml
    args=$(quoted run "${flags[@]}" --distributed)
fi
manifest=$(<"$(dirname "$0")/kubernetes/$template")
manifest=${manifest//@NAME@/"$NAME"}
manifest=${manifest//@COUNT@/"$tasks$nodes"}
manifest=${manifest//@IMAGE@/"$IMAGE"}
manifest=${manifest//@CLAIM@/"$CLAIM"}
manifest=${manifest//@GPUS@/"$GPUS"}
manifest=${manifest//@CPUS@/"${CPUS:-4}"}
manifest=${manifest//@MEMORY@/"${MEMORY:-16Gi}"}
manifest=${manifest//@ARGUMENTS@/"$args"}
if "$dry_run"; then
    echo "$manifest"
    exit 0
fi
if ! command -v kubectl >/dev/null; then
    refuse "kubectl: not found"
fi
kubectl apply -f - <<<"$manifest"
