"""Tokenizers: the tokens of a text are the tokens of its pieces; errors."""

import numpy as np
import pytest
import tokenizers
from numpy.testing import assert_array_equal
from tokenizers import decoders, models, pre_tokenizers, trainers

from kstore_jax.corpus import tokenizer as module
from kstore_jax.corpus.encode import encode_biographies, encode_questions, token_table
from kstore_jax.corpus.tokenizer import gpt2, load_tokenizer
from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.world.language import pieces_to_text
from kstore_jax.world.people import draw_people
from kstore_jax.world.questions import write_questions
from tests.world.bundled import ATTRIBUTES

SEED = 5


@pytest.fixture(scope="module")
def people(language):
    return draw_people(language.pools, SEED, np.arange(200))


def texts_of(language, written) -> list[str]:
    return [pieces_to_text(language, pieces) for pieces in written.texts.pieces]


@pytest.fixture(scope="module")
def files(language, biographies, tmp_path_factory):
    """GPT-2 as a tokenizer.json, a tokenizer like SentencePiece's, and three that are refused."""
    folder = tmp_path_factory.mktemp("tokenizers")
    corpus = texts_of(language, biographies("multi2+permute", np.arange(200), SEED))

    def train(name: str, splitter, special: list[str]) -> None:
        backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
        if splitter:
            backend.pre_tokenizer = splitter
            backend.decoder = decoders.Metaspace()
        special = ["<unk>", *special]
        trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
        backend.train_from_iterator(corpus, trainer)
        backend.save(str(folder / f"{name}.json"))

    gpt2().backend.save(str(folder / "gpt2.json"))
    words = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    train("metaspace", words, ["</s>"])
    train("no_words", None, ["</s>"])
    train("no_end", words, [])
    (folder / "broken.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", ["gpt2", "word", "bpe1000", "gpt2.json", "metaspace.json"])
def test_the_tokens_of_pieces_are_those_of_the_text(language, biographies, files, people, name):
    tokenizer = load_tokenizer(str(files / name) if "." in name else name, language, SEED, people)
    table = token_table(language, tokenizer)
    written = biographies("multi2+permute", people.ids, SEED)
    rows = encode_biographies(table, written)
    expected = tokenizer.encode(texts_of(language, written))
    assert_array_equal(rows.lengths, [len(ids) for ids in expected])
    assert_array_equal(rows.tokens, np.concatenate(expected))
    assert rows.tokens.dtype == tokenizer.dtype

    written = write_questions(language, people, np.arange(200) % 6, 2)
    questions = encode_questions(table, written)
    expected = tokenizer.encode(texts_of(language, written))
    assert_array_equal(questions.tokens, np.concatenate(expected))
    values = people.values[np.arange(200), np.arange(200) % 6]
    for row in range(200):
        start, end = questions.offsets[row] + questions.value_spans[row, 0]
        value = language.pools.values[ATTRIBUTES[row % 6]][values[row]]
        assert tokenizer.decode(questions.tokens[start:end]).strip() == value


@pytest.mark.parametrize("name", ["word", "bpe1000"])
def test_training_is_deterministic(language, people, name):
    first, again = (load_tokenizer(name, language, SEED, people) for _ in range(2))
    assert first is not again
    assert first.fingerprint == again.fingerprint


def test_a_trained_vocabulary_has_the_given_size_and_every_byte(language, people):
    assert load_tokenizer("bpe1000", language, SEED, people).size == 1000
    tokenizer = load_tokenizer("bpe300", language, SEED, people)
    (ids,) = tokenizer.encode(["Zürich, 東京"])
    assert tokenizer.decode(ids) == "Zürich, 東京"


def test_a_word_vocabulary_has_one_token_per_word(language, people):
    tokenizer = load_tokenizer("word", language, SEED, people)
    (ids,) = tokenizer.encode([" born on October 2, 1996."])
    assert [tokenizer.decode([i]) for i in ids] == [
        " born", " on", " October", " 2", ",", " 1996", ".",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gtp2", "no tokenizer 'gtp2'; expected gpt2, bpeN, word or the path of a tokenizer.json"),
        ("bpe", "no tokenizer 'bpe'"),
        ("bpe0", "no tokenizer 'bpe0'"),
        ("bpe256", "expected bpeN with N over 256, got 256"),
        ("nowhere.json", "nowhere.json: no such file"),
        ("broken.json", "not a tokenizer.json"),
        ("no_end.json", "has no end of text"),
        ("no_words.json", "merges across words"),
    ],
)
def test_an_error_is_one_line_that_names_the_field(language, files, people, name, message):
    with pytest.raises(UserError) as error:
        load_tokenizer(str(files / name) if "." in name else name, language, SEED, people)
    assert str(error.value).startswith("data.tokenizer: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_changed_file_of_gpt2_is_named(monkeypatch):
    monkeypatch.setitem(module._GPT2_FILES, "vocab.bpe", "0" * 64)
    with pytest.raises(DamagedFileError, match=r"vocab\.bpe: is not GPT-2's"):
        gpt2.__wrapped__()
