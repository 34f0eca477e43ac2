"""Bad input, a line of a table each: a command ends with one line on stderr that names the fault,
with status 2, and writes nothing.

A new case is a line in `CASES`; a new input file is an entry of `FILES`.
"""

import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

from kstore_jax.cli.main import main

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
QUICKSTART = f"--config={CONFIGS}/quickstart.py:smallest"
SWEEP = ("sweep", QUICKSTART, "--workdir=run", "--dry-run")
LARGE = "9" * 5000


class Case(NamedTuple):
    """A command that is refused.

    Attributes:
      argv: its words; `FILE` is the folder of `FILES`.
      line: a regular expression that the line on stderr begins with, after `kstore: `.
      status: the exit status.
    """

    argv: tuple[str, ...]
    line: str
    status: int = 2


def config(lines: str) -> str:
    """A configuration file with these lines in `get_config`."""
    body = "\n    ".join(["c = default()", *lines.splitlines()])
    return (
        "from kstore_jax.pipeline.experiment import default, parse\n"
        f"def get_config():\n    {body}\n    return c\n"
    )


FILES = {
    "none.py": config("c.sweep = None"),
    "generator.py": config("c.sweep = (row for row in c.sweep)"),
    "numbers.py": config("c.sweep = (1, 2)"),
    "no_rows.py": config("c.unlock()\ndel c.sweep\nc.seed = -1"),
    "dict.py": config("c = c.to_dict()"),
    "experiment.py": config("c = parse({})"),
    "function.py": config("c = get_config"),
    "frozen.py": config("from ml_collections import FrozenConfigDict as F\nc = F(c)"),
    "exits.py": config("raise SystemExit(3)"),
    "calls.py": "get_config = 3\n",
    "asks.py": "def get_config(size):\n    return size\n",
    "latin.py": "CITY = 'caf\xe9'\n",
    "large.py": config("c.seed = 10**5000"),
    "large_row.py": config("c.sweep = ((('seed', 10**5000),),)"),
    "large_float.py": config("c.unlock()\nc.model.rotary_base = 10**5000"),
    "list_row.py": config("c.sweep = ((('finetune.tasks', ['nothing']),),)"),
    "bool_row.py": config("c.sweep = ((('model.bias', 3),), (('model.bias', True),))"),
    "plugin_folder.py": config(
        "c.unlock()\nc.plugins = ('os',)\nc.plugin_folders = ('~nosuchuser',)"
    ),
    "world/world.toml": 'name = 3\n[attributes.city]\npool = "cities"\n',
    "table/world.toml": 'name = ["first"]\nattributes = 3\n',
    "noun/world.toml": 'name = ["first"]\nnoun = ["a"]\n[attributes.city]\npool = "cities"\n',
    "digits/world.toml": f"name = {LARGE}\n",
}


def file(name: str, *argv: str) -> tuple[str, ...]:
    return ("sweep", f"--config=FILE/{name}", "--workdir=new", "--dry-run", *argv)


CASES = {
    # configurations that are programs
    "sweep is None": Case(file("none.py"), "sweep: expected rows of .*, got None"),
    "sweep is a generator": Case(file("generator.py"), "--config: TypeError: .*'sweep'"),
    "sweep of numbers": Case(file("numbers.py"), r"sweep: expected rows of .*, got \(1, 2\)"),
    "no field sweep": Case(file("no_rows.py"), "seed: expected at least 0, got -1"),
    "returns a dict": Case(file("dict.py"), r"--config: .* \(dict\); expected a ConfigDict"),
    "returns an Experiment": Case(file("experiment.py"), r"--config: .* \(Experiment\); expected"),
    "returns a function": Case(file("function.py"), r"--config: .* \(function\); expected"),
    "returns a frozen one": Case(file("frozen.py"), r"--config: .* \(FrozenConfigDict\); expected"),
    "exits": Case(file("exits.py"), "--config: SystemExit: 3"),
    "not a function": Case(file("calls.py"), "--config: TypeError: 'int' object is not callable"),
    "wants an argument": Case(file("asks.py"), "--config: TypeError: .*'size'"),
    "not UTF-8": Case(file("latin.py"), "--config: .*(?i:utf-?8)"),
    "a list in a row": Case(file("list_row.py"), "finetune.tasks: no task 'nothing'"),
    "a wrong row": Case(file("bool_row.py"), r"row 0 \(model.bias=3\): model.bias: expected true"),
    # numbers beyond
    "seed of 2^32": Case((*SWEEP, f"--config.seed={2**32}"), "seed: expected at most 4294967295"),
    "seed of 2^63": Case((*SWEEP, f"--config.seed={2**63}"), "seed: expected at most 4294967295"),
    "world.seed of 2^63": Case((*SWEEP, f"--config.world.seed={2**63}"), "world.seed: expected at"),
    "steps of 10^30": Case(
        (*SWEEP, f"--config.pretrain.steps={10**30}"),
        f"pretrain.steps: expected at most 2147483647, got {10**30}",
    ),
    "two names in a list": Case(
        (*SWEEP, "--config.finetune.tasks=extraction,b"), "finetune.tasks: no task 'b'"
    ),
    "inf": Case(
        (*SWEEP, "--config.pretrain.learning_rate=inf"),
        "pretrain.learning_rate: expected a finite number, got inf",
    ),
    "-inf": Case(
        (*SWEEP, "--config.model.init_std=-inf"), "model.init_std: expected a finite number"
    ),
    "nan": Case((*SWEEP, "--config.finetune.alpha=nan"), "finetune.alpha: expected a finite"),
    "1e400": Case((*SWEEP, "--config.pretrain.weight_decay=1e400"), "pretrain.weight_decay: exp"),
    "5,000 digits in a field": Case(
        (*SWEEP, f"--config.seed={LARGE}"), r"--config.seed: expected an integer, got '9{78}\.\.\.$"
    ),
    "5,000 digits in a flag": Case(
        (*SWEEP, f"--workers={LARGE}"), r"--workers: expected an integer .*, got '9{78}\.\.\.$"
    ),
    "5,000 digits in a shard": Case(
        (*SWEEP, f"--shard=0/{LARGE}"), "--shard: expected I/N, such as"
    ),
    "5,000 digits in a variant": Case(
        (*SWEEP, f"--config.data.variant=multi{LARGE}"),
        "data.variant: 'multi9*... is not a variant",
    ),
    "5,000 digits in a tokenizer": Case(
        (*SWEEP, f"--config.data.tokenizer=bpe{LARGE}"), "data.tokenizer: no tokenizer 'bpe9*..."
    ),
    "5,000 digits in a world": Case(
        (*SWEEP, "--config.world.folder=FILE/digits"), ".*world.toml: cannot be read as TOML"
    ),
    "shard of none": Case((*SWEEP, "--shard=0/0"), "--shard: expected I/N, such as 0/4"),
    "beam of 10^9": Case(("eval", "x", "--beam=1000000000"), "--beam: expected an integer in"),
    "beam_size of 10^9": Case(
        (*SWEEP, "--config.readouts.qa.beam_size=1000000000"), "readouts.qa.beam_size: expected at"
    ),
    "10^30 workers": Case((*SWEEP, f"--workers={10**30}"), "--workers: expected an integer in"),
    "5,000 digits in a file": Case(
        file("large.py"), "seed: expected a smaller number, got a number of 16610 bits"
    ),
    "5,000 digits in a row": Case(file("large_row.py"), "sweep: expected a smaller number, got "),
    "a float of 5,000 digits": Case(file("large_float.py"), "--config: OverflowError"),
    # a path is spelled by a person
    **{
        f"{flag} of no user": Case(
            (*argv, f"{flag}=~nosuchuser/x"), f"{flag}: ~nosuchuser/x: no su"
        )
        for flag, argv in {
            "--workdir": ("sweep", QUICKSTART),
            "--cache": SWEEP,
            "--out": ("data", QUICKSTART),
            "--items": ("ask", "--server=http://h", "--model=m"),
            "--keep": ("gc", "stages"),
        }.items()
    },
    **{
        f"{field} of no user": Case(
            (*SWEEP, f"--config.{field}={prefix}~nosuchuser/x"), f"{field}: ~nosuchuser/x: no such"
        )
        for field, prefix in {
            "world.folder": "",
            "data.text": "",
            "data.rewritten": "",
            "data.tokenizer": "",
            "model.init_from": "",
        }.items()
    },
    "tfds of no user": Case(
        (*SWEEP, "--config.data.text=tfds:~nosuchuser/x"), "data.text: ~nosuch"
    ),
    "plug-ins of no user": Case(file("plugin_folder.py"), "plugin_folders: ~nosuchuser: no such"),
    "FILE of no user": Case(
        ("sweep", "--config=~nosuchuser/a.py"), "--config: ~nosuchuser/a.py: n"
    ),
    **{
        f"{command} of no user": Case((command, "~nosuchuser", *argv), "~nosuchuser: no such user")
        for command, argv in {
            **{"status": (), "eval": (), "ask": (), "report": ()},
            **{"gc": ("--keep=x",), "export": ("--out=x",)},
        }.items()
    },
    # runs are positional
    "no run": Case(("export", "--out=x"), "export: expected one folder of a run$"),
    "two runs": Case(("eval", "a", "b"), "eval: expected one folder of a run, got a b$"),
    "two runs to ask": Case(
        ("ask", "a", "b", "c"), "ask: expected a folder of a run and a question, got a b c$"
    ),
    "a run and a server": Case(
        ("ask", "a", "--concurrency=3"), "--concurrency: expected without a"
    ),
    "a row without a question": Case(("ask", "a", "--row=1"), "--row: expected with a question$"),
    "a row of a server": Case(
        ("ask", "--server=h:1", "--model=m", "--row=1"), "--row: expected with the folder of a run"
    ),
    "an answer into a folder": Case(("ask", "a", "Who?", "--out=x"), "--out: expected without a"),
    "a cool recitation": Case(("generate", "a", "--temperature=1"), "--temperature: expected with"),
    "a person of the pools": Case(("show", "--pools", "--person=3"), "--person: expected without"),
    "stages as JSON": Case(("status", "a", "--stages", "--json"), "--stages: expected without"),
    "a seed without a prompt": Case(
        ("generate", "a", "--seed=3"), "--seed: expected with a prompt$"
    ),
    "JSON of an answer": Case(
        ("ask", "a", "Who?", "--json"), "--json: expected without a question$"
    ),
    "--run": Case(("export", "--run=a", "--out=x"), "--run: no such flag"),
    # options accepted and not heeded
    **{
        f"{flag} without --dry-run": Case(
            ("sweep", QUICKSTART, "--workdir=run", flag), f"{flag}: expected beside --dry-run"
        )
        for flag in ("--no-measure", "--stages", "--json")
    },
    "--distributed beside --dry-run": Case(
        ("run", QUICKSTART, "--workdir=run", "--dry-run", "--distributed"),
        "--distributed: expected without --dry-run",
    ),
    "--check of a wrong field": Case(
        ("run", QUICKSTART, "--workdir=x", "--check", "--config.seed=-1"), "seed: expected at least"
    ),
    "--check, FILE elsewhere: flag": Case(
        ("sweep", "--config=/there/a.py", "--workdir=x", "--check", "--gres=gpu:4"),
        "--gres: no such",
    ),
    "--check, FILE elsewhere: field": Case(
        ("sweep", "--config", "/there/a.py", "--workdir=x", "--check", "--config.sed=3"),
        "--config.sed",
    ),
    "--check, FILE elsewhere: type": Case(
        ("sweep", "--config=/there/a.py", "--workdir=x", "--check", "--config.seed=a"),
        "--config.seed",
    ),
    # hints
    "a hint without names": Case(("bench", "qa", "--tigether"), "--tigether: no such flag"),
    # a world's file speaks of its own format
    "world: name": Case(
        (*SWEEP, "--config.world.folder=FILE/world"), ".*world.toml: name: expected a list, got 3"
    ),
    "world: attributes": Case(
        (*SWEEP, "--config.world.folder=FILE/table"), ".*attributes: expected a table, got 3"
    ),
    "world: noun": Case(
        (*SWEEP, "--config.world.folder=FILE/noun"), r".*noun: expected text, got \['a'\]"
    ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("files")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="latin-1")
    return folder


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_refused_in_one_line(case, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = [word.replace("FILE", str(files)) for word in case.argv]
    assert main(argv) == case.status
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert re.match(f"kstore: {case.line}", line), line
    assert len(line) < 700
    assert list(tmp_path.iterdir()) == []


def test_the_process_ends_with_the_status_and_without_a_traceback(tmp_path):
    case = CASES["steps of 10^30"]
    done = subprocess.run(
        [sys.executable, "-m", "kstore_jax.cli", *case.argv],
        **{"cwd": tmp_path, "capture_output": True, "text": True, "check": False},
        env={**os.environ, "PYTHONPATH": str(CONFIGS.parent)},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(f"kstore: {case.line}.*\n", done.stderr)


@pytest.mark.parametrize("tasks", ["extraction", "('extraction',)", '["extraction"]'])
def test_a_list_is_also_written_with_commas(tasks):
    assert main(["show", QUICKSTART, f"--config.finetune.tasks={tasks}"]) == 0


def test_a_negated_field_wins_over_the_rows_of_a_sweep(tmp_path, capsys):
    path = tmp_path / "rows.py"
    path.write_text(config("c.sweep = ((('model.tie_embeddings', True),),)"))
    argv = ["run", f"--config={path}", f"--workdir={tmp_path / 'run'}", "--check"]
    assert main([*argv, "--noconfig.model.tie_embeddings"]) == 0


def test_check_accepts_fields_of_plug_ins_of_a_file_elsewhere(capsys):
    argv = ("sweep", "--config=/there/a.py:b", "--workdir=x", "--check")
    fields = "--config.readouts.lens.enabled=True", "--config.plugins=lens", "--config.seed=3"
    assert main([*argv, *fields, "--tasks=2"]) == 2
    assert main([*argv, *fields, "--together=2"]) == 0


def test_a_home_folder_is_where_files_are_written(tmp_path, monkeypatch, capsys):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert main(["data", QUICKSTART, "--config.data.variant=single", "--out=~/data"]) == 0
    assert (home / "data" / "manifest.json").exists()
    assert list(here.iterdir()) == []


def test_config_of_a_section_without_fields_says_so(capsys):
    assert main(["config", "tasks.extraction"]) == 0
    assert capsys.readouterr().out == "tasks.extraction: no fields of its own\n"
