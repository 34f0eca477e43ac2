"""Small rewritings for tests: their experiments, servers and journals."""

import pathlib
from collections.abc import Sequence

from kstore_jax.config.rows import product
from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.pipeline.experiment import Experiment, default, parse_rows
from kstore_jax.writers import client, journal, rewriting
from kstore_jax.writers.rewritten import RECORD_FIELDS
from tests.writers.chat_server import MODEL, TEXTS

RETRY_POLICY = client.RetryPolicy(
    timeout=20.0, max_attempts=12, initial_delay=0.001, max_delay=0.01
)
NO_SERVER = "http://127.0.0.1:1"
BAD = dict.fromkeys(TEXTS, 0.06)
"""Options of a server that answers badly in every way."""
TROUBLED = {"busy": 0.03, "fail": 0.03, "cut": 0.03, "garbled": 0.03}
"""Options of a server with transport errors."""


def experiment(**fields) -> Experiment:
    """A small experiment; `__` stands for the dot in a field."""
    config = default()
    config.world.people = 40
    config.data.update(variant="multi3", vocabulary="compact")
    config.model.update(layers=1, heads=2, width=16, dtype="float32")
    config.finetune.embedding_rank = 4
    config.pretrain.update(steps=4, batch_size=4, seq_len=32, warmup_steps=0)
    config.sweep = product(**{field: [value] for field, value in fields.items()})
    return parse_rows(config)[0]


def data_of(row: Experiment) -> ExperimentData:
    return ExperimentData(row.world, row.data)


def rewrite(
    folder: pathlib.Path,
    address: str,
    rows: Sequence[Experiment],
    max_attempts: int = 20,
    model: str = MODEL,
) -> rewriting.RewriteJob:
    sections = [(row.world, row.data) for row in rows]
    return rewriting.rewrite(sections, address, model, folder, 8, max_attempts, RETRY_POLICY)


def read(folder: pathlib.Path) -> list[dict]:
    """The records of the journal in a folder."""
    path = folder / journal.JOURNAL
    return [record for _, record in journal.read_records(path, RECORD_FIELDS)]


def copy_journal(folder: pathlib.Path, copy: pathlib.Path) -> None:
    copy.mkdir()
    for name in (journal.JOURNAL, journal.CONFIG):
        (copy / name).write_bytes((folder / name).read_bytes())
