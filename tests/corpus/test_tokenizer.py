"""Every tokenizer cuts the pieces of a text as it cuts the whole text; others are refused."""

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
from kstore_jax.world.people import ATTRIBUTES, draw_people
from kstore_jax.world.questions import write_questions

SEED = 5


@pytest.fixture(scope="module")
def who(language):
    return draw_people(language.pools, SEED, np.arange(200))


def texts_of(language, entries) -> list[str]:
    return [pieces_to_text(language, pieces) for pieces in entries.texts.pieces]


@pytest.fixture(scope="module")
def files(language, biographies, tmp_path_factory):
    """GPT-2 as Hugging Face keeps it, a SentencePiece-like tokenizer, and three of no use."""
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
def test_pieces_are_cut_as_the_whole_text_is(language, biographies, files, who, name):
    found = load_tokenizer(str(files / name) if "." in name else name, language, SEED, who)
    table = token_table(language, found)
    entries = biographies("multi2+permute", who.ids, SEED)
    rows = encode_biographies(table, entries)
    expected = found.encode(texts_of(language, entries))
    assert_array_equal(rows.lengths, [len(ids) for ids in expected])
    assert_array_equal(rows.tokens, np.concatenate(expected))
    assert rows.tokens.dtype == found.dtype

    asked = write_questions(language, who, np.arange(200) % 6, 2)
    questions = encode_questions(table, asked)
    assert_array_equal(questions.tokens, np.concatenate(found.encode(texts_of(language, asked))))
    values = who.values[np.arange(200), np.arange(200) % 6]
    for row in range(200):
        start, end = questions.offsets[row] + questions.value_spans[row, 0]
        value = language.pools.values[ATTRIBUTES[row % 6]][values[row]]
        assert found.decode(questions.tokens[start:end]).strip() == value


@pytest.mark.parametrize("name", ["word", "bpe1000"])
def test_training_a_tokenizer_twice_gives_the_same(language, who, name):
    first, again = (load_tokenizer(name, language, SEED, who) for _ in range(2))
    assert first is not again
    assert first.fingerprint == again.fingerprint


def test_a_trained_vocabulary_has_the_size_asked_for_and_every_byte(language, who):
    assert load_tokenizer("bpe1000", language, SEED, who).size == 1000
    found = load_tokenizer("bpe300", language, SEED, who)
    (ids,) = found.encode(["Zürich, 東京"])
    assert found.decode(ids) == "Zürich, 東京"


def test_a_word_vocabulary_has_one_token_a_word(language, who):
    found = load_tokenizer("word", language, SEED, who)
    assert [found.decode([i]) for i in found.encode([" born on October 2, 1996."])[0]] == [
        " born", " on", " October", " 2", ",", " 1996", ".",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gtp2", "'gtp2' is no tokenizer; expected gpt2, bpeN, word or a path of a tokenizer.json"),
        ("bpe", "'bpe' is no tokenizer"),
        ("bpe0", "'bpe0' is no tokenizer"),
        ("bpe256", "expected bpeN with N over 256, got 256"),
        ("nowhere.json", "nowhere.json: no such file"),
        ("broken.json", "not a tokenizer.json"),
        ("no_end.json", "has no end of text"),
        ("no_words.json", "joins words"),
    ],
)
def test_what_is_no_tokenizer_is_refused_in_one_line(language, files, who, name, said):
    with pytest.raises(UserError) as refused:
        load_tokenizer(str(files / name) if "." in name else name, language, SEED, who)
    assert str(refused.value).startswith("data.tokenizer: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_changed_file_of_gpt2_is_named(monkeypatch):
    monkeypatch.setitem(module._GPT2_FILES, "vocab.bpe", "0" * 64)
    with pytest.raises(DamagedFileError, match=r"vocab\.bpe: is not GPT-2's"):
        gpt2.__wrapped__()
