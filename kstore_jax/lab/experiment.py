"""One experiment as stages: shards -> pretrain -> finetune -> QA, and pretrain -> probes."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from kstore_jax.config import Experiment, PProbe, QProbe, as_dict
from kstore_jax.corpus.encode import compact_vocabulary, encode_questions, full_vocabulary
from kstore_jax.corpus.examples import Spans, span_examples
from kstore_jax.corpus.sampler import Rows, Windows
from kstore_jax.corpus.shards import (
    Corpus,
    read_dataset,
    read_manifest,
    with_end_of_text,
    write_dataset,
)
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.lab.readings import (
    FIRST_TOKEN_TASKS,
    TASKS,
    Tasks,
    biography_readings,
    class_tokens,
    labels,
    name_readings,
    shared_tokens,
)
from kstore_jax.lab.stages import Cache, Stage
from kstore_jax.model import adapters, forward
from kstore_jax.model.matmul import fastest_dtype
from kstore_jax.model.transformer import Shape
from kstore_jax.readout import probes, qa
from kstore_jax.train import objectives
from kstore_jax.train.checkpoint import opened
from kstore_jax.train.fit import Task, fit
from kstore_jax.train.mesh import everywhere
from kstore_jax.world.biographies import Variant
from kstore_jax.world.language import Language, load_language
from kstore_jax.world.people import ATTRIBUTES, People, check_size, in_train_half, people
from kstore_jax.world.questions import ask


def with_dtype(experiment: Experiment) -> Experiment:
    """The same experiment with `model.dtype` decided for this machine where it is `auto`."""
    if experiment.model.dtype != "auto":
        return experiment
    model = dataclasses.replace(experiment.model, dtype=fastest_dtype())
    return dataclasses.replace(experiment, model=model)


class Lab:
    """An experiment's materials, and its stages over a cache."""

    def __init__(self, experiment: Experiment, cache: Cache):
        self.experiment = experiment
        self.cache = cache
        e = experiment
        self.variant = Variant.parse(e.data.variant)
        self.shards = self._stage("shards", {"world": e.world, "variant": e.data.variant})
        model = {"seed": e.seed, "model": e.model, "vocabulary": e.data.vocabulary}
        self.pretrain = self._stage("pretrain", {**model, "training": e.pretrain}, self.shards)
        self.recall = self._stage("recall", {}, self.pretrain)
        self.finetune = self._stage("finetune", {"training": e.finetune}, self.pretrain)
        self.qa = self._stage("qa", {}, self.finetune)
        self.p_probe = self._stage("p_probe", {"training": e.p_probe}, self.pretrain)
        self.q_probe = self._stage("q_probe", {"training": e.q_probe}, self.pretrain)
        self.stages = (
            self.shards, self.pretrain, self.recall, self.finetune, self.qa, self.p_probe,
            self.q_probe,
        )  # fmt: skip

    def check(self) -> None:
        """Raises UserError where the world cannot be made, or a dataset made before is damaged."""
        check_size(self.language.pools, self.experiment.world.people)
        if self.cache.result(self.shards) is not None:
            read_manifest(self.cache.folder(self.shards) / "dataset")

    @property
    def done(self) -> bool:
        """Whether every stage has its result."""
        return all(self.cache.result(stage) is not None for stage in self.stages)

    def run(self) -> None:
        """Computes every stage that is not done, in this process."""
        for stage in self.stages:
            self.cache.ensure(stage)

    def _stage(self, name: str, config: dict, *parents: Stage) -> Stage:
        plain = {
            key: value if isinstance(value, str | int) else as_dict(value)
            for key, value in config.items()
        }
        return Stage(name, plain, parents, getattr(self, f"_{name}"))

    @functools.cached_property
    def language(self) -> Language:
        world = self.experiment.world
        return load_language(world.pools, world.templates)

    @functools.cached_property
    def people(self) -> People:
        world = self.experiment.world
        return people(self.language.pools, world.seed, np.arange(world.people))

    @functools.cached_property
    def in_train(self) -> np.ndarray:
        """(people,) bool: who belongs to P_train."""
        return in_train_half(self.experiment.world.seed, self.people.ids)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        if self.experiment.data.vocabulary == "compact":
            return compact_vocabulary(self.language, self.people)
        return full_vocabulary()

    @functools.cached_property
    def corpus(self) -> Corpus:
        self.cache.ensure(self.shards)
        return read_dataset(self.cache.folder(self.shards) / "dataset")

    @functools.cached_property
    def shape(self) -> Shape:
        model = self.experiment.model
        return Shape(
            vocabulary=-(-self.vocabulary.size // 128) * 128,
            layers=model.layers,
            heads=model.heads,
            width=model.width,
            rotary=model.rotary,
            init_scale=model.init_scale,
            dtype=model.dtype,
        )

    def _key(self, purpose: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.experiment.seed), purpose)

    @functools.cached_property
    def _initial(self) -> forward.Params:
        return forward.init(self.shape, self._key(0))

    @functools.cached_property
    def pretrained(self) -> forward.Params:
        """The parameters of the pretrained model."""
        return self._trained(self.pretrain, self.experiment.pretrain.steps, self._initial)

    def _trained(self, stage: Stage, steps: int, like):
        self.cache.ensure(stage)
        with opened(self.cache.folder(stage) / "checkpoints") as checkpoints:
            return checkpoints.load(steps, trainable=everywhere(like))["trainable"]

    @functools.cached_property
    def questions(self) -> Spans:
        """The six questions of every person, in order; row 6 i + a asks for attribute a of i."""
        who = np.repeat(np.arange(len(self.people)), len(ATTRIBUTES))
        asked = np.tile(np.arange(len(ATTRIBUTES)), len(self.people))
        rows = encode_questions(self.language, ask(self.language, self.people.rows(who), asked))
        answered = with_end_of_text(rows)
        spans = rows.value_spans.copy()
        spans[..., 1] += 1
        return span_examples(answered, spans, self.vocabulary)

    def _shards(self, folder: pathlib.Path) -> dict:
        world = self.experiment.world
        manifest = write_dataset(
            folder / "dataset",
            self.language,
            world.seed,
            self.variant,
            world.people,
            self.shards.config,
        )
        return {name: manifest[name] for name in ("people", "entries", "tokens")}

    def _pretrain(self, folder: pathlib.Path) -> dict:
        training = self.experiment.pretrain
        windows = Windows(with_end_of_text(self.corpus.rows), training.window, self.experiment.seed)

        def make_batch(step, count):
            rows = windows.windows(step * training.batch, count * training.batch)
            tokens = self.vocabulary.encode(rows)
            return {"tokens": tokens.reshape(count, training.batch, training.window + 1)}

        tokens = training.batch * training.window
        task = Task(
            name="pretrain",
            objective=objectives.next_token(self.shape),
            merge=lambda _, trainable: trainable,
            frozen={},
            trainable=self._initial,
            make_batch=make_batch,
            step_tokens=tokens,
        )
        fit(task, training, folder)
        passes = training.steps * tokens / int(windows.rows.offsets[-1])
        return {
            "exposures": passes * self.variant.entries,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(self._initial)),
            "vocabulary": self.vocabulary.size,
        }

    def _recall(self, _: pathlib.Path) -> dict:
        rows = self.corpus.rows
        examples = span_examples(rows, rows.value_spans, self.vocabulary)
        whole, first = qa.span_accuracy(self.shape, self.pretrained, examples)
        return {"whole": _by_attribute(whole), "first": _by_attribute(first)}

    def _finetune(self, folder: pathlib.Path) -> dict:
        training = self.experiment.finetune
        examples = self.questions
        train_rows = np.flatnonzero(np.repeat(self.in_train, len(ATTRIBUTES)))
        order = Rows(len(train_rows), self.experiment.seed)

        def make_batch(step, count):
            chosen = order.rows(step * training.batch, count * training.batch)
            which = train_rows[chosen].reshape(count, training.batch)
            return {
                "tokens": examples.tokens[which],
                "positions": examples.positions[which][:, :, 0],
                "targets": examples.targets[which][:, :, 0],
                "weights": examples.weights[which][:, :, 0],
            }

        task = Task(
            name="finetune",
            objective=objectives.answers(self.shape),
            merge=functools.partial(adapters.merge, alpha=training.alpha),
            frozen=self.pretrained,
            trainable=self._lora(),
            make_batch=make_batch,
            step_tokens=training.batch * examples.tokens.shape[1],
        )
        fit(task, training, folder)
        return {"questions": len(train_rows)}

    def _lora(self):
        training = self.experiment.finetune
        return adapters.init_lora(
            self.pretrained,
            self._key(1),
            training.rank,
            training.embedding_rank,
            training.init_scale,
        )

    def _qa(self, _: pathlib.Path) -> dict:
        training = self.experiment.finetune
        lora = self._trained(self.finetune, training.steps, self._lora())
        params = adapters.merge(self.pretrained, lora, training.alpha)
        whole, first = qa.span_accuracy(self.shape, params, self.questions)
        whole = whole.reshape(-1, len(ATTRIBUTES))
        first = first.reshape(-1, len(ATTRIBUTES))
        values = self.people.values
        baseline = {
            name: qa.majority_baseline(values[self.in_train, a], values[~self.in_train, a])
            for a, name in enumerate(ATTRIBUTES)
        }
        return {
            "train": {
                "exact": _by_attribute(whole[self.in_train]),
                "first": _by_attribute(first[self.in_train]),
            },
            "test": {
                "exact": _by_attribute(whole[~self.in_train]),
                "first": _by_attribute(first[~self.in_train]),
            },
            "baseline": {"mean": float(np.mean(list(baseline.values()))), **baseline},
        }

    def _p_probe(self, folder: pathlib.Path) -> dict:
        """Trained on biographies of P_train and tested on those of P_test."""
        training = self.experiment.p_probe
        tasks = _tasks(training)
        of_people, classes = labels(self.language, self.people, tasks)
        chosen = np.flatnonzero(self.corpus.entries < (training.entries or self.variant.entries))
        whose = self.corpus.people[chosen]
        rows = self.corpus.rows.rows(chosen)
        readings = biography_readings(rows, of_people[whose], self.vocabulary, tasks)
        in_train = self.in_train[whose]
        return self._probe(self.p_probe, folder, training, "layer", readings, in_train, classes)

    def _q_probe(self, folder: pathlib.Path) -> dict:
        training = self.experiment.q_probe
        tasks = _tasks(training)
        _, classes = labels(self.language, self.people, tasks)
        readings = name_readings(self.language, self.people, self.vocabulary, tasks)
        in_train = self.in_train
        return self._probe(self.q_probe, folder, training, "batch", readings, in_train, classes)

    def _probe(
        self,
        stage: Stage,
        folder: pathlib.Path,
        training: PProbe | QProbe,
        norm: str,
        readings: probes.Readings,
        in_train: np.ndarray,
        classes: tuple[int, ...],
    ) -> dict:
        seen, held_out = np.flatnonzero(in_train), np.flatnonzero(~in_train)
        order = Rows(len(seen), self.experiment.seed)

        def make_batch(step, count):
            chosen = order.rows(step * training.batch, count * training.batch)
            return readings.rows(seen[chosen].reshape(count, training.batch))

        frozen = dict(self.pretrained)
        trainable = probes.init_probe(self.shape, training, classes, self._key(2))
        if training.head == "unembedding":
            tokens = class_tokens(self.language, self.vocabulary)
            frozen["head"] = probes.model_head(self.shape, self.pretrained, tokens)
            del trainable["head"]
        if training.updated == "shared":
            shared = shared_tokens(self.language, self.vocabulary)
            frozen["updated"] = jnp.zeros(self.shape.vocabulary).at[shared].set(1.0)
        task = Task(
            name=stage.name,
            objective=probes.probe_objective(self.shape, classes, norm),
            merge=probes.with_probe,
            frozen=frozen,
            trainable=trainable,
            make_batch=make_batch,
            step_tokens=training.batch * len(classes) * readings.tokens.shape[1],
        )
        trained = fit(task, training, folder)
        accuracy = probes.probe_accuracy(
            self.shape,
            probes.with_probe(frozen, trained),
            classes,
            norm,
            probes.Readings(**readings.rows(seen)),
            probes.Readings(**readings.rows(held_out)),
        )
        found: dict = {part: {"first": {}, "whole": {}} for part in ("accuracy", "baseline")}
        if training.head == "linear":
            found["ceiling"] = {"first": {}, "whole": {}}
        for t, (name, kind) in enumerate(_tasks(training)):
            known, asked = readings.labels[seen, t], readings.labels[held_out, t]
            found["accuracy"][kind][name] = [None if np.isnan(x) else float(x) for x in accuracy[t]]
            found["baseline"][kind][name] = qa.majority_baseline(known, asked)
            if training.head == "linear":
                found["ceiling"][kind][name] = float(np.isin(asked, known).mean())
        return {**found.pop("accuracy"), **found}


def _tasks(training: PProbe | QProbe) -> Tasks:
    """A whole value has no row in the model's own head."""
    return TASKS if training.head == "linear" else FIRST_TOKEN_TASKS


def _by_attribute(right: np.ndarray) -> dict[str, float]:
    """The mean of right (N, 6) for each attribute, and over all."""
    shares = {name: float(right[:, a].mean()) for a, name in enumerate(ATTRIBUTES)}
    return {"mean": float(np.mean(list(shares.values()))), **shares}
