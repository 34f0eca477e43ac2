#!/usr/bin/env bash
# Submits to Kubernetes: a sweep as an indexed Job, or one run over several hosts as a JobSet.
#
#   launch/kubernetes.sh [--dry-run] --tasks=N --config=FILE --workdir=DIR [flags of kstore sweep …]
#   launch/kubernetes.sh [--dry-run] --nodes=N --config=FILE --workdir=DIR [flags of kstore run …]
#
# --tasks=N: pod I of the Job computes rows I, I + N, I + 2 N, …; the last pod to finish writes the
#   page.
# --nodes=N: one process per pod, joined by `kstore run --distributed`. The cluster needs JobSet
#   (https://jobset.sigs.k8s.io).
#
# An evicted or preempted pod gets SIGTERM, writes a checkpoint and exits with status 75.
#   --tasks: Kubernetes restarts such a pod without limit, and it resumes. Other failures, such as an
#   out-of-memory kill (137), count: each index has four attempts. Bad input (2) and a damaged file
#   (1) fail the index at once.
#   --nodes: if one pod fails, also with 75, JobSet restarts all pods, at most 100 times. Bad input
#   (2) fails the JobSet at once.
#
# FILE and DIR are paths in the pod, whose working directory is /runs, on the claim:
# --config=configs/a.py is /runs/configs/a.py. Name files of the image by absolute path.
#
# Environment, with defaults:
#   IMAGE    a container image with kstore (required). An image of this checkout takes three lines:
#            FROM python:3.12
#            COPY . /kstore
#            RUN cd /kstore && pip install -r requirements.txt && pip install -e '.[gpu]'
#   CLAIM    a PersistentVolumeClaim (required), mounted at /runs; DIR must be below it. It must be
#            ReadWriteMany, on a file system whose locks work between nodes (docs/running.md)
#   NAME     name of the Job (kstore)
#   GPUS, CPUS, MEMORY  resources of each pod (0, 4, 16Gi)
#
# --dry-run prints the manifest exactly as kubectl would receive it.
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
if [[ -z "${IMAGE:-}" ]]; then
    refuse "IMAGE is not set; expected a container image with kstore"
fi
if [[ -z "${CLAIM:-}" ]]; then
    refuse "CLAIM is not set; expected the name of a PersistentVolumeClaim"
fi
NAME="${NAME:-kstore}"
if [[ ! "$NAME" =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]]; then
    refuse "NAME=$NAME: expected at most 40 characters of a-z, 0-9 and -, the first a letter, the last not -"
fi
GPUS="${GPUS:-0}"
expect_count GPUS

quoted() { # quoted WORD …: the words as YAML strings, separated by commas
    local word words=""
    for word in "$@"; do
        word=${word//\\/\\\\}
        word=${word//\"/\\\"}
        word=${word//\$/\$\$} # otherwise Kubernetes expands $(WORD)
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
    refuse "kubectl: not found in PATH; --dry-run prints the manifest without it"
fi
kubectl apply -f - <<<"$manifest"
