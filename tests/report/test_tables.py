"""Each table of the page has its numbers, and is left out without them."""

import dataclasses
import math
import re

import pytest

from tests.report.runs import (
    CONTRAST,
    SHUFFLED,
    SINGLE,
    a_row,
    a_run,
    changed,
    csv_of,
    shares,
    text_of,
    write_page,
)
from tests.world.bundled import ATTRIBUTES


def test_first_tokens_of_both_halves(page):
    text = text_of(page).partition("First tokens of")[2].partition("Answers about people held")[0]
    for row in CONTRAST:
        for half in ("train", "test"):
            for share in row.readouts["qa"]["extraction"][half]["first"].values():
                assert f" {100 * share:.1f} " in text
    for theirs in ("23.8", "97.3"):
        assert re.search(rf"the paper, trained on\s+{theirs}\s+–", text)


def reworded(page):
    """The lines of the table of untrained wordings; one empty line without the table."""
    text = page.partition("Questions in wordings never trained")[2].partition("</table>")[0]
    return [" ".join(text_of(f"<body>{line}").split()) for line in text.split("<tr")]


def test_untrained_wordings_have_a_mean_and_a_range(page):
    lines = reworded(page)
    for row, spread in zip(CONTRAST, ("1.4 to 3.4", "84.7 to 86.7"), strict=True):
        means = [
            math.fsum(w[a] for w in row.readouts["qa"]["extraction"]["wordings"]["test"]) / 4
            for a in ("mean", *ATTRIBUTES)
        ]
        columns = " ".join(f"{100 * mean:.1f}" for mean in means)
        assert any(line.endswith(f"mean of 4 never trained {spread} {columns}") for line in lines)


def test_rows_without_untrained_wordings_have_no_lines_for_them(tmp_path):
    row = changed(SINGLE, "qa", "extraction", "wordings", test=[])
    assert reworded(write_page(a_run(tmp_path / "one", [row]))) == [""]
    both = reworded(write_page(a_run(tmp_path / "both", [row, SHUFFLED])))
    assert sum("never trained" in line for line in both) == 1


def test_masked_values_of_bidirectional_models(tmp_path):
    hidden = {"name": shares(0.871), "value": shares(0.333), "values": shares(0.222)}
    bert = changed(
        a_row("multi5+permute", model__direction="bidirectional"), "recall", hidden=hidden
    )
    title = "Masked values in biographies"
    page = write_page(a_run(tmp_path / "run", [SINGLE, bert]))
    text = page.partition(title)[2].partition("</table>")[0]
    assert [f"{100 * table['mean']:.1f}" in text for table in hidden.values()] == [True] * 3
    assert title not in write_page(a_run(tmp_path / "plain"))


def test_the_grid_of_finetuning_marks_the_chosen_row(tmp_path):
    tried = [
        {"learning_rate": 1e-3, "weight_decay": 0.01, "validation": 0.812, "chosen": True},
        {"learning_rate": 1e-4, "weight_decay": 0.01, "validation": 0.333, "chosen": False},
    ]
    text = text_of(write_page(a_run(tmp_path, [dataclasses.replace(SINGLE, finetune_grid=tried)])))
    table = text.partition("Ways of finetuning")[2]
    assert "81.2" in table
    assert table.index("81.2") < table.index("chosen", table.index("81.2")) < table.index("33.3")
    assert "Ways of finetuning" not in text_of(write_page(a_run(tmp_path / "plain", [SINGLE])))


def test_beam_search_stands_beside_greedy_answers(tmp_path):
    text = text_of(
        write_page(
            a_run(tmp_path, [changed(SINGLE, "qa", "extraction", "test", beam=shares(0.0777))])
        )
    )
    assert "7.8" in text.partition("Answers by beam search")[2]
    assert "Answers by beam search" not in text_of(write_page(a_run(tmp_path / "plain", [SINGLE])))


def test_couples_before_and_after_their_other_half(tmp_path):
    cells = {
        name: [
            {"stated": [], "right": 0.125, "readings": 30},
            {"stated": [ATTRIBUTES[a - 1] if a % 2 else "nobody"], "right": 0.875, "readings": 10},
        ]
        for a, name in enumerate(ATTRIBUTES)
    }
    pairs = [list(pair) for pair in zip(ATTRIBUTES[::2], ATTRIBUTES[1::2], strict=True)]
    by_stated = {"first": cells, "whole": {}}
    row = changed(SINGLE, "p_probe", by_stated=by_stated, pairs=pairs)
    text = text_of(write_page(a_run(tmp_path, [row]))).partition("other half of a pair was read")[2]
    before, after = text.split("after it")[:2]
    assert "12.5" in before
    assert "87.5" in after
    assert "31.2" in before  # the first of a pair: whatever was stated


def test_shares_have_their_intervals_and_the_note_says_of_how_many(page, tmp_path):
    text = text_of(page)
    assert re.search(r"86\.4\s+\(\s*85\.4 to 87\.4\s*\)", text)
    assert "95 % intervals of a bootstrap over people (200 people and 1,200 questions" in text
    cells = shares_in(page, "multi5+permute")["qa.extraction.test.exact", "mean", ""]
    assert [float(cell) for cell in cells[:3]] == pytest.approx([0.864, 0.854, 0.874])
    assert cells[3] == "200"
    seeds = [a_row(qa=qa, seed=seed) for seed, qa in enumerate((0.03, 0.07, 0.05))]
    text = text_of(write_page(a_run(tmp_path, seeds)))
    assert re.search(r"5\.0\s+\(\s*3\.0 to 7\.0\s*\)", text)
    assert "of several seeds, the lowest and the highest" in text
    assert "bootstrap over people" not in text.partition("First tokens of")[0]


def shares_in(page: str, dataset: str) -> dict[tuple[str, ...], list[str]]:
    """The cells `value`, `low`, `high` and `n` of the CSV of all rows by the three before them."""
    head, *lines = csv_of(page, "rows")
    assert head[4:6] == ["steps", "exposures"]
    assert head[6:] == ["metric", "attribute", "position", "value", "low", "high", "n"]
    return {tuple(line[6:9]): line[9:] for line in lines if line[1] == dataset}


def test_answers_about_people_held_back_have_a_column_of_their_own(page, tmp_path):
    assert "answers, held back" not in text_of(page)
    back = {"exact": shares(0.612), "first": shares(0.7)}
    row = changed(SINGLE, "qa", "extraction", held_back=back)
    page = write_page(a_run(tmp_path, [row, SHUFFLED]))
    assert "answers, held back" in text_of(page)
    place = "qa.extraction.held_back.exact", "mean", ""
    assert float(shares_in(page, "single")[place][0]) == back["exact"]["mean"]
    assert place not in shares_in(page, "multi5+permute")


def test_whole_values_of_p_probing_have_the_paper_s_beside_them(page):
    text = text_of(page).partition("P-probing of whole values")[2]
    assert re.search(r"the paper\s+5\.0\s+0\.8\s+1\.7\s+0\.6\s+14\.3", text)
