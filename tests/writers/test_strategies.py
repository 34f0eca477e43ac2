"""Strategies of `kstore rewrite` against a running server: from a table to trained texts."""

import collections
import csv
import itertools
import os
import pathlib
import re
import subprocess
import sys

import pytest

from kstore_jax.corpus.shards import read_dataset
from kstore_jax.pipeline.data import write_datasets
from kstore_jax.pipeline.experiment import parse_rows
from kstore_jax.report.results import read_results
from kstore_jax.writers import journal
from tests.test_your_facts import ROOT, SMALL, kstore
from tests.writers.chat_server import MODEL, running
from tests.writers.rewrites import data_of, read

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
TABLE = """\
name,capital,currency,languages,founded
Chile,Santiago,Peso,Spanish,1818
Mexico,Mexico City,Peso,Spanish,1810
Colombia,Bogotá,Peso,Spanish,1811
Guinea,Conakry,Franc,French,1958
Equatorial Guinea,Malabo,Franc,Spanish;French,1968
Chad,N'Djamena,Franc,French;Arabic,1960
United States,"Washington, D.C.",Dollar,English,1776
Dominica,Roseau,Dollar,English,1978
Dominican Republic,Santo Domingo,Peso,Spanish,1844
Fiji,Suva,Dollar,English,1970
Samoa,Apia,Tala,English,1962
Norway,Oslo,Krone,Norwegian,1814
"""
ONE_ROW = """
from configs import own_facts


def get_config(world):
    config = own_facts.get_config(world)
    config.sweep = [row for row in config.sweep if dict(row)["name"] == "rewritten-links"]
    return config
"""
BAD = {"missing": 0.15, "empty": 0.1, "fail": 0.1}
STRATEGIES = ("questions", "links", "rhymes")
WANTED = 12 * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A folder with the table, its world and a strategy of its own."""
    folder = tmp_path_factory.mktemp("strategies")
    (folder / "countries.csv").write_text(TABLE, encoding="utf-8")
    kstore(folder, "facts", "countries.csv", "--out=countries")
    (folder / "rhymes").mkdir()
    (folder / "rhymes" / "request.txt").write_text("Rhyme about the {noun} {name}.\n")
    (folder / "rhymes" / "closing.txt").write_text("Name the {noun} and every fact.\n")
    return folder


@pytest.fixture(scope="module")
def printed(folder) -> dict[str, str]:
    """What `kstore rewrite` prints for each strategy; its texts are in `countries/rewritten-…`."""
    output = {}
    for strategy in STRATEGIES:
        options = {"strategy": folder / strategy if strategy == "rhymes" else strategy, **BAD}
        with running(world=folder / "countries", **options) as address:
            output[strategy] = kstore(folder, *command(strategy, address, "--attempts=12"))
    return output


def command(strategy: str, address: str, *flags: str) -> list[str]:
    return [
        *("rewrite", f"--config={ROOT}/configs/own_facts.py:countries", f"--strategy={strategy}"),
        *(f"--server={address}", f"--model={MODEL}", f"--out=countries/rewritten-{strategy}"),
        *flags,
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_kept_has_name_and_facts_and_what_is_not_lacks_one(folder, printed, strategy):
    table = list(csv.DictReader(TABLE.splitlines()))
    records = read(folder / "countries" / f"rewritten-{strategy}")
    texts = collections.defaultdict(list)
    for record in records:
        row, text = table[record["person"]], record["text"]
        stated = {name: value.replace(";", ", ") in text for name, value in row.items()}
        lacks = [name for name, is_stated in stated.items() if not is_stated]
        assert record["refused"] == (lacks if text else ["empty"])
        texts[record["person"], record["entry"]].append(record)
    assert len(texts) == WANTED
    for attempts in texts.values():
        assert [record["attempt"] for record in attempts] == [*range(len(attempts))]
        assert [bool(record["refused"]) for record in attempts[:-1]] == [True] * (len(attempts) - 1)
        assert not attempts[-1]["refused"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rejections_and_retries_are_counted(folder, printed, strategy):
    records = read(folder / "countries" / f"rewritten-{strategy}")
    reasons = collections.Counter(reason for each in records for reason in each["refused"])
    first, *counts = printed[strategy].splitlines()
    rejected = sum(bool(record["refused"]) for record in records)
    assert first == (
        f"countries/rewritten-{strategy}: {WANTED} of {WANTED} texts, {len(records)} answers, "
        f"{rejected} rejected"
    )
    names = ("empty", "capital", "currency", "languages", "founded")
    assert {*reasons} == {*names}
    assert rejected == len(records) - WANTED
    lines = [line.split() for line in counts]
    assert {name: int(n) for name, n in lines[: len(names)]} == reasons
    retries, status = lines[len(names) :]
    assert retries[0] == "retries:"
    assert status == ["500", retries[1]]
    assert int(retries[1]) > 0


def test_links_name_those_who_share_a_fact_and_questions_ask_for_each(folder, printed):
    table = {row["name"]: row for row in csv.DictReader(TABLE.splitlines())}
    accepted = {
        strategy: [r["text"] for r in read(folder / "countries" / f"rewritten-{strategy}")]
        for strategy in STRATEGIES
    }
    pattern = re.compile(r"Like ([^.]+), ([\w ]+) has the currency (\w+)\.")
    linked = {match.groups() for text in accepted["links"] for match in pattern.finditer(text)}
    assert {name for _, name, _ in linked} == {*table} - {"Samoa", "Norway"}
    for others, name, currency in linked:
        assert 0 < len(others.split(", ")) <= 3
        assert name not in others.split(", ")
        assert {table[each]["currency"] for each in [name, *others.split(", ")]} == {currency}
    assert not any("Like " in text for text in accepted["questions"] + accepted["rhymes"])
    whole = [r for r in read(folder / "countries" / "rewritten-questions") if not r["refused"]]
    assert {record["text"].count("?") for record in whole} == {4}
    assert not any("?" in text for text in accepted["links"] + accepted["rhymes"])


def rows(folder: pathlib.Path):
    sys.path.insert(0, str(ROOT))
    try:
        from configs.own_facts import get_config
    finally:
        sys.path.remove(str(ROOT))
    return parse_rows(get_config(str(folder / "countries")))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_data_set_of_a_row_has_the_texts_and_the_places_of_their_facts(
    folder, printed, strategy, tmp_path
):
    (row,) = (each for each in rows(folder) if each.label == f"rewritten-{strategy}")
    ((out, manifest),) = write_datasets(row.world, row.data, tmp_path / "data", 1)
    assert manifest["entries"] == WANTED
    texts, decode = read_dataset(out).texts, data_of(row).table.tokenizer.decode
    accepted = read(folder / "countries" / f"rewritten-{strategy}")
    assert sorted(
        decode(texts.tokens[a:b].tolist()) for a, b in itertools.pairwise(texts.offsets)
    ) == sorted(f" {record['text']}" for record in accepted if not record["refused"])


def test_a_row_of_links_is_trained(folder, printed):
    (folder / "one_row.py").write_text(ONE_ROW)
    run = ("sweep", "--config=one_row.py:countries", "--workdir=run", "--workers=1")
    probes = [f"--config.readouts.{probe}.enabled=False" for probe in ("p_probe", "q_probe")]
    kstore(folder, *run, *SMALL, *probes, "--config.finetune.steps=0")
    (row,) = read_results(folder / "run").rows
    assert (row.name, row.noun, row.mixed) == (
        "rewritten-links",
        "country",
        {"rewritten": "countries/rewritten-links"},
    )
    assert row.readouts["recall"]["whole"].keys() == {"mean", *row.attributes}
    assert "multi5 (rewritten-links)" in (folder / "run" / "report.html").read_text()


def test_a_text_without_its_name_is_rejected_though_it_names_another(folder, tmp_path):
    """`Equatorial Guinea` does not name Guinea."""
    world = folder / "countries"
    with running(world=world, strategy="links", nameless=1.0) as address:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "kstore_jax.cli"),
                *command("links", address, f"--out={tmp_path / 'out'}", "--attempts=1"),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert f"{WANTED} texts were rejected 1 times" in done.stderr
    records = journal.read_records(tmp_path / "out" / journal.JOURNAL, {"refused": list})
    assert {tuple(record["refused"]) for _, record in records} == {("name",)}
