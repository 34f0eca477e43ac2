"""The stages of one experiment.

Datasets -> pretrain -> finetune -> qa, and pretrain -> recall, p_probe, q_probe.
"""

import dataclasses
import pathlib

from kstore_jax.config.fields import identity
from kstore_jax.corpus import shards
from kstore_jax.model import hf_checkpoint
from kstore_jax.model.attention import choose_implementation
from kstore_jax.model.matmul import fastest_matmul_dtype
from kstore_jax.pipeline import finetune, pretrain
from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.pipeline.experiment import Experiment, Finetune
from kstore_jax.pipeline.stages import Cache, Stage
from kstore_jax.readouts import p_probe, q_probe, qa, recall

DATASET_VERSION = 1


def resolve_auto(experiment: Experiment) -> Experiment:
    """The experiment with the choices of this machine where `model.dtype` or `model.attention` is
    `auto`.

    Raises:
      UserError: the attention implementation is not available here.
    """
    m = experiment.model
    dtype = fastest_matmul_dtype() if m.dtype == "auto" else m.dtype
    attention = choose_implementation(m.attention, dtype, m.width // m.heads, m.dropout)
    model = dataclasses.replace(m, dtype=dtype, attention=attention)
    return dataclasses.replace(experiment, model=model)


class ExperimentGraph:
    """The stages of an experiment in a cache; `pipeline/run.py` computes them.

    Attributes:
      experiment: the configuration.
      cache: where stages and their results are.
      data: people, language and tokens.
      datasets: kind -> stage of a dataset.
      finetune: row of the finetuning grid -> its stage; empty where `finetune.steps` is 0.
      pretrain, recall, qa, p_probe, q_probe: the other stages.
      stages: all of them, parents before children.
    """

    def __init__(self, experiment: Experiment, cache: Cache):
        self.experiment = experiment
        self.cache = cache
        self.data = ExperimentData(experiment.world, experiment.data)
        e = experiment
        self.datasets = {
            kind: Stage(kind, DATASET_VERSION, dataset.config)
            for kind, dataset in self.data.datasets.items()
        }
        datasets = (*self.datasets.values(),)
        self.pretrain = Stage("pretrain", pretrain.VERSION, _pretrain_config(e), datasets)
        on_pretrained = (self.pretrain,)
        self.recall = Stage("recall", recall.VERSION, {}, on_pretrained)
        self.finetune = {row: self._finetuning(row) for row in e.finetune.rows if e.finetune.steps}
        finetunings = (*self.finetune.values(),)
        self.qa = Stage("qa", qa.VERSION, {"qa": identity(e.qa)}, finetunings or on_pretrained)
        config = {"training": identity(e.p_probe)}
        self.p_probe = Stage("p_probe", p_probe.VERSION, config, on_pretrained)
        config = {"training": identity(e.q_probe)}
        self.q_probe = Stage("q_probe", q_probe.VERSION, config, on_pretrained)
        self.stages = (
            *datasets, self.pretrain, self.recall, *finetunings, self.qa, self.p_probe, self.q_probe
        )  # fmt: skip

    @property
    def held_back(self) -> float:
        """Fraction of P_train's people that each finetuning of a grid leaves out; 0: no grid."""
        finetuning = self.experiment.finetune
        return finetuning.validation if finetuning.grid else 0.0

    def _finetuning(self, row: Finetune) -> Stage:
        training = {k: v for k, v in identity(row).items() if k not in ("grid", "validation")}
        config = {"training": training, "held_back": self.held_back}
        return Stage("finetune", finetune.VERSION, config, (self.pretrain,))

    @property
    def done(self) -> bool:
        """Whether every stage is finished."""
        return all(self.cache.result(stage) is not None for stage in self.stages)

    def check_datasets(self) -> None:
        """Raises DamagedFileError where a dataset of the cache is not as it was written."""
        for stage in self.datasets.values():
            if self.cache.result(stage) is not None:
                shards.read_manifest(self.cache.folder(stage) / "dataset")


def _pretrain_config(experiment: Experiment) -> dict:
    """Every setting that pretraining depends on beside its datasets."""
    e = experiment
    data = {
        name: getattr(e.data, name)
        for name in ("vocabulary", "celebrity_share", "qa_share", "text_share")
    }
    config = {
        "seed": e.seed,
        "model": identity(e.model),
        "data": data,
        "training": identity(e.pretrain),
    }
    if e.model.init_from:
        config["initial"] = hf_checkpoint.init_digest(e.model, pathlib.Path(e.model.init_from))
    return config
