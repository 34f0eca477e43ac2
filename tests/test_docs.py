"""README and docs: their length, links and commands, and the picture of the finding."""

import pathlib
import re
import runpy

import pytest

import kstore_jax
from kstore_jax.cli.flags import check_field
from kstore_jax.cli.main import COMMANDS
from kstore_jax.pipeline.experiment import default

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README_WORDS = 1200


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: pathlib.Path) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading of it."""
    links = re.findall(r"\]\(\s*([^)\s]+)\s*\)", page.read_text())
    return [link for link in links if not re.match(r"[a-z]+:", link) and not resolves(page, link)]


def resolves(page: pathlib.Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= README_WORDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_resolves(page):
    assert not broken_links(page)


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A: heading, `x`\n[a](#a-heading-x) [b](#other) [c](no.md) [d](https://e.org)"
    )
    assert broken_links(page) == ["#other", "no.md"]


def values(svg: str) -> list[str]:
    """The values of a drawing, without its layout, which depends on the fonts of a machine."""
    return re.findall(r'aria-label="([^"]* – [^"]*)"', svg)


def test_the_picture_of_the_finding_is_that_of_the_table():
    script = runpy.run_path(str(ROOT / "docs" / "finding.py"))
    chart = script["finding"](script["table"]())
    drawn = values((ROOT / "docs" / "finding.svg").read_text())
    assert len(drawn) == 2 * 6 * (1 + 1 + 3 + 1)  # a bar, a range, three seeds, the paper
    assert drawn == values(chart.printed_svg)


def test_the_tables_of_results_are_those_of_their_files():
    script = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    text = (ROOT / "docs" / "results.md").read_text()
    for draw in script["TABLES"]:
        table = draw()
        assert len(table) > 2
        assert script["markdown"](table) in text


def commands(page: pathlib.Path) -> list[str]:
    """The `kstore` commands of a page, in code blocks and in code spans."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    code = [*lines, *re.findall(r"`([^`\n]+)`", text)]
    return [
        found[1] for line in code if (found := re.search(r"(?:^|/|-c 0 )(kstore [a-z].*)", line))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_fields_exist(page):
    base = default()
    for command in commands(page):
        name = command.split()[1]
        assert name in COMMANDS, command
        flags = set(re.findall(r"(?<= --)[a-z-]+(?=[=\s]|$)", command)) - {"help"}
        assert flags <= {*COMMANDS[name].flags, "config"}, command
    if page.name != "extending.md":  # its fields are of plug-ins; other tests set them
        for field in re.findall(r"--config\.([a-z_0-9.]+)=", page.read_text()):
            check_field(base, field, field)


def test_the_examples_of_the_python_page_run(finished, tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks:
        exec(code.replace("runs/quickstart", str(finished)), names)
    printed = capsys.readouterr().out
    assert printed.count("; the truth: ") == 2
    assert printed.count(" finished\n") == printed.count(" answers 0.") == 2
    assert printed.count(" missed: ") == 3
    assert printed.count("after block ") == 1
    assert "<svg" in (tmp_path / "attention.svg").read_text()
    drawing = next(code for code in blocks if "attention.svg" in code)
    assert len([line for line in drawing.splitlines() if line]) <= 15


def test_the_expressions_for_pandas_run(finished):
    pandas = pytest.importorskip("pandas")
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("run.") and "pandas()" in line]
    run = kstore_jax.load(finished)
    for found in [eval(line, {"run": run}) for line in lines]:
        assert isinstance(found, pandas.DataFrame | pandas.Series)
        assert len(found) > 10
