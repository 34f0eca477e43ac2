"""P-probing and Q-probing (Part 3.1, section 5): parameters, objective and accuracy of a probe.

A probe is trained on a frozen model. It is a low-rank update of the embedding, a norm and a linear
head, one set of them for each of 11 tasks. One program trains all tasks: the batch is repeated for
each task, and each copy reads its own embedding table in one call of `forward`.

P-probing reads the hidden state just before the first mention of each of the six attributes in a
biography (LayerNorm). Q-probing reads it at the end of text after the full name (BatchNorm).

Shapes in names: T tasks, B texts of a batch, N texts, Q positions read, C classes, D width.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kstore_jax.model.forward import Params
from kstore_jax.model.lora import low_rank, merge
from kstore_jax.model.transformer import Shape
from kstore_jax.readouts.probe_config import Probe
from kstore_jax.readouts.probe_data import ProbeExamples
from kstore_jax.train.objectives import Objective, forward_batch

_EPSILON = 1e-5


def init_probe(shape: Shape, probe: Probe, num_classes: tuple[int, ...], key: jax.Array) -> dict:
    """Initial parameters of T = len(num_classes) tasks: the update of the embedding and, where a
    head is trained, the head, with as many classes for every task as the largest has."""
    tasks, width = len(num_classes), shape.width
    embedding_key, head_key = jax.random.split(key)
    table = (tasks, shape.vocabulary, width)
    update = low_rank(embedding_key, table, probe.embedding_rank, shape.init_std)
    if probe.head == "unembedding":
        return {"embedding": update}
    head = {
        "norm": {"scale": jnp.ones((tasks, width)), "bias": jnp.zeros((tasks, width))},
        "linear": {
            "kernel": jax.random.normal(head_key, (tasks, width, max(num_classes))) * width**-0.5,
            "bias": jnp.zeros((tasks, max(num_classes))),
        },
    }
    return {"embedding": update, "head": head}


def model_head(shape: Shape, params: Params, class_tokens: tuple[np.ndarray, ...]) -> dict:
    """A frozen head of the model's own output rows, after a norm without gain.

    Args:
      class_tokens: for each task the token of each class; -1: none, and the class gets the lowest
        logit.
    """
    tasks, num_classes = len(class_tokens), max(len(tokens) for tokens in class_tokens)
    tokens = np.full((tasks, num_classes), -1)
    for row, task_tokens in zip(tokens, class_tokens, strict=True):
        row[: len(task_tokens)] = task_tokens
    table = params.get("unembedding", params["embedding"])
    kernel_TxCxD = table[np.maximum(tokens, 0)]
    return {
        "norm": {"scale": jnp.ones((tasks, shape.width)), "bias": jnp.zeros((tasks, shape.width))},
        "linear": {
            "kernel": kernel_TxCxD.swapaxes(1, 2),
            "bias": jnp.where(tokens < 0, jnp.finfo(jnp.float32).min, 0.0),
        },
    }


def with_probe(frozen: Params, trainable: dict) -> Params:
    """The frozen model with an embedding table for each task, and `head`, the head of the probe.

    Args:
      frozen: the model; also `head` where it is not trained, and `updated` (V,), 1 for the tokens
        whose embedding is updated and 0 for the others, where not all are.
    """
    update = trainable["embedding"]
    if "updated" in frozen:
        update = {**update, "a": update["a"] * frozen["updated"][None, :, None]}
    merged = merge(frozen, {"embedding": update}, alpha=1.0)
    return {**merged, "head": trainable["head"] if "head" in trainable else frozen["head"]}


def features(shape: Shape, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
    """Hidden states at the positions of a batch, for each task: (T, B, Q, D)."""
    tasks = params["head"]["norm"]["scale"].shape[0]
    tables = shape.vocabulary * jnp.arange(tasks, dtype=jnp.int32)
    tokens = (batch["tokens"][None] + tables[:, None, None]).reshape(-1, batch["tokens"].shape[1])
    copies = {**batch, "lengths": jnp.tile(batch["lengths"], tasks)}
    positions = jnp.tile(batch["positions"], (tasks, 1))
    states = forward_batch(shape, params, tokens, copies, positions).astype(jnp.float32)
    return states.reshape(tasks, *batch["positions"].shape, shape.width)


def moments(hidden_TxBxQxD: jax.Array, norm: str) -> tuple[jax.Array, jax.Array]:
    """The mean and the variance that the norm of a probe uses, to be broadcast to the states.

    Args:
      norm: `layer`: of each state over its width; `batch`: of each dimension over all states.
    """
    axes = {"layer": 3, "batch": (1, 2)}[norm]
    return (
        hidden_TxBxQxD.mean(axes, keepdims=True),
        hidden_TxBxQxD.var(axes, keepdims=True),
    )


def class_logits(head: dict, hidden_TxBxQxD, mean, variance, num_classes: tuple[int, ...]):
    """The logits (T, B, Q, C) of normed states; -inf beyond the number of classes of a task."""
    scale, bias = (head["norm"][name][:, None, None] for name in ("scale", "bias"))
    normed = (hidden_TxBxQxD - mean) * jax.lax.rsqrt(variance + _EPSILON) * scale + bias
    tasks, rows, positions, width = normed.shape
    flat = normed.reshape(tasks, rows * positions, width)
    logits = jnp.einsum("tnd,tdc->tnc", flat, head["linear"]["kernel"])
    logits = logits + head["linear"]["bias"][:, None]
    real = jnp.arange(logits.shape[-1])[None] < jnp.asarray(num_classes)[:, None]
    logits = jnp.where(real[:, None], logits, -jnp.inf)
    return logits.reshape(tasks, rows, positions, -1)


@functools.cache
def probe_objective(shape: Shape, num_classes: tuple[int, ...], norm: str) -> Objective:
    """Returns the objective: the sum over tasks of the mean loss at the active positions of a task.

    The dropout of `shape` is on.
    """

    def objective(params, batch):
        hidden = features(shape, params, batch)
        logits = class_logits(params["head"], hidden, *moments(hidden, norm), num_classes)
        losses = _losses(logits, batch["labels"].T[:, :, None])
        active = batch["active"].transpose(2, 0, 1).astype(jnp.float32)
        return (losses * active).sum((1, 2)), active.sum((1, 2))

    return objective


def accuracy_by_position(hits_TxNxQ: np.ndarray, held_out: ProbeExamples) -> np.ndarray:
    """The accuracy of each task at each position, (T, Q); NaN where it is active in no text."""
    active = held_out.active.transpose(2, 0, 1)
    with np.errstate(invalid="ignore"):
        return (hits_TxNxQ & active).sum(1) / active.sum(1)


def probe_scores(
    shape: Shape,
    params: Params,
    num_classes: tuple[int, ...],
    norm: str,
    trained: ProbeExamples,
    examples: ProbeExamples,
    batch: int = 32,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the class predicted for each text of `examples` is right, (T, N, Q) bool, and the
    loss of its right class in nats, (T, N, Q) float32.

    BatchNorm uses the statistics of all texts in `trained`, with the trained embedding, not a
    running average over the training. There is no dropout unless `shape` has it.

    Args:
      params: as `with_probe` returns them.
      batch: texts of one call; all calls are of one size, and so compile once.
    """
    mean = variance = None
    if norm == "batch":
        parts = [_features(shape, params, b)[:, :n] for n, b in _batches(trained, batch)]
        mean, variance = moments(jnp.concatenate(parts, 1), norm)
    scores = [
        _score_batch(shape, num_classes, norm, params, rows, mean, variance)
        for _, rows in _batches(examples, batch)
    ]  # fetched together: the device does not wait between batches
    parts = zip(*jax.device_get(scores), strict=True)
    hits, losses = (np.concatenate(part, axis=1)[:, : len(examples)] for part in parts)
    return hits, losses


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _score_batch(shape, num_classes, norm, params, batch, mean, variance):
    """Whether each text is right, and its loss, both (T, B, Q)."""
    states = _features(shape, params, batch)
    if norm == "layer":
        mean, variance = moments(states, norm)
    logits = class_logits(params["head"], states, mean, variance, num_classes)
    labels = batch["labels"].T[:, :, None]
    return logits.argmax(-1) == labels, _losses(logits, labels)


def _losses(logits_TxBxQxC: jax.Array, labels_TxBx1: jax.Array | np.ndarray) -> jax.Array:
    """Negative log-likelihoods of the right classes in nats, (T, B, Q)."""
    log_probs = jax.nn.log_softmax(logits_TxBxQxC)
    return -jnp.take_along_axis(log_probs, labels_TxBx1[..., None], axis=-1)[..., 0]


@functools.partial(jax.jit, static_argnums=0)
def _features(shape, params, batch):
    return features(shape, params, {k: batch[k] for k in ("tokens", "lengths", "positions")})


def _batches(examples: ProbeExamples, size: int):
    """Yields batches of one size, each with the number of its texts; the last text fills up the
    last batch."""
    for start in range(0, len(examples), size):
        rows = np.arange(start, start + size)
        yield min(size, len(examples) - start), examples.batch(np.minimum(rows, len(examples) - 1))
