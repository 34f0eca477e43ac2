#!/usr/bin/env bash
# Submits to Kubernetes: a sweep as an indexed Job, or one run over several hosts as a JobSet.
#
#   launch/kubernetes.sh [--dry-run] --tasks=N [--gpus=N] --config=FILE --workdir=DIR [flags of kstore sweep …]
#   launch/kubernetes.sh [--dry-run] --nodes=N [--gpus=N] --config=FILE --workdir=DIR [flags of kstore run …]
#
# --tasks=N: pod I of the Job computes rows I, I + N, I + 2 N, …; the last pod to finish writes the
#   page.
# --nodes=N: one process per pod, joined by `kstore run --distributed`. The cluster needs JobSet
#   (https://jobset.sigs.k8s.io).
# --gpus=N: N GPUs for each pod (0), nvidia.com/gpu; its process splits every batch over them.
#
# An evicted or preempted pod gets SIGTERM, writes a checkpoint and exits with status 75.
#   --tasks: Kubernetes restarts such a pod without limit, and it resumes. Other failures, such as an
#   out-of-memory kill (137), count: each index has four attempts. Bad input (2), and a damaged file
#   or any other error that kstore reports (1), fail the index at once.
#   --nodes: if one pod fails, also with 75, JobSet restarts all pods, at most 100 times. Bad input
#   (2) fails the JobSet at once.
#
# FILE and DIR are paths in the pod, whose working directory is /runs, on the claim:
# --config=configs/a.py is /runs/configs/a.py. Name files of the image by absolute path. Before anything
# is submitted, `kstore` on this machine checks the flags and the types of the fields, and all fields
# where FILE is here too.
#
# Environment, with defaults:
#   IMAGE    a container image with kstore (required). An image of this checkout takes three lines:
#            FROM python:3.12
#            COPY . /kstore
#            RUN cd /kstore && pip install -r requirements.txt && pip install -e '.[gpu]'
#   CLAIM    a PersistentVolumeClaim (required), mounted at /runs; DIR must be below it. It must be
#            ReadWriteMany, on a file system whose locks work between nodes (docs/running.md)
#   NAME     name of the Job (kstore)
#   CPUS, MEMORY  other resources of each pod (4, 16Gi)
#   KSTORE   the command on this machine (kstore)
#
# --dry-run prints the manifest exactly as kubectl would receive it.
set -euo pipefail

own_flags="tasks nodes gpus"
tasks="" nodes="" gpus=0
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
expect_size "$tasks" "$nodes"
expect_count --gpus "$gpus"
expect_free "shard|distributed" "$@"
if [[ -n "$tasks" ]]; then expect_run sweep "$@"; else expect_run run "$@"; fi
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
    args=$(quoted sweep "$@" "--shard=auto/$tasks")
else
    template=run.yaml
    args=$(quoted run "$@" --distributed)
fi
manifest=$(<"$(dirname "$0")/kubernetes/$template")
manifest=${manifest//@NAME@/"$NAME"}
manifest=${manifest//@COUNT@/"$tasks$nodes"}
manifest=${manifest//@IMAGE@/"$IMAGE"}
manifest=${manifest//@CLAIM@/"$CLAIM"}
manifest=${manifest//@GPUS@/"$gpus"}
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
