"""`launch/gpu.sh`: its pieces, what it leaves where a piece is cut, and the whole on a CPU."""

import importlib.util
import json
import os
import pathlib
import runpy
import shlex
import subprocess
import sys

import pytest

from kstore_jax.bench import roofline
from kstore_jax.cli import main as cli
from kstore_jax.errors import UserError
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline.experiment import parse_rows
from kstore_jax.train.flops import num_parameters

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / "launch" / "gpu.sh"


def launch(*argv: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [SCRIPT, *argv],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def stub(tmp_path):
    """`(program) -> environment`: of a `kstore` that is this shell program."""

    def write(program: str) -> dict[str, str]:
        path = tmp_path / "kstore"
        path.write_text(f"#!/usr/bin/env bash\n{program}")
        path.chmod(0o755)
        small = {"BATCHES": "8 9", "SEEDS": "", "CONFIGS": "mixed"}
        return {"KSTORE": str(path), "PYTHON": "true", **small}

    return write


@pytest.fixture
def recording(stub, tmp_path) -> dict[str, str]:
    """A `kstore` that records its arguments, stops an experiment once with status 75 after a stage,
    and fails on batch size 9."""
    return stub(f"""
echo "$*" >> {tmp_path}/calls
workdir=${{3#--workdir=}}
case "$*" in
    *"batch_size=9 "*) exit 1 ;;
    *bench*) echo '{{}}' ;;
    *)
        mkdir -p "$workdir/stages/qa-1/checkpoints/3"
        touch "$workdir"/stages/qa-1/{{result.json,metrics.jsonl,cases.npz,checkpoints/3/a.json}}
        if [[ ! -e "$workdir/stopped" ]]; then touch "$workdir/stopped"; exit 75; fi
        touch "$workdir/results.json"
        ;;
esac
""")


def test_pieces_are_resumed_until_done_and_then_skipped(recording, tmp_path):
    out = tmp_path / "out"
    done = launch(str(out), **recording)
    assert (done.returncode, "train-full-9: status 1" in done.stderr) == (1, True)
    assert sorted(path.name for path in out.glob("results/*.json")) == [
        "peers.json", "profile.json", "together.json", "train-compact-8.json", "train-full-8.json",
    ]  # fmt: skip
    calls = (tmp_path / "calls").read_text().splitlines()
    order = [" ".join(call.split()[:2]) for call in calls]
    assert order == [
        *(["bench train"] * 4),
        "bench profile",
        *(["sweep --config=configs/paper.py:gpu"] * 2),
        "bench train",
        *(["sweep --config=configs/mixed.py:gpu"] * 2),
    ]
    assert launch(str(out), "train-full-8", "headline", **recording).returncode == 0
    assert (tmp_path / "calls").read_text().splitlines() == calls  # have results: skipped


def test_a_cut_piece_leaves_what_it_found_without_checkpoints(recording, tmp_path):
    out = tmp_path / "out"
    assert launch(str(out), "headline", **recording).returncode == 75  # one call
    found = {str(path.relative_to(out / "results")) for path in out.rglob("results/**/*.*")}
    stage = "headline/stages/qa-1"
    assert found == {f"{stage}/{name}" for name in ("result.json", "metrics.jsonl", "cases.npz")}
    assert launch(str(out), "headline", **recording).returncode == 0
    assert (out / "results/headline/results.json").exists()


def test_a_piece_without_progress_is_reported_and_left(stub, tmp_path):
    environment = stub("""
case "$*" in
    *bench*) echo '{}' ;;
    *paper.py*) mkdir -p "${3#--workdir=}"; touch "${3#--workdir=}/results.json" ;;
    *) stage="${3#--workdir=}/stages/qa-1"
       mkdir -p "$stage"
       touch "$stage/provenance-$(($(ls "$stage" | wc -l) + 1)).json"
       exit 75 ;;
esac
""")
    out = tmp_path / "out"
    done = launch(str(out), **{**environment, "BATCHES": "8"})
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        ["gpu.sh: run-mixed: status 75"] * 2
        + [
            "gpu.sh: run-mixed: no progress in 480 s; to run it without a time limit: "
            f"{tmp_path}/kstore sweep --config=configs/mixed.py:gpu --workdir={out}/runs/mixed"
        ],
    )
    assert len(list(out.glob("runs/mixed/stages/qa-1/*"))) == 2


def dry_run(*argv: str, **environment: str) -> list[str]:
    done = launch("--dry-run", *argv, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


PREDICTING = """
case "$*" in
    *--on=H200*--json*) ;;
    *) exit 1 ;;
esac
case "$*" in
    *bench*) echo '{"tokens_per_s": 1.5, "seconds": 43.5, "device": "H200, predicted"}' ;;
    *)
        echo -n '{"rows": [{"seconds_left": 7.0}], '
        echo '"seconds_left": 1487.2, "stages_without_estimate": 2}'
        ;;
esac
"""


def test_a_dry_run_predicts_the_time_of_each_piece_and_of_all(stub):
    lines = dry_run("out", **{**stub(PREDICTING), "BATCHES": "8"})
    assert [line for line in lines if line.startswith("#")] == [
        *[f"# train-{name}-8: about 43 s predicted on an H200" for name in ("full", "compact")],
        "# profile: about 43 s predicted on an H200",
        "# headline: about 1487 s predicted on an H200",
        "# peers: about 129 s predicted on an H200",
        "# together: about 43 s predicted on an H200",
        "# run-mixed: about 1487 s predicted on an H200",
        "# all: about 54 min predicted on an H200",
    ]


def test_pieces_use_existing_configurations(stub):
    environment = stub("exit 1")
    for size in ([], ["--size=smallest"]):
        lines = dry_run(*size, "out", **environment)
        commands = [shlex.split(line) for line in lines if not line.startswith("#")]
        assert len(commands) == 9
        for words in commands:
            assert words[:4] == ["timeout", "--foreground", "--preserve-status", "--kill-after=50"]
            assert int(words[4]) + 50 < 9 * 60
            for word in words:
                if word.startswith("--config="):
                    name, _, scale = word.removeprefix("--config=").partition(":")
                    module = runpy.run_path(str(ROOT / name))
                    parse_rows(module["get_config"](*[scale] * bool(scale)))
    environment["CONFIGS"] = "mixed:together"
    _, together, *_ = dry_run("out", "run-mixed:together", **environment)
    assert together.split()[-3:] == [
        "--config=configs/mixed.py:together",
        f"--workdir={pathlib.Path.cwd()}/out/runs/mixed-together",
        "--together=16",
    ]


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> dict[str, str]:
    """The environment with the real `kstore`, on one CPU without most optimizations."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "kstore").write_text(
        f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m kstore_jax.cli "$@"\n'
    )
    (folder / "kstore").chmod(0o755)
    return {
        "KSTORE": str(folder / "kstore"),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
    }


def read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_the_whole_runs_on_a_cpu_at_a_hundredth_of_the_size(real, tmp_path):
    """The three rows of the headline with three seeds, and every benchmark."""
    out = tmp_path / "out"
    done = launch("--size=smallest", str(out), **real)
    peers = importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")
    assert done.returncode == (0 if peers else 1), done.stderr
    expected = {"profile", "together", "train-full-2", "train-compact-2"}
    expected |= {"peers"} if peers else set()
    assert {path.stem for path in out.glob("results/*.json")} == expected
    assert read(out / "results/train-full-2.json")["vocabulary"] > 50_000
    kinds = read(out / "results/profile.json")
    assert len(kinds) <= 11
    assert {"dot_general", "others"} <= kinds.keys()
    for seed, name in enumerate(("headline", "headline-seed1", "headline-seed2")):
        rows = read(out / "results" / name / "results.json")["rows"]
        assert [row["config"]["seed"] for row in rows] == [seed] * 3


def test_a_cut_experiment_goes_on_and_brings_back_its_results(real, tmp_path, capsys):
    """Its first call is cut after pretraining."""
    out, piece = tmp_path / "out", "run-quickstart:smallest"
    cut = tmp_path / "cut"
    unwritten = f"rm {out}/runs/*/results.json {out}/runs/*/report.html"  # by a cut experiment
    cut.write_text(f'#!/bin/sh\n{real["KSTORE"]} "$@" --until=pretrain\n{unwritten}\nexit 75\n')
    cut.chmod(0o755)
    environment = {**real, "CONFIGS": "quickstart:smallest"}
    assert launch(str(out), piece, **{**environment, "KSTORE": str(cut)}).returncode == 75
    results = out / "results" / "run-quickstart-smallest"
    assert len(list(results.glob("stages/pretrain-*/result.json"))) == 2
    assert cli.main(["status", str(results)]) == 0  # the plan and the progress, in the copy
    assert "multi5+permute" in capsys.readouterr().out
    done = launch(str(out), piece, **environment)
    assert done.returncode == 0, done.stderr
    rows = read(results / "results.json")["rows"]
    variants = [row["config"]["data"]["variant"] for row in rows]
    assert variants == ["single", "multi5+permute"]
    files = [path for path in results.rglob("*") if path.is_file()]
    assert {"results.json", "report.html", "metrics.jsonl", "cases.npz"} <= {f.name for f in files}
    assert not list(results.rglob("checkpoints"))
    assert sum(path.stat().st_size for path in files) < 5e6
    assert cli.main(["report", str(results), f"--out={tmp_path / 'page'}"]) == 0


MEASURED = (  # docs/benchmarks.md: shape, parameters, milliseconds of 96 x 512 tokens on one H200
    (Shape(vocabulary=50_304, layers=12, heads=12, width=768), 107.3),
    (Shape(vocabulary=3_328, layers=8, heads=8, width=512), 32.7),
)


@pytest.mark.parametrize(("shape", "measured"), MEASURED)
def test_the_prediction_agrees_with_what_was_measured_on_an_h200(shape, measured):
    device = roofline.accelerator("H200")
    parameters = num_parameters(shape)
    seconds = roofline.step_seconds(device, shape, parameters, 96, 512)
    assert 1000 * seconds == pytest.approx(measured, rel=0.05)


def test_a_small_step_takes_as_long_as_its_kernels_are_launched():
    device, shape = roofline.accelerator("H200"), Shape(vocabulary=512, layers=4, heads=2, width=64)
    parameters = num_parameters(shape)
    one, two = (roofline.step_seconds(device, shape, parameters, rows, 32) for rows in (1, 2))
    assert one == two == roofline.launch_seconds(device, shape)


def test_an_unknown_accelerator_names_the_known_ones():
    with pytest.raises(UserError, match=r"^--on: no accelerator 'H20'; did you mean 'H200'\?$"):
        roofline.accelerator("H20")


def test_a_dry_run_predicts_another_machine(config_file, tmp_path, capsys):
    argv = [f"--config={config_file}", f"--workdir={tmp_path / 'new'}"]
    assert cli.main(["sweep", *argv, "--dry-run", "--on=H200", "--json"]) == 0
    stages = read_stages(capsys.readouterr().out)
    assert {stage["measured"] for stage in stages if stage["left"]} == {"predicted on H200"}
    assert {stage["kind"] for stage in stages if stage["left"] is None} == {"shards"}
    assert cli.main(["sweep", *argv, "--on=H200"]) == 2
    assert "--on: expected beside --dry-run" in capsys.readouterr().err
    assert cli.main(["bench", "train", f"--config={config_file}", "--on=H200", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] > 10_000
    assert found["seconds"] > 36
    assert cli.main(["bench", "qa", "--on=H200"]) == 2
    assert "--on: no such flag" in capsys.readouterr().err


def read_stages(output: str) -> list[dict]:
    return json.loads(output)["stages"]
