"""The page is complete, self-contained, and a function of the results."""

import base64
import dataclasses
import hashlib
import html
import itertools
import pathlib
import re
import urllib.parse

import pytest

from kstore_jax.charts.drawing import as_label
from kstore_jax.report import page as report
from tests.report.runs import (
    CONTRAST,
    SHUFFLED,
    SINGLE,
    a_row,
    a_run,
    csv_of,
    published,
    text_of,
    write_page,
)
from tests.world.bundled import ATTRIBUTES

PACKAGE = pathlib.Path(report.__file__).parents[1]


def test_the_page_needs_nothing_outside_itself(page):
    assert not re.search(r"https?:|@import|<link|<img|src=|url\(", page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page


def test_the_page_is_well_formed(page):
    page = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    opened = re.findall(r"<([a-zA-Z0-9]+)(?: [^>]*[^>/])?>", page)
    closed = re.findall(r"</([a-zA-Z0-9]+)>", page)
    void = ("meta", "input")
    assert sorted(name for name in opened if name not in void) == sorted(closed)


def test_headings_are_in_order(page):
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(level <= before + 1 for before, level in itertools.pairwise(levels))


def test_the_page_holds_our_numbers_and_the_paper_s(page):
    text = text_of(page)
    for row in CONTRAST:
        for share in row.readouts["qa"]["extraction"]["test"]["exact"].values():
            assert f" {100 * share:.1f} " in text
        for share in published(row.dataset).qa.values():
            assert f" {100 * share:.1f} " in text
    for words in ("100,000 people, 124M parameters", "287", "1,065,728", "jax 0.10.2", "402.1"):
        assert words in text
    for words in ("git b5ec04e05f", "cpu:0", "below 100 %", "results.json"):
        assert words in text


def test_the_page_begins_with_one_person_held_out(page):
    sections = re.findall(r'<section id="([^"]+)"', page)
    assert sections[:2] == ["opening-examples", "glance"]
    own = page[page.index('id="opening-examples"') : page.index('id="glance"')]
    assert own.count("<h3>") == len(CONTRAST)
    assert own.count('<mark class="wrong">Law ✗ <small>the major is right</small></mark>') == 2
    assert own.count('<mark class="wrong">✗ Law</mark>') == len(ATTRIBUTES)  # of `single`
    assert own.count("<mark>✓ the ") == len(ATTRIBUTES)
    assert own.count("5 of 6 facts right") == 2


def test_a_page_about_a_table_has_its_noun_for_people(tmp_path):
    few = {"world__people": 100, "world__folder": "countries"}
    rows = [
        a_row(dataset, **{**few, **fields})
        for dataset in ("single", "multi5+permute")
        for fields in ({}, {"world__people": 400}, {"finetune__people_fraction": 0.5})
    ]
    run = a_run(tmp_path, [dataclasses.replace(row, noun="country") for row in rows])
    page = write_page(run).partition("<body>")[2]
    words = re.findall(r"[^\s\"<>]+", html.unescape(page))
    assert not [word for word in words if re.fullmatch(r"\W*(person|people)('s)?\W*", word, re.I)]
    text = text_of(f"<body>{page}")
    for expected in (
        "One country held out",
        "Answers about countries held out",
        "one text about each country",
        "how often pretraining reads about each country",
        "bootstrap over countries",
        "countries whose questions are trained",
        "answers by countries",
    ):
        assert expected in text
    both = [*CONTRAST, dataclasses.replace(rows[0], noun="country")]
    assert "Answers about people held out" in text_of(write_page(a_run(tmp_path / "both", both)))


def test_every_class_of_a_page_has_a_style_and_every_style_a_class(page):
    page = re.sub(r"(<svg[^>]*>).*?</svg>", r"\1", page, flags=re.DOTALL)
    style, body = re.findall(r"<style>(.*?)</style>|<body>(.*)", page, re.DOTALL)
    styled = {*re.findall(r"\.([a-z_]+)", re.sub(r"\{[^{}]*\}", "{}", style[0]))}
    classes = {name for names in re.findall(r'class="([^"]*)"', body[1]) for name in names.split()}
    assert classes <= styled
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    assert {name for name in styled if f'"{name.removesuffix("_marks")}"' not in source} == set()


def test_text_from_data_is_escaped(tmp_path):
    page = write_page(a_run(tmp_path, [a_row('<b onx="1">&$x_$')]))
    assert "<b onx" not in page
    assert "&lt;b onx=&quot;1&quot;&gt;&amp;$x_$" in page


def test_every_chart_is_on_the_page_and_a_file(run, page):
    files = sorted((run / "figures").glob("*"))
    names = {"answers", "p-probing-1", "q-probing", "loss"}
    assert {file.name for file in files} == {
        f"{n}.{s}" for n in names for s in ("svg", "png", "pdf")
    }
    assert len(names) == page.count("<figure") == page.count("<svg ")
    starts = {".png": b"\x89PNG", ".pdf": b"%PDF-1.", ".svg": b"<svg "}
    for file in files:
        assert file.read_bytes().startswith(starts[file.suffix])
        assert file.stat().st_size > 8_000
        assert f'href="figures/{file.name}"' in page
    alts = re.findall(r'class="alt">([^<]+)', page)
    assert len(alts) == len(names)
    assert any("university 86.7" in alt for alt in alts)
    assert any("Pretraining loss" in alt for alt in alts)


def test_a_second_page_is_the_same_and_leaves_nothing_else(run, page, tmp_path):
    other = report.write([run], tmp_path / "deep" / "out")
    assert len(re.findall("<figure", other.read_text())) == page.count("<figure")
    assert 'href="results.json"' in page
    assert 'href="results.json"' not in other.read_text()
    (link,) = re.findall(r'href="([^"]*results\.json)"', other.read_text())
    assert (other.parent / link).resolve() == (run / "results.json").resolve()
    assert not list(tmp_path.rglob("*.writing")) + list(run.rglob("*.writing"))
    assert write_page(run) == page


def test_stale_pictures_are_removed_and_pictures_of_others_stay(tmp_path):
    def pictures():
        return {path.name for path in (tmp_path / "figures").iterdir()}

    write_page(a_run(tmp_path, [dataclasses.replace(SINGLE, losses=[])]))
    drawn = pictures()
    svg = (tmp_path / "figures" / "answers.svg").read_bytes()
    theirs = {
        "answers-9.png": b"\x89PNG, by another hand",
        "mine.txt": b"words",
        "edited.svg": svg.replace(b"<svg", b"<svg id='mine'", 1),
    }
    for name, content in theirs.items():
        (tmp_path / "figures" / name).write_bytes(content)
    for name in drawn:
        picture = tmp_path / "figures" / name
        picture.with_stem(f"{picture.stem}-stale").write_bytes(picture.read_bytes())
    assert {"answers-stale.svg", "answers-stale.png", "answers-stale.pdf"} <= pictures()
    page = write_page(a_run(tmp_path, [dataclasses.replace(SHUFFLED, losses=[])]))
    linked = {urllib.parse.unquote(name) for name in re.findall(r'href="figures/([^"]+)"', page)}
    assert pictures() == linked | set(theirs)
    for name, content in theirs.items():
        assert (tmp_path / "figures" / name).read_bytes() == content


def test_every_chart_has_its_values_as_a_table_and_as_csv(page):
    assert page.count(">Values</summary>") == page.count("<figure")
    (_, _, *names), *lines = csv_of(page, "answers")
    shares = {
        tuple(line[:2]): dict(zip(names, map(float, line[2:]), strict=True)) for line in lines
    }
    for row in CONTRAST:
        answers = row.readouts["qa"]["extraction"]["test"]["exact"]
        ours = {as_label(n): pytest.approx(100 * x, abs=6e-4) for n, x in answers.items()}
        assert shares[row.dataset, "this run"] == ours
        printed = {as_label(n): 100 * share for n, share in published(row.dataset).qa.items()}
        assert shares[row.dataset, "the paper"] == pytest.approx(printed)
        assert (row.dataset, "majority guess") in shares
    head, *lines = csv_of(page, "p-probing-1")
    assert head[:4] == ["dataset", "whose", "before the", "birth date"]
    assert len(lines) == 2 * 2 * 7
    assert lines[1][:5] == [
        "single",
        "this run",
        "2nd",
        "",
        "5.0",
    ]  # the first fact is stated by then
    head, *lines = csv_of(page, "rows")
    assert [*dict.fromkeys(line[1] for line in lines)] == ["single", "multi5+permute"]
    assert {len(line) for line in lines} == {len(head)}
    for row in CONTRAST:
        written = [line[6:] for line in lines if line[1] == row.dataset]
        expected = [["" if x is None else str(x) for x in each.values()] for each in row.lines()]
        assert written == expected


def test_every_mark_has_its_value_as_a_label(page):
    text = html.unescape(page).replace("\N{NARROW NO-BREAK SPACE}", " ")
    for mark in (
        "multi5+permute, this run – university: 86.7 %, 95 % interval 85.7 to 87.7 %",
        "single, the paper – birth date: 33.5 %",
        "single, majority guess – birth date: 2.0 %",
        "before the 1st attribute, university: 38.0 %",
        "multi5+permute, this run – university, first token: 93.0 %, 95 % interval 92.0 to 94.0 %",
        "single – step 1, 3.0 exposures: 7.000",
    ):
        assert f'aria-label="{mark}"' in text


def test_several_seeds_have_a_row_each_and_a_mean(tmp_path):
    rows = [
        a_row(row.dataset, s, row.readouts["qa"]["extraction"]["test"]["exact"]["mean"] + s / 50)
        for row in CONTRAST
        for s in (0, 1)
    ]
    text = text_of(write_page(a_run(tmp_path, rows)))
    for share in (0.031, 0.051, 0.041, 0.864, 0.884, 0.874):
        assert f" {100 * share:.1f} " in text
    assert text.count("this run, mean of 2") == 2
    assert "seed 1" in text
    assert "one text about each person answers 4.1 %" in text


def test_several_runs_make_one_page_with_each_row_once(tmp_path):
    runs = [
        a_run(tmp_path / "a", CONTRAST),
        a_run(tmp_path / "b", [SINGLE, a_row("multi2", qa=0.5)]),
    ]
    page = report.write(runs, tmp_path / "out").read_text()
    _, *lines = csv_of(page, "rows")
    datasets = [*dict.fromkeys(line[1] for line in lines)]
    assert datasets == ["single", "multi5+permute", "multi2"]
    assert len({tuple(line[:9]) for line in lines}) == len(lines)
    for link in ("../a/results.json", "../b/results.json"):
        assert f'href="{link}"' in page
    assert "this run, mean of" not in page
    assert "multi2, this run – university" in page
    assert {label for label, *_ in csv_of(page, "loss")[1:]} == {
        "single",
        "multi5+permute",
        "multi2",
    }


def test_without_metrics_there_is_no_loss_curve(tmp_path):
    page = write_page(a_run(tmp_path, [dataclasses.replace(SINGLE, losses=[])]))
    assert page.count("<figure") == 3
    assert "Pretraining loss" not in page
    assert "3.1" in text_of(page)


def test_the_page_is_a_function_of_the_results_file(tmp_path):
    page = write_page(a_run(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "figures",
        "report.html",
        "results.json",
    ]
    assert "Pretraining loss" in page
    assert "Every setting" in page


def test_evaluations_during_pretraining_are_drawn(tmp_path):
    assert "The model while it was pretrained" not in write_page(a_run(tmp_path, [SINGLE]))
    names = ("bio_train_first", "bio_test_first", "qa_train_first", "qa_test_first")
    lines = [
        {"step": s, "exposures": 3.0 * s, "evaluation": dict.fromkeys(names, s / 40)}
        for s in range(10, 40, 10)
    ]
    page = write_page(a_run(tmp_path, [dataclasses.replace(SINGLE, evaluations=lines)]))
    assert "The model while it was pretrained" in page
    assert "biographies, P_test: 75.0" in page
    assert any("dynamics-1" in path.name for path in (tmp_path / "figures").glob("*"))
