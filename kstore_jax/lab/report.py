"""A finished run as one page: what it found, tables, figures, the paper's numbers beside ours.

The page is one file that asks nothing of any network: style inline, figures as data URIs. All text
goes through `markup.tag`, which escapes whatever is not HTML already.
"""

import base64
import html
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterable, Sequence

from kstore_jax.config import Experiment, Model
from kstore_jax.errors import UserError
from kstore_jax.files import write_bytes, write_text
from kstore_jax.lab import figures, findings, paper, tables
from kstore_jax.lab.experiment import Lab
from kstore_jax.lab.findings import Finding, Group, percent
from kstore_jax.lab.markup import Html, join, tag
from kstore_jax.lab.stages import Cache
from kstore_jax.train.telemetry import METRICS, read_metrics

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write(run: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Writes `out/report.html` and `out/figures/*.png` from `run/results.json`.

    Returns: the path of the page.

    Raises:
      UserError: `run` holds no results, or damaged ones; nothing is written.
    """
    results = findings.read_results(run)
    found = findings.groups(results.rows, findings.read_configs(run, results.rows))
    drawn = {
        "answers": [figures.answers(i, group) for i, group in enumerate(found)],
        "p_probing": [d for i, group in enumerate(found) for d in figures.p_probing(i, group)],
        "q_probing": [figures.q_probing(i, group) for i, group in enumerate(found)],
        "dynamics": _dynamics(Cache(results.stages), found),
        "losses": _losses(Cache(results.stages), found),
    }
    sections = [
        _lead(run, findings.finding(found)),
        _glance(found),
        tables.in_numbers(found),
        tables.first_tokens(found),
        tables.by_beam(found),
        tables.reworded(found),
        tables.grid(found),
        tables.by_stated(found),
        *_figures(drawn),
        *_what_was_run(found, results.provenance),
        _files(run, out, drawn),
    ]
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for drawing in (d for drawings in drawn.values() for d in drawings):
        write_bytes(out / "figures" / f"{drawing.name}.png", drawing.png)
    page = out / "report.html"
    write_text(page, _page(f"kstore: {run.resolve().name}", sections))
    return page


def _page(title: str, sections: Sequence[Html]) -> str:
    style = pathlib.Path(__file__).with_name("report.css").read_text()
    head = tag(
        "head",
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", title),
        tag("style", Html(style)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *sections), lang='en')}\n"


def _lead(run: pathlib.Path, finding: Finding) -> Html:
    parts = [tag("p", f"kstore report · {run}", class_="eyebrow"), tag("h1", finding.headline)]
    parts += [tag("p", finding.verdict, class_="verdict")] if finding.verdict else []
    parts += [tag("p", caveat, class_="warn") for caveat in finding.caveats]
    return tag("header", *parts)


def _glance(found: Sequence[Group]) -> Html:
    sections = [_bars(figures.look(i)[0], group) for i, group in enumerate(found)]
    note = f"Diamond: the paper's answers about people held out ({paper.SETTING})."
    known = any(group.published for group in found)
    notes = [tag("p", note, class_="note")] * known
    return join([tag("div", *sections, class_="glance"), *notes])


def _bars(colour: str, group: Group) -> Html:
    published = group.published
    mark = tag("u", style=f"left:{100 * published.qa['mean']:.1f}%") if published else ""
    bars = []
    for what, share, kind, extra in (
        ("recites its texts", group.mean("bio_recall"), "stored", ""),
        ("answers about people held out", group.mean("qa", "mean"), "answered", mark),
    ):
        fill = tag("i", class_=kind, style=f"width:{100 * share:.1f}%;background:{colour}")
        bars += [tag("span", what), tag("div", fill, extra, class_="track")]
        bars += [tag("b", percent(share))]
    name = tag("h3", group.label, tag("small", _seeds(group)))
    return tag("section", name, tag("div", *bars, class_="bars"))


def _seeds(group: Group) -> str:
    count = len(group.rows)
    return group.wording + (f"; mean of {count} seeds" if count > 1 else "")


def _losses(cache: Cache, found: Sequence[Group]) -> list[figures.Drawing]:
    """The pretraining losses of the rows whose metrics are there; no figure where none are."""
    curves = []
    for which, group in enumerate(found):
        for config in group.configs:
            told = [line for line in _metrics(cache, config) if line["loss"] is not None]
            if told:
                steps, losses = zip(*((line["step"], line["loss"]) for line in told), strict=True)
                curves.append((group.label, which, steps, losses))
    return [figures.losses(curves)] if curves else []


def _dynamics(cache: Cache, found: Sequence[Group]) -> list[figures.Drawing]:
    """What the models of the rows that were evaluated knew while they were pretrained."""
    drawn = []
    for which, group in enumerate(found):
        for row, config in zip(group.rows, group.configs, strict=bool(group.configs)):
            if told := [line for line in _metrics(cache, config) if line.get("evaluation")]:
                drawn.append(figures.dynamics(which, group, row["seed"], told))
    return drawn


def _metrics(cache: Cache, config: Experiment) -> list[dict]:
    """The lines of a row's pretraining, none where they cannot be read."""
    try:
        lines = read_metrics(cache.folder(Lab(config, cache).pretrain) / METRICS)
        return [{**line, "step": int(line["step"])} for line in lines]
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return []


def _figures(drawn: dict[str, list[figures.Drawing]]) -> list[Html]:
    """The sections of figures, each with how to read it."""
    return [
        join(
            [
                tag("h2", title),
                tag("p", reading),
                tag("div", *map(_shown, drawn[name]), class_="figures"),
            ]
        )
        for name, title, reading in _SECTIONS
        if drawn[name]
    ]


def _shown(drawing: figures.Drawing) -> Html:
    data = base64.b64encode(drawing.png).decode()
    alt = html.escape(drawing.alt)
    return tag("figure", Html(f'<img src="data:image/png;base64,{data}" alt="{alt}">'))


_SECTIONS = (
    (
        "answers",
        "Answers about people held out",
        "Every person's biography is in pretraining; the questions about half of them, or about "
        "the celebrities where there are any, are finetuned on. These are the answers about the "
        "others, by attribute: right when every token is.",
    ),
    (
        "p_probing",
        "P-probing: where in the text is the fact readable?",
        "A biography is fed to the frozen model, and linear probes on its last layer, just before "
        "each attribute is stated, name the attributes still to come. In the first row little but "
        "the name was read: high numbers there mean that the fact is stored with the name, "
        "numbers that are high only further down that it is tied to the text before it.",
    ),
    (
        "q_probing",
        "Q-probing: is the fact readable from the name alone?",
        "Only the full name is fed to the frozen model, and linear probes at its end name each "
        "attribute: the first token, or the whole value (not asked for the birth date, which has "
        "too many). High accuracy means that the name alone brings up the fact; where it is at the "
        "majority guess, questions about the person cannot be expected to work.",
    ),
    (
        "dynamics",
        "What the model knew while it was pretrained",
        "First tokens of the values in the biographies, and of the answers, of people whose "
        "questions are trained (P_train) and of the others (P_test), and whole answers about "
        "these. Where questions are mixed in, the paper sees answers about P_train first, then "
        "their biographies, then those of P_test, and answers about P_test last (Fig. 1).",
    ),
    ("losses", "Pretraining", "Mean next-token loss over the whole text, on the training data."),
)


def _what_was_run(found: Sequence[Group], provenance: dict) -> list[Html]:
    rows = [row for group in found for row in group.rows]
    configs = [config for group in found for config in group.configs]
    told = [
        ("people", _either(f"{row['people']:,}" for row in rows)),
        ("mixed in", _either(map(_mixed, rows)) if any(map(findings.mixed, rows)) else ""),
        ("parameters", _either(f"{row['parameters']:,}" for row in rows)),
        ("vocabulary", _either(f"{row['vocabulary']:,} tokens" for row in rows)),
        ("seeds", _either(row["seed"] for row in rows)),
        *(
            (name, _either(words.format(m=getattr(config, part)) for config in configs))
            for name, words, part in _SETTINGS
        ),
        ("devices", ", ".join(map(str, provenance.get("devices") or ["not known"]))),
        ("machine", f"{provenance.get('platform')}, Python {provenance.get('python')}"),
        ("versions", _pairs(provenance.get("versions") or {})),
        ("code", _code(rows)),
    ]
    items = [part for name, text in told if text for part in (tag("dt", name), tag("dd", text))]
    return [
        tag("h2", "What was run"),
        tag("dl", *items),
        _times(found),
        tag("h3", "What to keep in mind"),
        *(tag("p", text) for text in _of_this_run(rows, configs)),
        tag("p", "In every run of this package, unlike the paper:"),
        tag("ul", *(tag("li", text) for text in paper.DEPARTURES)),
        tag("p", "Chosen here, because the paper does not tell: ", paper.CHOSEN),
    ]


def _of_this_run(rows: Sequence[dict], configs: Sequence[Experiment]) -> list[str]:
    """What the settings of this run mean for its comparison with the paper."""
    told, theirs = [], Experiment()
    other_people = any(row["people"] != theirs.world.people for row in rows)
    if other_people or any(_size(config.model) != _size(theirs.model) for config in configs):
        told.append(_SIZE)
    if any(config.data.vocabulary == "compact" for config in configs):
        told.append(_COMPACT)
    if not any(config.model.dropout for config in configs):
        told.append("Pretraining had no dropout; the paper's probably had GPT-2's.")
    if any(config.finetune.method == "lora" and not config.finetune.grid for config in configs):
        told.append("One rank of LoRA was tried; the paper shows the better of 8 and 16.")
    for (field, value), text in _PROBING.items():
        parts = {"P-probing": "p_probe", "Q-probing": "q_probe"}.items()
        chosen = [
            name
            for name, part in parts
            if any(getattr(getattr(config, part), field) == value for config in configs)
        ]
        if chosen:
            told.append(f"{' and '.join(chosen)}: {text}")
    if read := sorted({config.p_probe.entries for config in configs} - {0}):
        most = _either(read)
        told.append(f"P-probing reads at most {most} of the biographies of each person.")
    return told


def _size(model: Model) -> tuple:
    return model.layers, model.heads, model.width, model.rotary


_SIZE = f"Compare shapes with the paper's rather than last digits: it has {paper.SETTING}."
_COMPACT = (
    "The model knows only the tokens that what is read here uses, the paper's all 50,257 of GPT-2."
)
_PROBING = {
    ("head", "linear"): (
        "a linear head has a class for each value, and cannot name a value that nobody of the "
        "half it was trained on has. With few people there are such values, so the ceiling of the "
        "probes is below 100 %; the paper, with 100,000 people, does not meet it."
    ),
    ("head", "unembedding"): (
        "first tokens are read through the model's own output rows, and only the low-rank update "
        "of the embedding is trained. The paper trains a linear head on 50,000 people; a few "
        "hundred are too few for a head of as many classes."
    ),
    ("dropout", 0.0): (
        "the frozen model drops nothing while they are trained; the paper leaves its dropout on."
    ),
    ("updated", "shared"): (
        "the embedding is updated for the tokens of the templates and the end of text only, in "
        "the paper for all. With few people a name's token is nearly the person's own, and its "
        "update would learn the half trained on by heart."
    ),
}
"""What a setting of the probes means for their reading."""

_SETTINGS = (
    (
        "model",
        "{m.layers} layers, {m.heads} heads, width {m.width}, {m.positions} positions, "
        "{m.activation}, {m.direction}, {m.dtype}",
        "model",
    ),
    ("pretraining", "{m.steps:,} steps of {m.batch} windows of {m.window} tokens", "pretrain"),
    (
        "finetuning",
        "{m.steps:,} steps of {m.batch} questions, LoRA rank {m.rank} and {m.embedding_rank}",
        "finetune",
    ),
    ("P-probing", "{m.steps:,} steps of {m.batch} texts, rank {m.embedding_rank}", "p_probe"),
    ("Q-probing", "{m.steps:,} steps of {m.batch} names, rank {m.embedding_rank}", "q_probe"),
)
"""What is told of a configuration: a name, the words, and the part that they are about."""


def _either(values: Iterable) -> str:
    """The different values, in order of appearance."""
    return " / ".join(dict.fromkeys(map(str, values)))


def _pairs(versions: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _mixed(row: dict) -> str:
    """What was read in pretraining beside the biographies of templates."""
    beside, told = findings.mixed(row), []
    if "rewritten" in beside:
        told.append(f"biographies as rewritten in {beside['rewritten']}")
    if "celebrities" in beside:
        who = f"{beside['celebrities']:,} celebrities in {beside['celebrity_variant']}"
        share = beside["celebrity_share"]
        often = f"{percent(share)} of the windows of biographies" if share else "shuffled in"
        told.append(f"{who}, {often}")
    if "qa_share" in beside:
        told.append(f"questions with answers, {percent(beside['qa_share'])} of the windows")
    if "text" in beside:
        told.append(f"text of {beside['text']}, {percent(beside['text_share'])} of the windows")
    return "; ".join(told) or "nothing"


def _code(rows: Sequence[dict]) -> str:
    """What computed the stages, which may be other code than that of whoever asked last."""
    told = sorted(set().union(*(row.get("code", ()) for row in rows)))
    return ", ".join(map(_version, told)) or "not known"


def _version(code: str) -> str:
    commit = re.fullmatch(r"([0-9a-f]{7,})(-dirty)?", code)
    if not commit:
        return code
    return f"git {commit[1][:10]}" + " with uncommitted changes" * bool(commit[2])


_STAGES = {"qa": "QA", "p_probe": "P-probe", "q_probe": "Q-probe"}


def _times(found: Sequence[Group]) -> Html:
    """Seconds of each stage, a line a row of the results."""
    rows = [(group.label, row) for group in found for row in group.rows]
    stages = list(dict.fromkeys(name for _, row in rows for name in row["seconds_by_stage"]))
    heads = ["seconds", *(_STAGES.get(stage, stage) for stage in stages), "all"]
    body = []
    for label, row in rows:
        spent = [row["seconds_by_stage"].get(stage) for stage in stages] + [row["seconds"]]
        cells = [tag("td", "–" if s is None else f"{s:,.1f}") for s in spent]
        body.append(tag("tr", tag("th", f"{label}, seed {row['seed']}", scope="row"), *cells))
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in heads)))
    return tag("div", tag("table", head, tag("tbody", *body)), class_="scroll")


def _files(run: pathlib.Path, out: pathlib.Path, drawn: dict[str, list[figures.Drawing]]) -> Html:
    results = os.path.relpath((run / "results.json").resolve(), out.resolve())
    names = [f"figures/{drawing.name}.png" for drawings in drawn.values() for drawing in drawings]
    links = [tag("a", "results.json", href=urllib.parse.quote(pathlib.Path(results).as_posix()))]
    links += [tag("a", name, href=urllib.parse.quote(name)) for name in names]
    items = [tag("li", link) for link in links]
    return join([tag("h2", "Files"), tag("ul", *items)])
