"""Worlds from tables of facts: guesses, reports, files, and bad tables."""

import csv
import json
import pathlib

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from kstore_jax.cli.main import main
from kstore_jax.corpus.encode import encode_biographies, token_table
from kstore_jax.corpus.facts import Facts, write_world
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.errors import UserError
from kstore_jax.world.biographies import Variant, write_biographies
from kstore_jax.world.language import load_language, pieces_to_text
from kstore_jax.world.people import draw_people, full_names, value_texts

FILMS = """\
Id,Title,Director,Year of Release,Country,Cast,Note
1,Metropolis,Fritz Lang,1927,Germany,Brigitte Helm; Alfred Abel,
2,Casablanca,Michael Curtiz,1942,USA,Humphrey Bogart; Ingrid Bergman,a
3,Rashomon,Akira Kurosawa,1950,Japan,Toshiro Mifune,
4,Airplane!,Jim Abrahams,1980,USA,Robert Hays,
5,千と千尋の神隠し,宮崎 駿,2001,Japan,柊 瑠美;柊 瑠美,
6,المومياء,شادي عبد السلام,1969,Egypt,أحمد مرعي,
7,Amélie 🎬,Jean-Pierre Jeunet,2001,France,Audrey Tautou; Mathieu Kassovitz,
8,दिल्ली,राज,2009,India,"अ, ब; क",
9,"Paris, Texas",Wim Wenders,1984,Germany,,
10,Paris,Anna  Łęcka,2008,Paris,Juliette Binoche,
11,Rashomon,Somebody,1990,Japan,X,
"""


def written(folder: pathlib.Path, content: str = FILMS, file: str = "films.csv", **flags) -> Facts:
    path = folder / file
    path.write_text(content, encoding="utf-8")
    return write_world(path, folder / "world", **flags)


def texts_of(folder: pathlib.Path, variant: str) -> list[str]:
    """The first biography of each row, whose tokens are read back."""
    language = load_language(str(folder / "world"))
    people = draw_people(language.pools, 0, np.arange(len(language.pools.name_rows)))
    kind, table = Variant.parse(variant), token_table(language, gpt2())
    texts = write_biographies(language, 0, kind, people, np.zeros(len(people), int))
    encoded, found = encode_biographies(table, texts), []
    for i, pieces in enumerate(texts.texts.pieces):
        start, stop = encoded.offsets[i : i + 2]
        found.append(pieces_to_text(language, pieces))
        assert gpt2().decode(encoded.tokens[start:stop]) == found[-1]
        values = zip(encoded.value_spans[i], value_texts(language.pools, people)[i], strict=True)
        for (first, last), value in values:
            assert gpt2().decode(encoded.tokens[start + first : start + last]) == f" {value}"
    return found


def test_a_table_is_reported(tmp_path):
    facts = written(tmp_path)
    assert (facts.rows, facts.written, facts.name, facts.noun) == (11, 9, ("Title",), "film")
    assert facts.guessed == ("name", "attributes", "noun", "separator")
    assert [column.name for column in facts.columns] == [
        "id", "director", "year_of_release", "country", "cast"
    ]  # fmt: skip
    country, cast = facts.columns[3:]
    assert (country.label, country.values, country.commonest) == ("country", 7, "USA")
    assert country.majority == pytest.approx(2 / 9)
    assert country.in_names == 1  # Paris
    assert (cast.separator, cast.empty) == (";", 1)
    assert facts.columns[2].label == "year of release"
    assert facts.unused == {"Note": "91% of its cells are empty"}
    assert facts.empty == [f"{tmp_path}/films.csv:10: Cast"]
    assert facts.doubled == [f"{tmp_path}/films.csv:12: 'Rashomon' is in line 4"]


def test_texts_of_any_script_are_tokenised_without_damage(tmp_path):
    written(tmp_path, attributes=["Director", "Year of Release"])
    texts = texts_of(tmp_path, "single+fullname")
    assert len(texts) == 10
    for name, director in (
        ("千と千尋の神隠し", "宮崎 駿"),
        ("المومياء", "شادي عبد السلام"),
        ("Amélie 🎬", "Jean-Pierre Jeunet"),
        ("दिल्ली", "राज"),
    ):
        (text,) = (text for text in texts if name in text)
        assert director in text
        pieces = gpt2().encode([text])  # as the whole text is tokenised
        assert gpt2().decode(pieces[0]) == text


def test_tokens_are_those_of_the_whole_text_where_names_end_in_letters_or_emoji(tmp_path):
    written(
        tmp_path, FILMS.replace("4,Airplane!", "4,Airplane"), attributes=["Director", "Country"]
    )
    language = load_language(str(tmp_path / "world"))
    people = draw_people(language.pools, 0, np.arange(len(language.pools.name_rows)))
    kind, table = Variant.parse("multi1+permute"), token_table(language, gpt2())
    texts = write_biographies(language, 0, kind, people, np.zeros(len(people), int))
    tokens = encode_biographies(table, texts).tokens.tolist()
    whole = [pieces_to_text(language, pieces) for pieces in texts.texts.pieces]
    assert tokens == [token for ids in gpt2().encode(whole) for token in ids]


def test_several_values_in_a_cell_are_one_fact(tmp_path):
    written(tmp_path, attributes=["Cast", "Country"])
    pools = load_language(str(tmp_path / "world")).pools
    people = draw_people(pools, 0, np.arange(9))
    rows = zip(full_names(pools, people), value_texts(pools, people), strict=True)
    cast = {name: values[0] for name, values in rows}
    assert cast["Metropolis"] == "Brigitte Helm, Alfred Abel"
    assert cast["千と千尋の神隠し"] == "柊 瑠美"  # repeated in its cell
    starts, members = pools.accepted["cast"]
    values = pools.values["cast"]
    of_each = [members[starts[i] : starts[i + 1]] for i in range(len(values))]
    single = {value: [values[m] for m in of] for value, of in zip(values, of_each, strict=True)}
    assert single["Brigitte Helm, Alfred Abel"] == ["Brigitte Helm", "Alfred Abel"]
    assert single["Brigitte Helm"] == single["Robert Hays"] == []
    assert single["अ, ब, क"] == ["अ, ब", "क"]
    assert "country" not in pools.accepted


def test_the_world_can_be_edited_and_has_five_wordings(tmp_path):
    written(tmp_path, attributes=["Country"])
    world = tmp_path / "world"
    sentences = (world / "templates" / "country.txt").read_text().splitlines()
    assert len(sentences) == 5
    assert (
        (world / "questions" / "country.txt")
        .read_text()
        .startswith("What is the country of {name}?\n")
    )
    toml = (world / "world.toml").read_text().replace('label = "country"', 'label = "land"')
    (world / "world.toml").write_text(toml)
    (world / "templates" / "country.txt").write_text("{name} comes from {value}.\n")
    assert texts_of(tmp_path, "single")[0] == " Metropolis comes from Germany."
    assert load_language(str(world)).schema.attributes[0].label == "land"


def test_every_format_makes_the_same_world(tmp_path):
    heads, *rows = csv.reader(FILMS.splitlines())
    records = [dict(zip(heads, row, strict=True)) for row in rows]
    for record in records:
        record["Year of Release"] = int(record["Year of Release"])
        record["Cast"] = [name.strip() for name in record["Cast"].split(";") if name]
        record["Note"] = record["Note"] or None
    lines = "\ufeff" + "\n\n".join(json.dumps(record) for record in records)
    (tmp_path / "films.jsonl").write_text(lines, encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "films.parquet")
    tabs = "\r\n".join("\t".join(row) for row in (heads, *rows))
    (tmp_path / "films.tsv").write_bytes(tabs.encode())
    (tmp_path / "films.csv").write_text(FILMS)
    semicolons = "\n".join(";".join(f'"{cell}"' for cell in row) for row in (heads, *rows))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "films.csv").write_text(semicolons)
    found = {}
    for name in ("films.csv", "films.jsonl", "films.parquet", "films.tsv", "more/films.csv"):
        out = tmp_path / name.replace(".", "-").replace("/", "-")
        facts = write_world(tmp_path / name, out)
        language = load_language(str(out))
        people = draw_people(language.pools, 0, np.arange(9))
        accepted = language.pools.accepted["cast"]
        found[name] = (
            full_names(language.pools, people),
            value_texts(language.pools, people),
            [part.tolist() for part in accepted],
            [(column.values, column.empty, column.majority) for column in facts.columns],
            len(facts.empty),
        )
    assert all(each == found["films.csv"] for each in found.values())


BAD = {
    "films.csv": {
        "1,Metropolis,Fritz Lang": ("1,Metropolis", "films.csv:2: expected 7 columns, got 6"),
        "Fritz Lang": ("Fritz {L}", "films.csv:2: Director: 'Fritz {L}' must hold no braces"),
        "Michael Curtiz": ("A\x07B", "films.csv:3: Director: 'A\\x07B' must hold no control"),
        "Title": ("Director", "films.csv: two columns have the name 'Director'"),
        "Rashomon,Akira": ('"Rash"omon,Akira', "films.csv:4: "),
        "Humphrey Bogart; Ingrid Bergman": (" ;; ", "films.csv:3: Cast: ';;' has no value beside"),
    },
    "films.jsonl": {
        '"b"': ("b", "films.jsonl:2: expected a JSON object ("),
        '{"n": "b", "x": 2}': ("[1]", "films.jsonl:2: expected a JSON object, got [1]"),
        "2}": ('{"y": 3}}', "films.jsonl:2: x: expected text or a number, got {'y': 3}"),
        "2": ('["a|b"]', "films.jsonl:2: x: expected no '|' in a list"),
        '"x": 2': ('"x": "\\ud800"', "films.jsonl:2: x: '\\ud800' must hold no control"),
    },
}
CONTENT = {"films.csv": FILMS, "films.jsonl": '{"n": "a", "x": 1}\n{"n": "b", "x": 2}\n'}


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [(name, old, *case) for name, cases in BAD.items() for old, case in cases.items()],
)
def test_a_bad_table_is_refused_with_row_and_column(tmp_path, name, old, new, message):
    assert CONTENT[name].count(old) >= 1
    with pytest.raises(UserError) as error:
        written(tmp_path, CONTENT[name].replace(old, new, 1), name)
    assert str(error.value).startswith(f"{tmp_path}/{message}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_a_bad_file_of_parquet_names_the_row(tmp_path):
    rows = [{"n": "a", "x": "1"}, {"n": "b", "x": "{2}"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "f.parquet")
    with pytest.raises(UserError, match=r"f\.parquet: row 2: x: '\{2\}' must hold no braces"):
        write_world(tmp_path / "f.parquet", tmp_path / "world")
    (tmp_path / "f.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"f\.parquet: cannot be read as Parquet \("):
        write_world(tmp_path / "f.parquet", tmp_path / "world")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["films.csv"], "--out is missing; expected a folder such as worlds/films"),
        (["--out=w"], "facts: expected one table, .csv, .tsv, .jsonl or .parquet"),
        (["none.csv", "--out=w"], "none.csv: no such file"),
        (["films.xls", "--out=w"], "films.xls: expected a table, .csv, .tsv, .jsonl, .parquet"),
        (["films.csv", "--out=full"], "--out: full: is not empty; expected a new folder"),
        (["films.csv", "--out=w", "--name=Titel"], "--name: films.csv has no column 'Titel'; did"),
        (["films.csv", "--out=w", "--attributes=Title"], "--attributes: 'Title' is the name"),
        (["films.csv", "--out=w", "--attributes=Id,Id"], "--attributes: 'Id' is repeated"),
        (["films.csv", "--out=w", "--noun=a-b"], "--noun: expected words, got 'a-b'"),
        (["empty.csv", "--out=w"], "empty.csv: has no rows; expected a row for each thing"),
        (["same.csv", "--out=w"], "same.csv: no column with another text in every row"),
        (["latin.csv", "--out=w"], "latin.csv: cannot be read as UTF-8 text ("),
    ],
)
def test_bad_flags_and_files_are_one_line(tmp_path, monkeypatch, capsys, argv, line):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("films.csv").write_text(FILMS)
    pathlib.Path("films.xls").write_text(FILMS)
    pathlib.Path("empty.csv").write_text("a,b\n")
    pathlib.Path("same.csv").write_text("a,b\nx,1\nx,2\n")
    pathlib.Path("latin.csv").write_bytes("a,b\ncafé,1\n".encode("latin-1"))
    pathlib.Path("full").mkdir()
    pathlib.Path("full", "file").touch()
    assert main(["facts", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"kstore: {line}")
    assert captured.err.count("\n") == 1
    assert not pathlib.Path("w").exists()


def test_the_report_is_printed_and_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("films.csv").write_text(FILMS)
    assert main(["facts", "films.csv", "--out=a"]) == 0
    text = capsys.readouterr().out
    assert "name: Title (guessed; --name=COLUMN chooses)" in text
    assert "left out: 1 row with an empty cell, first films.csv:10: Cast" in text
    assert main(["facts", "films.csv", "--out=b", "--json", "--name=Title", "--noun=movie"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["noun"], report["doubled"]) == ("movie", 1)
    assert report["guessed"] == ["attributes", "separator"]


def test_attributes_get_names_in_any_script(tmp_path):
    content = "名,监制,Order,2nd Prize,Épée,Epee\na,x,1,2,3,4\nb,y,2,3,4,5\n"
    facts = written(tmp_path, content, name=["名"])
    assert [(column.name, column.label) for column in facts.columns] == [
        ("fact_1", "监制"),
        ("the_order", "order"),
        ("fact_2nd_prize", "2nd prize"),
        ("epee", "épée"),
        ("epee_5", "epee"),
    ]
    (first, _) = texts_of(tmp_path, "single+fullname")
    assert "监制" in first
    assert "épée" in first
