"""The memory that an experiment needs at the very least, and the memory there is."""

import os
import resource
from collections.abc import Iterator

import jax

from kstore_jax.errors import UserError
from kstore_jax.pipeline.cores import cgroup_settings
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.readouts import decode
from kstore_jax.train.config import Training
from kstore_jax.world.biographies import Variant
from kstore_jax.world.language import load_language
from kstore_jax.world.people import check_people_count

_NUMBER = 4  # bytes of a weight, and of a token of a batch
_A_TRAINED = 3 * _NUMBER  # weight: itself, its gradient, and a moment of the optimizer
_ACTIVATION = 2  # bytes, in bfloat16
_RATES = 4  # numbers a step: its learning rate, and what that is computed from
_TEXT = 4  # tokens, fewer than a question or a biography has


def check(experiment: Experiment) -> None:
    """Checks that each array fits that an experiment cannot do without.

    Counted is the least: of training weights, gradient and one moment; of a batch its tokens, and
    one activation of each layer; people and biographies. What passes may need several times as
    much.

    Raises:
      UserError: one does not; names the fields to lower, the bytes and the memory.
    """
    on_cpu = jax.default_backend() == "cpu"
    for fields, size in _on_host(experiment):
        _refuse(fields, size, _host_memory(), "this machine")
    for fields, size in _on_device(experiment, on_cpu):
        if on_cpu:
            _refuse(fields, size, _host_memory(), "this machine")
        else:
            _refuse(fields, size, _device_memory(), "a device")


def check_beams(field: str, beams: int, people: int, vocabulary: int) -> None:
    """Raises UserError, which names `field`, where the likelihoods of so many beams do not fit."""
    size = beams * min(people, decode.PROMPTS) * vocabulary * _NUMBER
    _refuse(field, size, min(_host_memory(), _device_memory()), "this machine")


def _on_host(experiment: Experiment) -> Iterator[tuple[str, int]]:
    """Names of fields, and the bytes they make a process keep."""
    world, data = experiment.world, experiment.data
    language = load_language(world.folder, world.value_fraction, world.name_fraction)
    attributes = len(language.schema.attributes)
    everyone = world.people + world.celebrities
    check_people_count(language.pools, everyone)
    yield "world.people, world.celebrities", everyone * 8 * (3 + attributes)
    of_a_text = 24 + 4 * attributes + 2 * _TEXT
    for field, group, people in (
        ("variant", "people", world.people),
        ("celebrity_variant", "celebrities", world.celebrities),
    ):
        variant = Variant.parse(getattr(data, field), f"data.{field}")
        texts = 0 if data.rewritten else people * variant.biographies_per_person
        yield f"data.{field}, world.{group}", texts * of_a_text
    for name, training, length in _trainings(experiment):
        yield f"{name}.steps", _RATES * training.steps * _NUMBER
        step = training.batch_size * length * _NUMBER
        yield f"{name}.batch_size{_length_field(name)}", step
        yield f"{name}.steps_per_call", step * training.steps_per_call


def _on_device(experiment: Experiment, on_cpu: bool) -> Iterator[tuple[str, int]]:
    """Names of fields, and the bytes they make a device keep, or a CPU with all of its devices."""
    model, mesh = experiment.model, experiment.mesh
    hidden = model.mlp_width or 2 * model.width
    weights = model.layers * model.width * (2 * model.width + 2 * hidden)
    parts = 1 if on_cpu else mesh.fsdp * mesh.tensor
    a_weight = _A_TRAINED if experiment.pretrain.trains_matrices else _NUMBER
    yield "model.layers, model.width, model.mlp_width", weights * a_weight // parts
    if model.positions == "learned":
        yield "model.max_positions", model.max_positions * model.width * a_weight // parts
    parts = 1 if on_cpu else max(1, jax.device_count() // mesh.tensor)
    for name, training, length in _trainings(experiment):
        tokens = training.batch_size // training.grad_accum_steps * length // parts
        yield (
            f"{name}.batch_size{_length_field(name)}, model.layers, model.width",
            tokens * model.layers * model.width * _ACTIVATION,
        )


def _trainings(experiment: Experiment) -> Iterator[tuple[str, Training, int]]:
    """The section of each training, its configuration, and the tokens of a text at the least."""
    yield "pretrain", experiment.pretrain, experiment.pretrain.seq_len
    if experiment.finetune.steps:
        yield "finetune", experiment.finetune, _TEXT
    for name, (_, config) in experiment.enabled_readouts.items():
        if isinstance(config, Training):
            yield f"readouts.{name}", config, _TEXT


def _length_field(section: str) -> str:
    return ", pretrain.seq_len" if section == "pretrain" else ""


def _refuse(fields: str, size: int, memory: float, where: str) -> None:
    """Raises UserError where `size` bytes are more than `memory`."""
    if size > memory:
        raise UserError(
            f"{fields}: expected to fit into memory, got at least {size / 1e9:,.1f} GB; {where} "
            f"has {memory / 1e9:,.1f} GB"
        )


def _host_memory() -> float:
    """Bytes that this process may use: of the machine, within the limits of its cgroups (version
    2), and its own (`ulimit -v`)."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    limits += [float(text.replace("max", "inf")) for text in cgroup_settings("memory.max")]
    own, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min(limits + ([own] if own != resource.RLIM_INFINITY else []))


def _device_memory() -> float:
    """Bytes of the device of this process with the least; infinite where they report none."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return min(one.get("bytes_limit", float("inf")) for one in stats)
