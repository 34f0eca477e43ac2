"""Bad input gets one line and status 2 before anything is written."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from kstore_jax.cli.main import COMMANDS, main
from kstore_jax.world.schema import BUNDLED_WORLD

QUICKSTART = pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py"
CONFIG = f"--config={QUICKSTART}"
PAPER = f"--config={QUICKSTART.with_name('paper.py')}"


@pytest.fixture
def nothing_written(tmp_path, monkeypatch):
    """Runs the test in an empty folder and finds it empty afterwards."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []


def kstore(*argv: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kstore_jax.cli", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def complaint(capsys, *argv: str) -> str:
    """The one line on stderr of a command that fails with status 2."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.pretrain.stepz=5", "pretrain.stepz: no such field; did you mean 'steps'?"),
        ("--config.pretrian.steps=5", "pretrian.steps: no such field; did you mean 'pretrain'?"),
        ("--config.world.people=many", "--config.world.people: expected an integer, got 'many'"),
        ("--config.world.people=1.5", "--config.world.people: expected an integer, got '1.5'"),
        ("--config.world.seed=x: y", "--config.world.seed: expected an integer, got 'x: y'"),
        (
            "--config.pretrain.adamw.b1=fast",
            "--config.pretrain.adamw.b1: expected a number, got 'fast'",
        ),
        (
            "--config.model.tie_embeddings=so",
            "--config.model.tie_embeddings: expected true or false, got 'so'",
        ),
        ("--config.model.layers", "--config.model.layers has no value; expected an integer"),
        ("--config.model.norm", "--config.model.norm has no value; expected text"),
        ("--cache", "--cache has no value; expected folder of the stages"),
        ("--config.world.people=1", "world.people: expected at least 2, got 1"),
        ("--config.world.people=2000000000", "world.people: 2000000000 people"),
        ("--config.data.variant=multy5", "data.variant: 'multy5' is not a variant"),
        ("--config.model.heads=3", "model.width: expected a multiple of heads = 3"),
        ("--config.model.size=125M", "model.size: no size '125M'; did you mean '124M'?"),
        ("--config.model.style=lama", "model.style: no style 'lama'; did you mean 'llama'?"),
        ("--config.model.attention=splash", "model.attention: splash needs a TPU"),
        ("--config.model.init_from=nowhere", "model.init_from: nowhere/config.json: no such file"),
        ("--config.world.folder=nowhere", "world.folder: nowhere is not a folder"),
        ("--config.mesh.fsdp=999", "mesh: data 1 x fsdp 999 x tensor 1 are 999 devices; expected "),
        (
            "--config.mesh.tensor=999",
            "mesh: data 1 x fsdp 1 x tensor 999 are 999 devices; expected ",
        ),
        ("--until=recall", "--until: expected pretrain or finetune, got 'recall'"),
        ("--config.plugins=lenz", "plugins: lenz: no such module"),
        ("--config.sweep=3", "sweep: expected rows"),
        ("--config.model=3", "--config.model: expected fields, got '3'"),
        ("--config=zzz.py", "--config: 'zzz.py': no such file; valid: "),
        ("--config=quikstart.py", f"no such file; did you mean '{QUICKSTART}'?"),
        (f"{CONFIG}:smalest", "--config: no size 'smalest'; did you mean 'smallest'?"),
        (f"{PAPER}:papper", "--config: no scale 'papper'; did you mean 'paper'?"),
        ("--config=.", "--config: '.': no such file; valid: "),
        ("--confg=nowhere.py", "--confg: no such flag; did you mean 'config'?"),
        ("--worker=2", "--worker: no such flag; did you mean 'workers'?"),
        ("--people=3", "--people: no such flag; valid: "),
        ("--out=page", "--out: no such flag; "),
        (
            "--config.pretrain.warmup_steps=6000",
            "pretrain.warmup_steps: expected less than steps = 6000",
        ),
        ("--workers=0", "--workers: expected an integer in the range [1, 2147483647], got '0'"),
        ("extra", "unexpected argument 'extra'"),
    ],
)
def test_a_bad_argument_is_named_in_one_line(capsys, argument, message):
    assert message in complaint(capsys, "sweep", CONFIG, "--workdir=run", argument)


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["shwo"], "'shwo' is no command; did you mean 'show'?"),
        (["shwo", "--help"], "'shwo' is no command; did you mean 'show'?"),
        (["bench", "qa", "--together=2"], "--together: no such flag; valid: "),
        (["sweep"], "--config is missing"),
        (["sweep", CONFIG], "--workdir is missing"),
        (["run", CONFIG], "--workdir is missing"),
        (["report"], "report: expected one folder"),
        (["report", "a", "b"], "--out is missing; expected a folder for the page of several runs"),
        (["report", "here", "--outt=page"], "--outt: no such flag; did you mean 'out'?"),
        (["report", "here", "--config.seed=1"], "--config.seed: no such flag; valid: out"),
        (["report", "here", "--out=page"], "here/results.json: no results here"),
        (["show", CONFIG, "--workers=4"], "--workers: no such flag; valid: "),
        (["show", CONFIG, "--workdir=run"], "--workdir: no such flag; valid: "),
        (["run", CONFIG, "--workdir=run", "--workers=4"], "--workers: no such flag; "),
        (["show", CONFIG, "--person=999999"], "person: expected less than "),
        (
            ["show", CONFIG, "--person=-1"],
            "--person: expected an integer in the range [0, 2147483647], got '-1'",
        ),
        (["run", "--config"], "--config has no value; expected FILE.py[:ARGUMENT]"),
        (["run", CONFIG, "--workdir"], "--workdir has no value; expected folder of the run"),
        (["run", CONFIG, "--workdir", "--config.seed=1"], "--workdir has no value; expected "),
        (
            ["run", CONFIG, "--config.seed", "--workdir=run"],
            "--config.seed has no value; expected ",
        ),
        (["status", "here", "--json=so"], "--json: expected true or false, got 'so'"),
        (["report", "a", "b", "--out"], "--out has no value; expected folder to write to"),
    ],
)
def test_a_bad_command_is_named_in_one_line(capsys, argv, message):
    assert message in complaint(capsys, *argv)


@pytest.mark.usefixtures("nothing_written")
def test_bad_pools_are_named_in_one_line(capsys, tmp_path):
    pools = tmp_path / "world" / "pools"
    shutil.copytree(BUNDLED_WORLD, pools.parent)
    (pools / "majors.txt").write_text("Law\nLaw\n")
    argv = ("sweep", CONFIG, "--workdir=run", f"--config.world.folder={pools.parent}")
    assert f"{pools / 'majors.txt'}:2: 'Law'" in complaint(capsys, *argv)
    (pools / "majors.txt").unlink()
    assert f"{pools / 'majors.txt'}: no such file" in complaint(capsys, *argv)
    (pools / "majors.txt").write_text("Law\nArt\n")
    for kind in ("first", "middle", "last"):
        (pools / f"{kind}_names.txt").write_text("A\nB\n")
    few = "world.people: 400 people, but the pools make 8 full names"
    assert few in complaint(capsys, *argv, "--config.world.people=400")


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(:\n    pass\n", "SyntaxError"),
        ("import nowhere\n", "No module named 'nowhere'"),
        ("def get_config():\n    return 3\n", "get_config() returned 3"),
        ("def get_config():\n    return 1 / 0\n", "ZeroDivisionError"),
        (
            "from kstore_jax.pipeline.experiment import default\n"
            "def get_config():\n    c = default()\n    c.sweep = {'seed': [1]}\n    return c\n",
            "--config: TypeError: Could not override field 'sweep'",
        ),
        (
            "from kstore_jax.config.rows import row\n"
            "from kstore_jax.pipeline.experiment import default\n"
            "def get_config():\n    c = default()\n"
            "    c.sweep = row('a', seed=1), row('b', seed=2)\n    return c\n",
            "sweep: expected rows of (field, value), as product() and chain() give",
        ),
    ],
)
def test_a_broken_configuration_file_is_named_in_one_line(capsys, tmp_path, content, message):
    path = tmp_path / "broken.py"
    path.write_text(content)
    assert message in complaint(capsys, "sweep", f"--config={path}", "--workdir=run")


@pytest.mark.usefixtures("nothing_written")
def test_the_exit_status_of_the_process_is_2_and_stderr_one_line():
    done = kstore("sweep", CONFIG, "--workdir=run", "--config.world.folder=nowhere")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "kstore: world.folder: nowhere is not a folder\n"


@pytest.mark.usefixtures("nothing_written")
def test_a_configuration_file_without_get_config_is_named_in_one_line(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("")
    done = kstore("show", f"--config={path}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"--config: {path} has no get_config()" in done.stderr


@pytest.mark.usefixtures("nothing_written")
def test_show_prints_the_person_the_biographies_and_the_six_questions():
    done = kstore("show", CONFIG, "--person=17", "--config.data.variant=multi2+permute")
    assert done.returncode == 0
    assert done.stderr == ""
    first, *lines = done.stdout.splitlines()
    assert first in (f"person 17 ({half}), multi2+permute" for half in ("P_train", "P_test"))
    biographies = [line for line in lines if line.startswith("entry ")]
    questions = [line for line in lines if "? Answer: " in line]
    assert len(biographies) == 2
    assert len(questions) == 6
    answers = [line.split("? Answer: ")[1] for line in questions]
    assert all(answer in biography for answer in answers for biography in biographies)


def test_show_takes_the_first_row_of_the_sweep(capsys):
    assert main(["show", CONFIG]) == 0
    assert "person 0 (P_" in (shown := capsys.readouterr().out)
    assert ", single\n" in shown


@pytest.mark.parametrize("dashes", ["--", "-"])
def test_the_command_line_wins_over_the_sweep(capsys, dashes):
    assert main(["show", CONFIG, f"{dashes}config.data.variant=multi3"]) == 0
    assert capsys.readouterr().out.count("\nentry ") == 3


TINY = ["--config.world.people=40", "--config.data.variant=multi2+permute"]


def test_data_writes_a_data_set_once_and_the_same_again(tmp_path, capsys):
    out = tmp_path / "deep" / "data"
    for _ in range(2):
        assert main(["data", CONFIG, *TINY, f"--out={out}", "--workers=2"]) == 0
        assert capsys.readouterr().out.startswith(f"{out}: 80 entries, ")
    names = sorted(path.name for path in out.iterdir())
    assert names == ["manifest.json", "part-00000-of-00001.array_record"]


def test_data_leaves_another_data_set_as_it_is(tmp_path, capsys):
    out = tmp_path / "data"
    assert main(["data", CONFIG, *TINY, f"--out={out}"]) == 0
    before = (out / "manifest.json").read_bytes()
    capsys.readouterr()
    output = complaint(capsys, "data", CONFIG, *TINY, "--config.seed=3", f"--out={out}")
    assert f"{out}: holds a dataset of another configuration" in output
    assert (out / "manifest.json").read_bytes() == before


def test_data_leaves_what_is_no_data_set_and_takes_an_empty_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    assert main(["data", CONFIG, *TINY, "--out=out"]) == 0
    (out / "manifest.json").unlink()
    capsys.readouterr()
    output = complaint(capsys, "data", CONFIG, *TINY, "--out=out")
    assert f"{out}: is not empty and holds no dataset" in output
    assert "--out: expected another" in complaint(capsys, "data", CONFIG, *TINY, "--out=.")


def test_data_of_a_sweep_has_to_be_chosen(capsys, tmp_path):
    output = complaint(capsys, "data", CONFIG, f"--out={tmp_path / 'x'}")
    assert "several data sets; choose one" in output


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--workers=1", "--out is missing"),
        ("--out=x --config.data.variant=fresh", "data.variant: fresh text is drawn"),
        ("--out=x --config.data.tokenizer=bpe3", "data.tokenizer: expected bpeN with N over 256"),
        ("--out=x --config.data.text=nowhere.txt", "data.text: "),
    ],
)
def test_data_that_cannot_be_written_is_refused(capsys, argument, message):
    assert message in complaint(capsys, "data", CONFIG, *TINY, *argument.split())


def test_bench_data_prints_one_json_object():
    done = kstore("bench", "data", "--json", "--config.data.variant=single")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rates = ("encode_entries_per_s", "encode_tokens_per_s", "write_entries_per_s")
    for name in (*rates, "load_tokens_per_s", "peak_memory_bytes"):
        assert found[name] > 0
    assert found["cores"] == 1


def test_an_unknown_benchmark_is_refused(capsys):
    assert "'dato' is no benchmark; did you mean 'data'?" in complaint(capsys, "bench", "dato")


@pytest.mark.parametrize("argv", [[], ["help"], ["--help"], ["-h"]])
def test_help_names_every_command(capsys, argv):
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for command in COMMANDS:
        assert f"  {command} " in captured.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_tells_its_own_flags_alone(capsys, name):
    assert main([name, "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    first, _, *lines = captured.out.splitlines()
    command = COMMANDS[name]
    assert first == f"kstore {name} {command.usage}: {command.summary}"
    shown = [line.split()[0].removeprefix("--") for line in lines]
    assert [flag for flag in shown if not flag.startswith("config")] == [*command.flags]
    given = {flag for flag in re.findall(r"--([\w-]+)", first) if flag != "config"}
    assert given <= {*command.flags}
    assert ("config.FIELD" in shown) == ("--config" in first)


def test_help_of_a_command_tells_the_defaults_that_are_not_nothing(capsys):
    assert main(["eval", "runs/x", "-h"]) == 0
    output = capsys.readouterr().out
    assert "--beam          width of the beam, 4 unless given\n" in output
    assert "--row           one row of a sweep, by its name or number\n" in output
