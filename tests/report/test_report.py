"""The page of a run: its sentences and numbers, without a network, safe from bad input."""

import base64
import copy
import csv
import dataclasses
import hashlib
import html
import io
import itertools
import json
import pathlib
import re
import struct
import urllib.parse

import pytest

from kstore_jax.config.fields import as_dict
from kstore_jax.errors import UserError
from kstore_jax.pipeline import results
from kstore_jax.pipeline.experiment import Experiment, parse
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.report import charts, drawing, groups, paper, summary
from kstore_jax.report import page as report
from kstore_jax.report.agreement import Agreement
from kstore_jax.world.biographies import FIG3_VARIANTS, OTHER_VARIANTS
from kstore_jax.world.people import ATTRIBUTES


def shares(value, names=ATTRIBUTES):
    """A share for each name, and their mean."""
    each = {name: value + 0.0013 * i for i, name in enumerate(names)}
    return {"mean": sum(each.values()) / len(each), **each}


def without_date(table):
    return {name: table[name] for name in ATTRIBUTES[1:]}


def a_row(dataset="single", seed=0, qa=0.031, recall=0.998, trained=0.993, probe=0.05):
    asked = {a: list(range(6 if "permute" in dataset else i + 1)) for i, a in enumerate(ATTRIBUTES)}
    levels = {"first": dict.fromkeys(ATTRIBUTES, 0.041), "whole": dict.fromkeys(ATTRIBUTES, 0.012)}
    p_first = {a: [probe if p in asked[a] else None for p in range(6)] for a in ATTRIBUTES}
    q_first = {a: [probe] for a in ATTRIBUTES}
    return {
        "dataset": dataset,
        "seed": seed,
        "people": 400,
        "mixed": {},
        "exposures": 287.4,
        "parameters": 1_065_728,
        "vocabulary": 2031,
        "bio_recall": recall,
        "bio_recall_by_attribute": shares(recall - 0.01),
        "qa": {**shares(qa), "mean": qa},
        "qa_train": trained,
        "qa_first": {"train": shares(0.9), "test": shares(qa)},
        "qa_baseline": {**shares(0.02), "mean": 0.027},
        "p_probe": {"first": p_first, "whole": without_date(p_first), "baseline": levels},
        "q_probe": {"first": q_first, "whole": without_date(q_first), "baseline": levels},
        "qa_wordings": [shares(qa - shift) for shift in (0.0, 0.005, 0.011, 0.02)],
        "code": ["b5ec04e05fc84dfd3e0d83a1e7a4a6f0b1b2c3d4"],
        "seconds": 701.2,
        "seconds_by_stage": {"shards": 2.2, "pretrain": 402.1, "qa": 1.9},
    }


SINGLE = a_row()
SHUFFLED = a_row("multi5+permute", qa=0.864, recall=1.0, probe=0.93)
CONTRAST = (SINGLE, SHUFFLED)


def without(field):
    return {name: value for name, value in SINGLE.items() if name != field}


PROVENANCE = {
    "versions": {"jax": "0.10.2"},
    "python": "3.11.7",
    "platform": "Linux",
    "devices": ["cpu:0"],
    "git": "0123abc",
    "git_dirty": True,
}


def a_config(row, **pretrain):
    config = as_dict(Experiment())
    config["seed"] = row["seed"]
    config["data"]["variant"] = row["dataset"]
    config["model"].update(layers=4, heads=4, width=128, dtype="bfloat16")
    config["pretrain"].update(pretrain)
    return config


def a_run(folder: pathlib.Path, rows=CONTRAST, configs="of the rows", metrics=True):
    """A run folder as `sweep.run` leaves it, as far as a report reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"rows": rows, "provenance": [PROVENANCE]}))
    if configs == "of the rows":
        configs = [a_config(row) for row in rows]
    if configs is None:
        return folder
    (folder / "config.json").write_text(json.dumps({"rows": configs}))
    for config in configs if metrics else ():
        runner = Runner(ExperimentGraph(parse(config), Cache(folder / "stages")))
        stage = runner.graph.cache.folder(runner.graph.pretrain)
        stage.mkdir(parents=True, exist_ok=True)
        lines = [{"step": s, "loss": 7 / s, "seconds": s} for s in range(1, 30)]
        (stage / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder


def written(folder: pathlib.Path) -> str:
    return report.write([folder], folder).read_text()


def text_of(page: str) -> str:
    body = page[page.index("<body>") :]
    return html.unescape(re.sub(r"<[^>]+>", " ", body)).replace("\N{NARROW NO-BREAK SPACE}", " ")


def finding_of(*rows, configs=None):
    found = summary.summarise(groups.groups(rows, configs))
    parts = (found.headline, found.verdict, *found.caveats)
    return " ".join(parts).replace("\N{NARROW NO-BREAK SPACE}", " ")


def parsed(*rows, **pretrain):
    return [parse(a_config(row, **pretrain)) for row in rows]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = a_run(tmp_path_factory.mktemp("contrast"))
    report.write([folder], folder)
    return folder


@pytest.fixture(scope="module")
def page(run):
    return (run / "report.html").read_text()


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


def test_the_page_says_what_was_found_first(page):
    heading = text_of(page[page.index("<body>") : page.index("</h1>")])
    assert "Both models recite the biographies (99.8 % / 100.0 % of attribute values)" in heading
    assert "one text about each person answers 3.1 %" in heading
    assert "five shuffled wordings of the text about each person answers 86.4 %" in heading


def test_the_page_holds_our_numbers_and_the_papers(page):
    text = text_of(page)
    for row in CONTRAST:
        for share in row["qa"].values():
            assert f" {100 * share:.1f} " in text
        for share in paper.published(row["dataset"]).qa.values():
            assert f" {100 * share:.1f} " in text
    for text in ("100,000 people, 124M parameters", "287", "1,065,728", "jax 0.10.2", "402.1"):
        assert text in text
    for text in ("git b5ec04e05f", "cpu:0", "below 100 %", "results.json"):
        assert text in text


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


def test_what_masked_words_are_predicted_from_is_shown_for_bidirectional_models(tmp_path):
    hidden = {"name": shares(0.871), "value": shares(0.333), "values": shares(0.222)}
    bert = {**SHUFFLED, "direction": "bidirectional", "bio_recall_hidden": hidden}
    title = "Masked values in biographies"
    page = written(a_run(tmp_path / "run", [{**SINGLE, "bio_recall_hidden": {}}, bert]))
    text = page.partition(title)[2].partition("</table>")[0]
    assert [f"{100 * table['mean']:.1f}" in text for table in hidden.values()] == [True] * 3
    assert title not in written(a_run(tmp_path / "plain"))


@pytest.mark.parametrize("row", [without("qa_wordings"), {**SINGLE, "qa_wordings": []}])
def test_results_without_other_wordings_are_drawn_without_them(tmp_path, row):
    assert reworded(written(a_run(tmp_path / "one", [row]))) == [""]
    both = reworded(written(a_run(tmp_path / "both", [row, SHUFFLED])))
    assert sum("never trained" in line for line in both) == 1


def test_every_figure_is_in_the_page_and_a_file(run, page):
    files = sorted((run / "figures").glob("*"))
    assert len(files) == 2 * 4 + 1 == page.count("<figure>") == page.count("<svg ")
    for file in files:
        assert file.suffix == ".png"
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size > 10_000
        assert f'href="figures/{file.name.replace("+", "%2B")}"' in page
    alts = re.findall(r'class="alt">([^<]+)', page)
    assert len(alts) == len(files)
    assert any("university 86.7" in alt for alt in alts)
    assert any("Pretraining loss" in alt for alt in alts)


def test_a_second_report_is_the_same_and_leaves_nothing_else(run, page, tmp_path):
    other = report.write([run], tmp_path / "deep" / "out")
    assert len(re.findall("<figure>", other.read_text())) == page.count("<figure>")
    assert 'href="results.json"' in page
    assert 'href="results.json"' not in other.read_text()
    link = re.search(r'href="([^"]*results\.json)"', other.read_text())[1]
    assert (other.parent / link).resolve() == (run / "results.json").resolve()
    assert not list(tmp_path.rglob("*.writing")) + list(run.rglob("*.writing"))
    assert written(run) == page


def test_a_null_result_claims_no_contrast():
    text = finding_of(SINGLE, a_row("multi5+permute", qa=0.04))
    assert "they answer 3.1 % to 4.0 %: this run shows no clear contrast" in text
    assert "gives 2.7 %" in text
    assert "decides" not in text


def test_seeds_that_overlap_are_no_contrast():
    apart = [a_row("single", seed=s, qa=qa) for s, qa in enumerate((0.05, 0.55))]
    other = [a_row("multi5", seed=s, qa=qa) for s, qa in enumerate((0.5, 0.7))]
    assert "no clear contrast" in finding_of(*apart, *other)


def test_a_run_too_short_says_so():
    text = finding_of(a_row(recall=0.31), a_row("multi5+permute", recall=0.62, qa=0.5))
    assert text.startswith("This run is too short to show the effect.")
    assert "recite 31.0 % to 62.0 %" in text
    assert "Asked about" not in text
    assert "too short" in finding_of(a_row(recall=0.31))


def test_a_model_that_did_not_learn_is_left_out_of_the_comparison():
    text = finding_of(SINGLE, SHUFFLED, a_row("multi2", recall=0.62))
    assert "Both models recite" in text
    assert "Left out" in text
    assert "multi2 62.0 %" in text


def test_a_finetuning_that_works_nowhere_is_shown_and_forbids_the_verdict():
    rows = a_row(trained=0.4), a_row("multi5+permute", qa=0.864, trained=0.89)
    text = finding_of(*rows, configs=parsed(*rows))
    assert "(single 40.0 %, multi5+permute 89.0 %)" in text
    assert "may come from the finetuning" in text
    assert "Fig. 2a" in text
    assert "decides" not in text


def test_a_finetuning_that_works_on_one_dataset_is_not_in_doubt():
    """What `kstore quickstart` finds: LoRA does not teach `single` all its trained questions."""
    rows = a_row(trained=0.63), SHUFFLED
    text = finding_of(*rows, configs=parsed(*rows))
    assert "Both store the facts." in text
    assert "may come from the finetuning" not in text


def test_another_finetuning_that_works_proves_nothing():
    rows = a_row(trained=0.63), SHUFFLED
    configs = parsed(*rows)
    finetune = dataclasses.replace(configs[1].finetune, steps=9)
    configs[1] = dataclasses.replace(configs[1], finetune=finetune)
    assert "(single 63.0 %)" in finding_of(*rows, configs=configs)
    assert "(single 63.0 %)" in finding_of(*rows)


def test_single_alone_cites_the_paper_on_its_trained_questions():
    assert "19 to 41 %" in finding_of(a_row(trained=0.63))
    assert "19 to 41 %" not in finding_of(a_row("multi2", trained=0.63))


def test_the_verdict_needs_runs_that_differ_in_the_dataset_alone():
    assert "Both store the facts." in finding_of(*CONTRAST, configs=parsed(*CONTRAST))
    assert "store the facts" not in finding_of(*CONTRAST)
    unlike = [*parsed(SINGLE, steps=2000), *parsed(SHUFFLED, steps=9000)]
    assert "store the facts" not in finding_of(*CONTRAST, configs=unlike)


def test_one_dataset_alone():
    text = finding_of(SHUFFLED)
    assert "The model that read five shuffled wordings" in text
    assert "answers 86.4 %" in text
    assert "gives 2.7 %" in text


def test_many_datasets_name_the_least_and_the_most():
    text = finding_of(SINGLE, a_row("multi2", qa=0.4), SHUFFLED)
    assert "All three models recite" in text
    assert "answers 3.1 % (the least)" in text
    assert "answers 86.4 % (the most)" in text


KNOWN = (*FIG3_VARIANTS, *OTHER_VARIANTS, "multi3")


def wording(dataset):
    (group,) = groups.groups([a_row(dataset)], None)
    return group.wording


@pytest.mark.parametrize("dataset", [*KNOWN, "a dataset of tomorrow"])
def test_every_dataset_is_shown_in_words(dataset):
    assert ("full name" in wording(dataset)) == ("fullname" in dataset)
    assert wording(dataset) in finding_of(a_row(dataset))


def test_no_two_datasets_are_shown_in_the_same_words():
    assert len({wording(dataset) for dataset in KNOWN}) == len(KNOWN)


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        ("single+permute2", "one text about each person in two sentence orders"),
        ("multi5+permute", "five shuffled wordings of the text about each person"),
        (
            "couple2",
            "two wordings of the text about each person with its sentences shuffled as three pairs",
        ),
        ("fresh", "in every pass a new shuffled wording of the text about each person"),
        (
            "fresh+fullname",
            "in every pass a new shuffled wording of the text about each person "
            "with the full name in every sentence",
        ),
        (
            "multi5+reverse1",
            "five wordings of the text about each person with the name only after one sentence",
        ),
        (
            "multi5+reverse2",
            "five wordings of the text about each person with the name only after two sentences",
        ),
        (
            "multi5+permute+reverse6",
            "five shuffled wordings of the text about each person with the name only at the end",
        ),
    ],
)
def test_what_is_read_is_shown_as_it_is(dataset, text):
    assert wording(dataset) == text


def mind(folder, **changed):
    """What the page of a run with changed parts of the configuration says to keep in mind."""
    config = {**a_config(SINGLE), **changed}
    page = written(a_run(folder, [{**SINGLE, "people": 100_000}], [config], metrics=False))
    return text_of(page).partition("What to keep in mind")[2]


def test_what_is_unlike_the_paper_is_shown(tmp_path):
    like = as_dict(Experiment())
    text = mind(tmp_path, model=like["model"])
    assert "P-probing and Q-probing: a linear head" in text
    assert "Pretraining had no dropout" in text
    assert "drops nothing" not in text
    assert "beam of 4" in text
    for untrue in ("Compare shapes", "only the tokens", "output rows", "at most", "templates"):
        assert untrue not in text


def test_settings_unlike_the_paper_s_are_shown_of_each_probe(tmp_path):
    like = as_dict(Experiment())
    p_probe = {**like["p_probe"], "embedding_update": "shared", "biographies_per_person": 1}
    q_probe = {**like["q_probe"], "head": "unembedding"}
    data = {"variant": "single", "vocabulary": "compact"}
    text = mind(tmp_path, p_probe=p_probe, q_probe=q_probe, data=data)
    assert "P-probing: a linear head" in text
    assert "Q-probing: first tokens are read through the model's own output rows" in text
    assert "P-probing: the embedding is updated for the tokens of the templates" in text
    assert "at most 1 of the biographies" in text
    assert "Compare shapes" in text
    assert "only the tokens that these texts use" in text


def test_several_seeds_are_shown_each_and_as_a_mean(tmp_path):
    rows = [
        a_row(row["dataset"], s, row["qa"]["mean"] + s / 50) for row in CONTRAST for s in (0, 1)
    ]
    text = text_of(written(a_run(tmp_path, rows)))
    for share in (0.031, 0.051, 0.041, 0.864, 0.884, 0.874):
        assert f" {100 * share:.1f} " in text
    assert text.count("this run, mean of 2") == 2
    assert "seed 1" in text
    assert "one text about each person answers 4.1 %" in text


def test_the_code_is_that_of_the_stages_and_not_of_who_asked_last(tmp_path):
    codes = ["b5ec04e05fc84dfd-dirty", "0a1b2c3"], ["0a1b2c3", "kstore_jax 0.1.0"]
    rows = [{**row, "code": code} for row, code in zip(CONTRAST, codes, strict=True)]
    text = text_of(written(a_run(tmp_path / "new", rows)))
    assert "git 0a1b2c3, git b5ec04e05f with uncommitted changes, kstore_jax 0.1.0" in text
    assert "0123abc" not in text
    older = written(a_run(tmp_path / "older", [without("code")]))
    assert re.search(r"code\s+not known", text_of(older))


def test_all_that_the_stages_were_made_with_is_shown(tmp_path):
    def text(*machines):
        run = a_run(tmp_path)
        made = [{**PROVENANCE, "platform": machine} for machine in machines]
        results = json.loads((run / "results.json").read_text())
        results["provenance"] = made if len(made) > 1 else made[0]  # an older one text of one
        (run / "results.json").write_text(json.dumps(results))
        return text_of(written(run))

    assert re.search(r"machine\s+north, Python 3\.11\.7 / south, Python", text("north", "south"))
    assert re.search(r"machine\s+north, Python 3\.11\.7\s+versions", text("north"))


def test_goodput_peak_and_flags_are_shown_where_they_are_known(tmp_path):
    older = text_of(written(a_run(tmp_path / "older")))
    assert "87.1" not in older
    assert "TFLOP" not in older
    run = a_run(tmp_path / "run", [{**row, "goodput": 0.871} for row in CONTRAST])
    results = json.loads((run / "results.json").read_text())
    peak = {"flops": 989e12, "source": "data sheet of an accelerator"}
    results["provenance"][0] |= {"peak": peak, "flags": {"XLA_FLAGS": "--xla_some=1"}}
    results["provenance"][0]["versions"]["scipy"] = "1.99"
    (run / "results.json").write_text(json.dumps(results))
    text = text_of(written(run))
    assert text.count("87.1") == len(CONTRAST)
    assert "989.0 TFLOP/s (data sheet of an accelerator)" in text
    assert "XLA_FLAGS --xla_some=1" in text
    assert "jax 0.10.2" in text
    assert "scipy" not in text


MIXED = {
    "celebrities": 1000,
    "celebrity_variant": "multi5+permute",
    "celebrity_share": 0.0,
    "qa_share": 0.8,
    "text": "hf:books",
    "text_share": 0.1,
}


def test_what_is_mixed_in_is_shown_as_the_configuration_has_it():
    config = a_config(SINGLE)
    assert results.mixed(parse(config)) == {}
    config["world"]["celebrities"] = 1000
    config["data"].update(text="hf:books", text_share=0.1, qa_share=0.8)
    assert results.mixed(parse(config)) == MIXED


def test_what_was_mixed_in_is_listed_and_is_not_the_papers(tmp_path):
    rows = [{**SINGLE, "mixed": {}}, {**SINGLE, "mixed": MIXED}]
    page = written(a_run(tmp_path, rows, None))
    text = (
        "nothing / 1,000 celebrities in multi5+permute, shuffled in; "
        "questions with answers, 80.0 % of the windows; text of hf:books, 10.0 % of the windows"
    )
    assert text in text_of(page)
    assert "single (celebrities=1000, " in text_of(page)
    assert page.count("the paper, just before") == 1
    row = {**SINGLE, "mixed": {**MIXED, "celebrity_share": 0.25}}
    often = text_of(written(a_run(tmp_path / "often", [row], None)))
    assert "25.0 % of the windows of biographies" in often


def test_where_nothing_is_mixed_in_nothing_is_said_of_it(tmp_path, page):
    assert "mixed in" not in text_of(page)
    assert "mixed in" not in text_of(written(a_run(tmp_path, [without("mixed")])))


def test_rows_that_differ_otherwise_are_not_one_group():
    rows = [SINGLE, copy.deepcopy(SINGLE)]
    one = groups.groups(rows, parsed(*rows))
    assert [len(group.rows) for group in one] == [2]
    two = groups.groups(rows, [*parsed(SINGLE, steps=1010), *parsed(SINGLE, steps=1020)])
    labels = [group.label for group in two]
    assert labels == ["single (pretrain.steps=1010)", "single (pretrain.steps=1020)"]


def test_a_group_is_called_by_the_name_of_its_rows_and_by_settings_where_that_is_not_enough():
    def labels(*named):
        rows = [{**a_row(), "name": name, "seed": seed} for name, _, seed in named]
        configs = [
            dataclasses.replace(parse(a_config(row, steps=steps)), name=name)
            for row, (name, steps, _) in zip(rows, named, strict=True)
        ]
        return [group.label for group in groups.groups(rows, configs)]

    two = ("short", 1010, 0), ("long", 1020, 0)
    assert labels(*two, ("short", 1010, 1)) == ["single (short)", "single (long)"]
    assert labels(("a", 1010, 0), ("a", 1020, 0)) == [
        "single (a, pretrain.steps=1010)",
        "single (a, pretrain.steps=1020)",
    ]
    assert labels(("a", 1010, 0), ("b", 1010, 1)) == ["single"]  # one group of two seeds
    assert labels(("alone", 1010, 0)) == ["single (alone)"]


def test_a_setting_of_many_words_is_cut_short_in_what_a_group_is_called():
    grid = [[["learning_rate", rate], ["weight_decay", 0.1]] for rate in (1e-3, 3e-4, 1e-4)]
    configs = [*parsed(SINGLE), parse({**a_config(SINGLE), "finetune": {"grid": grid}})]
    labels = [group.label for group in groups.groups([SINGLE, copy.deepcopy(SINGLE)], configs)]
    assert len(set(labels)) == 2
    assert max(map(len, labels)) < 100


@pytest.mark.parametrize("configs", ["of the rows", None, [{"seed": "?"}], [a_config(SHUFFLED)]])
def test_without_metrics_or_configuration_there_is_no_loss_curve(tmp_path, configs):
    page = written(a_run(tmp_path, [SINGLE], configs, metrics=False))
    assert page.count("<figure>") == 4
    assert "Pretraining loss" not in page
    assert "3.1" in text_of(page)


def test_damaged_metrics_leave_the_curve_out(tmp_path):
    folder = a_run(tmp_path, [SINGLE])
    (metrics,) = folder.glob("stages/pretrain-*/metrics.jsonl")
    metrics.write_text("{not json\n")
    assert "Pretraining loss" not in written(folder)


def test_a_dataset_that_the_paper_has_not(tmp_path):
    page = written(a_run(tmp_path, [a_row("multi3+permute")]))
    assert "p-probing-paper" not in page
    assert "Diamond" not in page


def test_a_ceiling_is_shown_where_there_is_one():
    (plain,) = groups.groups([SINGLE], None)
    row = copy.deepcopy(SINGLE)
    assert plain.ceiling("p_probe") is None
    ceiling = {k: dict.fromkeys(ATTRIBUTES, 0.97) for k in ("first", "whole")}
    row["p_probe"]["ceiling"] = row["q_probe"]["ceiling"] = ceiling
    (group,) = groups.groups([row], None)
    assert group.ceiling("q_probe")["whole"]["major"] == pytest.approx(0.97)
    assert charts.q_probing(0, group).png != charts.q_probing(0, plain).png
    assert charts.p_probing(0, group)[0].png != charts.p_probing(0, plain)[0].png


@pytest.mark.parametrize("text", ["{}/cache", "../cache"])
def test_losses_are_read_where_the_stages_are(tmp_path, text):
    folder = a_run(tmp_path / "run")
    (folder / "stages").rename(tmp_path / "cache")
    assert "Pretraining loss" not in written(folder)
    content = json.loads((folder / "results.json").read_text())
    content["stages"] = text.format(tmp_path)
    (folder / "results.json").write_text(json.dumps(content))
    assert "Pretraining loss" in written(folder)


def test_what_comes_from_data_is_escaped(tmp_path):
    page = written(a_run(tmp_path, [a_row('<b onx="1">&$x_$')], None))
    assert "<b onx" not in page
    assert "&lt;b onx=&quot;1&quot;&gt;&amp;$x_$" in page


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "no results here; run `kstore run` first"),
        (json.dumps({"rows": []}), "no results here; run `kstore run` first"),
        ("", "damaged"),
        ('{"rows": [', "damaged"),
        ("[]", "damaged"),
        ('{"rows": 3}', "damaged"),
        ('{"rows": [3]}', "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (json.dumps({"rows": [without("qa")]}), "damaged (qa is missing)"),
        (json.dumps({"rows": [{**SINGLE, "qa_train": 1.5}]}), "share from 0 to 1, got 1.5"),
        (json.dumps({"rows": [without("qa_first")]}), "damaged (qa_first is missing)"),
        (json.dumps({"rows": [{**SINGLE, "bio_recall": None}]}), "bio_recall"),
        (json.dumps({"rows": [{**SINGLE, "bio_recall": float("nan")}]}), "bio_recall"),
        (json.dumps({"rows": [{**SINGLE, "p_probe": {}}]}), "damaged"),
        (json.dumps({"rows": [{**SINGLE, "code": [3]}]}), "code: expected text, got 3"),
        (json.dumps({"rows": [SINGLE], "stages": 3}), "damaged"),
        (json.dumps({"rows": [{**SINGLE, "mixed": 3}]}), "damaged"),
        (json.dumps({"rows": [{**SINGLE, "mixed": {"text": ""}}]}), "text_share is missing"),
        (json.dumps({"rows": [{**SINGLE, "qa_wordings": [{}]}]}), "damaged (mean is missing)"),
    ],
)
def test_bad_results_are_shown_in_one_line_and_nothing_is_written(tmp_path, content, text):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "results.json").write_bytes(data)
    with pytest.raises(UserError) as error:
        report.write([tmp_path], tmp_path / "out")
    assert text in str(error.value)
    assert "results.json: " in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_no_run_at_all(tmp_path):
    with pytest.raises(UserError, match="no results here"):
        report.write([tmp_path / "nowhere"], tmp_path / "out")


def test_the_papers_numbers_are_of_all_its_datasets():
    for dataset in FIG3_VARIANTS:
        found = paper.published(dataset)
        for a, name in enumerate(ATTRIBUTES):
            asked = [cell is not None for cell in found.p_first[name]]
            assert asked == [("permute" in dataset) or p <= a for p in range(6)]
        flat = [*found.qa.values(), *found.q_first.values(), *found.q_whole.values()]
        assert all(0 <= share <= 1 for share in flat)
        mean = sum(found.qa[name] for name in ATTRIBUTES) / 6
        assert found.qa["mean"] == pytest.approx(mean, abs=0.015)
    assert paper.published("multi3") is None
    assert paper.published("single").qa_train_first == pytest.approx(0.238)
    assert paper.published("multi2").qa_train_first is None
    assert paper.published("single").qa["birth_date"] == pytest.approx(0.335)
    assert paper.published("multi5").p_first["company_city"][4] == pytest.approx(0.562)
    assert paper.baseline().q_first["university"] == pytest.approx(0.37)


def test_the_papers_numbers_of_other_settings_agree_with_their_means():
    count = 0
    for setting, rows in paper._PRINTED["datasets"].items():
        for dataset in rows:
            found = paper.published(dataset, setting)
            if set(ATTRIBUTES) <= found.qa.keys():
                count += 1
                mean = sum(found.qa[name] for name in ATTRIBUTES) / 6
                assert found.qa["mean"] == pytest.approx(mean, abs=0.015)
            for which, cells in enumerate(found.p_first.values()):
                assert len(cells) == 6
                assert cells[which] is not None
    assert count == 16 + 9
    other = {"rewritten": True, "celebrities": "multi5"}
    assert paper.published("single", paper.setting(**other)).qa["mean"] == pytest.approx(0.763)
    assert paper.published("single", paper.setting(**other | {"celebrities": "multi2"})) is None
    mixed = paper.published("single", paper.setting(qa_share=0.8)).qa
    assert mixed["mean"] == pytest.approx(0.866)
    assert "company" not in mixed
    assert paper.published("single", paper.setting(qa_share=0.3)).qa == {"mean": 0.705}
    assert paper.published("single", paper.setting(qa_share=0.5)) is None
    assert paper.published("single", paper.setting(real_text=True, qa_share=0.8)) is None
    assert paper.by_qa_share("multi3", "bioR")[0.9] == pytest.approx(0.915)
    assert paper.by_qa_share("multi3") == {}


def test_the_paper_s_numbers_stand_beside_celebrities(tmp_path):
    beside = {"celebrities": 500, "celebrity_variant": "multi5+permute", "celebrity_share": 0.7}
    row = {**a_row("single+permute1"), "mixed": beside}
    page = text_of(written(a_run(tmp_path, [row], None)))
    assert re.search(r"the paper\s+–\s+–\s+–\s+86.8\s+98.3\s+96.8", page)
    assert "Ours against the paper" not in page
    (group,) = groups.groups([row], None)
    assert group.published.q_whole["university"] == pytest.approx(0.584)


def test_a_llama_has_no_figures_of_the_paper_s_gpt2_beside_it(tmp_path):
    config = a_config(SINGLE)
    assert len(groups.groups([SINGLE], [parse(config)])[0].published.qa) == 7
    config["model"]["activation"] = "swiglu"
    assert groups.groups([SINGLE], [parse(config)])[0].published is None


def along(tmp_path, *rows, **model):
    """A page of rows of people, a share of questions, steps (of more windows from 4000 on) and
    answers, of models asked as they are."""
    found, configs = [], []
    for people, share, steps, mean in rows:
        found.append({**a_row(qa=mean), "people": people, "mixed": {"qa_share": share}})
        configs.append(a_config(found[-1], steps=steps))
        configs[-1]["world"]["people"] = people
        configs[-1]["pretrain"]["batch_size"] = steps // 2000
        configs[-1]["data"]["qa_share"] = share
        configs[-1]["finetune"]["steps"] = 0
        configs[-1]["model"].update(model)
    return written(a_run(tmp_path, found, configs, metrics=False))


def test_answers_along_the_share_of_questions_and_the_number_of_people(tmp_path):
    rows = (30, 0.2, 2000, 0.3), (30, 0.8, 2000, 0.6), (2_000_000, 0.8, 4000, 0.7)
    page = along(tmp_path / "all", *rows)
    head, *lines = csv_of(page, "along-1")
    assert head == ["share of questions (%)", "this run", "the paper"]
    assert ["20.0", "30.0", "53.6"] in lines
    assert ["80.0", "60.0", "85.7"] in lines
    assert ["40.0", "", "77.5"] in lines
    people = [["people", "this run"], ["30", "60.0"], ["2000000", "70.0"]]
    assert csv_of(page, "along-2") == people
    assert "people 2,000,000: 70.0" in html.unescape(page)
    assert "What more questions, or more people, change" not in along(tmp_path / "one", rows[0])
    steps = along(tmp_path / "steps", *rows[:1], (30, 0.8, 4000, 0.6))
    assert "What more questions, or more people, change" not in steps


def test_the_paper_s_curve_is_of_its_model_alone(tmp_path):
    rows = (30, 0.2, 2000, 0.3), (30, 0.8, 2000, 0.6)
    llama = along(tmp_path, *rows, activation="swiglu")
    assert csv_of(llama, "along-1")[0] == ["share of questions (%)", "this run"]


def test_curves_of_one_dataset_are_shown_apart(tmp_path):
    rows = [(n, share, 2000, 0.5) for n in (30, 60) for share in (0.2, 0.8)]
    page = along(tmp_path, *rows)
    assert "single (people=60): answers by share of questions" in page
    assert "single (data.qa_share=0.8): answers by people" in page
    twice = along(tmp_path / "steps", *rows, *((n, s, 3000, m) for n, s, _, m in rows))
    assert "single (people=60, pretrain.steps=3000): answers by share of questions" in twice


def test_a_model_that_was_finetuned_after_mixed_training_is_not_the_paper_s():
    row = {**SINGLE, "mixed": {"qa_share": 0.8}}
    config = a_config(row)
    config["data"]["qa_share"] = 0.8
    assert groups.groups([row], [parse(config)])[0].published is None
    config["finetune"]["steps"] = 0
    assert groups.groups([row], [parse(config)])[0].published.qa["mean"] == pytest.approx(0.866)


def test_a_long_title_of_a_picture_is_in_it_whole():
    shares = 0.1234, 0.4567, 0.9
    alike = Agreement("qa_mean", ("single", "multi2", "multi5"), shares, shares)
    short = charts.scatter(alike)
    long = dataclasses.replace(short, title=f"{short.title} {'and more of it ' * 8}")
    (width, height), (other_width, other_height) = (
        struct.unpack(">II", chart.png[16:24]) for chart in (short, long)
    )
    assert other_height > height  # it is wrapped
    assert other_width < 2 * width


def test_colours_and_lines_distinguish_the_paper_s_datasets():
    assert len({drawing.look(which) for which in range(32)}) == 32


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


def test_dynamics_are_drawn_where_a_pretraining_was_evaluated(tmp_path):
    run = a_run(tmp_path, [SINGLE])
    assert "dynamics" not in "".join(path.name for path in (tmp_path / "figures").glob("*"))
    (metrics,) = run.glob("stages/pretrain-*/metrics.jsonl")
    names = ("bio_train_first", "bio_test_first", "qa_train_first", "qa_test_first")
    lines = [
        {"step": s, "loss": 1.0, "seconds": s, "evaluation": {**dict.fromkeys(names, s / 40)}}
        for s in range(10, 40, 10)
    ]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = written(run)
    assert "The model while it was pretrained" in page
    assert "biographies, P_test 75.0" in page
    assert any("dynamics-0" in path.name for path in (tmp_path / "figures").glob("*"))


def test_a_bidirectional_model_has_no_figures_of_the_paper_beside_it(tmp_path):
    page = text_of(written(a_run(tmp_path, [{**SINGLE, "direction": "bidirectional"}])))
    assert "the paper's answers" not in page


def csv_of(page, name):
    """The table behind the link called that."""
    (href,) = re.findall(
        rf'download="{re.escape(name)}[^"]*"[^>]* href="data:text/csv[^,]*,([^"]*)', page
    )
    return list(csv.reader(io.StringIO(urllib.parse.unquote(href))))


def test_every_chart_has_its_values_as_a_table_and_as_csv(page):
    assert page.count(">Values</summary>") == page.count("<figure>")
    for which, row in enumerate(CONTRAST):
        head, *lines = csv_of(page, f"answers-{which + 1}-")
        assert head == ["", "this run", "majority guess", "the paper"]
        ours = {line[0]: float(line[1]) for line in lines}
        assert ours == {name: pytest.approx(100 * x, abs=6e-4) for name, x in row["qa"].items()}
        theirs = {line[0]: float(line[3]) for line in lines}
        assert theirs == pytest.approx(
            {n: 100 * x for n, x in paper.published(row["dataset"]).qa.items()}
        )
    head, *lines = csv_of(page, "p-probing-1-")
    assert len(lines) == 7
    assert lines[1][1:3] == ["", "5.0"]  # before the second fact the first is not asked for
    head, *lines = csv_of(page, "rows")
    assert [line[1] for line in lines] == ["single", "multi5+permute"]


def test_every_value_is_shown_at_its_mark(page):
    text = html.unescape(page).replace("\N{NARROW NO-BREAK SPACE}", " ")
    for mark in (
        "this run – university: 86.7 %",
        "the paper – birth date: 33.5 %",
        "majority guess – birth date: 2.0 %",
        "before the 1st attribute, university: 38.0 %",
        "this run – university, first token: 93.0 %",
        "single – step 1: 7.000",
    ):
        assert f'aria-label="{mark}"' in text


def test_several_runs_make_one_page_and_a_row_of_both_is_shown_once(tmp_path):
    a = a_run(tmp_path / "a", CONTRAST)
    b = a_run(tmp_path / "b", [SINGLE, a_row("multi2", qa=0.5)])
    page = report.write([a, b], tmp_path / "out").read_text()
    assert [line[1] for line in csv_of(page, "rows")[1:]] == ["single", "multi5+permute", "multi2"]
    for link in ("../a/results.json", "../b/results.json"):
        assert f'href="{link}"' in page
    assert "this run, mean of" not in page
    assert "multi2: answers" in page
    assert {label for label, *_ in csv_of(page, "loss")[1:]} == {
        "single",
        "multi5+permute",
        "multi2",
    }


def test_ours_stand_against_the_paper_s_from_three_datasets_on(tmp_path, page):
    assert "Ours against the paper" not in page
    rows = [SINGLE, a_row("multi2", qa=0.95), a_row("multi5+permute", qa=0.9)]
    text = written(a_run(tmp_path, rows, metrics=False))
    assert "Spearman’s ρ = 0.500" in text
    assert "Furthest apart: multi2 (rank 3, the paper&#x27;s 2), multi5+permute (rank 2" in text
    _, first, *_ = csv_of(text, "agreement-qa-mean")
    assert first == ["multi2", "95.0", "41.1", "3.0", "2.0"]


def test_a_dataset_in_two_settings_does_not_count_twice(tmp_path):
    rows = [SINGLE, a_row("multi2", qa=0.95), a_row("multi5+permute", qa=0.9)]
    configs = [a_config(row) for row in (*rows, SINGLE)]
    configs[-1]["finetune"]["steps"] += 10
    text = written(a_run(tmp_path, [*rows, {**SINGLE, "name": "longer"}], configs, metrics=False))
    assert "single (finetune.steps" in text
    assert "Spearman" not in text


def test_ranks_of_lora_make_a_grid_with_the_paper_s(tmp_path):
    def of(*pairs):
        rows, configs = [], []
        for i, (rank, embedding) in enumerate(pairs):
            rows.append(a_row(qa=0.1 * (i + 1)))
            configs.append(a_config(SINGLE))
            configs[-1]["finetune"].update(rank=rank, embedding_rank=embedding)
        return written(a_run(tmp_path / str(len(pairs)), rows, configs, metrics=False))

    page = of((8, 0), (8, -1), (2, 0), (2, -1))
    assert csv_of(page, "lora-1")[1:] == [["2", "30.0", "40.0"], ["8", "10.0", "20.0"]]
    theirs = csv_of(page, "lora-paper-1")
    assert theirs[0][1:] == ["0", "16", "32", "64", "128", "all"]
    assert theirs[1] == ["2", "", "", "", "", "", "8.0"]
    assert theirs[-1] == ["all", "7.8", "9.2", "9.4", "9.5", "9.5", "7.5"]
    assert "ranks of LoRA" not in of((8, 0), (8, 16))


def test_pictures_that_are_drawn_no_more_go_and_those_of_others_stay(tmp_path):
    def pictures():
        return {path.name for path in (tmp_path / "figures").iterdir()}

    written(a_run(tmp_path, [SINGLE], metrics=False))
    theirs = {"answers-9-single.png": b"\x89PNG, by another hand", "mine.txt": b"words"}
    for name, content in theirs.items():
        (tmp_path / "figures" / name).write_bytes(content)
    alone = pictures()
    assert "answers-1-single.png" in alone
    page = written(a_run(tmp_path, [SHUFFLED], metrics=False))
    linked = {urllib.parse.unquote(name) for name in re.findall(r'href="figures/([^"]+)"', page)}
    assert pictures() == linked | set(theirs)
    assert not (alone - set(theirs)) & linked
    for name, content in theirs.items():
        assert (tmp_path / "figures" / name).read_bytes() == content


def test_every_setting_is_shown(page):
    text = text_of(page).partition("Every setting")[2]
    assert re.search(r"data\.variant\s+single / multi5\+permute", text)
    assert re.search(r"pretrain\.steps\s+80000", text)
