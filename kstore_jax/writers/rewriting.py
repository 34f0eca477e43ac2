"""`kstore rewrite`: a model behind a server writes everyone's biographies (bioR)."""

import collections
import functools
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from kstore_jax.corpus.config import Data
from kstore_jax.errors import UserError
from kstore_jax.world.biographies import Variant
from kstore_jax.world.config import World
from kstore_jax.world.people import check_people_count, draw_people
from kstore_jax.world.pools import Pools, load_pools
from kstore_jax.writers import client, journal, prompts
from kstore_jax.writers.prompts import PersonFacts
from kstore_jax.writers.rewritten import RECORD_FIELDS, check_rewritable, texts_per_person

SAMPLING = {"temperature": 1.0, "max_tokens": 400}
_BLOCK = 1024  # people whose facts are in memory at a time


class RewriteJob:
    """The texts that the rows of a configuration need, and which of them a folder already has.

    If any row sets `data.rewritten`, only such rows count.

    Attributes:
      needed: number of texts.
      answers: number of answers so far.
      rejected: number of answers that were rejected.
      rejections: number of rejections by reason; an answer may have several.
      retries: number of retried requests by cause (`client.ChatClient`).

    Raises:
      UserError: another configuration made the folder, the rows are about different worlds, or a
        variant exists for templates only.
    """

    def __init__(
        self,
        rows: Sequence[tuple[World, Data]],
        model: str,
        folder: pathlib.Path,
        strategy: str = "",
    ):
        rows = [(world, data) for world, data in rows if data.rewritten] or rows
        for field in ("seed", "folder", "value_fraction", "name_fraction"):
            if len(values := {getattr(world, field) for world, _ in rows}) > 1:
                raise UserError(
                    f"world.{field}: the rows of the configuration have "
                    f"{', '.join(map(repr, sorted(values)))}; a journal is about one world, "
                    f"choose it with --config.world.{field}="
                )
        self.seed, self.pools = rows[0][0].seed, _pools(rows[0][0])
        self.prompts = prompts.load_prompts(self.pools.schema, strategy)
        self.folder = folder
        self.config = {
            "model": model,
            "seed": self.seed,
            "pools": prompts.pools_fingerprint(self.pools),
            "prompts": self.prompts.fingerprint,
            "sampling": SAMPLING,
        }
        counts_by_row = [_text_counts(world, data) for world, data in rows]
        counts = np.zeros(max(map(len, counts_by_row)), np.int64)  # (everyone,)
        for each in counts_by_row:
            counts[: len(each)] = np.maximum(counts[: len(each)], each)
        self._needed = np.arange(counts.max()) < counts[:, None]  # (everyone, entries)
        self._missing = self._needed.copy()
        self._attempts = np.zeros(self._needed.shape, np.int32)
        self._declined = np.zeros(self._needed.shape, bool)
        self.needed = int(self._needed.sum())
        self.rejections: collections.Counter[str] = collections.Counter()
        self.retries: collections.Counter[str] = collections.Counter()
        self.answers = self.rejected = 0
        journal.check_config(folder, self.config)

    @property
    def accepted(self) -> int:
        """Number of needed texts that the folder has."""
        return self.needed - int(self._missing.sum())

    def count(self, record: dict) -> None:
        """Counts a record of the journal; ignores texts that these rows do not need."""
        person, entry, reasons = record["person"], record["entry"], record["refused"]
        size, entries = self._needed.shape
        if person >= size or entry >= entries or not self._needed[person, entry]:
            return
        self.answers += 1
        self.rejected += bool(reasons)
        self.rejections.update(reasons)
        self._attempts[person, entry] = max(self._attempts[person, entry], record["attempt"] + 1)
        self._declined[person, entry] |= "declined" in reasons
        if not reasons:
            self._missing[person, entry] = False

    @functools.cached_property
    def _others(self) -> prompts.Others:
        return prompts.Others(
            self.pools, draw_people(self.pools, self.seed, np.arange(len(self._needed)))
        )

    def missing_texts(self, max_attempts: int) -> Iterator[tuple[PersonFacts, int]]:
        """Yields (facts, entry) of every missing text with fewer than `max_attempts` answers."""
        for start in range(0, len(self._missing), _BLOCK):
            block = slice(start, start + _BLOCK)
            todo = np.argwhere(self._missing[block] & (self._attempts[block] < max_attempts))
            if len(todo):
                ids, index = np.unique(start + todo[:, 0], return_inverse=True)
                facts = prompts.person_facts(self.pools, draw_people(self.pools, self.seed, ids))
                if self.prompts.shared:
                    facts = [self._others.add(each) for each in facts]
                for i, entry in zip(index.tolist(), todo[:, 1].tolist(), strict=True):
                    yield facts[i], entry

    def attempts(self, person: int, entry: int) -> int:
        """Number of answers for a text so far."""
        return int(self._attempts[person, entry])

    def was_declined(self, person: int, entry: int) -> bool:
        """Whether the server ever declined to write a text."""
        return bool(self._declined[person, entry])


def _pools(world: World) -> Pools:
    return load_pools(world.folder, world.value_fraction, world.name_fraction)


def _text_counts(world: World, data: Data) -> np.ndarray:
    """(everyone,): the number of texts to write about each person, celebrities last."""
    check_people_count(_pools(world), world.people + world.celebrities)
    check_rewritable(world, data)
    variants = data.variant, data.celebrity_variant
    counts = [texts_per_person(Variant.parse(variant)) for variant in variants]
    return np.repeat(counts, (world.people, world.celebrities))


def rewrite(
    rows: Sequence[tuple[World, Data]],
    server: str,
    model: str,
    folder: pathlib.Path,
    concurrency: int,
    max_attempts: int,
    retry_policy: client.RetryPolicy = client.DEFAULT_RETRY_POLICY,
    strategy: str = "",
) -> RewriteJob:
    """Requests every text that the folder does not have yet; returns the state afterwards.

    Args:
      rows: world and data of each row of the configuration.
      concurrency: the largest number of requests in flight.
      max_attempts: answers per text before giving it up in this run.
      strategy: as `prompts.load_prompts` takes it.

    Raises:
      UserError: the rows do not fit together, another configuration made the folder, or the server
        rejects the requests.
      ServerError: the server stopped answering; its answers are saved.
    """
    chat = client.ChatClient(server, model, SAMPLING, concurrency, retry_policy)
    job = RewriteJob(rows, model, folder, strategy)
    job.retries = chat.retries
    with journal.open_journal(folder, job.config) as answers:
        for _, record in journal.read_records(answers.path, RECORD_FIELDS):
            job.count(record)
        client.run(_request_texts(job, chat, answers, concurrency, max_attempts))
    return job


async def _request_texts(
    job: RewriteJob,
    chat: client.ChatClient,
    answers: journal.Journal,
    concurrency: int,
    max_attempts: int,
) -> None:
    with tqdm(
        desc="rewrite", total=job.needed, initial=job.accepted, unit=" texts", mininterval=0.5
    ) as bar:

        async def request_text(missing: tuple[PersonFacts, int]) -> None:
            facts, entry = missing
            person = facts.person
            for attempt in range(job.attempts(person, entry), max_attempts):
                prompt, seed = job.prompts.prompt(job.seed, facts, entry, attempt)
                answer = await chat.complete(prompt, seed, job.was_declined(person, entry))
                text = prompts.clean_text(answer.text)
                reasons = prompts.rejection_reasons(job.pools, facts, text, answer.fault)
                record = {
                    "person": person,
                    "entry": entry,
                    "attempt": attempt,
                    "refused": list(reasons),
                    "text": text,
                }
                answers.append(record)
                job.count(record)
                bar.set_postfix_str(_progress(job), refresh=False)
                if not reasons:
                    bar.update()
                    return

        async with chat:
            await client.for_each(job.missing_texts(max_attempts), request_text, concurrency)


def _progress(job: RewriteJob) -> str:
    """The share of rejected answers, the three most frequent reasons, and the number of retries."""
    reasons = "".join(f" {reason} {n:,}" for reason, n in job.rejections.most_common(3))
    share = f"{job.rejected / job.answers:.1%} rejected" + (reasons and f":{reasons}")
    return f"{share}; {job.retries.total():,} retries"


def summary(job: RewriteJob) -> str:
    """The number of texts, and of rejections and retries by cause, as lines to print."""
    lines = [
        f"{job.folder}: {job.accepted:,} of {job.needed:,} texts, "
        f"{job.answers:,} answers, {job.rejected:,} rejected"
    ]
    lines += [f"  {reason:<13} {n:>9,}" for reason, n in job.rejections.most_common()]
    if job.retries:
        lines.append(f"retries: {job.retries.total():,}")
        lines += [f"  {cause:<13} {n:>9,}" for cause, n in job.retries.most_common()]
    return "\n".join(lines)


def check_complete(job: RewriteJob, max_attempts: int) -> None:
    """Raises UserError where texts are missing."""
    if missing := job.needed - job.accepted:
        raise UserError(
            f"{job.folder}: {missing:,} texts were rejected {max_attempts} times; "
            "repeat with a larger --attempts"
        )
