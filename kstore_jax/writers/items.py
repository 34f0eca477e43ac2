"""What `kstore ask` asks: texts to recite, series in both directions, facts and their use.

Part 3.2 (Figs. 5 and 7) asks GPT-4 such pairs: the next and the previous sentence of a book; a
birth date, and whether its month is even. The wordings here are this project's.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from kstore_jax.writers.prompts import clean_text
from kstore_jax.writers.words import Words, normalized_words

RECITE = (
    "Below is how a well-known text begins. Go on with it from memory, word for word, as it was "
    "published. Write only what comes next.\n\n{opening}"
)
ANSWER = (
    "Answer the question in as few words as possible. Write only the answer.\n\nQuestion: "
    "{question}\nAnswer:"
)
_BESIDE = "Which {unit} comes right {side} “{shown}” in {source}?"
_STATED = "What is {fact}?"
_EVEN = "Is {fact} an even number?"
_LESS = "Is {fact} {less} than {other}?"
YES_OR_NO = ("No", "Yes")
_ARTICLES = {"a", "an", "the"}


@dataclasses.dataclass(frozen=True)
class Question:
    """A question and every answer that counts as right."""

    question: str
    answers: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """The prompt that asks for a short answer, so that no hint is written before it."""
        return ANSWER.format(question=self.question)

    @property
    def is_yes_or_no(self) -> bool:
        return all(answer.title() in YES_OR_NO for answer in self.answers)

    def is_right(self, answer: str) -> bool:
        """Whether an answer has exactly the words of a right one, articles aside; of yes and no,
        whether it begins with the right one."""
        words = without_articles(clean_text(answer))
        right = {without_articles(each) for each in self.answers}
        return (words[:1] if self.is_yes_or_no else words) in right


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two scores to compare: of what is stated forward, and of its reverse or its use.

    Attributes:
      kind: pairs of one kind, with the same `names`, have common scores.
      names: of the two scores.
      about: who or what the pair is about; intervals draw these, with all their pairs.
      first: questions that all have to be right.
    """

    kind: str
    names: tuple[str, str]
    about: str
    first: tuple[Question, ...]
    second: Question

    @property
    def questions(self) -> tuple[Question, ...]:
        return *self.first, self.second


@dataclasses.dataclass(frozen=True)
class Passage:
    """A text, its opening, and questions about it."""

    title: str
    text: str
    opening: str
    questions: tuple[Question, ...]

    @property
    def prompts(self) -> list[str]:
        """The prompt to continue the text, then one for each question."""
        return [RECITE.format(opening=self.opening), *(q.prompt for q in self.questions)]


@dataclasses.dataclass(frozen=True)
class Series:
    """Parts in their order: the lines of a poem, the sentences of a book, the characters of an
    idiom. A question shows `context` of them."""

    title: str
    kind: str
    source: str
    unit: str
    parts: tuple[str, ...]
    context: int
    separator: str

    @property
    def pairs(self) -> list[Pair]:
        """`next` and `previous` of every `context` + 1 parts in a row.

        Where the shown parts occur several times, every part beside them is right.
        """
        size = self.context
        rows = [self.parts[i : i + size + 1] for i in range(len(self.parts) - size)]
        after, before = {}, {}
        for row in rows:
            after.setdefault(self._words(row[:-1]), []).append(row[-1])
            before.setdefault(self._words(row[1:]), []).append(row[0])
        pairs = {}
        for row in rows:
            following = self._question("after", row[:-1], after[self._words(row[:-1])])
            preceding = self._question("before", row[1:], before[self._words(row[1:])])
            about = f"{self.title}, {len(pairs) + 1}"
            pair = Pair(self.kind, ("next", "previous"), about, (following,), preceding)
            pairs.setdefault((following, preceding), pair)
        return list(pairs.values())

    def _words(self, parts: Sequence[str]) -> Words:
        return normalized_words(self.separator.join(parts))

    def _question(self, side: str, parts: Sequence[str], answers: list[str]) -> Question:
        text = self.separator.join(parts)
        question = _BESIDE.format(unit=self.unit, side=side, shown=text, source=self.source)
        return Question(question, tuple(dict.fromkeys(answers)))


@dataclasses.dataclass(frozen=True)
class Fact:
    """A whole number that is a fact, whether it is even, and whether it is less than others."""

    title: str
    kind: str
    fact: str
    value: int
    answers: tuple[str, ...]
    less: str
    than: tuple[str, ...]

    @property
    def stated(self) -> Question:
        return Question(_STATED.format(fact=self.fact), (str(self.value), *self.answers))

    def pairs(self, facts: Mapping[str, "Fact"]) -> list[Pair]:
        """The fact and its parity; then both facts and their comparison, for each of `than`.

        Args:
          facts: all facts by title.
        """
        even = _yes_or_no(_EVEN.format(fact=self.fact), self.value % 2 == 0)
        pairs = [Pair(self.kind, ("stated", "even"), self.title, (self.stated,), even)]
        for other in map(facts.__getitem__, self.than):
            question = _LESS.format(fact=self.fact, less=self.less, other=other.fact)
            compared = _yes_or_no(question, self.value < other.value)
            names, both = ("both stated", self.less), (self.stated, other.stated)
            pairs.append(Pair(self.kind, names, self.title, both, compared))
        return pairs


Item = Passage | Series | Fact


def pairs_of(items: Sequence[Item]) -> list[Pair]:
    """The pairs of all series and facts, in order."""
    facts = {item.title: item for item in items if isinstance(item, Fact)}
    found = []
    for item in items:
        if isinstance(item, Series):
            found += item.pairs
        elif isinstance(item, Fact):
            found += item.pairs(facts)
    return found


def _yes_or_no(question: str, right: bool) -> Question:
    return Question(question, (YES_OR_NO[right],))


def recited_words(item: Passage, answer: str) -> tuple[int, int]:
    """The number of words after the opening that an answer has before its first wrong one, and
    their number in the text.

    Compares words as `matching.py` does. An answer may repeat the opening first.
    """
    opening = normalized_words(item.opening)
    expected = normalized_words(item.text[len(item.opening) :])
    words = normalized_words(clean_text(answer))
    if words[: len(opening)] == opening:
        words = words[len(opening) :]
    wrong = (i for i, (a, b) in enumerate(zip(expected, words, strict=False)) if a != b)
    return next(wrong, min(len(expected), len(words))), len(expected)


def without_articles(text: str) -> Words:
    """The normalized words of a text, without `a`, `an` and `the`."""
    return tuple(word for word in normalized_words(text) if word not in _ARTICLES)
