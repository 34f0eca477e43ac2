"""The launch scripts: the commands and manifests that they print, and the programs they start."""

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import kubernetes_validate
import pytest
import yaml
from packaging.specifiers import SpecifierSet

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
RUN = ("--config=my configs/a.py", "--workdir=runs/x", "--config.data.variant=single")
KUBERNETES = {"IMAGE": "registry/kstore:1", "CLAIM": "shared"}
CHECKED = 'case "$*" in *--check) exit 0 ;; esac\n'
"""Lines of a `kstore` that accepts all flags."""


@pytest.fixture(autouse=True, scope="module")
def here(tmp_path_factory):
    """A current folder with configuration files, and a `kstore` that accepts all flags."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "my configs").mkdir()
    for name in ("my configs/a.py", "a.py"):
        (folder / name).touch()
    (folder / "bin").mkdir()
    (folder / "bin/kstore").write_text(f"#!/bin/sh\n{CHECKED}")
    (folder / "bin/kstore").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        patch.chdir(folder)
        yield


def launch(script: str, *argv: str, **environment: str) -> subprocess.CompletedProcess:
    here = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    return subprocess.run(
        [LAUNCH / script, *argv],
        env={**here, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def dry_run(script: str, *argv: str, **environment: str) -> str:
    """Returns what a script prints with --dry-run, as its first argument and as its last."""
    first = launch(script, "--dry-run", *argv, **environment)
    last = launch(script, *argv, "--dry-run", **environment)
    assert (first.returncode, first.stderr) == (0, "")
    assert (last.returncode, last.stdout) == (0, first.stdout)
    return first.stdout


SEARCH_PATH = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
SHELLCHECK = shutil.which("shellcheck", path=SEARCH_PATH)


def shellcheck(*paths: pathlib.Path) -> str:
    return subprocess.run([SHELLCHECK, *paths], capture_output=True, text=True, check=False).stdout


@pytest.mark.skipif(not SHELLCHECK, reason="shellcheck is neither installed here nor on the path")
def test_shellcheck_passes_on_the_scripts_and_their_slurm_jobs(tmp_path):
    assert len(SCRIPTS) >= 5
    jobs = []
    for argument in ("--tasks=3", "--nodes=2"):
        jobs.append(tmp_path / argument)
        jobs[-1].write_text(dry_run("slurm.sh", argument, *RUN))
    broken = tmp_path / "broken.sh"
    broken.write_text("#!/usr/bin/env bash\nrm $1\n")
    assert shellcheck(*SCRIPTS, LAUNCH / "common.bash", *jobs) == ""
    assert "SC2086" in shellcheck(broken)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_executable_and_documents_its_usage(script):
    assert os.access(script, os.X_OK)
    head = script.read_text().split("set -euo pipefail")[0]
    assert f"launch/{script.name} [--dry-run]" in head
    assert "#!/usr/bin/env bash" in head


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize("argv", [["--help"], ["run", "-h"]])
def test_help_prints_the_first_lines_of_the_script(script, argv):
    done = launch(script.name, *argv)
    assert (done.returncode, done.stderr) == (0, "")
    lines = script.read_text().splitlines()
    length = lines.index("set -euo pipefail") - 1
    assert done.stdout.splitlines() == [
        line.removeprefix("#").removeprefix(" ") for line in lines[1 : length + 1]
    ]


@pytest.fixture
def kstore_here(tmp_path) -> dict[str, str]:
    """The environment with the real `kstore`."""
    (tmp_path / "kstore").write_text(
        f'#!/bin/sh\nPYTHONPATH={LAUNCH.parent} exec {sys.executable} -m kstore_jax.cli "$@"\n'
    )
    (tmp_path / "kstore").chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("script", "argv", "message"),
    [
        ("local.sh", ["--config.pretrain.stepz=3"], "pretrain.stepz: no such field; did you mean"),
        ("slurm.sh", ["--nodes=2", "--gres=gpu:4"], "--gres: no such flag; "),
        ("slurm.sh", ["--tasks=2", "--config.world.people=1"], "world.people: expected at least 2"),
        ("kubernetes.sh", ["--tasks=2", "--time=3"], "--time: no such flag; "),
        ("tpu.sh", ["run", "--workers=3"], "--workers: no such flag; did you mean"),
    ],
)
def test_what_kstore_refuses_is_refused_before_submission(kstore_here, script, argv, message):
    command, argv = ([argv[0]], argv[1:]) if script == "tpu.sh" else ([], argv)
    run = [f"--config={LAUNCH.parent}/configs/quickstart.py", "--workdir=runs/x"]
    done = launch(script, *command, *run, *argv, **KUBERNETES, **kstore_here)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.startswith("kstore: ")
    assert done.stderr.count("\n") == 1


def test_without_kstore_a_note_says_that_flags_are_not_checked():
    done = launch("slurm.sh", "--dry-run", *SIZED, *RUN, KSTORE="no-such-kstore")
    assert done.returncode == 0
    note = "slurm.sh: note: no-such-kstore: not found in PATH, so its flags are not checked here\n"
    assert done.stderr == note


def test_a_local_sweep_starts_one_process_per_gpu_or_one_without_a_gpu():
    assert shlex.split(dry_run("local.sh", "--gpus=0", *RUN)) == ["kstore", "sweep", *RUN]
    lines = dry_run("local.sh", *RUN, "--gpus=3").splitlines()
    for gpu, line in enumerate(lines):
        shard = ["--workers=1", f"--shard={gpu}/3"]
        expected = ["env", f"CUDA_VISIBLE_DEVICES={gpu}", "kstore", "sweep", *RUN, *shard]
        assert shlex.split(line) == expected
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("visible", "argv", "gpus"),
    [
        ("5,2,GPU-8f", [], ["5", "2", "GPU-8f"]),
        ("5,2,7", ["--gpus=2"], ["5", "2"]),
        ("4", [], ["4"]),
        ("", [], []),
    ],
)
def test_a_local_sweep_uses_only_cuda_visible_devices(visible, argv, gpus):
    output = dry_run("local.sh", *RUN, *argv, CUDA_VISIBLE_DEVICES=visible)
    lines = [shlex.split(line) for line in output.splitlines()]
    assert [line[1] for line in lines if line[0] == "env"] == [
        f"CUDA_VISIBLE_DEVICES={gpu}" for gpu in gpus
    ]
    assert len(lines) == max(len(gpus), 1)


SIZED = ["--tasks=2"]
MISSING = [
    *(("slurm.sh", SIZED, flag) for flag in RUN[:2]),
    *(("kubernetes.sh", SIZED, flag) for flag in RUN[:2]),
    *(("local.sh", [], flag) for flag in RUN[:2]),
    *(("tpu.sh", [action], flag) for action in ("run", "sweep") for flag in RUN[:2]),
]


@pytest.mark.parametrize(("script", "argv", "flag"), MISSING)
def test_a_missing_required_flag_is_an_error_before_anything_is_submitted(script, argv, flag):
    others = [word for word in RUN if word != flag]
    done = launch(script, *argv, "--dry-run", *others, **KUBERNETES)
    name = flag.partition("=")[0]
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{script}: {name} is missing; expected {name}=")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "argv", "environment", "message"),
    [
        ("gpu.sh", ["--gpus=2"], {}, "--gpus=2: no such flag"),
        ("local.sh", ["--gpus=abc", *RUN], {}, "--gpus=abc: expected"),
        ("local.sh", ["--gpus=-1", *RUN], {}, "--gpus=-1: expected"),
        ("local.sh", ["--gpus", "2", *RUN], {}, "--gpus has no value; expected --gpus=N"),
        ("local.sh", ["--gpus=", *RUN], {}, "--gpus has no value; expected --gpus=N"),
        ("local.sh", ["--gpus=3", *RUN], {"CUDA_VISIBLE_DEVICES": "0,1"}, "--gpus=3: expected"),
        ("local.sh", ["--gpus=2", *RUN, "--workers=4"], {}, "--workers=4: local.sh sets --workers"),
        ("local.sh", ["--gpus=2", *RUN, "--shard=0/2"], {}, "--shard=0/2: local.sh sets --shard"),
        ("slurm.sh", [*SIZED, *RUN, "--shard=0/2"], {}, "--shard=0/2: slurm.sh sets --shard"),
        ("kubernetes.sh", [*SIZED, *RUN, "--shard=0/2"], {}, "--shard=0/2: kubernetes.sh sets"),
        ("tpu.sh", ["run", *RUN, "--distributed"], {}, "--distributed: tpu.sh sets --distributed"),
        ("slurm.sh", [*SIZED, "--gpus=x", *RUN], {}, "--gpus=x: expected"),
        ("slurm.sh", [*SIZED, "--config=b.py", RUN[1]], {}, "--config: b.py: no such file"),
        ("kubernetes.sh", [*SIZED, *RUN, "--gpus=x"], {}, "--gpus=x: expected"),
        ("writer.sh", ["--gpus=x"], {}, "--gpus=x: expected"),
        ("kubernetes.sh", [*SIZED, *RUN], {"NAME": "Bad Name"}, "NAME=Bad Name: expected"),
        ("kubernetes.sh", [*SIZED, *RUN], {"NAME": "a" * 41}, f"NAME={'a' * 41}: expected"),
        ("tpu.sh", ["delete", "other"], {}, "other: unexpected argument"),
        ("tpu.sh", ["destroy"], {}, "destroy: no such action; expected create"),
        ("tpu.sh", [], {}, "expected one of: create"),
        ("gpu.sh", [], {}, "DIR is missing; expected a folder"),
        (
            "gpu.sh",
            ["out", "run-mixt"],
            {},
            "run-mixt: no such piece; expected one of: train-f",
        ),
        ("gpu.sh", ["out", "--size=tiny"], {}, "--size=tiny: expected smallest"),
        ("gpu.sh", ["out"], {"LIMIT": "x"}, "LIMIT=x: expected a whole number"),
        ("kubernetes.sh", [*SIZED, *RUN], {"IMAGE": ""}, "IMAGE is not set; expected"),
        ("kubernetes.sh", [*SIZED, *RUN], {"CLAIM": ""}, "CLAIM is not set; expected"),
        ("slurm.sh", [*SIZED, RUN[0], "--workdir", "x"], {}, "--workdir has no value; expected"),
        ("gpu.sh", [__file__], {}, f"{__file__} is not a folder; expected"),
        ("gpu.sh", ["out"], {"CONFIGS": "dataset"}, "CONFIGS: dataset: no file configs/dataset.py"),
        ("writer.sh", [], {"PORT": "http"}, "PORT=http: expected"),
        ("slurm.sh", ["--dryrun", *SIZED, *RUN], {}, "--dryrun: no such flag"),
        ("kubernetes.sh", ["--dry_run=1", *SIZED, *RUN], {}, "--dry_run=1: no such flag"),
    ],
)
def test_a_wrong_call_is_reported_in_one_line(script, argv, environment, message):
    done = launch(script, "--dry-run", *argv, **{**KUBERNETES, **environment})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{script}: {message}")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def two_gpus(tmp_path) -> dict[str, str]:
    """The environment of a machine with two GPUs and a `kstore` that records its arguments."""
    programs = {
        "nvidia-smi": 'echo "GPU 0: A (UUID: x)"; echo "GPU 1: A (UUID: y)"',
        "kstore": f'{CHECKED}trap "exit 75" TERM\n'
        f'echo "$@" > {tmp_path}/${{CUDA_VISIBLE_DEVICES:-0}}\n'
        'if [ -n "$HANG" ]; then while :; do sleep 0.05; done; fi\n'
        'exit "$CUDA_VISIBLE_DEVICES"',
    }
    for name, program in programs.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{program}\n")
        (tmp_path / name).chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def test_each_gpu_gets_a_process_that_sees_only_that_gpu(two_gpus, tmp_path):
    done = launch("local.sh", *RUN, **two_gpus)
    assert done.returncode == 1  # the worst of 0 and 1
    for gpu in "01":
        arguments = (tmp_path / gpu).read_text().strip()
        assert arguments == f"sweep {' '.join(RUN)} --workers=1 --shard={gpu}/2"


@pytest.fixture
def default_sigint():
    """Restores SIGINT's default for started processes; a shell ignores it in background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_sigint")
@pytest.mark.parametrize("gpus", ["0", "2"])
@pytest.mark.parametrize("company", [False, True])  # to the script alone, or to all processes
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_every_process_gets_the_signal_and_its_status_is_returned(
    two_gpus, tmp_path, gpus, signum, company
):
    environment = {**os.environ, **two_gpus, "HANG": "1"}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    command = [LAUNCH / "local.sh", f"--gpus={gpus}", *RUN]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while not all((tmp_path / gpu).exists() for gpu in "01"[: int(gpus) or 1]):
            assert time.monotonic() < end
            time.sleep(0.01)
        if company or signum == signal.SIGINT:  # Ctrl-C signals all foreground processes
            os.killpg(process.pid, signum)
        else:
            process.send_signal(signum)
        assert process.wait(60) == 75
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("script", ["local.sh", "gpu.sh"])
def test_a_process_that_could_not_begin_before_sigterm_is_stopped(two_gpus, tmp_path, script):
    """Python is still starting, so the signal kills it."""
    program = f"#!/usr/bin/env bash\n{CHECKED}touch {tmp_path}/begun\nexec sleep 60\n"
    (tmp_path / "kstore").write_text(program)
    argv = ["--gpus=0", *RUN] if script == "local.sh" else [tmp_path / "out", "run-mixed"]
    command = [LAUNCH / script, *argv]
    environment = {**os.environ, **two_gpus, "CONFIGS": "mixed"}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        process.terminate()
        assert process.wait(30) == 75
        with pytest.raises(ProcessLookupError):  # nothing is left running
            os.killpg(process.pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_each_task_of_a_slurm_array_computes_its_share_of_the_rows():
    job = dry_run("slurm.sh", "--tasks=8", *RUN)
    assert "#SBATCH --array=0-7\n" in job
    assert "#SBATCH --requeue\n" in job
    (line,) = [line for line in job.splitlines() if line.startswith("kstore ")]
    assert shlex.split(line) == ["kstore", "sweep", *RUN, "--shard=auto/8", "&"]


@pytest.mark.parametrize("shape", ["--tasks=8", "--nodes=4"])
def test_a_slurm_job_asks_for_gpus(shape):
    assert "#SBATCH --gres=gpu:2\n" in dry_run("slurm.sh", shape, "--gpus=2", *RUN)
    assert "gres" not in dry_run("slurm.sh", shape, *RUN)


def test_a_slurm_job_of_several_nodes_starts_one_distributed_run():
    job = dry_run("slurm.sh", "--nodes=4", *RUN)
    assert "#SBATCH --nodes=4\n#SBATCH --ntasks-per-node=1\n" in job
    (line,) = [line for line in job.splitlines() if line.startswith("srun ")]
    assert shlex.split(line)[2:] == ["kstore", "run", *RUN, "--distributed", "&"]


@pytest.mark.parametrize("workdir", ["my runs/x", "my runs/x/", "my runs/x//"])
@pytest.mark.parametrize(("shape", "pattern"), [("--tasks=8", "%A_%a"), ("--nodes=4", "%j")])
def test_the_log_of_a_slurm_job_is_beside_its_workdir(workdir, shape, pattern):
    job = dry_run("slurm.sh", shape, "--config=a.py", f"--workdir={workdir}")
    (line,) = [line for line in job.splitlines() if "--output" in line]
    assert shlex.split(line) == ["#SBATCH", f"--output=my runs/x.slurm-{pattern}.log"]


def slurm_job(
    folder: pathlib.Path, shape: str, kstore: str, restarts: int, state: str = "RUNNING"
) -> subprocess.Popen:
    """Starts a job of slurm.sh the way SLURM does, with `kstore` as the program."""
    programs = {
        "kstore": kstore,
        # like the real srun, it kills its processes on SIGTERM
        "srun": f"""shift; "$@" &
echo $! >{folder}/step
trap 'kill -KILL $!' TERM
status=0
wait $! || status=$?
exit $status""",
        "scancel": f'[ "$*" = "--signal=TERM 8" ] && kill -TERM $(cat {folder}/step)',
        "squeue": f"echo {state}",
        "scontrol": f'echo "$*" > {folder}/scontrol.args',
    }
    for name, program in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{program}\n")
        (folder / name).chmod(0o755)
    environment = {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}
    environment |= {"PATH": f"{folder}:{os.environ['PATH']}"}
    if restarts:
        environment["SLURM_RESTART_COUNT"] = str(restarts)
    script = ["bash", "-c", dry_run("slurm.sh", shape, *RUN)]
    return subprocess.Popen(script, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("ended", "restarts", "status", "requeued"),
    [
        ("exit 0", 0, 0, False),
        ("exit 2", 0, 2, False),
        ("exit 1", 0, 1, False),
        ("exit 75", 50, 75, True),
        ("exit 137", 0, 137, True),
        ("kill -KILL $$", 2, 137, True),
        ("kill -KILL $$", 3, 137, False),
    ],
)
@pytest.mark.parametrize(("shape", "job"), [("--tasks=8", "5_3"), ("--nodes=4", "8")])
def test_a_stopped_or_killed_slurm_job_is_requeued(
    tmp_path, ended, restarts, status, requeued, shape, job
):
    process = slurm_job(tmp_path, shape, ended, restarts)
    assert process.wait(60) == status
    assert (tmp_path / "scontrol.args").exists() == requeued
    assert not requeued or (tmp_path / "scontrol.args").read_text() == f"requeue {job}\n"


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])  # time limit; cancelled
@pytest.mark.parametrize("status", [75, 143])  # 143: srun killed the slower processes
@pytest.mark.parametrize(("shape", "job"), [("--tasks=8", "5_3"), ("--nodes=4", "8")])
def test_a_slurm_job_writes_a_checkpoint_on_sigterm(tmp_path, shape, job, status, state):
    training = f"""trap 'touch {tmp_path}/checkpoint; exit {status}' TERM
touch {tmp_path}/training
while :; do sleep 0.05; done"""
    process = slurm_job(tmp_path, shape, training, restarts=50, state=state)
    end = time.monotonic() + 60
    while not (tmp_path / "training").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    process.terminate()
    assert process.wait(60) == (75 if state == "RUNNING" else status)
    assert (tmp_path / "checkpoint").exists()
    if state == "RUNNING":
        assert (tmp_path / "scontrol.args").read_text() == f"requeue {job}\n"
    assert (tmp_path / "scontrol.args").exists() == (state == "RUNNING")


@pytest.mark.parametrize("script", ["slurm.sh", "kubernetes.sh"])
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--tasks and --nodes are missing; expected --tasks=N or --nodes=N"),
        (["--tasks=0"], "--tasks=0: expected a whole number from 1 to 99999"),
        (["--tasks=2", "--nodes=2"], "--tasks=2 and --nodes=2: expected only one of the two"),
        (["--nodes=x"], "--nodes=x: expected a whole number from 1 to 99999"),
        (["--tasks=" + "9" * 20], f"--tasks={'9' * 20}: expected a whole number from 1 to 99999"),
    ],
)
def test_an_invalid_number_of_tasks_or_nodes_is_refused(script, argv, message):
    done = launch(script, "--dry-run", *argv, *RUN, **KUBERNETES)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{script}: {message}\n"


def test_an_indexed_job_is_valid_for_kubernetes():
    awkward = '--config.data.text=/runs/a "b" $(HOME)\\c'
    job = yaml.safe_load(
        dry_run("kubernetes.sh", "--tasks=8", *RUN, awkward, "--gpus=3", **KUBERNETES)
    )
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 8, 8)
    (container,) = spec["template"]["spec"]["containers"]
    args = [word.replace("$$", "$") for word in container["args"]]  # as Kubernetes reads them
    assert args == ["sweep", *RUN, awkward, "--shard=auto/8"]
    assert container["image"] == KUBERNETES["IMAGE"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "3"
    codes = [rule["onExitCodes"]["values"] for rule in spec["podFailurePolicy"]["rules"][::2]]
    assert codes == [[75, 143], [1, 2]]  # other statuses, of killed processes, are retried
    assert spec["backoffLimitPerIndex"] == 3
    job["spec"]["completionMod"] = job["spec"].pop("completionMode")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


def test_a_jobset_starts_one_distributed_run_on_several_hosts():
    jobset = yaml.safe_load(dry_run("kubernetes.sh", "--nodes=4", *RUN, NAME="big", **KUBERNETES))
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(jobset["spec"]) == {"failurePolicy", "replicatedJobs"}
    (hosts,) = jobset["spec"]["replicatedJobs"]
    assert set(hosts) == {"name", "replicas", "template"}
    # JobSet is not part of Kubernetes' own schema; the Jobs that it creates are
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "big-hosts-0"}}
    job |= hosts["template"]
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    assert job["spec"]["completions"] == 4
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]  # bad input is not retried
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["run", *RUN, "--distributed"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["JAX_COORDINATOR_ADDRESS"] == "big-hosts-0-0.big:8476"
    assert environment["JAX_NUM_PROCESSES"] == "4"
    assert environment.keys() >= {"JAX_PROCESS_ID"}


def test_a_tpu_vm_is_created_used_and_deleted_by_gcloud():
    create = [shlex.split(line) for line in dry_run("tpu.sh", "create", SPOT="1").splitlines()]
    assert [line[:5] for line in create[:1]] == [["gcloud", "compute", "tpus", "tpu-vm", "create"]]
    assert "--spot" in create[0]
    copied = [pathlib.Path(word) for word in create[2] if word.startswith("/")]
    assert len(copied) > 3
    assert all(path.exists() for path in copied)
    for action, workers, more in (("run", "all", ["--distributed"]), ("sweep", "0", [])):
        *before, line = dry_run("tpu.sh", action, *RUN).splitlines()
        assert [" describe " in earlier for earlier in before] == [True] * (action == "sweep")
        words = shlex.split(line)
        assert f"--worker={workers}" in words
        (command,) = [word.partition("=")[2] for word in words if word.startswith("--command=")]
        assert "nohup" in command
        kstore = shlex.split(command.split("nohup ")[1].split("</dev/null")[0])
        assert kstore == [".venv/bin/kstore", action, *RUN, *more]
    assert "delete" in dry_run("tpu.sh", "delete")
    assert launch("tpu.sh", "--dry-run", "destroy").returncode == 2


def test_a_tpu_vm_gets_a_python_version_that_kstore_supports():
    *_, line = dry_run("tpu.sh", "create").splitlines()
    (command,) = [w.partition("=")[2] for w in shlex.split(line) if w.startswith("--command=")]
    (version,) = re.findall(r"uv venv --python (\S+)", command)
    project = tomllib.loads((LAUNCH.parent / "pyproject.toml").read_text())["project"]
    assert version in SpecifierSet(project["requires-python"])


@pytest.mark.parametrize("hosts", [1, 4])
def test_a_sweep_is_refused_on_a_tpu_vm_of_several_hosts(tmp_path, hosts):
    """One host alone would wait for the others forever."""
    gcloud = tmp_path / "gcloud"
    answer = f'case "$*" in *describe*) echo {hosts} ;; *) touch {tmp_path}/done ;; esac'
    gcloud.write_text(f"#!/bin/sh\n{answer}\n")
    gcloud.chmod(0o755)
    done = launch("tpu.sh", "sweep", *RUN, PATH=f"{tmp_path}:{os.environ['PATH']}")
    message = (
        "tpu.sh: sweep: kstore has 4 hosts; expected a TPU VM of one host (`run` uses all hosts)\n"
    )
    assert (done.returncode, done.stderr) == ((0, "") if hosts == 1 else (2, message))
    assert (tmp_path / "done").exists() == (hosts == 1)


def test_the_command_on_a_tpu_vm_outlives_its_ssh_session(tmp_path):
    """ssh returns once the command has ended and no process holds its output open."""
    kstore = tmp_path / "kstore_jax/.venv/bin/kstore"
    kstore.parent.mkdir(parents=True)
    kstore.write_text(f'#!/bin/sh\ncat {tmp_path}/end\necho "$@"\n')
    kstore.chmod(0o755)
    os.mkfifo(tmp_path / "end")
    *_, line = dry_run("tpu.sh", "sweep", *RUN).splitlines()
    (command,) = [w.partition("=")[2] for w in shlex.split(line) if w.startswith("--command=")]
    ssh = ["bash", "-c", command]
    here = {"cwd": tmp_path, "env": {**os.environ, "HOME": str(tmp_path)}}
    try:
        done = subprocess.run(ssh, **here, capture_output=True, timeout=20, check=True)
    finally:
        (tmp_path / "end").write_text("over\n")
    assert (done.stdout, done.stderr) == (b"", b"")
    log, end = tmp_path / "kstore.log", time.monotonic() + 60
    while "sweep" not in log.read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert log.read_text() == f"over\nsweep {' '.join(RUN)}\n"
    (tmp_path / "kstore_jax").rename(tmp_path / "elsewhere")
    assert subprocess.run(ssh, **here, capture_output=True, check=False).returncode == 1


def test_the_writer_is_served_by_vllm():
    assert shlex.split(dry_run("writer.sh", "some/model"))[:3] == ["vllm", "serve", "some/model"]
    assert "--tensor-parallel-size 4" in dry_run("writer.sh", "--gpus=4", "some/model")
    assert launch("writer.sh", "--dry-run", "--gpus=0").returncode == 2
