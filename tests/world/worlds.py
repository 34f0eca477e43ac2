"""Worlds unlike the bundled one, as folders."""

import pathlib

FILMS = """
table = "films.csv"
name = ["Title"]
noun = "film"
pronouns = ["it"]
pairs = [["year", "country"]]

[attributes]
director = {}
year.label = "year of release"
country.column = "made in"
"""
FILM_ROWS = """\
Title,director,year,made in
The Big Sleep,Howard Hawks,1946,USA
"Yes, Minister of Fish",Ana Ruiz,1999,Spain
Amélie,Jean-Pierre Jeunet,2001,France
M,Fritz Lang,1931,Germany
Rio Bravo,Howard Hawks,1959,USA
The Sting,George Roy Hill,1973,USA
"""
FILM_TEMPLATES = {
    "director": "{name} was directed by {value}.\n{name's} director {was|were} {value}.\n",
    "year": "Cinemas first showed {name:them} in {value} with {their} trailer.\n",
    "country": "{name} comes from {value}.\nThey made {name:them} in {value}.\n",
}


def write_world(folder: pathlib.Path, toml: str, files: dict[str, str]) -> pathlib.Path:
    """Writes a world; `files` by path."""
    for path, content in {"world.toml": toml, **files}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    return folder


def films(folder: pathlib.Path) -> pathlib.Path:
    """Six films from a table, with templates and default questions."""
    templates = {f"templates/{name}.txt": text for name, text in FILM_TEMPLATES.items()}
    return write_world(folder, FILMS, {"films.csv": FILM_ROWS, **templates})


def drawn(
    folder: pathlib.Path, attributes: int, parts: int, pronouns: tuple[str, ...] = ()
) -> pathlib.Path:
    """A world of pools: attribute k has k + 2 values, each part of a name 3 values; every third
    attribute is a function of the one before. Attributes 0 and 1, if there are, are a pair."""
    toml = [
        f"name = {[f'part{p}' for p in range(parts)]}",
        f"pronouns = {list(pronouns)}",
        f"pairs = {[['fact_0', 'fact_1']] if attributes > 1 else []}",
    ]
    files = {
        f"pools/part{p}.txt": "".join(f"{'Van ' * (p == 0)}P{p}n{i}\n" for i in range(3))
        for p in range(parts)
    }
    for a in range(attributes):
        if a % 3 == 2:
            toml.append(f'attributes.fact_{a}.function_of = "fact_{a - 1}"')
            continue
        toml.append(f'attributes.fact_{a}.pool = "fact_{a}"')
        followed = a % 3 == 1 and a + 1 < attributes
        lines = (f"Blue {a} v{i}" + followed * f"; Sea {i % 2}" for i in range(a + 2))
        files[f"pools/fact_{a}.txt"] = "\n".join(lines) + "\n"
    return write_world(folder, "\n".join(toml), files)
