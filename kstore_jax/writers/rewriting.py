"""`kstore rewrite`: everyone's biographies, written by a model behind a server (bioR)."""

import collections
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from kstore_jax.errors import UserError
from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.world.people import people
from kstore_jax.writers import client, journal, prompts
from kstore_jax.writers.rewritten import FIELDS, check_variant, sources

SAMPLING = {"temperature": 1.0, "max_tokens": 400}
_BLOCK = 1024  # people whose facts are in memory at a time


class Rewriting:
    """The texts that experiments need, as far as a folder has them. Those of them that name
    `data.rewritten` count, or all where none does.

    Attributes:
      needed: how many texts; kept: how many of them are there.
      refused: of the answers that were not kept, how often each reason came up.
      answers: how many answers there are, `turned_down` of which were not kept.
      again: how often a request was sent again, by what went wrong (`chat.Chat`).

    Raises:
      UserError: the folder was made by another configuration, or the experiments are about more
        than one world, or texts of templates.
    """

    def __init__(self, experiments: Sequence[Experiment], model: str, folder: pathlib.Path):
        rows = [row for row in experiments if row.data.rewritten] or experiments
        for field in ("seed", "pools"):
            if len(values := {getattr(row.world, field) for row in rows}) > 1:
                told = ", ".join(map(repr, sorted(values)))
                raise UserError(
                    f"world.{field}: the rows of the configuration have {told}; a journal holds "
                    f"one world, chosen by --config.world.{field}="
                )
        self.pools, self.seed = ExperimentData(rows[0].world, rows[0].data).language.pools, rows[0].world.seed
        self.prompts = prompts.load_prompts()
        self.folder = folder
        self.config = {
            "model": model,
            "seed": self.seed,
            "pools": prompts.fingerprint(self.pools),
            "prompts": self.prompts.fingerprint,
            "sampling": SAMPLING,
        }
        texts = [_texts(row) for row in rows]
        counts = np.zeros(max(map(len, texts)), np.int64)  # of each person
        for each in texts:
            counts[: len(each)] = np.maximum(counts[: len(each)], each)
        self._open = np.arange(counts.max()) < counts[:, None]
        self._needed = self._open.copy()
        self._asked = np.zeros(self._open.shape, np.int32)
        self._declined = np.zeros(self._open.shape, bool)
        self.needed = int(self._open.sum())
        self.refused: collections.Counter[str] = collections.Counter()
        self.again: collections.Counter[str] = collections.Counter()
        self.answers = self.turned_down = 0
        journal.check(folder, self.config)

    @property
    def kept(self) -> int:
        return self.needed - int(self._open.sum())

    def count(self, record: dict) -> None:
        """Takes an answer into account; those that this experiment does not need are left out."""
        person, entry, refused = record["person"], record["entry"], record["refused"]
        size, entries = self._needed.shape
        if person >= size or entry >= entries or not self._needed[person, entry]:
            return
        self.answers += 1
        self.turned_down += bool(refused)
        self.refused.update(refused)
        self._asked[person, entry] = max(self._asked[person, entry], record["attempt"] + 1)
        self._declined[person, entry] |= "declined" in refused
        if not refused:
            self._open[person, entry] = False

    def left(self, attempts: int) -> Iterator[tuple[prompts.Facts, int]]:
        """The texts that are not there and were asked for less often than `attempts`."""
        for start in range(0, len(self._open), _BLOCK):
            rows = slice(start, start + _BLOCK)
            todo = np.argwhere(self._open[rows] & (self._asked[rows] < attempts))
            if len(todo):
                ids, place = np.unique(start + todo[:, 0], return_inverse=True)
                who = prompts.facts(self.pools, people(self.pools, self.seed, ids))
                for i, entry in zip(place.tolist(), todo[:, 1].tolist(), strict=True):
                    yield who[i], entry

    def asked(self, who: prompts.Facts, entry: int) -> int:
        """How often the writer answered for this text."""
        return int(self._asked[who.person, entry])

    def declined(self, who: prompts.Facts, entry: int) -> bool:
        """Whether the writer ever declined this text."""
        return bool(self._declined[who.person, entry])


def _texts(experiment: Experiment) -> np.ndarray:
    """(everyone,): how many texts about each person have to be written."""
    materials, world, data = ExperimentData(experiment.world, experiment.data), experiment.world, experiment.data
    check_variant(materials.variant, data.variant, "data.variant")
    if world.celebrities:
        check_variant(materials.celebrity_variant, data.celebrity_variant, "data.celebrity_variant")
    each = sources(materials.variant), sources(materials.celebrity_variant)
    return np.repeat(each, (world.people, world.celebrities))


def rewrite(
    experiments: Sequence[Experiment],
    server: str,
    model: str,
    folder: pathlib.Path,
    concurrency: int,
    attempts: int,
    patience: client.Patience = client.PATIENCE,
) -> Rewriting:
    """Asks for every text of the experiments that the folder does not have yet.

    Args:
      concurrency: requests under way at a time.
      attempts: answers a text, after which it is given up for now.

    Returns: what there is now.

    Raises:
      UserError: the experiments do not go together, the folder was made by another configuration,
        or the server refuses.
      ServerError: the server went away. What it answered is kept.
    """
    talk = client.Chat(server, model, SAMPLING, concurrency, patience)
    writing = Rewriting(experiments, model, folder)
    writing.again = talk.again
    with journal.opened(folder, writing.config) as kept:
        for _, record in journal.records(kept.path, FIELDS):
            writing.count(record)
        client.run(_write(writing, talk, kept, concurrency, attempts))
    return writing


async def _write(
    writing: Rewriting, talk: client.Chat, kept: journal.Journal, concurrency: int, attempts: int
) -> None:
    with tqdm(
        desc="rewrite", total=writing.needed, initial=writing.kept, unit=" texts", mininterval=0.5
    ) as bar:

        async def text(job: tuple[prompts.Facts, int]) -> None:
            who, entry = job
            for attempt in range(writing.asked(who, entry), attempts):
                prompt, seed = writing.prompts.ask(writing.seed, who, entry, attempt)
                answer = await talk.ask(prompt, seed, writing.declined(who, entry))
                written = prompts.tidy(answer.text)
                refused = prompts.refusals(writing.pools, who, written, answer.fault)
                record = {
                    "person": who.person,
                    "entry": entry,
                    "attempt": attempt,
                    "refused": list(refused),
                    "text": written,
                }
                kept.append(record)
                writing.count(record)
                bar.set_postfix_str(_progress(writing), refresh=False)
                if not refused:
                    bar.update()
                    return

        async with talk:
            await client.spread(writing.left(attempts), text, concurrency)


def _progress(writing: Rewriting) -> str:
    """The share refused, the commonest reasons and what was sent again, in a few words."""
    reasons = "".join(f" {reason} {n:,}" for reason, n in writing.refused.most_common(3))
    share = f"{writing.turned_down / writing.answers:.1%} refused" + (reasons and f":{reasons}")
    return f"{share}; {writing.again.total():,} sent again"


def summary(writing: Rewriting) -> str:
    """What there is, why answers were not kept, and what was sent again this time."""
    lines = [
        f"{writing.folder}: {writing.kept:,} of {writing.needed:,} texts, "
        f"{writing.answers:,} answers, {writing.turned_down:,} refused"
    ]
    lines += [f"  {reason:<13} {n:>9,}" for reason, n in writing.refused.most_common()]
    if writing.again:
        lines.append(f"sent again: {writing.again.total():,}")
        lines += [f"  {kind:<13} {n:>9,}" for kind, n in writing.again.most_common()]
    return "\n".join(lines)


def check_whole(writing: Rewriting, attempts: int) -> None:
    """Raises UserError where texts were given up."""
    if missing := writing.needed - writing.kept:
        raise UserError(
            f"{writing.folder}: {missing:,} texts were refused {attempts} times; a larger "
            "--attempts goes on"
        )
