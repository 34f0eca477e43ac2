"""One experiment as stages: shards -> pretrain -> finetune -> QA, and pretrain -> probes."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kstore_jax.config import Experiment, PProbe, QProbe, as_dict
from kstore_jax.corpus import shards
from kstore_jax.corpus.examples import Spans, span_examples
from kstore_jax.corpus.sampler import Mixture, Rows, Windows
from kstore_jax.corpus.shards import Corpus
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.lab.initial import initial
from kstore_jax.lab.materials import Materials
from kstore_jax.lab.mixing import exposures, pretraining_windows
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
from kstore_jax.lab.stages import Cache, Stage, usable_cores
from kstore_jax.model import adapters, exchange, forward
from kstore_jax.model.attention import choose
from kstore_jax.model.matmul import fastest_dtype
from kstore_jax.model.transformer import Shape
from kstore_jax.readout import probes, qa
from kstore_jax.train import objectives
from kstore_jax.train.checkpoint import opened
from kstore_jax.train.fit import Task, fit
from kstore_jax.train.mesh import make_mesh, placed
from kstore_jax.world.people import ATTRIBUTES
from kstore_jax.world.questions import TRAINED_WORDING


def with_dtype(experiment: Experiment) -> Experiment:
    """The same experiment with `model.dtype` and `model.attention` decided for this machine where
    they are `auto`; UserError where the attention asked for is not here."""
    m = experiment.model
    dtype = fastest_dtype() if m.dtype == "auto" else m.dtype
    program = choose(m.attention, dtype, m.width // m.heads, m.dropout)
    model = dataclasses.replace(m, dtype=dtype, attention=program)
    return dataclasses.replace(experiment, model=model)


class Lab:
    """The stages of an experiment over a cache."""

    def __init__(self, experiment: Experiment, cache: Cache):
        self.experiment = experiment
        self.cache = cache
        self.materials = Materials(experiment)
        e = experiment
        self.corpora = {
            name: self._stage(name, dataset.config, (), functools.partial(self._write, dataset))
            for name, dataset in self.materials.datasets.items()
        }
        shares = ("vocabulary", "celebrity_share", "qa_share", "text_share")
        mixed = {name: getattr(e.data, name) for name in shares}
        model = {"seed": e.seed, "model": e.model, "data": mixed, "training": e.pretrain}
        if e.model.init_from:
            model["initial"] = exchange.check(e.model, pathlib.Path(e.model.init_from))
        self.pretrain = self._stage("pretrain", model, [*self.corpora.values()], self._pretrain)
        self.recall = self._stage("recall", {}, [self.pretrain], self._recall)
        tuning = {"training": e.finetune}
        self.finetune = self._stage("finetune", tuning, [self.pretrain], self._finetune)
        self.qa = self._stage("qa", {}, [self.finetune], self._qa)
        p_probe, q_probe = {"training": e.p_probe}, {"training": e.q_probe}
        self.p_probe = self._stage("p_probe", p_probe, [self.pretrain], self._p_probe)
        self.q_probe = self._stage("q_probe", q_probe, [self.pretrain], self._q_probe)
        self.stages = (
            *self.corpora.values(), self.pretrain, self.recall, self.finetune, self.qa,
            self.p_probe, self.q_probe,
        )  # fmt: skip

    def check(self) -> None:
        """Raises an error where the training cannot start, or a dataset made before is damaged."""
        if self.experiment.model.init_from and not self.experiment.data.text:
            _ = self._initial
        for stage in self.corpora.values():
            if self.cache.result(stage) is not None:
                shards.read_manifest(self.cache.folder(stage) / "dataset")

    @property
    def done(self) -> bool:
        """Whether every stage has its result."""
        return all(self.cache.result(stage) is not None for stage in self.stages)

    def run(self) -> None:
        """Computes every stage that is not done, in this process."""
        for stage in self.stages:
            self.cache.ensure(stage)

    def _stage(
        self,
        name: str,
        config: dict,
        parents: Sequence[Stage],
        compute: Callable[[pathlib.Path], dict],
    ) -> Stage:
        plain = {
            key: as_dict(value) if dataclasses.is_dataclass(value) else value
            for key, value in config.items()
        }
        return Stage(name, plain, tuple(parents), compute)

    def _write(self, dataset: shards.Dataset, folder: pathlib.Path) -> dict:
        manifest = shards.write_dataset(dataset, folder / "dataset", len(usable_cores()))
        return {name: manifest[name] for name in ("entries", "tokens")}

    def _read(self, name: str) -> Corpus:
        stage = self.corpora[name]
        self.cache.ensure(stage)
        return shards.read_dataset(self.cache.folder(stage) / "dataset")

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The biographies of the people the model is read about."""
        return self._read("shards")

    @functools.cached_property
    def _mixed_in(self) -> dict[str, Corpus]:
        return {name: self._read(name) for name in self.corpora if name != "shards"}

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        found, data = self.materials.vocabulary, self.experiment.data
        if data.vocabulary != "compact" or not (data.text or data.rewritten):
            return found
        read = [corpus.rows.tokens for corpus in (self.corpus, *self._mixed_in.values())]
        ids = np.unique(np.concatenate([found.ids, *map(np.unique, read)]))
        return Vocabulary(found.tokenizer, ids)

    @functools.cached_property
    def windows(self) -> Windows | Mixture:
        """What is read in pretraining."""
        corpora = {"shards": self.corpus, **self._mixed_in}
        length, seed = self.experiment.pretrain.window, self.experiment.seed
        return pretraining_windows(self.materials, corpora, length, seed)

    @functools.cached_property
    def shape(self) -> Shape:
        return Shape.of(self.experiment.model, -(-self.vocabulary.size // 128) * 128)

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        return make_mesh(self.experiment.mesh)

    def _key(self, purpose: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.experiment.seed), purpose)

    @functools.cached_property
    def _initial(self) -> forward.Params:
        return initial(self.experiment.model.init_from, self.shape, self.vocabulary, self._key(0))

    @functools.cached_property
    def pretrained(self) -> forward.Params:
        """The parameters of the pretrained model."""
        return self._trained(self.pretrain, self.experiment.pretrain.steps, self._initial)

    def _trained(self, stage: Stage, steps: int, like):
        self.cache.ensure(stage)
        with opened(self.cache.folder(stage) / "checkpoints") as checkpoints:
            return checkpoints.load(steps, trainable=placed(self.mesh, like))["trainable"]

    @functools.cached_property
    def questions(self) -> Spans:
        """The questions about everyone, in the trained wording."""
        return self.materials.questions(self.vocabulary)

    def _pretrain(self, folder: pathlib.Path) -> dict:
        training = self.experiment.pretrain
        windows = self.windows

        def make_batch(step, rows):
            first = step * training.batch + rows.start
            return {"tokens": self.vocabulary.encode(windows.windows(first, len(rows)))}

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
        fit(task, training, folder, self.mesh)
        return {
            "exposures": exposures(self.materials, windows, training.steps * training.batch),
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
        train_rows = np.flatnonzero(np.repeat(self.materials.taught, len(ATTRIBUTES)))
        order = Rows(len(train_rows), self.experiment.seed)

        def make_batch(step, rows):
            which = train_rows[order.rows(step * training.batch + rows.start, len(rows))]
            return {
                "tokens": examples.tokens[which],
                "positions": examples.positions[which][:, 0],
                "targets": examples.targets[which][:, 0],
                "weights": examples.weights[which][:, 0],
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
        fit(task, training, folder, self.mesh)
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
        whole, first = self._answered(params, self.questions)
        taught = self.materials.taught
        values = self.materials.everyone.values
        baseline = {
            name: qa.majority_baseline(values[taught, a], values[~taught, a])
            for a, name in enumerate(ATTRIBUTES)
        }
        wordings = range(TRAINED_WORDING + 1, self.materials.language.questions.shape[1])
        reworded = [
            self._answered(params, self.materials.questions(self.vocabulary, wording))[0]
            for wording in wordings
        ]
        return {
            "train": {
                "exact": _by_attribute(whole[taught]),
                "first": _by_attribute(first[taught]),
            },
            "test": {
                "exact": _by_attribute(whole[~taught]),
                "first": _by_attribute(first[~taught]),
            },
            "wordings": {
                "train": [_by_attribute(right[taught]) for right in reworded],
                "test": [_by_attribute(right[~taught]) for right in reworded],
            },
            "baseline": {"mean": float(np.mean(list(baseline.values()))), **baseline},
        }

    def _answered(self, params: forward.Params, questions: Spans) -> tuple[np.ndarray, np.ndarray]:
        """(everyone, 6) bool, twice: whether an answer, and its first token, are right."""
        found = qa.span_accuracy(self.shape, params, questions)
        whole, first = (right.reshape(-1, len(ATTRIBUTES)) for right in found)
        return whole, first

    def _p_probe(self, folder: pathlib.Path) -> dict:
        """Trained on biographies of P_train and tested on those of P_test."""
        training = self.experiment.p_probe
        tasks = _tasks(training)
        of_people, classes = labels(self.materials.table, self.materials.people, tasks)
        entries = training.entries or self.materials.variant.entries
        chosen = np.flatnonzero(self.corpus.entries < entries)
        whose = self.corpus.people[chosen]
        rows = self.corpus.rows.rows(chosen)
        readings = biography_readings(rows, of_people[whose], self.vocabulary, tasks)
        in_train = self.materials.in_train[whose]
        return self._probe(self.p_probe, folder, training, "layer", readings, in_train, classes)

    def _q_probe(self, folder: pathlib.Path) -> dict:
        training = self.experiment.q_probe
        tasks = _tasks(training)
        table, who = self.materials.table, self.materials.people
        _, classes = labels(table, who, tasks)
        readings = name_readings(table, who, self.vocabulary, tasks)
        return self._probe(
            self.q_probe, folder, training, "batch", readings, self.materials.in_train, classes
        )

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

        def make_batch(step, rows):
            chosen = order.rows(step * training.batch + rows.start, len(rows))
            return readings.rows(seen[chosen])

        frozen = dict(self.pretrained)
        trainable = probes.init_probe(self.shape, training, classes, self._key(2))
        if training.head == "unembedding":
            tokens = class_tokens(self.materials.table, self.vocabulary)
            frozen["head"] = probes.model_head(self.shape, self.pretrained, tokens)
            del trainable["head"]
        if training.updated == "shared":
            shared = shared_tokens(self.materials.table, self.vocabulary)
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
        trained = fit(task, training, folder, self.mesh)
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
