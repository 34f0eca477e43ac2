#!/usr/bin/env bash
# A sweep as a SLURM array, or one experiment over several nodes.
#
#   launch/slurm.sh [--dry-run] --tasks=N --config=FILE --workdir=DIR [more flags of kstore sweep …]
#   launch/slurm.sh [--dry-run] --nodes=N --config=FILE --workdir=DIR [more flags of kstore run …]
#
# --tasks=N: task I of the array computes rows I, I + N, I + 2 N, … ; the last one to end writes the
#   page. More tasks than rows have nothing to do. DIR, and --cache where it is given, lie on a
#   folder that all nodes share, where locks work between nodes (README, "Running many").
# --nodes=N: one process a node, joined by `kstore run --distributed`, which finds the others
#   through SLURM.
#
# A job that is preempted, or reaches two minutes before its time limit, gets SIGTERM, writes a
# checkpoint and ends with status 75; it then goes back into the queue and goes on from there. So
# does one that was killed (status 128 + the signal), unless it was started four times by then. One
# that is cancelled (scancel) writes a checkpoint too, and stays out of the queue.
# What else the job needs is told to sbatch as ever: SBATCH_PARTITION, SBATCH_TIMELIMIT, SBATCH_GPUS
# and the like in the environment. KSTORE: the command on the nodes (kstore).
# Output is appended to DIR.slurm-JOB_TASK.log.
#
# --dry-run prints the job script, exactly as it would be submitted.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
tasks=""
nodes=""
workdir=""
flags=()
for argument in "$@"; do
    case "$argument" in
        --tasks=*) tasks="${argument#*=}" ;;
        --nodes=*) nodes="${argument#*=}" ;;
        --workdir=*)
            workdir="${argument#*=}"
            flags+=("$argument")
            ;;
        *) flags+=("$argument") ;;
    esac
done
expect_size "$tasks" "$nodes"
expect_run "${flags[@]}"
if [[ -z "$workdir" ]]; then refuse "expected --workdir=DIR, as one word"; fi

quoted() {
    local words
    words=$(printf ' %q' "$@")
    echo "${words:1}"
}

log="${workdir%"${workdir##*[!/]}"}.slurm" # beside DIR, which may end in a slash
if [[ -n "$tasks" ]]; then
    shape="#SBATCH --array=0-$((tasks - 1))
#SBATCH --output=\"$log-%A_%a.log\""
    # by its index: the job ID of an array's last task is the whole array's, too
    this="\"\${SLURM_ARRAY_JOB_ID}_\$SLURM_ARRAY_TASK_ID\""
    command="$(quoted "${KSTORE:-kstore}" sweep "${flags[@]}" "--shard=auto/$tasks")"
    stop="kill -TERM \"\$running\""
else
    shape="#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --output=\"$log-%j.log\""
    this="\"\$SLURM_JOB_ID\""
    command="srun --kill-on-bad-exit=1 $(quoted "${KSTORE:-kstore}" run "${flags[@]}" --distributed)"
    stop="scancel --signal=TERM $this" # the processes: srun itself would kill them
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
state="" # when the job is first asked to stop
trap '$stop; : "\${state:=\$(squeue --noheader --format=%T --jobs=$this)}"' TERM
status=0
wait "\$running" || status=\$?
while kill -0 "\$running" 2>/dev/null; do # a signal ended the waiting, not the process
    status=0
    wait "\$running" || status=\$?
done
if [ "\$status" -gt 128 ] && [ "\$state" = RUNNING ]; then
    status=75 # srun kills a process that is slower to end than another
fi
if [ "\$state" != COMPLETING ] && # else it was cancelled, or SLURM requeues it
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
    refuse "sbatch: not found; this is no machine that submits to SLURM"
fi
mkdir -p "$(dirname "$workdir")"
sbatch --parsable <<<"$job"
