"""The settings of a run on the page: configuration, machine, versions, code, times, and departures
from the paper."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from kstore_jax.charts.drawing import percent
from kstore_jax.charts.markup import Html, tag
from kstore_jax.charts.tables import table
from kstore_jax.config.fields import as_dict, flatten
from kstore_jax.model.config import Model
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.readouts.base import READOUTS
from kstore_jax.report import paper
from kstore_jax.report.groups import Group


def run_settings(groups: Sequence[Group], provenances: Sequence[dict]) -> list[Html]:
    """A list of terms, tables of times and of every setting, and differences from the paper.

    Args:
      provenances: of the stages, as `provenance.provenance` returns them.
    """
    rows = [row for group in groups for row in group.rows]
    configs = [config for group in groups for config in group.configs]
    terms = [
        ("people", _either(f"{row['people']:,}" for row in rows)),
        ("mixed in", _either(map(_mixed, rows)) if any(row["mixed"] for row in rows) else ""),
        ("parameters", _either(f"{row['parameters']:,}" for row in rows)),
        ("vocabulary", _either(f"{row['vocabulary']:,} tokens" for row in rows)),
        ("seeds", _either(row["seed"] for row in rows)),
        *(
            (name, _either(words.format(m=m) for m in _sections(configs, part)))
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
        *_every_setting(configs),
        *(_differences(rows, configs) if any(group.bundled for group in groups) else ()),
    ]


def _differences(rows: Sequence[dict], configs: Sequence[Experiment]) -> list[Html]:
    """Differences from the paper, for people of its world."""
    return [
        tag("h3", "Differences from the paper"),
        *(tag("p", text) for text in _of_this_run(rows, configs)),
        tag("p", "In every run of this package, unlike the paper:"),
        tag("ul", *(tag("li", text) for text in paper.DEPARTURES)),
        tag("p", "Chosen here, because the paper leaves it open: ", paper.CHOSEN),
    ]


def _of_this_run(rows: Sequence[dict], configs: Sequence[Experiment]) -> list[str]:
    """What the settings of this run mean for its comparison with the paper."""
    notes, default = [], Experiment()  # the paper's sizes
    other_people = any(row["people"] != default.world.people for row in rows)
    if other_people or any(_size(config.model) != _size(default.model) for config in configs):
        notes.append(_SIZE)
    if any(config.data.vocabulary == "compact" for config in configs):
        notes.append(_COMPACT)
    if not any(config.model.dropout for config in configs):
        notes.append("Pretraining had no dropout; the paper's probably had GPT-2's.")
    if any(config.finetune.method == "lora" and not config.finetune.grid for config in configs):
        notes.append("One rank of LoRA was tried; the paper shows the better of 8 and 16.")
    for (field, value), text in _PROBING.items():
        parts = {"P-probing": "p_probe", "Q-probing": "q_probe"}.items()
        chosen = [
            name
            for name, part in parts
            if any(getattr(probe, field) == value for probe in _enabled(configs, part))
        ]
        if chosen:
            notes.append(f"{' and '.join(chosen)}: {text}")
    probes = _enabled(configs, "p_probe")
    if any(probe.validation for probe in (*probes, *_enabled(configs, "q_probe"))):
        notes.append(_HELD_BACK)
    if read := sorted({probe.biographies_per_person for probe in probes} - {0}):
        most = _either(read)
        notes.append(f"P-probing reads at most {most} of the biographies of each person.")
    return notes


def _sections(configs: Sequence[Experiment], name: str) -> list[Any]:
    """A section of each configuration; of a readout, where it is enabled."""
    if name in READOUTS:
        return _enabled(configs, name)
    return [getattr(config, name) for config in configs]


def _enabled(configs: Sequence[Experiment], name: str) -> list[Any]:
    """The configuration of a readout in each experiment that computes it."""
    readouts = [config.enabled_readouts.get(name) for config in configs]
    return [readout[1] for readout in readouts if readout]


def _size(model: Model) -> tuple:
    return model.layers, model.heads, model.width, model.rotary_pct


_SIZE = f"Compare shapes with the paper's rather than last digits: it has {paper.SETTING}."
_COMPACT = (
    "The model has only the tokens that these texts use; the paper's has all 50,257 of GPT-2."
)
_HELD_BACK = (
    "A few people of the trained half are held back from the probes, whose loss on them shows "
    "whether the probes were still improving. The paper trains its probes on the whole half."
)
_PROBING = {
    ("head", "linear"): (
        "a linear head has a class for each value, and cannot predict a value that nobody in the "
        "half it was trained on has. With few people there are such values, so the ceiling of the "
        "probes is below 100 %. The paper has 100,000 people and no such values."
    ),
    ("head", "unembedding"): (
        "first tokens are read through the model's own output rows, and only the low-rank update "
        "of the embedding is trained. The paper trains a linear head on 50,000 people; a few "
        "hundred people are too few for a head with as many classes."
    ),
    ("dropout", 0.0): (
        "the frozen model has no dropout while probes are trained; the paper leaves its dropout on."
    ),
    ("embedding_update", "shared"): (
        "the embedding is updated for the tokens of the templates and the end of text only; in "
        "the paper for all tokens. With few people, hardly anybody else shares a token of a name, "
        "and its update would memorise the half trained on."
    ),
}
"""Settings of the probes, and how to read their numbers."""

_SETTINGS = (
    (
        "model",
        "{m.layers} layers, {m.heads} heads, width {m.width}, {m.positions} positions, "
        "{m.activation}, {m.direction}, {m.dtype}",
        "model",
    ),
    (
        "pretraining",
        "{m.steps:,} steps of {m.batch_size} windows of {m.seq_len} tokens",
        "pretrain",
    ),
    (
        "finetuning",
        "{m.steps:,} steps of {m.batch_size} questions, LoRA rank {m.rank} and {m.embedding_rank}",
        "finetune",
    ),
    (
        "P-probing",
        "{m.steps:,} steps of {m.batch_size} texts, rank {m.embedding_rank}",
        "p_probe",
    ),
    (
        "Q-probing",
        "{m.steps:,} steps of {m.batch_size} names, rank {m.embedding_rank}",
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


def _mixed(row: dict) -> str:
    """What pretraining read besides the biographies of templates."""
    beside, sources = row["mixed"], []
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


def _code(rows: Sequence[dict]) -> str:
    """The code that computed the stages, which may be older than the page."""
    versions = sorted(set().union(*(row.get("code", ()) for row in rows)))
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
    stages = list(dict.fromkeys(name for _, row in rows for name in row["seconds_by_stage"]))
    heads = ["", *(_STAGES.get(stage, stage) for stage in stages), "all", "goodput"]
    bodies = []
    for label, row in rows:
        spent = [row["seconds_by_stage"].get(stage) for stage in stages] + [row["seconds"]]
        texts = ["–" if s is None else f"{s:,.1f}" for s in spent]
        texts.append(percent(row["goodput"]) if "goodput" in row else "–")
        cells = [tag("td", one) for one in texts]
        bodies.append([tag("tr", tag("th", f"{label}, seed {row['seed']}", scope="row"), *cells)])
    return table("seconds of each stage", heads, bodies)


def _every_setting(configs: Sequence[Experiment]) -> list[Html]:
    """All fields of the configurations, with their distinct values."""
    if not configs:
        return []
    settings = [flatten(as_dict(config)) for config in configs]
    names = dict.fromkeys(name for fields in settings for name in fields)
    values = {name: _either(fields.get(name, "–") for fields in settings) for name in names}
    lines = [tag("tr", tag("th", n, scope="row"), tag("td", x)) for n, x in values.items()]
    every = table("every setting", ["field", "value"], [[line] for line in lines])
    return [tag("details", tag("summary", "Every setting"), every, class_="settings")]
