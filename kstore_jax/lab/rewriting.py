"""`kstore rewrite`: everyone's biographies, written by a model behind a server (bioR)."""

import collections
import pathlib
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from kstore_jax import chat, journal
from kstore_jax.config import Experiment
from kstore_jax.corpus.rewritten import FIELDS, check_variant, sources
from kstore_jax.errors import UserError
from kstore_jax.lab.materials import Materials
from kstore_jax.world import rewriter
from kstore_jax.world.people import people

SAMPLING = {"temperature": 1.0, "max_tokens": 400}
_BLOCK = 1024  # people whose facts are in memory at a time


class Rewriting:
    """The texts that an experiment needs, as far as a folder has them.

    Attributes:
      needed: how many texts; kept: how many of them are there.
      refused: of the answers that were not kept, how often each reason came up.
      answers: how many answers there are, `turned_down` of which were not kept.

    Raises:
      UserError: the folder was made by another configuration.
    """

    def __init__(self, experiment: Experiment, model: str, folder: pathlib.Path):
        materials = Materials(experiment)
        self.pools, self.seed = materials.language.pools, experiment.world.seed
        self.prompts = rewriter.load_prompts()
        self.folder = folder
        self.config = {
            "model": model,
            "seed": self.seed,
            "pools": rewriter.fingerprint(self.pools),
            "prompts": self.prompts.fingerprint,
            "sampling": SAMPLING,
        }
        world, data = experiment.world, experiment.data
        groups = [(world.people, materials.variant, data.variant, "data.variant")]
        if world.celebrities:
            famous = materials.celebrity_variant, data.celebrity_variant, "data.celebrity_variant"
            groups.append((world.celebrities, *famous))
        for _, variant, written, field in groups:
            check_variant(variant, written, field)
        counts = np.concatenate([np.full(size, sources(v)) for size, v, *_ in groups])
        self._open = np.arange(counts.max()) < counts[:, None]
        self._needed = self._open.copy()
        self._asked = np.zeros(self._open.shape, np.int32)
        self.needed = int(self._open.sum())
        self.refused: collections.Counter[str] = collections.Counter()
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
        if not refused:
            self._open[person, entry] = False

    def left(self, attempts: int) -> Iterator[tuple[rewriter.Facts, int]]:
        """The texts that are not there and were asked for less often than `attempts`."""
        for start in range(0, len(self._open), _BLOCK):
            rows = slice(start, start + _BLOCK)
            todo = np.argwhere(self._open[rows] & (self._asked[rows] < attempts))
            if len(todo):
                ids, place = np.unique(start + todo[:, 0], return_inverse=True)
                who = rewriter.facts(self.pools, people(self.pools, self.seed, ids))
                for i, entry in zip(place.tolist(), todo[:, 1].tolist(), strict=True):
                    yield who[i], entry

    def asked(self, who: rewriter.Facts, entry: int) -> int:
        """How often the writer answered for this text."""
        return int(self._asked[who.person, entry])


def rewrite(
    experiment: Experiment,
    server: str,
    model: str,
    folder: pathlib.Path,
    concurrency: int,
    attempts: int,
    patience: chat.Patience = chat.PATIENCE,
) -> Rewriting:
    """Asks for every text that the folder does not have yet.

    Args:
      concurrency: requests under way at a time.
      attempts: answers a text, after which it is given up for now.

    Returns: what there is now.

    Raises:
      UserError: the folder was made by another configuration, or the server refuses.
      ServerError: the server went away. What it answered is kept.
    """
    writing = Rewriting(experiment, model, folder)
    talk = chat.Chat(server, model, SAMPLING, concurrency, patience)
    with journal.opened(folder, writing.config) as kept:
        for _, record in journal.records(kept.path, FIELDS):
            writing.count(record)
        chat.run(_write(writing, talk, kept, concurrency, attempts))
    return writing


async def _write(
    writing: Rewriting, talk: chat.Chat, kept: journal.Journal, concurrency: int, attempts: int
) -> None:
    with tqdm(
        desc="rewrite", total=writing.needed, initial=writing.kept, unit=" texts", mininterval=0.5
    ) as bar:

        async def text(job: tuple[rewriter.Facts, int]) -> None:
            who, entry = job
            for attempt in range(writing.asked(who, entry), attempts):
                prompt, seed = writing.prompts.ask(writing.seed, who, entry, attempt)
                answer = await talk.ask(prompt, seed)
                written = rewriter.tidy(answer.text)
                refused = rewriter.refusals(writing.pools, who, written, answer.whole)
                record = {
                    "person": who.person,
                    "entry": entry,
                    "attempt": attempt,
                    "refused": list(refused),
                    "text": written,
                }
                kept.append(record)
                writing.count(record)
                share = writing.turned_down / writing.answers
                again = talk.again.total()
                bar.set_postfix_str(f"{share:.1%} refused, {again} sent again", refresh=False)
                if not refused:
                    bar.update()
                    return

        async with talk:
            await chat.spread(writing.left(attempts), text, concurrency)


def summary(writing: Rewriting) -> str:
    """What there is, and why answers were not kept."""
    lines = [
        f"{writing.folder}: {writing.kept:,} of {writing.needed:,} texts, "
        f"{writing.answers:,} answers, {writing.turned_down:,} refused"
    ]
    lines += [f"  {reason:<13} {n:>9,}" for reason, n in writing.refused.most_common()]
    return "\n".join(lines)


def check_whole(writing: Rewriting, attempts: int) -> None:
    """Raises UserError where texts were given up."""
    if missing := writing.needed - writing.kept:
        raise UserError(
            f"{writing.folder}: {missing:,} texts were refused {attempts} times; a larger "
            "--attempts goes on"
        )
