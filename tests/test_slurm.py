"""launch/slurm.sh on a real SLURM: each test starts a cluster of two nodes on this machine."""

import contextlib
import getpass
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.conftest import CONFIG

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "scancel")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
MISSING = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
TIMEOUT = 600  # seconds
STEPS = 1000
STOPPED = "kstore: stopped; run the same command to resume"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"SLURM is not installed: no {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd must be started by root"),
]

CONFIGURATION = """
ClusterName=kstore
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SlurmdParameters=config_overrides
KillWait=60
JobRequeue=1
ReturnToService=2
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=one,two Default=YES State=UP
"""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def wait_until(condition, what: str, seconds: float = TIMEOUT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"after {seconds} s still waiting for {what}"
        time.sleep(0.2)


@pytest.fixture
def cluster(tmp_path):
    """Starts a SLURM cluster on this machine; yields the environment for SLURM's commands."""
    folder = tmp_path / "slurm"
    for name in ("", "state"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    host = socket.gethostname().split(".")[0]
    settings = dict(folder=folder, host=host, ports=free_ports(3), user=getpass.getuser())
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**settings))
    (folder / "cgroup.conf").write_text("IgnoreSystemd=yes\n")
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid"}
    files |= {"log-file": "munge.log", "seed-file": "munge.seed"}
    commands = [
        ["munged", "--foreground", "--force", *(f"--{k}={folder / v}" for k, v in files.items())],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", "one"],
        ["slurmd", "-D", "-N", "two"],
    ]
    daemons = []
    with (folder / "daemons.log").open("w") as log:
        for command in commands:
            daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            if command[0] == "munged":
                wait_until((folder / "munge.socket").exists, "munged", 30)

    def idle() -> bool:
        nodes = subprocess.run(
            ["sinfo", "-h", "-o", "%t %D"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return nodes.stdout.strip() == "idle 2"

    try:
        wait_until(idle, f"two idle nodes; see {folder}", 60)
        yield environment
    finally:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)


def states(environment: dict, job: str) -> dict[str, dict]:
    """Returns the fields that SLURM shows for each task of an array, by task index."""
    output = subprocess.run(
        ["scontrol", "show", "job", "-o", job],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    tasks = [
        dict(word.split("=", 1) for word in line.split() if "=" in word)
        for line in output.splitlines()
    ]
    return {task["ArrayTaskId"]: task for task in tasks if "-" not in task.get("ArrayTaskId", "-")}


def test_an_array_completes_after_one_task_is_stopped_and_one_requeued(cluster, tmp_path):
    config, workdir = tmp_path / "tiny.py", tmp_path / "run"
    config.write_text(CONFIG)
    kstore = tmp_path / "kstore"
    root = LAUNCH.parent
    kstore.write_text(
        f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -m kstore_jax.cli "$@"\n'
    )
    kstore.chmod(0o755)
    argv = ["--tasks=2", f"--config={config}", f"--workdir={workdir}", "--workers=1"]
    argv += [f"--config.pretrain.steps={STEPS}", "--config.pretrain.checkpoint_every=20"]
    environment = {**cluster, "KSTORE": str(kstore)}
    submitted = subprocess.run(
        [LAUNCH / "slurm.sh", *argv], env=environment, capture_output=True, text=True, check=True
    )
    job = submitted.stdout.strip()
    assert job.isdecimal()

    def checkpoints() -> list[pathlib.Path]:
        paths = workdir.glob("stages/pretrain-*/checkpoints/*")
        return [path for path in paths if path.name.isdecimal()]

    def wait_for_restart(task: int) -> None:
        log = pathlib.Path(f"{workdir}.slurm-{job}_{task}.log")
        wait_until(lambda: log.exists() and STOPPED in log.read_text(), "a checkpoint")
        wait_until(lambda: states(cluster, job)[str(task)]["Restarts"] == "1", "a restart")

    wait_until(
        lambda: len({path.parent for path in checkpoints()}) == 2,
        "both tasks to write a checkpoint",
    )
    # task 1 as at its time limit, task 0 as at a preemption
    subprocess.run(["scancel", "--batch", "--signal=TERM", f"{job}_1"], env=cluster, check=True)
    wait_for_restart(1)
    subprocess.run(["scontrol", "requeue", f"{job}_0"], env=cluster, check=True)
    wait_for_restart(0)
    wait_until((workdir / "results.json").exists, "the results")

    def completed() -> bool:
        return all(task["JobState"] == "COMPLETED" for task in states(cluster, job).values())

    wait_until(completed, "the array to end", 120)
    tasks = states(cluster, job)
    assert sorted(tasks) == ["0", "1"]
    assert [tasks[index]["Restarts"] for index in "01"] == ["1", "1"]
    rows = json.loads((workdir / "results.json").read_text())["rows"]
    assert [row["config"]["data"]["variant"] for row in rows] == ["single", "multi2+permute"]
    assert (workdir / "report.html").exists()
    for folder in workdir.glob("stages/pretrain-*"):
        attempts = list(folder.glob("provenance-*.json"))
        assert len(attempts) == 2  # the second resumed from the checkpoint of the first
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))


TRAINING = """#!/usr/bin/env bash
# A run that writes a checkpoint on SIGTERM; the second process ends after the first. When requeued
# it exits with 0.
case "$*" in *--check) exit 0 ;; esac
if [ -n "$SLURM_RESTART_COUNT" ]; then exit 0; fi
process="${{SLURM_PROCID:-0}}"
trap 'touch {folder}/checkpoint-$process; trap - TERM; sleep "$process"; exit 75' TERM
echo "$$" >{folder}/pid-$process
while :; do sleep 0.1; done
"""


@pytest.mark.parametrize(
    ("shape", "processes", "ended"),
    [
        ("--tasks=1", 1, "kill -9"),
        ("--nodes=2", 2, "kill -9"),
        ("--nodes=2", 2, "time limit"),
        ("--tasks=1", 1, "scancel"),
        ("--nodes=2", 2, "scancel"),
    ],
)
def test_all_processes_write_a_checkpoint_and_a_killed_job_is_requeued(
    cluster, tmp_path, shape, processes, ended
):
    kstore = tmp_path / "kstore"
    kstore.write_text(TRAINING.format(folder=tmp_path))
    kstore.chmod(0o755)

    def run(*command: str | os.PathLike) -> str:
        environment = {**cluster, "KSTORE": str(kstore)}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    (tmp_path / "a.py").touch()
    config = f"--config={tmp_path / 'a.py'}"
    job = run(LAUNCH / "slurm.sh", shape, config, f"--workdir={tmp_path}/run")

    def pids() -> list[str]:
        return [path.read_text().strip() for path in sorted(tmp_path.glob("pid-*"))]

    wait_until(
        lambda: len([pid for pid in pids() if pid]) == processes, "all processes to start", 60
    )
    if ended == "kill -9":
        os.kill(int(pids()[-1]), signal.SIGKILL)
    elif ended == "time limit":  # SLURM sends it two minutes before the limit
        run("scancel", "--batch", "--signal=TERM", job)
    else:
        run("scancel", job)
    state, restarts = ("CANCELLED", 0) if ended == "scancel" else ("COMPLETED", 1)
    wait_until(lambda: f"JobState={state}" in run("scontrol", "show", "job", job), state, 180)
    assert f"Restarts={restarts} " in run("scontrol", "show", "job", job)
    checkpoints = [tmp_path / f"checkpoint-{process}" for process in range(processes)]
    assert all(path.exists() for path in checkpoints) == (ended != "kill -9")
