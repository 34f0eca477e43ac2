"""Each table of the page has its numbers, and is left out without them."""

import re

import pytest

from kstore_jax.world.people import ATTRIBUTES
from tests.report.runs import CONTRAST, SHUFFLED, SINGLE, a_run, shares, text_of, without, written


def test_first_tokens_are_shown_of_both_halves(page):
    text = text_of(page).partition("First tokens of")[2].partition("Answers about people held")[0]
    for row in CONTRAST:
        for half in ("train", "test"):
            for share in row["qa_first"][half].values():
                assert f" {100 * share:.1f} " in text
    for papers in ("23.8", "97.3"):
        assert re.search(rf"the paper, trained on\s+{papers}\s+–", text)


def reworded(page):
    """The lines of the table of wordings never trained, nothing where there is none."""
    text = page.partition("Questions in wordings never trained")[2].partition("</table>")[0]
    return [" ".join(text_of(f"<body>{line}").split()) for line in text.split("<tr")]


def test_wordings_never_trained_are_shown_as_a_mean_and_a_range(page):
    lines = reworded(page)
    for row, spread in zip(CONTRAST, ("1.4 to 3.4", "84.7 to 86.7"), strict=True):
        means = [sum(w[a] for w in row["qa_wordings"]) / 4 for a in ("mean", *ATTRIBUTES)]
        shown = " ".join(f"{100 * mean:.1f}" for mean in means)
        assert any(line.endswith(f"mean of 4 never trained {spread} {shown}") for line in lines)


@pytest.mark.parametrize("row", [without("qa_wordings"), {**SINGLE, "qa_wordings": []}])
def test_results_without_other_wordings_are_drawn_without_them(tmp_path, row):
    assert reworded(written(a_run(tmp_path / "one", [row]))) == [""]
    both = reworded(written(a_run(tmp_path / "both", [row, SHUFFLED])))
    assert sum("never trained" in line for line in both) == 1


def test_what_masked_words_are_predicted_from_is_shown_for_bidirectional_models(tmp_path):
    hidden = {"name": shares(0.871), "value": shares(0.333), "values": shares(0.222)}
    bert = {**SHUFFLED, "direction": "bidirectional", "bio_recall_hidden": hidden}
    title = "Masked values in biographies"
    page = written(a_run(tmp_path / "run", [{**SINGLE, "bio_recall_hidden": {}}, bert]))
    text = page.partition(title)[2].partition("</table>")[0]
    assert [f"{100 * table['mean']:.1f}" in text for table in hidden.values()] == [True] * 3
    assert title not in written(a_run(tmp_path / "plain"))


def test_ways_of_finetuning_are_shown_with_the_chosen_one(tmp_path):
    tried = [
        {"learning_rate": 1e-3, "weight_decay": 0.01, "validation": 0.812, "chosen": True},
        {"learning_rate": 1e-4, "weight_decay": 0.01, "validation": 0.333, "chosen": False},
    ]
    text = text_of(written(a_run(tmp_path, [{**SINGLE, "qa_grid": tried}])))
    table = text.partition("Ways of finetuning")[2]
    assert "81.2" in table
    assert table.index("81.2") < table.index("chosen", table.index("81.2")) < table.index("33.3")
    assert "Ways of finetuning" not in text_of(written(a_run(tmp_path / "plain", [SINGLE])))


def test_beam_search_stands_beside_greedy_answers(tmp_path):
    text = text_of(written(a_run(tmp_path, [{**SINGLE, "qa_beam": {**shares(0.0777)}}])))
    assert "7.8" in text.partition("Answers by beam search")[2]
    assert "Answers by beam search" not in text_of(written(a_run(tmp_path / "plain", [SINGLE])))


def test_couples_are_shown_before_and_after_their_other_half(tmp_path):
    cells = {
        name: [
            {"stated": [], "right": 0.125, "readings": 30},
            {"stated": [ATTRIBUTES[a - 1] if a % 2 else "nobody"], "right": 0.875, "readings": 10},
        ]
        for a, name in enumerate(ATTRIBUTES)
    }
    row = {**SINGLE, "p_probe": {**SINGLE["p_probe"], "by_stated": {"first": cells, "whole": {}}}}
    text = text_of(written(a_run(tmp_path, [row]))).partition("other half of a pair was read")[2]
    before, after = text.split("after it")[:2]
    assert "12.5" in before
    assert "87.5" in after
    assert "31.2" in before  # the first of a pair: whatever was stated
