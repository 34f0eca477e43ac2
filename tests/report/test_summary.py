"""The summary claims no more than the numbers show."""

import dataclasses

from kstore_jax.report import groups, summary
from tests.report.runs import CONTRAST, SHUFFLED, SINGLE, a_row, text_of


def summary_of(*rows):
    """The sentences of the summary of these rows."""
    result = summary.summarise(groups.groups(rows))
    parts = (result.headline, result.verdict, *result.caveats)
    return " ".join(parts).replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_the_page_begins_with_the_summary(page):
    heading = text_of(page[page.index("<body>") : page.index("</h1>")])
    assert "Both models recite the biographies (99.8 % / 100.0 % of attribute values)" in heading
    assert "one text about each person answers 3.1 %" in heading
    assert "five shuffled wordings of the text about each person answers 86.4 %" in heading


def test_a_null_result_claims_no_contrast():
    text = summary_of(SINGLE, a_row("multi5+permute", qa=0.04))
    assert "they answer 3.1 % to 4.0 %: this run shows no clear contrast" in text
    assert "gives 2.7 %" in text
    assert "decides" not in text


def test_seeds_that_overlap_are_no_contrast():
    apart = [a_row("single", seed=s, qa=qa) for s, qa in enumerate((0.05, 0.55))]
    other = [a_row("multi5", seed=s, qa=qa) for s, qa in enumerate((0.5, 0.7))]
    assert "no clear contrast" in summary_of(*apart, *other)


def test_a_run_too_short_says_so():
    text = summary_of(a_row(recall=0.31), a_row("multi5+permute", recall=0.62, qa=0.5))
    assert text.startswith("This run is too short to show the effect.")
    assert "recite 31.0 % to 62.0 %" in text
    assert "Asked about" not in text
    assert "too short" in summary_of(a_row(recall=0.31))


def test_a_model_that_did_not_learn_is_left_out_of_the_comparison():
    text = summary_of(SINGLE, SHUFFLED, a_row("multi2", recall=0.62))
    assert "Both models recite" in text
    assert "Left out" in text
    assert "multi2 62.0 %" in text


def test_a_finetuning_that_works_nowhere_is_a_caveat_and_forbids_the_verdict():
    rows = a_row(trained=0.4), a_row("multi5+permute", qa=0.864, trained=0.89)
    text = summary_of(*rows)
    assert "(single 40.0 %, multi5+permute 89.0 %)" in text
    assert "may come from the finetuning" in text
    assert "Fig. 2a" in text
    assert "decides" not in text


def test_a_finetuning_that_works_on_one_dataset_is_not_in_doubt():
    """What `kstore quickstart` finds: LoRA does not teach `single` all its trained questions."""
    rows = a_row(trained=0.63), SHUFFLED
    text = summary_of(*rows)
    assert "Both store the facts." in text
    assert "may come from the finetuning" not in text


def test_another_finetuning_that_works_proves_nothing():
    other = a_row("multi5+permute", qa=0.864, recall=1.0, probe=0.93, finetune__steps=9)
    assert "(single 63.0 %)" in summary_of(a_row(trained=0.63), other)


def test_single_alone_cites_the_paper_on_its_trained_questions():
    assert "19 to 41 %" in summary_of(a_row(trained=0.63))
    assert "19 to 41 %" not in summary_of(a_row("multi2", trained=0.63))


def test_the_verdict_needs_runs_that_differ_in_the_dataset_alone():
    assert "Both store the facts." in summary_of(*CONTRAST)
    longer = a_row("multi5+permute", qa=0.864, recall=1.0, pretrain__steps=90_000)
    assert "store the facts" not in summary_of(SINGLE, longer)


def test_one_dataset_alone():
    text = summary_of(SHUFFLED)
    assert "The model that read five shuffled wordings" in text
    assert "answers 86.4 %" in text
    assert "gives 2.7 %" in text


def test_many_datasets_name_the_least_and_the_most():
    text = summary_of(SINGLE, a_row("multi2", qa=0.4), SHUFFLED)
    assert "All three models recite" in text
    assert "answers 3.1 % (the least)" in text
    assert "answers 86.4 % (the most)" in text


def own(dataset: str, noun="film", **fields):
    return dataclasses.replace(a_row(dataset, world__folder="films", **fields), noun=noun)


def test_the_first_sentence_about_a_table_says_what_is_recited_and_answered():
    rows = [
        own("single", qa=0.12, recall=0.99),
        own("multi5+permute", qa=0.87, recall=0.998),
        own("single", qa=0.4, recall=0.97, data__qa_share=0.5, finetune__steps=0),
        own("multi5", qa=0.9, recall=1.0, data__rewritten="written"),
    ]
    assert summary_of(*rows).startswith(
        "Trained on one text a film, your model recites 99.0 % and answers 12.0 % about films it "
        "was never questioned on; with five shuffled wordings a film 87.0 %; with one text a film "
        "and questions about half of them (50.0 % of what it read) recites 97.0 %, answers 40.0 %; "
        "with five rewritten texts a film 90.0 %. Always guessing the commonest answer gives 2.7 %."
    )
    assert "about countries it" in summary_of(own("single", "country"))
    assert "a person, your model" in summary_of(own("single", "person"))
    assert "about people it" in summary_of(own("single", "person"))
    assert "too short" in summary_of(own("single", recall=0.3))
