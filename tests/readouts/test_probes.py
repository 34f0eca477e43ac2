"""A probe reads what hidden states contain, and guesses what they do not contain."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

from kstore_jax.corpus.encode import compact_vocabulary
from kstore_jax.model.transformer import Shape
from kstore_jax.readouts import probes
from kstore_jax.readouts.p_probe import PProbeConfig
from kstore_jax.readouts.probe_config import Probe
from kstore_jax.readouts.probe_data import ProbeExamples, all_tasks, name_examples, person_labels
from kstore_jax.readouts.probes import (
    accuracy_by_position,
    class_logits,
    init_probe,
    model_head,
    moments,
    probe_objective,
    probe_scores,
    with_probe,
)
from kstore_jax.train.fit import TrainTask, fit
from kstore_jax.train.objectives import total_loss
from kstore_jax.world.people import draw_people, in_train_half
from tests.compiled import PROGRAMS
from tests.model import reference
from tests.train.training import losses, same_bits

SHAPE = Shape(vocabulary=24, layers=1, heads=2, width=16)
TEXTS, LENGTH, POSITIONS = 800, 8, 2
PROBE = PProbeConfig(embedding_rank=2)
CLASSES = (8, 3, 4)


def planted_examples() -> ProbeExamples:
    """Three tasks: the token at the position read, that token modulo 3, and a random class of 4."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 8, (TEXTS, LENGTH)).astype(np.int32)
    positions = np.stack([draw.permutation(LENGTH)[:1] for _ in range(TEXTS)]).astype(np.int32)
    token = tokens[np.arange(TEXTS), positions[:, 0]]
    labels = np.stack([token, token % 3, draw.integers(0, 4, TEXTS)], axis=1).astype(np.int32)
    active, lengths = np.ones((TEXTS, 1, 3), bool), np.full(TEXTS, LENGTH, np.int32)
    return ProbeExamples(tokens, positions, labels, active, lengths)


def halves(examples: ProbeExamples) -> tuple[ProbeExamples, ProbeExamples]:
    """The texts with even numbers, to train on, and the others."""
    numbers = np.arange(len(examples))
    return examples.take(numbers[::2]), examples.take(numbers[1::2])


def train(
    folder: pathlib.Path,
    frozen: dict,
    examples: ProbeExamples,
    norm: str,
    steps: int,
    *,
    shape: Shape = SHAPE,
    num_classes: tuple[int, ...] = CLASSES,
    start: dict | None = None,
    steps_per_call: int = 50,
) -> dict:
    """The trained parameters of a probe."""
    folder.mkdir(exist_ok=True)

    def make_batch(step, rows):
        order = np.random.default_rng(step).permutation(len(examples))
        return examples.batch(order[rows.start : rows.stop])

    start = start or init_probe(shape, PROBE, num_classes, jax.random.key(0))
    objective = probe_objective(shape, num_classes, norm)
    training = Probe(
        steps=steps,
        batch_size=50,
        learning_rate=3e-2,
        steps_per_call=steps_per_call,
        checkpoint_every=steps,
    )
    task = TrainTask("probe", objective, with_probe, frozen, start, make_batch, 1)
    return fit(task, training, folder)


def probe_accuracy(
    params: dict,
    norm: str,
    train_texts: ProbeExamples,
    test_texts: ProbeExamples,
    *,
    shape: Shape = SHAPE,
    num_classes: tuple[int, ...] = CLASSES,
    batch: int = 64,
) -> np.ndarray:
    """(T, Q), by `probe_scores`."""
    hits, _ = probe_scores(shape, params, num_classes, norm, train_texts, test_texts, batch)
    return accuracy_by_position(hits, test_texts)


def most_guesses(labels: np.ndarray, texts: int) -> float:
    """The most right guesses among independent texts, exceeded at one chance in a million.

    A guess is right with at most the probability of the most frequent class; 5 % more for its
    being estimated from `labels`.
    """
    return float(binom.isf(1e-6, texts, 1.05 * np.bincount(labels).max() / len(labels)))


@dataclasses.dataclass(frozen=True)
class Probed:
    """A probe trained on half of the planted examples.

    Attributes:
      norm: `layer` or `batch`.
      untouched: copy of the frozen parameters from before the training.
      frozen: the frozen parameters.
      examples: all planted examples.
      probe: the trained parameters.
    """

    norm: str
    untouched: dict
    frozen: dict
    examples: ProbeExamples
    probe: dict

    @property
    def params(self) -> dict:
        return with_probe(self.frozen, self.probe)


@pytest.fixture(scope="module", params=["layer", "batch"])
def probed(request, tmp_path_factory) -> Probed:
    norm, frozen, examples = request.param, reference.parameters(SHAPE), planted_examples()
    untouched = jax.tree.map(np.array, frozen)
    probe = train(tmp_path_factory.mktemp(norm), frozen, halves(examples)[0], norm, 200)
    return Probed(norm, untouched, frozen, examples, probe)


def test_a_planted_signal_is_read_and_a_random_class_is_not(probed):
    accuracy = probe_accuracy(probed.params, probed.norm, *halves(probed.examples))
    assert accuracy.shape == (3, 1)
    assert accuracy[0, 0] > 0.98
    assert accuracy[1, 0] > 0.98
    # Each of 400 random classes is independent of all the probe has seen: a guess is right with
    # probability 1/4. Five standard deviations of the binomial.
    assert abs(accuracy[2, 0] - 0.25) < 5 * (0.25 * 0.75 / 400) ** 0.5


def test_training_changes_all_of_the_probe_and_nothing_else(probed):
    assert same_bits(probed.frozen, probed.untouched)
    start = init_probe(SHAPE, PROBE, CLASSES, jax.random.key(0))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a != b).any()), probed.probe, start))


def test_a_task_does_not_depend_on_the_others(tmp_path):
    frozen, examples, norm = reference.parameters(SHAPE), planted_examples(), "batch"
    start = init_probe(SHAPE, PROBE, CLASSES, jax.random.key(0))
    together = train(tmp_path / "all", frozen, examples, norm, 50, start=start)
    summed = 0.0
    for t in range(len(CLASSES)):
        own = dataclasses.replace(
            examples, labels=examples.labels[:, t : t + 1], active=examples.active[:, :, t : t + 1]
        )
        own_start = jax.tree.map(lambda x, t=t: x[t : t + 1], start)
        folder, classes = tmp_path / str(t), CLASSES[t : t + 1]
        alone = train(folder, frozen, own, norm, 50, num_classes=classes, start=own_start)
        summed += losses(folder)[-1][1]
        beside = jax.tree.map(lambda x, t=t: x[t : t + 1], together)
        # Fifty steps of Adam enlarge a rounding.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), alone, beside)
    np.testing.assert_allclose(losses(tmp_path / "all")[-1][1], summed, rtol=1e-5)


def test_scoring_compiles_once_for_any_number_of_texts(probed):
    trained, held_out = halves(probed.examples)
    probes._score_batch.clear_cache()
    before = len(PROGRAMS)
    for count in (3, 48, 61):
        texts = held_out.take(np.arange(count))
        probe_scores(SHAPE, probed.params, CLASSES, probed.norm, trained, texts, batch=24)
    assert sum("_score_batch" in name for name in PROGRAMS[before:]) == 1


def test_the_device_does_not_wait_for_the_host_between_scored_batches(probed, monkeypatch):
    trained, held_out = halves(probed.examples)
    fetched = []
    fetch = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(tree) or fetch(tree))
    texts = held_out.take(np.arange(61))
    hits, losses = probe_scores(
        SHAPE, probed.params, CLASSES, probed.norm, trained, texts, batch=24
    )
    assert hits.shape[1] == losses.shape[1] == 61
    assert [len(scores) for scores in fetched] == [3]


def test_accuracy_equals_a_loop_over_texts(probed):
    train_texts, test_texts = halves(probed.examples)
    active = np.random.default_rng(0).random((60, 1, 3)) < 0.5
    test_texts = dataclasses.replace(test_texts.take(np.arange(60)), active=active)
    exact = reference.as_float64(probed.frozen)
    update, head = (reference.as_float64(probed.probe[part]) for part in ("embedding", "head"))
    expected = []
    for t, num_classes in enumerate(CLASSES):
        table = exact["embedding"] + update["a"][t] @ update["b"][t]
        model = {**exact, "embedding": table}

        def states(texts, model=model):
            hidden = reference.hidden(np, model, texts.tokens, SHAPE.layers, SHAPE.heads)
            return hidden[np.arange(len(texts)), texts.positions[:, 0]]

        train_states = states(train_texts)
        hits = []
        for i, state in enumerate(states(test_texts)):
            mean = train_states.mean(0) if probed.norm == "batch" else state.mean()
            variance = train_states.var(0) if probed.norm == "batch" else state.var()
            normed = (state - mean) / np.sqrt(variance + 1e-5)
            normed = normed * head["norm"]["scale"][t] + head["norm"]["bias"][t]
            logits = normed @ head["linear"]["kernel"][t] + head["linear"]["bias"][t]
            if test_texts.active[i, 0, t]:
                hits.append(logits[:num_classes].argmax() == test_texts.labels[i, t])
        expected.append([np.mean(hits)])
    for batch in (64, 17, 400):
        accuracy = probe_accuracy(probed.params, probed.norm, train_texts, test_texts, batch=batch)
        np.testing.assert_allclose(accuracy, expected, atol=1e-9)


def test_a_task_active_nowhere_has_no_accuracy(probed):
    train_texts, test_texts = halves(probed.examples)
    active = test_texts.active & np.array([True, False, True])
    test_texts = dataclasses.replace(test_texts, active=active)
    accuracy = probe_accuracy(probed.params, probed.norm, train_texts, test_texts)
    assert np.isnan(accuracy[:, 0]).tolist() == [False, True, False]


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_the_loss_is_a_mean_over_active_positions_summed_over_tasks(norm):
    frozen, classes = reference.parameters(SHAPE), (5, 2)
    draw = np.random.default_rng(3)
    batch = ProbeExamples(
        tokens=draw.integers(0, 24, (6, LENGTH)).astype(np.int32),
        positions=draw.integers(0, LENGTH, (6, POSITIONS)).astype(np.int32),
        labels=np.stack([draw.integers(0, c, 6) for c in classes], axis=1).astype(np.int32),
        active=draw.random((6, POSITIONS, 2)) < 0.6,
        lengths=np.full(6, LENGTH, np.int32),
    )
    probe = jax.tree.map(
        lambda x: jnp.asarray(draw.normal(0, 0.5, x.shape), jnp.float32),
        init_probe(SHAPE, PROBE, classes, jax.random.key(0)),
    )
    objective = probe_objective(SHAPE, classes, norm)
    loss = total_loss(*objective(with_probe(frozen, probe), vars(batch)))
    exact, head = reference.as_float64(frozen), reference.as_float64(probe["head"])
    update = reference.as_float64(probe["embedding"])
    expected = 0.0
    for t, c in enumerate(classes):
        model = {**exact, "embedding": exact["embedding"] + update["a"][t] @ update["b"][t]}
        hidden = reference.hidden(np, model, batch.tokens, SHAPE.layers, SHAPE.heads)
        states = np.stack([hidden[b][batch.positions[b]] for b in range(6)])
        axes = (0, 1) if norm == "batch" else 2
        mean, variance = (f(axes, keepdims=True) for f in (states.mean, states.var))
        normed = (states - mean) / np.sqrt(variance + 1e-5)
        normed = normed * head["norm"]["scale"][t] + head["norm"]["bias"][t]
        logits = (normed @ head["linear"]["kernel"][t] + head["linear"]["bias"][t])[..., :c]
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        active = np.argwhere(batch.active[:, :, t])
        expected -= np.mean([log_probs[b, q, batch.labels[b, t]] for b, q in active])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_an_update_of_some_tokens_leaves_the_others(probed):
    frozen, mask = probed.frozen, jnp.zeros(24).at[np.array([0, 3, 7])].set(1.0)
    masked = with_probe({**frozen, "updated": mask}, probed.probe)["embedding"].reshape(3, 24, 16)
    full = probed.params["embedding"].reshape(3, 24, 16)
    for token in range(24):
        expected = full[:, token] if token in (0, 3, 7) else frozen["embedding"][None, token]
        assert np.array_equal(masked[:, token], np.broadcast_to(expected, (3, 16)))


def test_the_model_s_own_head_gives_its_logits_for_the_tokens_of_classes():
    frozen = reference.parameters(SHAPE)
    class_tokens = (np.array([4, 9, -1, 17]), np.array([20, 2]))
    head = model_head(SHAPE, frozen, class_tokens)
    states = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 1, 16)), jnp.float32)
    logits = class_logits(head, states, *moments(states, "layer"), (4, 2))
    centred = np.asarray(states) - np.mean(states, -1, keepdims=True)
    normed = centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-5)
    for t, tokens in enumerate(class_tokens):
        for c, token in enumerate(tokens):
            if token < 0:
                assert (logits[t, ..., c] < -1e38).all()
            else:
                expected = normed[t] @ np.asarray(frozen["embedding"])[token]
                np.testing.assert_allclose(logits[t, ..., c], expected, rtol=1e-4, atol=1e-5)
    assert (logits[1, ..., 2:] == -jnp.inf).all()


def test_a_frozen_head_stays_and_the_update_lowers_the_loss(tmp_path):
    frozen = {**reference.parameters(SHAPE)}
    frozen["head"] = model_head(SHAPE, frozen, (np.arange(10, 18), np.arange(3), np.arange(4)))
    untouched = jax.tree.map(np.array, frozen)
    start = init_probe(SHAPE, PROBE, CLASSES, jax.random.key(0))
    del start["head"]
    train(tmp_path, frozen, planted_examples(), "layer", 100, start=start, steps_per_call=10)
    assert same_bits(frozen, untouched)
    values = [loss for _, loss in losses(tmp_path)]
    assert values[-1] < values[0] - 0.3


def test_held_out_texts_are_guessed_after_training_on_shuffled_labels(tmp_path):
    examples, draw = planted_examples(), np.random.default_rng(5)
    labels = np.stack([draw.permutation(column) for column in examples.labels.T], axis=1)
    train_texts, test_texts = halves(dataclasses.replace(examples, labels=labels))
    frozen = reference.parameters(SHAPE)
    probe = train(tmp_path, frozen, train_texts, "layer", 100)
    params = with_probe(frozen, probe)
    shuffled = probe_accuracy(params, "layer", train_texts, test_texts)[:, 0]
    true = probe_accuracy(params, "layer", *halves(examples))[:, 0]
    for t in range(len(CLASSES)):
        most = most_guesses(labels[:, t], len(test_texts))
        assert shuffled[t] * len(test_texts) <= most
        assert true[t] * len(test_texts) <= most


def test_facts_of_held_out_people_cannot_be_read_from_an_untrained_network(
    language, table, tmp_path
):
    """Values are drawn independently of names, so probes of P_test can only guess."""
    people = draw_people(language.pools, 1, np.arange(400))
    vocabulary = compact_vocabulary(table, people)
    tasks = all_tasks(language)
    examples = name_examples(table, people, vocabulary, tasks)
    labels, classes = person_labels(table, people, tasks)
    in_train = in_train_half(1, people.ids)
    train_texts, test_texts = (examples.take(np.flatnonzero(x)) for x in (in_train, ~in_train))
    shape = Shape(vocabulary=vocabulary.size, layers=1, heads=2, width=16)
    sizes = {"shape": shape, "num_classes": classes}
    frozen = reference.parameters(shape)
    probe = train(tmp_path, frozen, train_texts, "batch", 50, **sizes)
    params = with_probe(frozen, probe)
    trained = probe_accuracy(params, "batch", train_texts, train_texts, **sizes)
    held_out = probe_accuracy(params, "batch", train_texts, test_texts, **sizes)
    many, _ = person_labels(table, draw_people(language.pools, 2, np.arange(200_000)), tasks)
    assert labels.shape == (400, len(tasks))
    for t in range(len(tasks)):
        assert held_out[t, 0] * len(test_texts) <= most_guesses(many[:, t], len(test_texts))
    assert trained.mean() > 2 * held_out.mean()  # it does learn the people it is trained on
