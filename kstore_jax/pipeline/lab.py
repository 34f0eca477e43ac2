"""One experiment as stages: shards -> pretrain -> finetune -> QA, and pretrain -> probes."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from kstore_jax.config.fields import identity
from kstore_jax.corpus import shards
from kstore_jax.corpus.encode import TokenRows
from kstore_jax.corpus.examples import Spans, span_examples, word_examples
from kstore_jax.corpus.sampler import Mixture, Windows
from kstore_jax.corpus.shards import Corpus
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.model import forward, hf_checkpoint
from kstore_jax.model.attention import choose
from kstore_jax.model.matmul import fastest_dtype
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline import answering
from kstore_jax.pipeline.data import Materials
from kstore_jax.pipeline.experiment import Experiment, Finetune
from kstore_jax.pipeline.init_params import initial
from kstore_jax.pipeline.mixture import exposures, pretraining_windows
from kstore_jax.pipeline.stages import Cache, Stage, usable_cores
from kstore_jax.readouts import probing
from kstore_jax.readouts.recall import recall
from kstore_jax.train import distributed, objectives
from kstore_jax.train.checkpoint import opened
from kstore_jax.train.fit import Lane, Task, all_trained, fit_together
from kstore_jax.train.flops import flops_per_token
from kstore_jax.train.masking import Words
from kstore_jax.train.mesh import make_mesh, placed
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
            model["initial"] = hf_checkpoint.check(e.model, pathlib.Path(e.model.init_from))
        self.pretrain = self._stage("pretrain", model, [*self.corpora.values()], self._pretrain)
        self.recall = self._stage("recall", {}, [self.pretrain], self._recall)
        self.finetune = self._finetunings()
        tuned = [*self.finetune.values()]
        asking = {"asking": e.qa}
        self.qa = self._stage("qa", asking, tuned or [self.pretrain], self._qa)
        p_probe = functools.partial(probing.p_probe, self, e.p_probe)
        q_probe = functools.partial(probing.q_probe, self, e.q_probe)
        read = [self.pretrain]
        self.p_probe = self._stage("p_probe", {"training": e.p_probe}, read, p_probe)
        self.q_probe = self._stage("q_probe", {"training": e.q_probe}, read, q_probe)
        self.stages = (
            *self.corpora.values(), self.pretrain, self.recall, *tuned, self.qa,
            self.p_probe, self.q_probe,
        )  # fmt: skip

    def check(self) -> None:
        """Raises an error where the training cannot start, or a dataset made before is damaged."""
        _ = self.mesh
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

    def _finetunings(self) -> dict[Finetune, Stage]:
        """What is finetuned, one stage a row of the grid, none where `finetune.steps` is 0."""
        training = self.experiment.finetune
        held_back = training.validation if training.grid else 0.0
        found = {}
        for row in training.rows if training.steps else ():
            told = {k: v for k, v in identity(row).items() if k not in ("grid", "validation")}
            compute = functools.partial(answering.finetune, self, row, held_back)
            config = {"training": told, "held_back": held_back}
            found[row] = self._stage("finetune", config, [self.pretrain], compute)
        return found

    def _stage(
        self,
        name: str,
        config: dict,
        parents: Sequence[Stage],
        compute: Callable[[pathlib.Path], dict],
    ) -> Stage:
        plain = {
            key: identity(value) if dataclasses.is_dataclass(value) else value
            for key, value in config.items()
        }
        return Stage(name, plain, tuple(parents), compute)

    def _write(self, dataset: shards.Dataset, folder: pathlib.Path) -> dict:
        manifest = None
        if distributed.is_first():
            manifest = shards.write_dataset(dataset, folder / "dataset", len(usable_cores()))
        manifest = distributed.told(manifest)
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
        length, seed = self.experiment.pretrain.seq_len, self.experiment.seed
        return pretraining_windows(self.materials, corpora, length, seed)

    @functools.cached_property
    def shape(self) -> Shape:
        rows = self.vocabulary.size + (self.mask is not None)
        return Shape.of(self.experiment.model, -(-rows // 128) * 128)

    @property
    def mask(self) -> int | None:
        """The token of a bidirectional model that stands for one it has to tell."""
        masks = self.experiment.model.direction == "bidirectional"
        return self.vocabulary.size if masks else None

    @functools.cached_property
    def objective(self) -> objectives.Objective:
        """Of pretraining: the next token, or masked words."""
        if self.mask is None:
            return objectives.next_token(self.shape)
        return objectives.masked_words(self.shape, self.words)

    @property
    def words(self) -> Words:
        """What a bidirectional model masks."""
        bounds, end = self.vocabulary.word_bounds, self.vocabulary.end_of_text
        return Words(*bounds, end_of_text=end, mask=self.mask)

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        return make_mesh(self.experiment.mesh)

    def key(self, purpose: int) -> jax.Array:
        """The key of the seed for one of several purposes."""
        return jax.random.fold_in(jax.random.key(self.experiment.seed), purpose)

    @functools.cached_property
    def _initial(self) -> forward.Params:
        return initial(self.experiment.model.init_from, self.shape, self.vocabulary, self.key(0))

    @functools.cached_property
    def pretrained(self) -> forward.Params:
        """The parameters of the pretrained model."""
        return self._trained(self.pretrain, self.experiment.pretrain.steps, self._initial)

    def _trained(self, stage: Stage, steps: int, like):
        self.cache.ensure(stage)
        with opened(self.cache.folder(stage) / "checkpoints") as checkpoints:
            found = checkpoints.load(steps, trainable=placed(self.mesh, like))["trainable"]
        return distributed.local(self.mesh, found)

    def asked(self, wording: int = TRAINED_WORDING) -> Spans:
        """The questions about everyone."""
        return self.materials.questions(self.vocabulary, wording, self.mask)

    def recited(self, rows: TokenRows) -> list[tuple[np.ndarray, Spans]]:
        """The values in biographies that are to be predicted from the text before them, or word by
        word from all else; which rows, and those rows."""
        if self.mask is None:
            whole = span_examples(rows, rows.value_spans, self.vocabulary)
            return [(np.arange(len(whole)), whole)]
        return [*word_examples(rows, rows.value_spans, self.vocabulary, self.mask)]

    def _pretrain(self, folder: pathlib.Path) -> dict:
        fit_together([self.pretraining(folder)], self.mesh)
        return self.pretraining_result

    @property
    def parameters(self) -> int:
        """How many numbers the network has."""
        return sum(leaf.size for leaf in jax.tree.leaves(self._initial))

    def pretraining(self, folder: pathlib.Path) -> Lane:
        """What pretraining trains, and how."""
        training, windows = self.experiment.pretrain, self.windows

        def make_batch(step, rows):
            first = step * training.batch_size + rows.start
            return {"tokens": self.vocabulary.encode(windows.windows(first, len(rows)))}

        dynamics = None
        if training.evaluate_every:
            dynamics = answering.dynamics(self, training.evaluate_people)
        task = Task(
            name=f"pretrain {self.experiment.label}",
            objective=self.objective,
            merge=all_trained,
            frozen={},
            trainable=self._initial,
            make_batch=make_batch,
            step_tokens=training.batch_size * training.seq_len,
            seed=self.experiment.seed,
            evaluate=dynamics,
            evaluate_every=training.evaluate_every,
            token_flops=flops_per_token(self.parameters, self.shape, training.seq_len),
        )
        return Lane(task, training, folder, self.experiment.telemetry)

    @property
    def pretraining_result(self) -> dict:
        """What is told of pretraining when it is done."""
        read = self.experiment.pretrain.steps * self.experiment.pretrain.batch_size
        return {
            "exposures": exposures(self.materials, self.windows, read),
            "parameters": self.parameters,
            "vocabulary": self.vocabulary.size,
        }

    def _recall(self, _: pathlib.Path) -> dict:
        return recall(self)

    @functools.cached_property
    def chosen(self) -> Finetune | None:
        """The row of the grid that answers most about those held back; None without finetuning."""
        rows = [*self.finetune]
        if len(rows) < 2:
            return next(iter(rows), None)
        return max(rows, key=lambda row: self.cache.ensure(self.finetune[row])["validation"])

    @functools.cached_property
    def finetuned(self) -> forward.Params:
        """The parameters of the model that is asked."""
        if (row := self.chosen) is None:
            return self.pretrained
        start = answering.start(self, row)
        trained = self._trained(self.finetune[row], row.steps, start)
        return answering.finetuned(self, row, trained)

    def _qa(self, _: pathlib.Path) -> dict:
        found = answering.answers(self, self.finetuned, self.experiment.qa.beam_size)
        if grid := self.experiment.finetune.grid:
            varied = dict.fromkeys(name for row in grid for name, _ in row)
            found["grid"] = [
                {
                    **{name: getattr(row, name) for name in varied},
                    "validation": self.cache.ensure(stage)["validation"],
                    "chosen": row == self.chosen,
                }
                for row, stage in self.finetune.items()
            ]
        return found
