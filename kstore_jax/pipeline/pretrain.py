"""Pretraining on biographies (Part 3.1, section 3)."""

import pathlib
from collections.abc import Callable

import jax

from kstore_jax.model.forward import Params
from kstore_jax.pipeline import adapters
from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.init_params import init_params
from kstore_jax.pipeline.mixture import exposures, pretraining_windows
from kstore_jax.readouts.base import Context
from kstore_jax.train import objectives
from kstore_jax.train.fit import TrainJob, TrainTask
from kstore_jax.train.flops import flops_per_token
from kstore_jax.train.masking import max_predictions

VERSION = 1


def pretraining_objective(
    context: Context, most: Callable[[int], int] = max_predictions
) -> objectives.Objective:
    """The objective of a causal model (the next token) or of a bidirectional one (masked words).

    Args:
      most: length of a text -> the largest number of its tokens that are predicted, as in
        `masked_words`.
    """
    if context.mask_token is None:
        return objectives.next_token(context.shape)
    return objectives.masked_words(context.shape, context.words, most)


class Pretraining:
    """One pretraining: the job to train, and its result.

    Reads the datasets and the initial parameters when it is made.

    Raises:
      NotFinished: a dataset is not written.
      UserError: `model.init_from` has other tokens or another shape.
    """

    def __init__(self, experiment: Experiment, data: ExperimentData, context: Context):
        self._experiment, self._data, self._context = experiment, data, context
        training = experiment.pretrain
        self._windows = pretraining_windows(
            data, context.read_corpus, experiment.tasks, training.seq_len, experiment.seed
        )
        self._initial = init_params(context, experiment.model.init_from)
        self._num_parameters = sum(leaf.size for leaf in jax.tree.leaves(self._initial))

    def job(self, folder: pathlib.Path) -> TrainJob:
        """The training; its checkpoints and metrics go to `folder`."""
        context, training = self._context, self._experiment.pretrain
        vocabulary, windows = context.vocabulary, self._windows
        every = training.evaluate_every

        def make_batch(step, rows):
            first = step * training.batch_size + rows.start
            return {"tokens": vocabulary.encode(windows.read(first, len(rows)))}

        frozen, trainable = adapters.split(
            context.shape, self._initial, training, context.key("pretrain_lora"), context.new_tokens
        )
        products = adapters.updated_products(context.shape, training)
        flops = flops_per_token(self._num_parameters, context.shape, training.seq_len, products)
        task = TrainTask(
            name=f"pretrain {self._experiment.label}",
            objective=pretraining_objective(context),
            merge=adapters.merge_of(training),
            frozen=frozen,
            trainable=trainable,
            make_batch=make_batch,
            step_tokens=training.batch_size * training.seq_len,
            seed=self._experiment.seed,
            evaluate=self._measurements() if every else None,
            evaluate_at=range(every, training.steps + 1, every) if every else (),
            token_flops=flops,
        )
        return TrainJob(task, training, folder, context.telemetry)

    def _measurements(self) -> Callable[[Params], dict[str, jax.Array]]:
        """Returns `params -> scalars` of every readout that measures in the course of training."""
        parts = [
            readout.during(self._context, config)
            for readout, config in self._experiment.enabled_readouts.values()
            if readout.measures_training
        ]

        def measure(params: Params) -> dict[str, jax.Array]:
            return {name: scalar for part in parts for name, scalar in part(params).items()}

        return measure

    @property
    def result(self) -> dict:
        """`exposures`: how often the facts of each person are read; `parameters`: their number;
        `vocabulary`: its number of tokens."""
        training = self._experiment.pretrain
        count = training.steps * training.batch_size
        return {
            "exposures": exposures(self._data, self._windows, count),
            "parameters": self._num_parameters,
            "vocabulary": self._context.vocabulary.size,
        }
