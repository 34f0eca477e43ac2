"""The settings of a run on the page: configuration, machine, versions, code, times, and departures
from the paper."""

import re
from collections.abc import Iterable, Sequence

from kstore_jax.charts.drawing import percent
from kstore_jax.charts.markup import Html, tag
from kstore_jax.charts.nouns import plural, shared_noun
from kstore_jax.charts.tables import table
from kstore_jax.config.fields import flatten
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.row import Row
from kstore_jax.readouts.base import READOUTS
from kstore_jax.report import paper
from kstore_jax.report.groups import Group
from kstore_jax.tasks.base import TASKS


def run_settings(groups: Sequence[Group], provenances: Sequence[dict]) -> list[Html]:
    """A list of terms, tables of times and of every setting, and differences from the paper.

    Args:
      provenances: of the stages, as `provenance.provenance` returns them.
    """
    rows = [row for group in groups for row in group.rows]
    terms = [
        (plural(shared_noun(row.noun for row in rows)), _either(f"{row.people:,}" for row in rows)),
        ("mixed in", _either(map(_mixed, rows)) if any(row.mixed for row in rows) else ""),
        ("parameters", _either(f"{row.parameters:,}" for row in rows)),
        ("vocabulary", _either(f"{row.vocabulary:,} tokens" for row in rows)),
        ("seeds", _either(row.seed for row in rows)),
        *(
            (name, _either(words.format(**fields) for fields in configs_of(rows, part)))
            for name, words, part in _SETTINGS
        ),
        ("devices", _either(_listed(one.get("devices")) for one in provenances)),
        ("peak of a device", _either(filter(None, map(_peak, provenances)))),
        ("machine", _either(_machine(one) for one in provenances)),
        ("flags", _either(filter(None, (_pairs(one.get("flags") or {}) for one in provenances)))),
        ("versions", _either(_versions(one.get("versions") or {}) for one in provenances)),
        ("code", _code(rows)),
    ]
    items = [part for name, text in terms if text for part in (tag("dt", name), tag("dd", text))]
    return [
        tag("dl", *items),
        tag("h3", "Seconds of each stage"),
        _times(groups),
        *_every_setting(rows),
        *(_differences(rows) if any(group.bundled for group in groups) else ()),
    ]


def _differences(rows: Sequence[Row]) -> list[Html]:
    """Differences from the paper, for people of its world."""
    return [
        tag("h3", "Differences from the paper"),
        *(tag("p", text) for text in _of_this_run(rows)),
        tag("p", "In every run of this package, unlike the paper:"),
        tag("ul", *(tag("li", text) for text in paper.DEPARTURES)),
        tag("p", "Chosen here, because the paper leaves it open:"),
        tag("ul", *(tag("li", text) for text in paper.CHOSEN)),
    ]


def _of_this_run(rows: Sequence[Row]) -> list[str]:
    """What the settings of this run mean for its comparison with the paper."""
    notes, default = [], Experiment()  # the paper's sizes
    models = [row.config["model"] for row in rows]
    sizes = {tuple(model[field] for field in _SIZE_FIELDS) for model in models}
    other_people = any(row.people != default.world.people for row in rows)
    if other_people or sizes != {tuple(getattr(default.model, field) for field in _SIZE_FIELDS)}:
        notes.append(_SIZE)
    if any(row.config["data"]["vocabulary"] == "compact" for row in rows):
        notes.append(_COMPACT)
    if not any(model["dropout"] for model in models):
        notes.append("Pretraining had no dropout; the paper's probably had GPT-2's.")
    finetunings = [row.config["finetune"] for row in rows]
    if any(x["steps"] and x["method"] == "lora" and not x["grid"] for x in finetunings):
        notes.append("One rank of LoRA was tried; the paper shows the better of 8 and 16.")
    departures: dict[str, list[str]] = {}
    for name, readout in READOUTS.entries().items():
        for text in readout.departures(configs_of(rows, name)):
            departures.setdefault(text, []).append(readout.title.partition(":")[0])
    notes += [f"{' and '.join(names)}: {text}" for text, names in departures.items()]
    if swapped := dict.fromkeys(text for row in rows for text in _stand_ins(row)):
        notes.append(f"{_NARROW} {', '.join(swapped)}.")
    return notes


def _stand_ins(row: Row) -> list[str]:
    """The settings of a model narrower than the paper's that count as the paper's, in words."""
    fields = flatten(row.config)
    return [
        f"{field} {fields[field]} for {theirs}"
        for field, theirs in paper.stand_ins(fields).items()
        if not field.startswith("readouts.") or field.split(".")[1] in row.readouts
        if not field.startswith("finetune.") or fields["finetune.steps"]
    ]


def configs_of(rows: Sequence[Row], name: str) -> list[dict]:
    """A section of each configuration; of a readout or of finetuning, where there was one."""
    if name in READOUTS:
        return [row.config["readouts"][name] for row in rows if name in row.readouts]
    return [row.config[name] for row in rows if name != "finetune" or row.config[name]["steps"]]


_SIZE_FIELDS = ("layers", "heads", "width", "rotary_pct")
_SIZE = f"Compare shapes with the paper's rather than last digits: it has {paper.SETTING}."
_NARROW = (
    "The paper's numbers are beside a row only where dataset, mixture, way of finetuning and probe "
    "agree. The model is narrower than the paper's, and these settings count as the paper's:"
)
_COMPACT = (
    "The model has only the tokens that these texts use, and so fewer parameters (the paper's 124M "
    "would be 88M); the paper's has all 50,257 of GPT-2."
)
_SETTINGS = (
    (
        "model",
        "{layers} layers, {heads} heads, width {width}, {positions} positions, "
        "{activation}, {direction}, {dtype}",
        "model",
    ),
    (
        "pretraining",
        "{steps:,} steps of {batch_size} windows of {seq_len} tokens",
        "pretrain",
    ),
    (
        "finetuning",
        "{steps:,} steps of {batch_size} questions, {method}, rank {rank} and {embedding_rank}",
        "finetune",
    ),
    (
        "P-probing",
        "{steps:,} steps of {batch_size} texts, rank {embedding_rank}",
        "p_probe",
    ),
    (
        "Q-probing",
        "{steps:,} steps of {batch_size} names, rank {embedding_rank}",
        "q_probe",
    ),
)
"""The terms of a configuration: name, text, and the section it formats."""


def _either(values: Iterable) -> str:
    """The distinct values, in order of appearance."""
    return " / ".join(dict.fromkeys(map(str, values)))


def _listed(devices: Sequence | None) -> str:
    return ", ".join(map(str, devices or ["not known"]))


def _machine(provenance: dict) -> str:
    return f"{provenance.get('platform')}, Python {provenance.get('python')}"


def _peak(provenance: dict) -> str:
    peak = provenance.get("peak")
    return f"{peak['flops'] / 1e12:,.1f} TFLOP/s ({peak['source']})" if peak else ""


_NAMED = ("kstore_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def _versions(versions: dict) -> str:
    """The versions that numbers are likeliest to depend on; the provenance has all."""
    return _pairs({name: versions[name] for name in _NAMED if name in versions})


def _pairs(values: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _mixed(row: Row) -> str:
    """What pretraining read besides the biographies of templates."""
    beside, sources = row.mixed, []
    if "rewritten" in beside:
        sources.append(f"biographies as rewritten in {beside['rewritten']}")
    if "celebrities" in beside:
        who = f"{beside['celebrities']:,} celebrities in {beside['celebrity_variant']}"
        share = beside["celebrity_share"]
        often = f"{percent(share)} of the windows of biographies" if share else "shuffled in"
        sources.append(f"{who}, {often}")
    if "qa_share" in beside:
        sources.append(f"questions with answers, {percent(beside['qa_share'])} of the windows")
    if "text" in beside:
        sources.append(f"text of {beside['text']}, {percent(beside['text_share'])} of the windows")
    return "; ".join(sources) or "nothing"


def _code(rows: Sequence[Row]) -> str:
    """The code that computed the stages, which may be older than the page."""
    versions = sorted(set().union(*(row.code for row in rows)))
    return ", ".join(map(_version, versions)) or "not known"


def _version(code: str) -> str:
    commit = re.fullmatch(r"([0-9a-f]{7,})(-dirty)?", code)
    if not commit:
        return code
    return f"git {commit[1][:10]}" + " with uncommitted changes" * bool(commit[2])


_STAGES = {"qa": "QA", "p_probe": "P-probe", "q_probe": "Q-probe"}


def _times(groups: Sequence[Group]) -> Html:
    """Seconds of each stage and goodput, a line a row of the results."""
    rows = [(group.label, row) for group in groups for row in group.rows]
    stages = list(dict.fromkeys(name for _, row in rows for name in row.seconds_by_stage))
    heads = ["", *(_STAGES.get(stage, stage) for stage in stages), "all", "goodput"]
    bodies = []
    for label, row in rows:
        spent = [row.seconds_by_stage.get(stage) for stage in stages] + [row.seconds]
        texts = ["–" if s is None else f"{s:,.1f}" for s in spent]
        texts.append(percent(row.goodput))
        cells = [tag("td", one) for one in texts]
        bodies.append([tag("tr", tag("th", f"{label}, seed {row.seed}", scope="row"), *cells)])
    return table("seconds of each stage", heads, bodies)


def _every_setting(rows: Sequence[Row]) -> list[Html]:
    """All fields of the configurations that results depend on, with their distinct values; without
    those of tasks that no row trains or asks."""
    settings = [flatten(row.config) for row in rows]
    asked = ("data.tasks", "finetune.tasks", "readouts.qa.tasks")
    tasks = {task for fields in settings for name in asked for task in fields.get(name, ())}
    unused = tuple(f"tasks.{task}." for task in TASKS if task not in tasks)
    names = dict.fromkeys(n for fields in settings for n in fields if not n.startswith(unused))
    values = {name: _either(fields.get(name, "–") for fields in settings) for name in names}
    lines = [tag("tr", tag("th", n, scope="row"), tag("td", x)) for n, x in values.items()]
    every = table("every setting", ["field", "value"], [[line] for line in lines])
    return [tag("details", tag("summary", "Every setting"), every, class_="settings")]
