"""Figures for print are the charts of the page: of chosen rows, in one file."""

import re

import pytest

from kstore_jax.cli.main import main
from kstore_jax.errors import UserError
from kstore_jax.report import figures
from kstore_jax.report.page import write
from tests.report.runs import CONTRAST, SHUFFLED, SINGLE, a_row, a_run

FOUR = (SINGLE, SHUFFLED, a_row("multi2", qa=0.2, probe=0.3), a_row("multi2+permute", probe=0.4))


def values(svg: str) -> list[str]:
    """The label of every mark."""
    return re.findall(r'aria-label="([^"]*: [^"]*)"', svg.replace("\u202f", " "))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return a_run(tmp_path_factory.mktemp("four"), FOUR)


def test_kinds_are_those_of_the_page_and_a_figure_of_all_rows_is_its_chart(run, tmp_path):
    assert [*figures.kinds(run)] == ["answers", "p-probing", "q-probing", "loss"]
    for kind, name in (("answers", "answers"), ("p-probing", "p-probing-1"), ("loss", "loss")):
        out = tmp_path / f"{kind}.svg"
        figures.draw(run, kind, (), out)
        theirs = (run / "figures" / f"{name}.svg").read_text()
        assert out.read_text() == re.sub("<!-- kstore_jax [0-9a-f]+ -->", "", theirs)


def test_rows_are_chosen_by_name_in_order_with_their_intervals(four, tmp_path):
    out = tmp_path / "new" / "answers.svg"
    figures.draw(four, "answers", ["multi2+", "single"], out)
    drawn = values(out.read_text())
    labels = dict.fromkeys(value.split(",")[0] for value in drawn)
    assert [*labels] == ["multi2+permute", "single"]
    assert sum("95 % interval" in value for value in drawn) >= 2 * 6


def test_more_than_two_rows_of_one_kind_are_one_figure(four):
    drawn = figures.kinds(four)["p-probing"]
    assert drawn.title == "P-probing"
    text = drawn.printed_svg
    for row in FOUR:
        assert f">{row.dataset}: this run<" in text
    both = figures.kinds(four, ["multi2", "multi2+permute"])["p-probing"]
    assert ">multi2: this run<" in both.printed_svg
    assert ">single: this run<" not in both.printed_svg


@pytest.mark.parametrize(
    ("suffix", "begins"), [(".svg", b"<svg"), (".png", b"\x89PNG"), (".pdf", b"%PDF")]
)
def test_the_suffix_says_the_format_and_a_new_page_leaves_the_file(tmp_path, suffix, begins):
    run = a_run(tmp_path, CONTRAST)
    out = tmp_path / "figures" / f"mine{suffix}"
    argv = ["--kind=loss", f"--out={out}"]
    assert main(["figure", str(run), *argv]) == 0
    assert out.read_bytes().startswith(begins)
    content = out.read_bytes()
    write([run], run)
    assert out.read_bytes() == content


@pytest.mark.parametrize(
    ("kind", "rows", "out", "message"),
    [
        (
            "answer",
            (),
            "x.pdf",
            r"^--kind: .*did you mean 'answers'\?; this run has agreem.*, p-probing, ",
        ),
        ("loss", ["sinle"], "x.pdf", "^--rows: no row has the name 'sinle'; expected one of sing"),
        ("loss", ["multi2+p", "mul"], "x.pdf", "^--rows: several rows begin with 'mul'; expected "),
        ("loss", (), "x.jpg", r"^--out: expected a file that ends with \.svg, \.png or \.pdf, got"),
    ],
)
def test_a_wrong_kind_row_or_suffix_is_one_line(four, tmp_path, kind, rows, out, message):
    with pytest.raises(UserError, match=message):
        figures.draw(four, kind, rows, tmp_path / "new" / out)
    assert [*tmp_path.iterdir()] == []


def test_the_command_lists_the_kinds_of_a_run(run, capsys):
    assert main(["figure", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["answers", "p-probing", "q-probing", "loss"]
    for argv, message in (
        (["--kind=loss"], "kstore: --out is missing; expected a file such as figure.pdf\n"),
        (["--out=x.pdf"], "kstore: --out: expected with --kind\n"),
    ):
        assert main(["figure", str(run), *argv]) == 2
        assert capsys.readouterr().err == message
