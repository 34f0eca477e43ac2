#!/usr/bin/env bash
# Submits to SLURM: a sweep as a job array, or one run over several nodes.
#
#   launch/slurm.sh [--dry-run] --tasks=N [--gpus=N] --config=FILE --workdir=DIR [flags of kstore sweep …]
#   launch/slurm.sh [--dry-run] --nodes=N [--gpus=N] --config=FILE --workdir=DIR [flags of kstore run …]
#
# --tasks=N: task I of the array computes rows I, I + N, I + 2 N, …; the last task to finish writes
#   the page. Tasks beyond the number of rows do nothing. DIR and --cache must be on a file system
#   that all nodes share, with locks that work between nodes (docs/running.md).
# --nodes=N: one process per node, joined by `kstore run --distributed`, which finds the other
#   processes through SLURM.
# --gpus=N: N GPUs for each task or node (--gres=gpu:N); its process splits every batch over them.
#   Without it, the partition decides.
#
# A flag or field that kstore refuses is refused before anything is submitted.
#
# At preemption, and two minutes before its time limit, the job gets SIGTERM, writes a checkpoint and
# exits with status 75. It is then requeued and resumes. A killed job (status 128 + the signal) is
# requeued too, until it has been started four times. A cancelled job (scancel) writes a checkpoint
# and is not requeued.
#
# Environment, with defaults:
#   SBATCH_PARTITION, SBATCH_TIMELIMIT, SBATCH_ACCOUNT, …  read by sbatch itself
#   KSTORE  the command, here and on the nodes (kstore)
# Output is appended to DIR.slurm-JOB_TASK.log (--tasks) or DIR.slurm-JOB.log (--nodes).
#
# --dry-run prints the job script exactly as it would be submitted.
set -euo pipefail

own_flags="tasks nodes gpus"
tasks="" nodes="" gpus="" workdir="" file=""
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
for argument in "$@"; do
    case "$argument" in
        --workdir=*) workdir="${argument#*=}" ;;
        --config=*) file="${argument#*=}" file="${file%%:*}" ;;
    esac
done
workdir="${workdir/#~\//$HOME/}"
expect_size "$tasks" "$nodes"
if [[ -n "$gpus" ]]; then expect_count --gpus "$gpus"; fi
expect_free "shard|distributed" "$@"
if [[ -n "$file" && ! -f "${file/#~\//$HOME/}" ]]; then
    refuse "--config: $file: no such file; expected one that the nodes can read too"
fi
if [[ -n "$tasks" ]]; then expect_run sweep "$@"; else expect_run run "$@"; fi
if [[ -z "$workdir" ]]; then refuse "--workdir has no value; expected --workdir=DIR, as one word"; fi

quoted() {
    local words
    words=$(printf ' %q' "$@")
    echo "${words:1}"
}

log="${workdir%"${workdir##*[!/]}"}.slurm" # beside DIR; slashes at its end are removed
if [[ -n "$tasks" ]]; then
    shape="#SBATCH --array=0-$((tasks - 1))
#SBATCH --output=\"$log-%A_%a.log\""
    # ARRAY_INDEX, not the job ID: the last task of an array has the same job ID as the array
    this="\"\${SLURM_ARRAY_JOB_ID}_\$SLURM_ARRAY_TASK_ID\""
    command="$(quoted "${KSTORE:-kstore}" sweep "$@" "--shard=auto/$tasks")"
    stop="kill -TERM \"\$running\""
else
    shape="#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --output=\"$log-%j.log\""
    this="\"\$SLURM_JOB_ID\""
    command="srun --kill-on-bad-exit=1 $(quoted "${KSTORE:-kstore}" run "$@" --distributed)"
    stop="scancel --signal=TERM $this" # signals the processes; srun would kill them
fi

if [[ -n "$gpus" ]]; then
    shape+="
#SBATCH --gres=gpu:$gpus"
fi

job=$(
    cat <<EOF
#!/usr/bin/env bash
#SBATCH --job-name=kstore
$shape
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
cd $(quoted "$PWD") || exit
$command &
running=\$!
state="" # of the job, at the first SIGTERM
trap '$stop; : "\${state:=\$(squeue --noheader --format=%T --jobs=$this)}"' TERM
status=0
wait "\$running" || status=\$?
while kill -0 "\$running" 2>/dev/null; do # a signal interrupted wait
    status=0
    wait "\$running" || status=\$?
done
if [ "\$status" -gt 128 ] && [ "\$state" = RUNNING ]; then
    status=75 # srun killed a process that was still writing its checkpoint
fi
if [ "\$state" != COMPLETING ] && # otherwise it was cancelled, or SLURM requeues it
    { [ "\$status" = 75 ] || # stopped after a checkpoint
        { [ "\$status" -gt 128 ] && [ "\${SLURM_RESTART_COUNT:-0}" -lt 3 ]; }; }; then # killed
    scontrol requeue $this
fi
exit "\$status"
EOF
)
if "$dry_run"; then
    echo "$job"
    exit 0
fi
if ! command -v sbatch >/dev/null; then
    refuse "sbatch: not found in PATH; run this on a machine that submits to SLURM"
fi
mkdir -p "$(dirname "$workdir")"
sbatch --parsable <<<"$job"
