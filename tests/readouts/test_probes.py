"""A probe finds what is there, and finds nothing where nothing is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

from kstore_jax.corpus.encode import compact_vocabulary
from kstore_jax.model.transformer import Shape
from kstore_jax.readouts.config import PProbe, Probe
from kstore_jax.readouts.probe_data import TASKS, ProbeExamples, name_examples, person_labels
from kstore_jax.readouts.probes import (
    accuracy_by_position,
    class_logits,
    init_probe,
    model_head,
    moments,
    probe_hits,
    probe_objective,
    with_probe,
)
from kstore_jax.train.fit import TrainTask, fit
from kstore_jax.train.objectives import total_loss
from kstore_jax.world.people import draw_people, in_train_half
from tests.model import reference
from tests.train.training import losses, same_bits

SHAPE = Shape(vocabulary=24, layers=1, heads=2, width=16)
TEXTS, LENGTH, PLACES = 800, 8, 2
PROBE = PProbe(embedding_rank=2)


def training(steps: int, rate: float = 3e-2) -> Probe:
    return Probe(
        steps=steps, batch_size=50, learning_rate=rate, steps_per_call=50, checkpoint_every=steps
    )


def planted(seed: int = 0) -> tuple[ProbeExamples, tuple[int, ...]]:
    """Three tasks: the token at the place read, its rank among three, and a coin of four sides."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(0, 8, (TEXTS, LENGTH)).astype(np.int32)
    positions = np.stack([draw.permutation(LENGTH)[:1] for _ in range(TEXTS)]).astype(np.int32)
    here = tokens[np.arange(TEXTS), positions[:, 0]]
    found = np.stack([here, here % 3, draw.integers(0, 4, TEXTS)], axis=1).astype(np.int32)
    active, lengths = np.ones((TEXTS, 1, 3), bool), np.full(TEXTS, LENGTH, np.int32)
    return ProbeExamples(tokens, positions, found, active, lengths), (8, 3, 4)


def probe_accuracy(shape, params, classes, norm, seen, held_out, batch: int = 64) -> np.ndarray:
    hits = probe_hits(shape, params, classes, norm, seen, held_out, batch)
    return accuracy_by_position(hits, held_out)


def halves(examples: ProbeExamples) -> tuple[ProbeExamples, ProbeExamples]:
    which = np.arange(len(examples))
    return ProbeExamples(**examples.batch(which[::2])), ProbeExamples(**examples.batch(which[1::2]))


def trained(folder, shape, frozen, seen, classes, norm, how, start=None):
    folder.mkdir(exist_ok=True)

    def make_batch(step, rows):
        return seen.batch(
            np.random.default_rng(step).permutation(len(seen))[rows.start : rows.stop]
        )

    start = start or init_probe(shape, PROBE, classes, jax.random.key(0))
    objective = probe_objective(shape, classes, norm)
    return fit(TrainTask("probe", objective, with_probe, frozen, start, make_batch, 1), how, folder)


@pytest.fixture(scope="module", params=["layer", "batch"])
def probed(request, tmp_path_factory):
    """(norm, copy of the frozen model, frozen model, examples, probe trained on the even texts)."""
    norm = request.param
    frozen = reference.parameters(SHAPE)
    before = jax.tree.map(np.array, frozen)
    examples, classes = planted()
    seen, _ = halves(examples)
    folder = tmp_path_factory.mktemp(norm)
    probe = trained(folder, SHAPE, frozen, seen, classes, norm, training(200))
    return norm, before, frozen, examples, probe


def test_a_planted_signal_is_found_and_a_coin_is_not(probed):
    norm, _, frozen, examples, probe = probed
    params = with_probe(frozen, probe)
    accuracy = probe_accuracy(SHAPE, params, (8, 3, 4), norm, *halves(examples))
    assert accuracy.shape == (3, 1)
    assert accuracy[0, 0] > 0.98
    assert accuracy[1, 0] > 0.98
    # Each of 400 coins was thrown independently of all the probe has seen: a right guess has
    # probability 1/4, whatever it learnt. Five deviations of the binomial.
    assert abs(accuracy[2, 0] - 0.25) < 5 * (0.25 * 0.75 / 400) ** 0.5


def test_training_reaches_the_probe_alone_and_all_of_it(probed):
    _, before, frozen, _, probe = probed
    assert same_bits(frozen, before)
    start = init_probe(SHAPE, PROBE, (8, 3, 4), jax.random.key(0))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a != b).any()), probe, start))


def test_a_task_does_not_depend_on_the_others(tmp_path):
    norm = "batch"
    frozen = reference.parameters(SHAPE)
    examples, classes = planted()
    start = init_probe(SHAPE, PROBE, classes, jax.random.key(0))
    how = training(50)
    together = trained(tmp_path / "all", SHAPE, frozen, examples, classes, norm, how, start)
    summed = 0.0
    for t in range(len(classes)):
        own = dataclasses.replace(
            examples, labels=examples.labels[:, t : t + 1], active=examples.active[:, :, t : t + 1]
        )
        of_t = jax.tree.map(lambda x, t=t: x[t : t + 1], start)
        where = tmp_path / str(t)
        alone = trained(where, SHAPE, frozen, own, classes[t : t + 1], norm, how, of_t)
        summed += losses(where)[-1][1]
        beside = jax.tree.map(lambda x, t=t: x[t : t + 1], together)
        # Fifty steps of Adam make more of a rounding than one does.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), alone, beside)
    np.testing.assert_allclose(losses(tmp_path / "all")[-1][1], summed, rtol=1e-5)


def test_accuracy_equals_a_loop_over_texts(probed):
    norm, _, frozen, examples, probe = probed
    seen, held_out = halves(examples)
    held_out = ProbeExamples(**held_out.batch(np.arange(60)))
    exact = reference.as_float64(frozen)
    update, head = (reference.as_float64(probe[part]) for part in ("embedding", "head"))
    active = np.random.default_rng(0).random((60, 1, 3)) < 0.5
    held_out = dataclasses.replace(held_out, active=active)
    expected = []
    for t, classes in enumerate((8, 3, 4)):
        table = exact["embedding"] + update["a"][t] @ update["b"][t]
        model = {**exact, "embedding": table}

        def states(texts, model=model):
            hidden = reference.hidden(np, model, texts.tokens, SHAPE.layers, SHAPE.heads)
            return hidden[np.arange(len(texts)), texts.positions[:, 0]]

        over = states(seen)
        hits = []
        for i, state in enumerate(states(held_out)):
            mean = over.mean(0) if norm == "batch" else state.mean()
            variance = over.var(0) if norm == "batch" else state.var()
            normed = (state - mean) / np.sqrt(variance + 1e-5)
            normed = normed * head["norm"]["scale"][t] + head["norm"]["bias"][t]
            logits = normed @ head["linear"]["kernel"][t] + head["linear"]["bias"][t]
            if held_out.active[i, 0, t]:
                hits.append(logits[:classes].argmax() == held_out.labels[i, t])
        expected.append([np.mean(hits)])
    params = with_probe(frozen, probe)
    found = probe_accuracy(SHAPE, params, (8, 3, 4), norm, seen, held_out)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    for batch in (17, 400):
        again = probe_accuracy(SHAPE, params, (8, 3, 4), norm, seen, held_out, batch)
        np.testing.assert_allclose(again, found, atol=1e-9)


def test_a_task_active_nowhere_has_no_accuracy(probed):
    norm, _, frozen, examples, probe = probed
    seen, held_out = halves(examples)
    active = held_out.active & np.array([True, False, True])
    held_out = dataclasses.replace(held_out, active=active)
    params = with_probe(frozen, probe)
    accuracy = probe_accuracy(SHAPE, params, (8, 3, 4), norm, seen, held_out)
    assert np.isnan(accuracy[:, 0]).tolist() == [False, True, False]


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_the_loss_is_the_mean_over_the_active_positions_summed_over_tasks(norm):
    frozen, classes = reference.parameters(SHAPE), (5, 2)
    draw = np.random.default_rng(3)
    batch = ProbeExamples(
        tokens=draw.integers(0, 24, (6, LENGTH)).astype(np.int32),
        positions=draw.integers(0, LENGTH, (6, PLACES)).astype(np.int32),
        labels=np.stack([draw.integers(0, c, 6) for c in classes], axis=1).astype(np.int32),
        active=draw.random((6, PLACES, 2)) < 0.6,
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
        told = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        places = np.argwhere(batch.active[:, :, t])
        expected -= np.mean([told[b, q, batch.labels[b, t]] for b, q in places])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_an_update_of_some_tokens_leaves_the_others(probed):
    _, _, frozen, _, probe = probed
    updated = jnp.zeros(24).at[np.array([0, 3, 7])].set(1.0)
    tables = with_probe({**frozen, "updated": updated}, probe)["embedding"].reshape(3, 24, 16)
    everything = with_probe(frozen, probe)["embedding"].reshape(3, 24, 16)
    for token in range(24):
        expected = everything[:, token] if token in (0, 3, 7) else frozen["embedding"][None, token]
        assert np.array_equal(tables[:, token], np.broadcast_to(expected, (3, 16)))


def test_the_model_s_own_head_gives_its_own_logits_for_the_tokens_of_the_classes(tmp_path):
    frozen = reference.parameters(SHAPE)
    tokens_of_classes = (np.array([4, 9, -1, 17]), np.array([20, 2]))
    head = model_head(SHAPE, frozen, tokens_of_classes)
    states = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 1, 16)), jnp.float32)
    logits = class_logits(head, states, *moments(states, "layer"), (4, 2))
    centred = np.asarray(states) - np.mean(states, -1, keepdims=True)
    normed = centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-5)
    for t, of_task in enumerate(tokens_of_classes):
        for c, token in enumerate(of_task):
            if token < 0:
                assert (logits[t, ..., c] < -1e38).all()
            else:
                expected = normed[t] @ np.asarray(frozen["embedding"])[token]
                np.testing.assert_allclose(logits[t, ..., c], expected, rtol=1e-4, atol=1e-5)
    assert (logits[1, ..., 2:] == -jnp.inf).all()


def test_a_head_that_is_not_trained_stays_and_the_loss_falls_through_the_update(tmp_path):
    examples, _ = planted()
    frozen = {**reference.parameters(SHAPE)}
    frozen["head"] = model_head(SHAPE, frozen, (np.arange(10, 18), np.arange(3), np.arange(4)))
    before = jax.tree.map(np.array, frozen)
    start = init_probe(SHAPE, PROBE, (8, 3, 4), jax.random.key(0))
    del start["head"]
    how = training(100)
    how = dataclasses.replace(how, steps_per_call=10)
    trained(tmp_path, SHAPE, frozen, examples, (8, 3, 4), "layer", how, start)
    assert same_bits(frozen, before)
    found = [loss for _, loss in losses(tmp_path)]
    assert found[-1] < found[0] - 0.3


def test_shuffled_labels_are_learnt_and_tell_nothing_of_others(tmp_path):
    """The model is fit to be read, and labels without reason are learnt by heart: about the others
    the probe is right as often as a guess."""
    examples, classes = planted()
    draw = np.random.default_rng(5)
    shuffled = np.stack([draw.permutation(column) for column in examples.labels.T], axis=1)
    seen, held_out = halves(dataclasses.replace(examples, labels=shuffled))
    frozen = reference.parameters(SHAPE)
    start = init_probe(SHAPE, PROBE, classes, jax.random.key(0))
    probe = trained(tmp_path, SHAPE, frozen, seen, classes, "layer", training(100), start)
    params = with_probe(frozen, probe)
    found = probe_accuracy(SHAPE, params, classes, "layer", seen, held_out)[:, 0]
    honest = probe_accuracy(SHAPE, params, classes, "layer", *halves(examples))[:, 0]
    for t in range(len(classes)):
        likeliest = np.bincount(shuffled[:, t]).max() / len(shuffled)
        most = binom.isf(1e-6, len(held_out), 1.05 * likeliest)
        assert found[t] * len(held_out) <= most
        assert honest[t] * len(held_out) <= most


def test_an_untrained_network_says_nothing_about_people_by_their_names(language, table, tmp_path):
    """Values are drawn independently of names, so a guess about somebody of P_test is right with
    the probability of the class guessed, at most that of the likeliest class of the pool; the
    number of right guesses among independent people is at most binomial."""
    who = draw_people(language.pools, 1, np.arange(400))
    vocabulary = compact_vocabulary(table, who)
    examples = name_examples(table, who, vocabulary)
    of_people, classes = person_labels(table, who)
    inside = in_train_half(1, who.ids)
    seen, held_out = (ProbeExamples(**examples.batch(np.flatnonzero(x))) for x in (inside, ~inside))
    shape = Shape(vocabulary=vocabulary.size, layers=1, heads=2, width=16)
    frozen = reference.parameters(shape)
    probe = trained(tmp_path, shape, frozen, seen, classes, "batch", training(50))
    params = with_probe(frozen, probe)
    # It does learn the people it is trained on, so that there would be something to carry over.
    own = probe_accuracy(shape, params, classes, "batch", seen, seen)
    found = probe_accuracy(shape, params, classes, "batch", seen, held_out)
    everybody, _ = person_labels(table, draw_people(language.pools, 2, np.arange(200_000)))
    assert of_people.shape == (400, len(TASKS))
    for t in range(len(TASKS)):
        likeliest = np.bincount(everybody[:, t]).max() / len(everybody)
        # One in a million for each of 11 tasks; 5 % more for the likeliest class being estimated.
        most = binom.isf(1e-6, len(held_out), 1.05 * likeliest)
        assert found[t, 0] * len(held_out) <= most
    assert own.mean() > 2 * found.mean()
