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
# IMAGE: an image with kstore in it. CLAIM: a PersistentVolumeClaim (ReadWriteMany, on a file system
# whose locks work between nodes: README, "Running many") that is mounted at /runs, below which DIR
# lies. NAME: of the Job (kstore). GPUS, CPUS, MEMORY: of each pod (0, 4, 16Gi).
#
# --dry-run prints the manifest, exactly as kubectl would get it.
set -euo pipefail

dry_run=false
tasks=""
nodes=""
flags=()
for argument in "$@"; do
    case "$argument" in
        --dry-run) dry_run=true ;;
        --tasks=*) tasks="${argument#*=}" ;;
        --nodes=*) nodes="${argument#*=}" ;;
        *) flags+=("$argument") ;;
    esac
done
if [[ ! "$tasks$nodes" =~ ^[1-9][0-9]*$ || (-n "$tasks" && -n "$nodes") ]]; then
    echo "kubernetes.sh: expected one of --tasks=N and --nodes=N" >&2
    exit 2
fi
if [[ -z "${IMAGE:-}" || -z "${CLAIM:-}" ]]; then
    echo "kubernetes.sh: expected IMAGE and CLAIM in the environment" >&2
    exit 2
fi

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
    arguments=$(quoted sweep "${flags[@]}" "--shard=auto/$tasks")
else
    template=run.yaml
    arguments=$(quoted run "${flags[@]}" --distributed)
fi
manifest=$(<"$(dirname "$0")/kubernetes/$template")
manifest=${manifest//@NAME@/"${NAME:-kstore}"}
manifest=${manifest//@COUNT@/"$tasks$nodes"}
manifest=${manifest//@IMAGE@/"$IMAGE"}
manifest=${manifest//@CLAIM@/"$CLAIM"}
manifest=${manifest//@GPUS@/"${GPUS:-0}"}
manifest=${manifest//@CPUS@/"${CPUS:-4}"}
manifest=${manifest//@MEMORY@/"${MEMORY:-16Gi}"}
manifest=${manifest//@ARGUMENTS@/"$arguments"}
if "$dry_run"; then
    echo "$manifest"
    exit 0
fi
if ! command -v kubectl >/dev/null; then
    echo "kubernetes.sh: kubectl: not found" >&2
    exit 2
fi
kubectl apply -f - <<<"$manifest"
