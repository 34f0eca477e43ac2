"""The page in a browser, with pointer, keyboard, phone and printer."""

import collections
import contextlib
import csv
import dataclasses
import io
import pathlib
import shutil
from collections.abc import Sequence

import pytest

from kstore_jax.charts import drawing
from kstore_jax.pipeline.row import Row
from kstore_jax.report import page as report
from tests.report.runs import a_row, a_run, changed, csv_of, with_seed
from tests.report.test_agreement import sixteen
from tests.world.bundled import ATTRIBUTES

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
ROWS = (a_row(qa=0.031), a_row("multi2", qa=0.4), a_row("multi5+permute", qa=0.864, probe=0.93))
NAMES = ("bio_train_first", "bio_test_first", "qa_train_first", "qa_test_first", "qa_test_exact")


def an_evaluated_run(folder: pathlib.Path, rows: Sequence[Row]) -> pathlib.Path:
    """A run whose pretraining was evaluated every 4 steps."""
    lines = [
        {"step": s, "exposures": s / 2, "evaluation": dict.fromkeys(NAMES, s / 400)}
        for s in range(4, 400, 4)
    ]
    return a_run(folder, [dataclasses.replace(row, evaluations=lines) for row in rows])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    rows = [with_seed(row, seed) for row in ROWS for seed in (0, 1)]
    folder = an_evaluated_run(tmp_path_factory.mktemp("run"), rows)
    return report.write([folder], folder)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium, or chromium-browser")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, page):
    """`(**options) -> tab` with the page. Afterwards it checks that the browser logged no error and
    requested this file only."""
    errors, requests = [], []
    with contextlib.ExitStack() as stack:

        def open_(**options):
            context = stack.enter_context(contextlib.closing(browser.new_context(**options)))
            tab = context.new_page()
            tab.on("console", lambda message: errors.append(message.text))
            tab.on("pageerror", lambda error: errors.append(str(error)))
            tab.on("request", lambda request: requests.append(request.url))
            tab.goto(page.as_uri())
            return tab

        yield open_
        assert not errors
        assert {url.partition("#")[0] for url in requests} <= {page.as_uri()}


def rows_of(tab, title):
    table = tab.get_by_role("group", name=title, exact=True).first
    return table.locator("tr.dataset th").all_inner_texts()


def test_a_table_is_sorted_by_pointer_and_keyboard(opened):
    tab = opened()
    as_run = rows_of(tab, "Answers")
    head = tab.get_by_role("group", name="Answers", exact=True).get_by_role("button", name="mean")
    head.click()
    assert [row.split()[0] for row in rows_of(tab, "Answers")][:3] == [
        "multi5+permute",
        "multi2",
        "single",
    ]
    assert head.locator("..").get_attribute("aria-sort") == "descending"
    head.press("Enter")
    assert rows_of(tab, "Answers")[-1].startswith("multi5+permute")
    head.press("Space")
    assert rows_of(tab, "Answers") == as_run
    tab.get_by_role("button", name="from wording to wording").click()  # "84.7 to 86.7"
    assert rows_of(tab, "Questions in wordings never trained")[0].startswith("multi5+permute")


def test_the_pointer_shows_the_value_of_a_mark(opened):
    tab = opened()
    tip = tab.locator("#tip")
    assert tip.is_hidden()
    for section, mark, text in (
        ("qa", "multi5+permute, this run – university", "this run – university: 86.7 %"),
        ("p_probe", "before the 1st attribute, univ", "attribute, university: 5.0 %"),
        ("dynamics", "single – step 4 ", "answers, P_test: 1.0 %"),
        ("agreement", "multi2", "the paper: 41.1 %, rank 2"),
    ):
        figure = tab.locator(f"#{section}")
        figure.locator(f'[aria-label^="{mark}"]').first.hover(force=True)
        assert tip.is_visible()
        assert text in tip.inner_text().replace("\N{NARROW NO-BREAK SPACE}", " ")
        box = tip.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= tab.viewport_size["width"]
    tab.mouse.move(1, 1)
    assert tip.is_hidden()


def test_a_tap_shows_a_value_until_the_next_tap(opened):
    tab = opened(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    tip = tab.locator("#tip")
    figure, group = tab.locator("#qa"), "multi5+permute, this run"
    for mark in (f"{group} – birth date", f"{group} – university"):  # the first takes the focus
        figure.locator(f'[aria-label^="{mark}"]').first.tap(force=True)
        tab.wait_for_timeout(100)
        assert tip.is_visible()
        assert tip.inner_text().startswith(mark)
    figure.locator("figcaption").tap()
    assert tip.is_hidden()


def test_the_settings_are_sorted_by_their_values(opened):
    tab = opened()
    tab.get_by_text("Every setting").click()
    settings = tab.get_by_role("group", name="every setting")
    values = settings.locator("tbody td").all_inner_texts
    as_run = values()
    settings.get_by_role("button", name="value").click()
    numbers = [float(text) for text in values() if text.replace(".", "", 1).isdigit()]
    assert len(numbers) > 20
    assert numbers == sorted(numbers, reverse=True)
    assert values() != as_run
    assert sorted(values()) == sorted(as_run)


def test_the_keyboard_reaches_every_value(opened):
    tab = opened()
    charts = tab.locator("svg.chart")
    assert tab.locator('svg.chart [tabindex="0"]').count() == charts.count()
    first = tab.locator('#qa svg [tabindex="0"]')
    first.focus()
    tab.keyboard.press("ArrowRight")
    label = "document.activeElement.getAttribute('aria-label')"
    assert tab.evaluate(label).startswith("single, this run – birth city")
    assert tab.locator("#tip").inner_text() == tab.evaluate(label)
    tab.keyboard.press("End")
    assert tab.evaluate(label).startswith("multi5+permute, the paper – company city")
    tab.keyboard.press("Escape")
    assert tab.locator("#tip").is_hidden()
    tab.keyboard.press("Tab")  # one stop a chart
    assert tab.evaluate("document.activeElement.textContent") == "Values"
    tab.keyboard.press("Enter")
    values = tab.get_by_role("group", name="values of Answers about people held out", exact=True)
    assert values.is_visible()


def test_tab_goes_down_the_page_and_every_stop_has_a_name(opened):
    tab = opened()
    order = tab.evaluate("""() => [...document.querySelectorAll(
        'a[href], button, input, summary, [tabindex="0"]')].map((stop) => [
        stop.tabIndex, stop.getAttribute('aria-label') || stop.textContent.trim()
            || stop.labels?.[0]?.textContent])""")
    assert len(order) > 60
    assert all(index == 0 and name for index, name in order)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "One person held out"


def test_everything_has_a_name_for_a_screen_reader(opened):
    tab = opened()
    for values in tab.locator("summary").all():
        values.click()
    tree = tab.context.new_cdp_session(tab).send("Accessibility.getFullAXTree")["nodes"]
    names = collections.defaultdict(list)
    for node in tree:
        if not node["ignored"]:
            names[node["role"]["value"]].append(node.get("name", {}).get("value", ""))
    named = ("heading", "table", "link", "button", "checkbox", "rowheader", "DisclosureTriangle")
    for role in (*named, "graphics-document", "graphics-symbol"):
        assert names[role]
        assert all(names[role]), role
    charts = tab.locator("svg.chart").count()
    assert len(names["graphics-document"]) == charts
    assert len(names["table"]) == tab.locator("table").count() > charts
    share = "multi5+permute, this run – university: 86.7\N{NARROW NO-BREAK SPACE}%"
    assert any(name.startswith(share) for name in names["graphics-symbol"])


def test_a_switch_hides_its_marks(opened):
    tab = opened()
    papers = tab.locator("#qa .paper_marks")
    assert papers.is_visible()
    tab.locator("#qa").get_by_role("checkbox", name="the paper").uncheck()
    assert papers.is_hidden()
    assert tab.locator("#q_probe .paper_marks").is_visible()
    tab.locator("#qa").get_by_role("checkbox", name="this run").uncheck()
    reached = tab.locator('#qa svg [tabindex="0"]').get_attribute("aria-label")
    assert reached.startswith("single, majority guess")


def test_links_lead_to_files_and_downloads(opened, page):
    tab = opened(accept_downloads=True)
    with tab.expect_download() as download:
        tab.get_by_role("link", name="CSV of Answers about people held out", exact=True).click()
    assert download.value.suggested_filename == "answers.csv"
    text = pathlib.Path(download.value.path()).read_text()
    expected = csv_of(page.read_text(), "answers")
    assert [*csv.reader(io.StringIO(text))] == expected
    for link in tab.locator("a[href]").all():
        href = link.get_attribute("href")
        if not href.startswith(("#", "data:")):
            assert (page.parent / href.replace("%2B", "+")).is_file()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_and_its_text_has_contrast(opened, scheme):
    tab = opened(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    width = "document.documentElement.scrollWidth"
    assert tab.evaluate(width) == 360
    for values in tab.locator("summary").all():
        values.click()
    assert tab.evaluate(width) == 360
    wide = tab.evaluate("""() => [...document.querySelectorAll('.scroll, .wide .drawn')]
        .filter((part) => part.scrollWidth > part.clientWidth)
        .map((part) => getComputedStyle(part).backgroundImage)""")
    assert len(wide) > 5
    assert all("gradient" in shadow for shadow in wide)
    contrast = tab.evaluate("""() => {
        const light = (colour) => {
            const linear = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
                .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
        };
        const ground = light(getComputedStyle(document.body).backgroundColor);
        const words = [...document.querySelectorAll('p, td, th, dt, dd, a, summary, label')];
        return Math.min(...words.filter((word) => !word.closest('.warn')).map((word) => {
            const ink = light(getComputedStyle(word).color);
            return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
        }));
    }""")
    assert contrast >= 4.5  # WCAG 2.2, level AA


def test_print_has_all_charts_and_tables_and_no_controls(opened):
    tab = opened(color_scheme="dark")
    values = tab.locator("figure details")
    values.nth(1).locator("summary").click()
    tab.emulate_media(media="print", color_scheme="dark")
    assert values.nth(1).locator("table").is_visible()
    assert not values.nth(0).is_visible()
    assert tab.locator("svg.chart").first.is_visible()
    assert tab.locator("nav").is_hidden()
    assert tab.locator(".below").first.is_hidden()
    assert tab.locator("input").first.is_hidden()
    assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(29, 35, 41)"
    unbroken = """[...document.querySelectorAll('figure, .sortable tbody')]
        .every((part) => getComputedStyle(part).breakInside === 'avoid')"""
    assert tab.evaluate(unbroken)
    paper = 186 / 25.4 * 96  # A4 without its margins, in pixels
    tab.set_viewport_size({"width": int(paper), "height": 1000})
    beside = tab.evaluate(
        """(width) => [...document.querySelectorAll('body *')]
        .filter((part) => part.checkVisibility() && !part.matches('.alt, .spoken, #glance h2'))
        .filter((part) => {
            const box = part.getBoundingClientRect();
            return box.width && (box.left < 0 || box.right > width);
        }).map((part) => part.textContent)""",
        int(paper),
    )
    assert not beside
    assert tab.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_everything_is_there(opened):
    tab = opened(java_script_enabled=False)
    assert tab.locator("svg.chart").first.is_visible()
    assert tab.get_by_text("Values").first.is_visible()


@pytest.mark.slow
def test_the_page_of_50_runs_is_under_5_megabytes(tmp_path, monkeypatch):
    rows = [row for _ in range(3) for row in sixteen()] + [ROWS[0], ROWS[2]]
    ceiling = {kind: dict.fromkeys(ATTRIBUTES, 0.97) for kind in ("first", "whole")}
    for i, row in enumerate(rows):
        for probe in ("p_probe", "q_probe"):
            row = changed(row, probe, ceiling=ceiling)
        pretrain = {**row.config["pretrain"], "steps": 2000 + i}
        config = {**row.config, "pretrain": pretrain}
        rows[i] = dataclasses.replace(row, name=f"{i} {row.dataset}", config=config)
    run = an_evaluated_run(tmp_path, rows)
    monkeypatch.setattr(drawing, "pictures", lambda _: {})
    page = report.write([run], tmp_path / "out").read_text()
    assert page.count('<svg class="chart"') == 2 + 2 * 25 + 1  # probes and dynamics by two groups
    assert len(page.encode()) < 5_000_000
