"""What a world.toml says, and errors in it."""

import ast
import dataclasses
import pathlib
import textwrap

import pytest

import kstore_jax
from kstore_jax.errors import UserError
from kstore_jax.world.language import load_language
from kstore_jax.world.pools import load_pools
from kstore_jax.world.schema import BUNDLED_WORLD, RESERVED, Attribute, Schema, load_schema
from tests.world.worlds import FILM_ROWS, FILMS, films, write_world

POOLS = {"pools/names.txt": "Ann\nBob\n", "pools/towns.txt": "Rome\nOslo\n"}
TOWNS = 'name = ["names"]\nattributes.town.pool = "towns"\n'


def test_the_bundled_schema():
    schema = load_schema()
    assert schema.names == (
        "birth_date", "birth_city", "university", "major", "company", "company_city",
    )  # fmt: skip
    assert schema.attributes[0].label == "birth date"
    assert schema.pairs == (
        ("birth_date", "birth_city"), ("university", "major"), ("company", "company_city"),
    )  # fmt: skip
    assert schema.groups == ((0, 1), (2, 3), (4, 5))
    assert schema.pronouns == ("she", "he", "they")


def test_the_schema_of_a_table(tmp_path):
    schema = load_schema(str(films(tmp_path)))
    assert schema.names == ("director", "year", "country")
    assert [a.column for a in schema.attributes] == ["director", "year", "made in"]
    assert schema.attributes[1].label == "year of release"
    assert schema.groups == ((1, 2), (0,))
    assert (schema.noun, schema.pronouns, schema.table) == ("film", ("it",), "films.csv")


def test_the_table_of_the_readme_is_a_world(tmp_path):
    readme = (BUNDLED_WORLD / "README.md").read_text()
    toml = textwrap.dedent(readme.split("## A table of your own facts\n\n")[1].split("\n\nWith")[0])
    schema = load_language(str(write_world(tmp_path, toml, {"films.csv": FILM_ROWS}))).schema
    assert schema.names == ("director", "year")


def test_the_readme_lists_every_field_and_source():
    readme = (BUNDLED_WORLD / "README.md").read_text()
    fields = [f.name for kind in (Schema, Attribute) for f in dataclasses.fields(kind)]
    of_files = [field for field in fields if field not in ("folder", "strings")]  # bioD has no file
    assert all(f"`{field}" in readme for field in of_files)


def error_of(folder: pathlib.Path, toml: str, files: dict[str, str]) -> str:
    """The message for a world without its folder."""
    with pytest.raises(UserError) as error:
        load_language(str(write_world(folder, toml, files)))
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name =", "nome =", "world.toml: nome: no such field; did you mean 'name'?"),
        ('["names"]', '"names"', "world.toml: name: expected a list, got 'names'"),
        ('["names"]', "[]", "world.toml: expected one or more parts of a name"),
        ('["names"]', "[3]", "world.toml: name: expected text, got 3"),
        ('name = ["names"]', "", "world.toml: expected one or more parts of a name"),
        ("town.pool", "town.pol", "world.toml: attributes.town.pol: no such field; did you mean"),
        ("town.pool", "Town.pool", "world.toml: attributes.Town: expected a name of letters"),
        ("town.pool", "order.pool", "world.toml: attributes.order: no attribute can have the name"),
        ('town.pool = "towns"', "town.years = 1900", "attributes.town.years: expected a list, got"),
        ('town.pool = "towns"', "town.years = [1]", "attributes.town.years: expected the first"),
        ('town.pool = "towns"', "town.years = [2000, 1990]", "first and last year, from 1 to 9999"),
        ('town.pool = "towns"', "town.pool = 3", "attributes.town.pool: expected text, got 3"),
        ('town.pool = "towns"', "town = {}", "attributes.town: expected one of pool, years, "),
        ('town.pool = "towns"', "town = 1", "attributes.town: expected fields, got 1"),
        ('town.pool = "towns"', 'town.column = "x"', "attributes.town: expected one of pool, "),
        ('"towns"', '"towns"\nattributes.x.function_of = "y"', "no 'y'; valid: town"),
        ('"towns"', '"towns"\nattributes.town.label = "{"', "town.label: expected words"),
        ('"towns"', '"towns"\nattributes.town.years = [1, 2]', "got pool and years"),
        ('attributes.town.pool = "towns"', "", "and one or more attributes"),
        (
            "name =",
            'pronouns = ["xe"]\nname =',
            "pronouns: no 'xe'; did you mean 'he'?",
        ),
        ("name =", 'pairs = [["town"]]\nname =', "world.toml: pairs: expected two attributes a"),
        ("name =", 'pairs = ["town"]\nname =', "world.toml: pairs: expected a list of lists"),
        ("name =", 'pairs = [["town", "twon"]]\nname =', "no 'twon'; did you mean 'town'"),
        ("name =", 'pairs = [["town", "town"]]\nname =', "world.toml: pairs: 'town' is repeated"),
        ("name =", 'noun = "a  b"\nname =', "world.toml: noun: expected words"),
        ("name =", "name = 1\nname =", "world.toml: cannot be read as TOML (Cannot overwrite a v"),
        ('["names"]', '["nomes"]', "pools/nomes.txt: no such file"),
    ],
)
def test_an_error_in_a_world_file_names_the_field(tmp_path, old, new, message):
    assert message in error_of(tmp_path, TOWNS.replace(old, new, 1), POOLS)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Title,", "Name,", "world.toml: name: films.csv has no column 'Title'; valid: Name, "),
        ("director,", "directors,", "world.toml: attributes.director.column: films.csv has no col"),
        ("Title,director", "year,director", "films.csv:1: 'year' repeats line 1"),
        ("1946,USA", "1946", "films.csv:2: expected 4 columns, got 3"),
        ("1946", "", "films.csv:2: year: '' is empty; expected a value"),
        ("Howard Hawks,1959", "Howard {H},1959", "films.csv:6: director: 'Howard {H}' must "),
        ("Rio Bravo", "The Big Sleep", "films.csv:6: 'The Big Sleep' repeats line 2"),
        (FILM_ROWS[FILM_ROWS.index("The Big") :], "", "films.csv: expected a header and a row"),
    ],
)
def test_an_error_in_a_table_names_the_line(tmp_path, old, new, message):
    assert message in error_of(tmp_path, FILMS, {"films.csv": FILM_ROWS.replace(old, new, 1)})


def test_a_missing_world_file_or_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"world\.toml: no such file; expected the description"):
        load_schema(str(tmp_path))
    assert error_of(tmp_path, FILMS, {}) == "films.csv: no such file"


def test_names_of_several_words_are_allowed_in_one_part(tmp_path):
    toml = TOWNS.replace('["names"]', '["names", "more"]')
    load_pools(str(write_world(tmp_path / "a", toml, {**POOLS, "pools/more.txt": "De La\n"})))
    files = {**POOLS, "pools/names.txt": "Ann De\n", "pools/more.txt": "La\nDe La\n"}
    message = error_of(tmp_path / "b", toml, files)
    assert message.startswith("pools/more.txt: names of several words, as in names.txt; expected")


def test_later_pronouns_need_pronouns(tmp_path):
    files = {**POOLS, "templates/town.txt": "{name} chose {value} for {their} home.\n"}
    message = error_of(tmp_path, TOWNS, files)
    assert message == "templates/town.txt:1: {their} needs a world with pronouns"


def test_a_folder_of_templates_is_complete(tmp_path):
    toml = TOWNS + 'attributes.home.pool = "towns"\n'
    files = {**POOLS, "templates/town.txt": "{name} chose {value}.\n"}
    assert error_of(tmp_path, toml, files) == "templates/home.txt: no such file"


def test_no_attribute_has_the_purpose_of_another_draw():
    purposes = set()
    for path in pathlib.Path(kstore_jax.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("random."):
                purposes |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    assert {purpose for purpose in purposes if isinstance(purpose, str)} <= RESERVED
