"""The loss on biographies of people never read, in the course of pretraining."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from kstore_jax.charts.curves import curves_spec, log_axis, thinned
from kstore_jax.charts.drawing import WIDTH, Chart, beside
from kstore_jax.config.fields import flag, number
from kstore_jax.corpus.encode import TokenizedTexts, encode_biographies
from kstore_jax.corpus.examples import padded_tokens, span_examples
from kstore_jax.errors import UserError
from kstore_jax.model.forward import Params
from kstore_jax.readouts.base import READOUTS, Context, Readout, ReadoutConfig
from kstore_jax.readouts.measured import Measured, about, means
from kstore_jax.train import objectives
from kstore_jax.train.mesh import shard_tree
from kstore_jax.world.biographies import write_biographies
from kstore_jax.world.people import People, draw_people
from kstore_jax.world.pools import load_pools

_CURVES = {
    "loss_unread": ("people never read", "#D55E00", "-"),
    "loss_read": ("people read", "#0072B2", "-"),
}
_CANDIDATES = 100
"""So many people are drawn for each one wanted: a compact vocabulary lacks most new names."""


@dataclasses.dataclass(frozen=True)
class UnreadConfig(ReadoutConfig):
    """Loss on biographies of people never read, every `pretrain.evaluate_every` steps."""

    enabled: bool = flag(False, affects_result=False)
    """Whether it is computed."""
    people: int = number(100, 1)
    """People never read, and as many of those read."""


@READOUTS.register
class Unread(Readout):
    """The loss on biographies of people never read, beside that of people read."""

    name = "unread"
    Config = UnreadConfig
    measures_training = True

    title = "Texts never read"
    paragraph = (
        "Loss a token on biographies of people that pretraining reads and of people it never "
        "reads, each text on its own, written in the wordings of the run. What both share is "
        "language; the distance between them is what was stored about people."
    )

    def check(self, config: UnreadConfig, experiment: Any) -> None:
        if not experiment.pretrain.evaluate_every:
            raise UserError(
                "readouts.unread.enabled: expected pretrain.evaluate_every above 0, got 0"
            )
        world = experiment.world
        pools = load_pools(world.folder, world.value_fraction, world.name_fraction)
        most = pools.full_name_count - world.people - world.celebrities
        if config.people > most:
            raise UserError(
                f"readouts.unread.people: expected at most {most}, which is how many the world "
                f"has beside those read, got {config.people}"
            )

    def during(
        self, context: Context, config: UnreadConfig
    ) -> Callable[[Params], dict[str, jax.Array]]:
        unread = _people_never_read(context, config.people)
        read = context.people.take(np.arange(min(config.people, len(context.people))))
        parts = {"loss_unread": unread, "loss_read": read}
        losses = {name: _loss(context, _texts(context, people)) for name, people in parts.items()}
        return lambda params: {name: loss(params) for name, loss in losses.items()}

    def charts(self, groups: Sequence[Measured]) -> list[Chart]:
        drawn = [
            group
            for group in groups
            if all("loss_unread" in row["lines"][0]["evaluation"] for row in group.results)
        ]
        return [_chart(i + 1, drawn[2 * i : 2 * i + 2]) for i in range((len(drawn) + 1) // 2)]


def _people_never_read(context: Context, count: int) -> People:
    """`count` people after everyone in the world whose texts the vocabulary can write."""
    pools = context.table.language.pools
    first = len(context.everyone)
    last = min(pools.full_name_count, first + _CANDIDATES * count)
    people = draw_people(pools, context.world_seed, np.arange(first, last))
    texts = _texts(context, people)
    unknown = context.vocabulary.lookup(texts.tokens) < 0
    rows = np.repeat(np.arange(len(texts)), texts.lengths)
    writable = np.bincount(rows, weights=unknown, minlength=len(texts)) == 0
    if writable.sum() < count:
        raise UserError(
            f"readouts.unread.people: expected at most {int(writable.sum())}, got {count}: of "
            f"{len(people)} more people, the others have names or values with tokens that the "
            "compact vocabulary lacks; data.vocabulary=full has all"
        )
    return people.take(np.flatnonzero(writable)[:count])


def _texts(context: Context, people: People) -> TokenizedTexts:
    """The first biography of each person."""
    language, entries = context.table.language, np.zeros(len(people), np.int64)
    written = write_biographies(language, context.world_seed, context.variant, people, entries)
    return context.marked(encode_biographies(context.table, written))


def _loss(context: Context, texts: TokenizedTexts) -> Callable[[Params], jax.Array]:
    """Returns `params -> mean loss in nats`: of every token of the texts, or of the words that a
    bidirectional model has masked, the same ones each time."""
    if context.mask_token is None:
        objective = objectives.answer_tokens(context.shape)
        whole = np.stack([np.zeros(len(texts), np.int64), texts.lengths], -1)[:, None]
        examples = span_examples(texts, whole, context.vocabulary)
        columns: dict[str, Any] = {
            f.name: getattr(examples, f.name) for f in dataclasses.fields(examples)
        }
        columns |= {n: columns[n][:, 0] for n in ("positions", "targets", "weights")}
    else:
        shape = dataclasses.replace(context.shape, dropout=0.0, attention_dropout=0.0)
        objective = objectives.masked_words(shape, context.words)
        tokens, lengths = padded_tokens(texts, context.vocabulary)
        keys = jax.random.split(context.key("unread"), len(tokens))
        next_windows = np.zeros((len(tokens), 1), tokens.dtype)
        columns = {"tokens": np.concatenate([tokens, next_windows], 1), "lengths": lengths}
        columns["keys"] = keys
    batch = shard_tree(context.mesh, columns)

    @jax.jit
    def loss(params: Params) -> jax.Array:
        return objectives.total_loss(*objective(params, batch))

    return loss


def _chart(which: int, groups: Sequence[Measured]) -> Chart:
    """The losses of groups side by side."""
    rows, ends, panels = [], [], []
    curves = {name: (about(groups, label), *look) for name, (label, *look) in _CURVES.items()}
    unread, _, _ = curves["loss_unread"]

    def in_words(losses: dict[str, float]) -> str:
        return "; ".join(f"{label}: {losses[name]:.3f}" for name, (label, *_) in curves.items())

    for group in groups:
        values, by_step = [], {}
        for seed, result in zip(group.seeds, group.results, strict=True):
            for line in thinned(result["lines"], 25):
                found = {name: line["evaluation"][name] for name in curves}
                rows.append((group.label, seed, line["step"], *found.values()))
                by_step.setdefault(line["step"], []).append(found)
                values += [
                    {"step": line["step"], "y": loss, "curve": curves[name][0], "row": seed}
                    for name, loss in found.items()
                ]
            ends.append(f"{group.label}, seed {seed} – {in_words(found)}.")
        points = [
            {
                "step": step,
                "tooltip": f"{group.label} – step {step:,} – {in_words(means(several))}",
            }
            for step, several in by_step.items()
        ]
        spec = curves_spec(
            values,
            points,
            {label: (colour, dash) for label, colour, dash in curves.values()},
            log_axis([value["y"] for value in values], "nats a token"),
            (WIDTH, 210),
            [result.get("exposures", 0.0) for result in group.results],
        )
        panels.append((group.label, spec))
    return Chart(
        name=f"unread-{which}",
        title=f"{' and '.join(group.label for group in groups)}: loss on {unread}",
        alt=f"Loss a token over pretraining steps. At the end: {' '.join(ends)}",
        spec=beside([panels]),
        columns=("dataset", "seed", "step", *(label for label, _, _ in curves.values())),
        rows=rows,
        note="A line a seed.",
        decimals={label: 3 for label, _, _ in curves.values()},
    )
