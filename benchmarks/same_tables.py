"""The experiments that `benchmarks.same` runs, and every name that differs between two layouts.

Experiments use the new names of configuration fields. A side that lacks a field gets it under its
old name. Add a line to a table here when a name changes; nothing else needs an edit.
"""

from typing import Any

# Field of the configuration, old -> new, in whatever section it is. `num_kv_heads` = heads / group.
FIELDS = {
    "final": "final_lr_ratio",
    "accumulate": "grad_accum_steps",
    "group": "num_kv_heads",
    "tied": "tie_embeddings",
    "window": "seq_len",
    "batch": "batch_size",
    "clip": "clip_global_norm",
    "updated": "embedding_update",
    "entries": "biographies_per_person",
    "keep_every": "keep_checkpoint_every",
    "pool_share": "value_fraction",
    "name_share": "name_fraction",
    "feed_forward": "mlp_width",
    "init_scale": "init_std",
    "dispatch": "steps_per_call",
    "warmup": "warmup_steps",
    "rotary": "rotary_pct",
    "context": "max_positions",
    "beam": "beam_size",
    "dropout": "attention_dropout",  # it was both rates
}

# Section or field that moved, old dotted name -> new.
MOVED = {
    "qa": "readouts.qa",
    "p_probe": "readouts.p_probe",
    "q_probe": "readouts.q_probe",
    "pretrain.evaluate_people": "readouts.dynamics.people",
}

# Path in a result, old -> new: `row.` a row of results.json, `summary.` the rest of that file,
# `KIND.` the result.json of a stage, `metrics.` a line of metrics.jsonl, `manifest.` of a dataset.
# `*` matches one part of a path. What lies below a path moves with it.
RESULTS: dict[str, str] = {
    "row.bio_recall": "row.readouts.recall.whole.mean",
    "row.bio_recall_by_attribute": "row.readouts.recall.whole",
    "row.bio_recall_hidden": "row.readouts.recall.hidden",
    "row.qa": "row.readouts.qa.extraction.test.exact",
    "row.qa_train": "row.readouts.qa.extraction.train.exact.mean",
    "row.qa_first.train": "row.readouts.qa.extraction.train.first",
    "row.qa_first.test": "row.readouts.qa.extraction.test.first",
    "row.qa_beam": "row.readouts.qa.extraction.test.beam",
    "row.qa_wordings": "row.readouts.qa.extraction.wordings.test",
    "row.qa_baseline": "row.readouts.qa.extraction.baseline",
    "row.qa_grid": "row.finetune_grid",
    "qa.train": "qa.extraction.train",
    "qa.test": "qa.extraction.test",
    "qa.wordings": "qa.extraction.wordings",
    "qa.baseline": "qa.extraction.baseline",
    "row.p_probe": "row.readouts.p_probe",
    "row.q_probe": "row.readouts.q_probe",
}

# Paths, in new names, whose values are times, machines, folders or names of code, or that one side
# has alone: in rows, what the results of stages hold and compare as well.
IGNORED = (
    "row.attributes",
    "row.config",
    "row.dataset",
    "row.direction",
    "row.people",
    "row.seed",
    "row.mixed",
    "row.plugins",
    "row.plugin_folders",
    "row.losses",
    "row.evaluations",
    "row.intervals",
    "row.readouts.examples",
    "row.readouts.qa.extraction.held_back",
    "row.readouts.qa.extraction.wordings.held_back",
    "qa.extraction.held_back",
    "qa.extraction.wordings.held_back",
    "row.readouts.recall.first",
    "row.readouts.qa.extraction.train.exact",
    "row.readouts.qa.extraction.train.beam",
    "row.readouts.qa.extraction.wordings.train",
    "row.readouts.qa.extraction.baseline_first",
    "row.readouts.p_probe.pairs",
    "qa.extraction.baseline_first",
    "qa.grid",
    "p_probe.pairs",
    "row.code",
    "row.goodput",
    "row.seconds",
    "row.seconds_by_stage",
    "summary.provenance",
    "summary.schema",
    "summary.stages",
    "*.digests",
    "*.seconds",
    "metrics.goodput",
    "metrics.memory_bytes",
    "metrics.mfu_causal",
    "metrics.mfu_full",
    "metrics.spent",
    "metrics.tokens_per_s",
    "manifest.config.language",  # its fingerprint, which has the names of attributes now
    "manifest.sha256",  # of the manifest itself; the parts are compared byte for byte
)

# Kind of a stage, the first part of its folder's name, old -> new.
KINDS: dict[str, str] = {}

# Kinds of stages that the base may lack.
ADDED = ("examples",)

# Tree of a checkpoint, old -> new.
CHECKPOINTS: dict[str, str] = {}

_SMALL = {
    "world.people": 24,
    "model.layers": 1,
    "model.heads": 2,
    "model.width": 32,
    "pretrain.steps": 6,
    "pretrain.seq_len": 64,
    "pretrain.warmup_steps": 2,
    "pretrain.steps_per_call": 2,
    "pretrain.checkpoint_every": 4,
    "finetune.steps": 4,
    "finetune.batch_size": 8,
    "finetune.embedding_rank": 4,
    "finetune.steps_per_call": 2,
    "finetune.checkpoint_every": 4,
    "readouts.p_probe.steps": 2,
    "readouts.p_probe.batch_size": 6,
    "readouts.p_probe.steps_per_call": 1,
    "readouts.p_probe.checkpoint_every": 2,
    "readouts.q_probe.steps": 2,
    "readouts.q_probe.batch_size": 6,
    "readouts.q_probe.steps_per_call": 1,
    "readouts.q_probe.checkpoint_every": 2,
}
_LINEAR_HEAD = {
    "readouts.p_probe.head": "linear",
    "readouts.p_probe.embedding_update": "all",
    "readouts.p_probe.dropout": 0.1,
    "readouts.q_probe.head": "linear",
    "readouts.q_probe.embedding_update": "all",
}
_UNTUNED = {"finetune.steps": 0}

# Rows of one sweep, so that one process pays for start, compilation of small programs and page. The
# first two differ in data alone: `--together=2` pretrains them in one program.
_ROWS: dict[str, dict[str, Any]] = {
    "GPT, first of two": {
        "data.variant": "single",
        "model.dropout": 0.1,
        "model.attention_dropout": 0.1,
        "readouts.qa.beam_size": 2,
    },
    "GPT, second of two": {
        "data.variant": "multi5+permute",
        "model.dropout": 0.1,
        "model.attention_dropout": 0.1,
        **_UNTUNED,
    },
    "BERT": {
        "data.variant": "single",
        "model.direction": "bidirectional",
        "pretrain.evaluate_every": 4,
        "readouts.dynamics.people": 6,
        **_LINEAR_HEAD,
    },
    "questions mixed in": {
        "data.variant": "couple2",
        "data.qa_share": 0.4,
        "data.text": "text",
        "data.text_share": 0.2,
        "model.style": "mistral",
        "model.heads": 4,
        "world.name_fraction": 0.5,
        "pretrain.optimizer": "muon",
        **_UNTUNED,
    },
    "celebrities": {
        "data.variant": "single+fullname",
        "data.celebrity_variant": "multi2",
        "data.celebrity_share": 0.3,
        "world.celebrities": 10,
        "seed": 1,
        "pretrain.grad_accum_steps": 2,
        "pretrain.skip_nonfinite": 2,
        "finetune.method": "full",
    },
    "grid": {
        "data.variant": "multi2",
        "pretrain.evaluate_every": 4,
        "readouts.dynamics.people": 6,
        "finetune.grid": [{"rank": 4}, {"rank": -1, "embedding_rank": 0}],
    },
    "fresh text": {
        "data.variant": "fresh",
        "model.style": "gpt2",
        "pretrain.schedule": "linear",
        "pretrain.final_lr_ratio": 0.1,
        **_UNTUNED,
    },
}

# A sweep: file of the configuration and its argument, command, fields of all rows, rows.
FAST = {
    "small": {
        "config": "configs/quickstart.py",
        "argument": "smallest",
        "command": ["sweep", "--workers=1", "--together=2"],
        "fields": _SMALL,
        "rows": _ROWS,
    }
}
FULL = {
    **FAST,
    "quickstart": {
        "config": "configs/quickstart.py",
        "command": ["quickstart", "--workers=1"],
        "fields": {},
    },
    "datasets": {
        "config": "configs/datasets.py",
        "command": ["run"],
        # A fraction of the values is another set of dates since its version 2.
        "fields": {"data.variant": "single", "world.value_fraction": 1.0},
        "rows": {},
    },
}
