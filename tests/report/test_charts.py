"""Curves, grids and pictures."""

import dataclasses
import html
import struct

from kstore_jax.charts import drawing
from kstore_jax.readouts.base import READOUTS
from kstore_jax.report import charts, figures, groups
from kstore_jax.report.agreement import Agreement
from tests.report.runs import SINGLE, a_row, a_run, changed, csv_of, write_page
from tests.world.bundled import ATTRIBUTES


def along(tmp_path, *rows, **model):
    """The page of models that answer without finetuning.

    Args:
      rows: people, share of questions, steps, and mean of the answers. The batch grows with the
        steps.
    """
    results = [
        a_row(
            qa=mean,
            world__people=people,
            pretrain__steps=steps,
            pretrain__batch_size=steps // 2000,
            data__qa_share=share,
            finetune__steps=0,
            **model,
        )
        for people, share, steps, mean in rows
    ]
    return write_page(a_run(tmp_path, results))


def test_answers_along_the_share_of_questions_and_the_number_of_people(tmp_path):
    rows = (30, 0.2, 2000, 0.3), (30, 0.8, 2000, 0.6), (2_000_000, 0.8, 4000, 0.7)
    page = along(tmp_path / "all", *rows)
    head, *lines = csv_of(page, "along-1")
    assert head == ["share of questions (%)", "this run", "the paper"]
    assert ["20.0", "30.0", "53.6"] in lines
    assert ["80.0", "60.0", "85.7"] in lines
    assert ["40.0", "", "77.5"] in lines
    by_people = [["people", "this run"], ["30", "60.0"], ["2000000", "70.0"]]
    assert csv_of(page, "along-2") == by_people
    assert "people 2,000,000: 70.0" in html.unescape(page)
    title = "More questions, or more people"
    assert title in page
    assert title not in along(tmp_path / "one", rows[0])
    assert title not in along(tmp_path / "steps", *rows[:1], (30, 0.8, 4000, 0.6))


def test_bits_stand_beside_answers(tmp_path):
    bits = {"people": 100, "learned": 5000.0, "most_learned": 6000.0}
    rows = [
        dataclasses.replace(row, readouts={"qa": row.readouts["qa"], "capacity": bits})
        for row in (SINGLE, a_row("multi5+permute", qa=0.864))
    ]
    drawn = charts.stored_and_answered(groups.groups(rows))
    assert drawn.columns == ("", "bits a person", "all there is", "answers")
    qa = [row.readouts["qa"]["extraction"]["test"]["exact"]["mean"] for row in rows]
    assert drawn.rows == [
        ("single", 50.0, 60.0, 100 * qa[0]),
        ("multi5+permute", 50.0, 60.0, 100 * qa[1]),
    ]
    assert "single – 50.0 bits a person of 60.0" in drawn.svg
    kinds = figures_of(rows, tmp_path)
    assert kinds.index("stored") < kinds.index("loss")
    empty = dataclasses.replace(rows[0], readouts={**rows[0].readouts, "capacity": {}})
    assert "stored" not in figures_of([empty, rows[1]], tmp_path)


def figures_of(rows, folder) -> list[str]:
    """The kinds of figures of a run."""
    return [*figures.kinds(a_run(folder / "run", rows))]


def test_the_paper_s_curve_stands_beside_its_own_model_only(tmp_path):
    rows = (30, 0.2, 2000, 0.3), (30, 0.8, 2000, 0.6)
    llama = along(tmp_path, *rows, model__activation="swiglu")
    assert csv_of(llama, "along-1")[0] == ["share of questions (%)", "this run"]


def test_curves_of_one_dataset_have_titles_of_their_own(tmp_path):
    rows = [(n, share, 2000, 0.5) for n in (30, 60) for share in (0.2, 0.8)]
    page = along(tmp_path, *rows)
    assert "single (people=60): answers by share of questions" in page
    assert "single (data.qa_share=0.8): answers by people" in page
    twice = along(tmp_path / "steps", *rows, *((n, s, 3000, m) for n, s, _, m in rows))
    assert "single (people=60, pretrain.steps=3000): answers by share of questions" in twice


def test_ranks_of_lora_make_a_grid_with_the_paper_s(tmp_path):
    def page_of(*pairs):
        rows = [
            a_row(qa=0.1 * (i + 1), finetune__rank=rank, finetune__embedding_rank=embedding)
            for i, (rank, embedding) in enumerate(pairs)
        ]
        return write_page(a_run(tmp_path / str(len(pairs)), rows))

    page = page_of((8, 0), (8, -1), (2, 0), (2, -1))
    head, *lines = csv_of(page, "lora-1")
    assert head[2:] == ["0", "16", "32", "64", "128", "all"]
    assert lines[0] == ["this run", "2", "30.0", "", "", "", "", "40.0"]
    assert lines[1] == ["this run", "8", "10.0", "", "", "", "", "20.0"]
    assert lines[2] == ["the paper", "2", "", "", "", "", "", "8.0"]
    assert lines[-1] == ["the paper", "all", "7.8", "9.2", "9.4", "9.5", "9.5", "7.5"]
    assert "ranks of LoRA" not in page_of((8, 0), (8, 16))


def test_a_recorded_ceiling_is_drawn():
    (plain,) = groups.groups([SINGLE])
    ceiling = {k: dict.fromkeys(ATTRIBUTES, 0.97) for k in ("first", "whole")}
    row = changed(changed(SINGLE, "p_probe", ceiling=ceiling), "q_probe", ceiling=ceiling)
    (group,) = groups.groups([row])
    for name in ("p_probe", "q_probe"):
        drawn, without = (
            READOUTS[name].charts([measured])[0].spec
            for one in (group, plain)
            if (measured := one.measured(name))
        )
        assert "ceiling" in str(drawn)
        assert "ceiling" not in str(without)


def with_attributes(labels: list[str]) -> list[drawing.Chart]:
    """P-probing, Q-probing and answers of a group whose attributes have these labels."""
    names = [f"fact_{i}" for i in range(len(labels))]
    cells = {name: [0.5] * len(names) for name in names}
    levels = {kind: dict.fromkeys(names, 0.1) for kind in ("first", "whole")}
    probe = {"first": cells, "whole": cells, "baseline": levels}
    shares = dict.fromkeys(["mean", *names], 0.3)
    half = {"exact": shares, "first": shares}
    qa = {"train": half, "test": half, "baseline": shares, "baseline_first": shares}
    readouts = {"p_probe": probe, "q_probe": probe, "qa": {"extraction": qa}}
    attributes = dict(zip(names, labels, strict=True))
    row = dataclasses.replace(SINGLE, attributes=attributes, readouts=readouts, intervals={})
    (group,) = groups.groups([row])
    return [
        chart
        for name in readouts
        if (measured := group.measured(name))
        for chart in READOUTS[name].charts([measured])
    ]


def test_labels_of_many_attributes_do_not_touch():
    longest = 49.0  # pixels of "nationality" in Liberation Sans of 11 pixels
    for chart in with_attributes(["nationality at birth", *["nationality"] * 19]):
        assert chart.spec["width"] > 20 * longest
        assert chart.is_wide
    for chart in with_attributes(["fact"]):
        assert not chart.is_wide


def test_places_have_the_ordinals_of_the_language():
    rows = [row[2] for row in with_attributes(["fact"] * 23)[0].rows]
    assert rows[:3] == ["1st", "2nd", "3rd"]
    assert rows[10:13] == ["11th", "12th", "13th"]
    assert rows[19:23] == ["20th", "21st", "22nd", "23rd"]


def test_a_long_title_of_a_picture_is_wrapped():
    shares = 0.1234, 0.4567, 0.9
    alike = Agreement("qa_mean", ("single", "multi2", "multi5"), shares, shares)
    short = charts.scatter(alike)
    long = dataclasses.replace(short, title=f"{short.title} {'and more of it ' * 8}")
    (width, height), (other_width, other_height) = (
        struct.unpack(">II", chart.files[".png"][16:24]) for chart in (short, long)
    )
    assert other_height > height
    assert other_width < 2 * width


def test_32_groups_differ_in_colour_or_line():
    assert len({drawing.look(which) for which in range(32)}) == 32
