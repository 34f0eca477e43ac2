"""Examples: one person held out, as each model recites them and answers questions about them."""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from kstore_jax.charts.markup import Html, tag
from kstore_jax.charts.nouns import with_noun
from kstore_jax.corpus.encode import TokenizedTexts
from kstore_jax.corpus.examples import SpanExamples, until_end
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.model.forward import Params
from kstore_jax.model.sampling import continue_text, room
from kstore_jax.model.transformer import Shape
from kstore_jax.readouts.base import READ_COST, READOUTS, Context, Readout, ReadoutConfig
from kstore_jax.readouts.measured import Measured
from kstore_jax.readouts.qa import generate_answers, right_answers
from kstore_jax.readouts.shares import Share
from kstore_jax.tasks.base import Items
from kstore_jax.world.language import ANSWER_MARK, Language
from kstore_jax.world.people import full_names, value_texts
from kstore_jax.world.stated import Fact, facts_of, score


@dataclasses.dataclass(frozen=True)
class ExamplesConfig(ReadoutConfig):
    """One person held out, as text: what the model recites and answers."""


@READOUTS.register
class Examples(Readout):
    """What the models of a run write about the first person held out, by number."""

    name = "examples"
    version = 2
    Config = ExamplesConfig
    reads = "finetuned"
    needs_finetuning = False
    title = "One person held out"
    paragraph = (
        "Pretraining read the biography of this person. No question about this person was trained. "
        "The person is the first one held out, by number. Each model writes on after the name, "
        "before it is finetuned, and answers the questions, after it is."
    )

    def run(self, context: Context, config: ExamplesConfig, folder: pathlib.Path) -> dict:
        """Returns `person`, `read`, `recited` and `answers`, as `person_facts`, `recite` and
        `answers_about` do; nothing where nobody is held out."""
        held_out = np.flatnonzero(~context.qa_train_mask)
        if not len(held_out):
            return {}
        row = int(held_out[0])
        corpus, person = context.corpus, person_facts(context, row)
        text = corpus.texts.take(np.flatnonzero(corpus.people == person["id"])[:1])
        read = context.table.tokenizer.decode(text.tokens).strip()
        recited = recite(context, text, person["facts"])
        answers = answers_about(context, row)
        return {"person": person, "read": read, "recited": recited, "answers": answers}

    def shares(self, result: dict) -> list[Share]:
        """None: one person is no share."""
        return []

    def work(
        self, context: Context, texts: TokenizedTexts, config: ExamplesConfig, scale: float
    ) -> float:
        return READ_COST * 4 * int(texts.lengths.max())  # a text of twice its length, and questions

    def opening(self, groups: Sequence[Measured]) -> list[Html]:
        groups = [group for group in groups if group.results[0]]
        if not groups:
            return []
        person = groups[0].results[0]["person"]
        same = [group for group in groups if group.results[0]["person"] == person]
        text = with_noun(self.paragraph, groups[0].noun)
        lead = tag("p", tag("strong", f"{person['name']}. "), text)
        return [lead, *_recitations(same), *_questions(same)]


def person_facts(context: Context, row: int) -> dict:
    """The `id`, the `name` and the `facts` (attribute -> value) of a person, a row of
    `context.everyone`."""
    who, pools = context.everyone.take(np.array([row])), context.table.language.pools
    (name,), (values,) = full_names(pools, who), value_texts(pools, who)
    facts = dict(zip(context.attributes, values, strict=True))
    return {"id": int(who.ids[0]), "name": name, "facts": facts}


def recite(context: Context, text: TokenizedTexts, facts: Mapping[str, str]) -> dict:
    """What the pretrained model writes after the name in a biography.

    Args:
      text: the biography, one row. The prompt is its beginning up to the end of the first full
        name.
      facts: attribute -> value.

    Returns: `text`, prompt included; `start`, where the model's own begins, in characters;
      `given`, how many facts the prompt states; and `facts`, as `stated.Fact`, of the values that
      the model stated in the words of a template. Empty for a bidirectional model, which writes no
      text, and for a text without the name.
    """
    ends = [int(end) for _, end in text.name_spans[0] if end]
    if context.mask_token is not None or not ends:
        return {}
    vocabulary, language = context.vocabulary, context.table.language
    prompt = np.concatenate([[vocabulary.end_of_text], vocabulary.encode(text.tokens[: min(ends)])])
    most = 1 + len(text.tokens)  # with the end of text before it
    return recite_after(
        context.shape, context.pretrained, vocabulary, language, prompt, most, facts
    )


def recite_after(
    shape: Shape,
    params: Params,
    vocabulary: Vocabulary,
    language: Language,
    prompt: np.ndarray,
    length: int,
    facts: Mapping[str, str],
) -> dict:
    """What a causal model writes after the beginning of a biography, as `recite` returns it.

    Args:
      prompt: (L,) int32 tokens, the end of text first.
      length: tokens of the biography; the model may write somewhat more than twice as many.
      facts: attribute -> value.

    Returns: as `recite`; empty where the prompt fills the model's longest text.
    """
    most, left, end = 8 + 2 * length, room(shape, len(prompt)), vocabulary.end_of_text
    most = most if left is None else min(most, left)
    if not most:
        return {}
    options = end, vocabulary.size, most
    written = until_end(continue_text(shape, params, prompt.astype(np.int32), *options), end)
    given = vocabulary.decode(prompt[1:]).lstrip()
    whole = given + vocabulary.decode(written)
    stated = facts_of(language, whole, facts)
    own = [fact._asdict() for fact in stated if fact.start >= len(given)]
    before = {fact.attribute for fact in stated if fact.start < len(given)}
    return {"text": whole, "start": len(given), "given": len(before), "facts": own}


def answers_about(context: Context, row: int) -> list[dict]:
    """The finetuned model's answers to the trained questions about one person alone.

    Args:
      row: of `context.everyone`.

    Returns: for each question its `task`, its `group`, and what `answers` returns. Empty where the
      run has no model that answers questions.
    """
    only = np.arange(len(context.everyone)) == row
    found = []
    for task in context.trained_tasks:
        items = context.items(task)
        items = items.take(np.flatnonzero(items.about(only)))
        if not len(items):
            continue
        examples, names = context.examples(items), context.group_names(task)
        accepted = accepted_texts(context, items)
        shown = answers(context, context.finetuned, examples, items.hint_lengths, accepted=accepted)
        for group, answer in zip(items.groups, shown, strict=True):
            found.append({"task": task, "group": names[group], **answer})
    return found


def answers(
    context: Context,
    params: Params,
    examples: SpanExamples,
    hint_lengths: np.ndarray,
    beam_size: int = 1,
    accepted: Mapping[int, Collection[str]] = MappingProxyType({}),
) -> list[dict]:
    """The answers of a model as text.

    Args:
      hint_lengths: (N,) int: `Items.hint_lengths` of the questions.
      accepted: other right answers to a question, by its number.

    Returns: for each question `question`, `answer`, `truth`, and whether it is `right`.
    """
    end, decode = context.vocabulary.end_of_text, context.vocabulary.decode
    generated = generate_answers(context, params, examples, beam_size)
    right = right_answers(hint_lengths, examples, generated, end)
    shown = []
    for i, tokens in enumerate(generated):
        inside = examples.weights[i, 0] > 0
        target = examples.targets[i, 0][inside]
        start = examples.positions[i, 0, 0] + (context.mask_token is None)
        answer = decode(until_end(tokens, end)).strip()
        shown.append(
            {
                "question": decode(examples.tokens[i][1:start]),
                "answer": answer,
                "truth": decode(target[target != end]).strip(),
                "right": bool(right[i]) or answer in accepted.get(i, ()),
            }
        )
    return shown


def accepted_texts(context: Context, items: Items) -> dict[int, set[str]]:
    """The other right answers to questions that have some, by the number of the question."""
    texts: dict[int, set[str]] = {}
    if accepted := items.accepted:
        rows, tokenizer = accepted.items.texts, context.table.tokenizer
        for i, of in enumerate(accepted.of.tolist()):
            start, stop = rows.offsets[i] + rows.value_spans[i, 0]
            texts.setdefault(of, set()).add(tokenizer.decode(rows.tokens[start:stop]).strip())
    return texts


_IN_VIEW = 4
"""Recitations in view; the page folds the others."""


def _recitations(groups: Sequence[Measured]) -> list[Html]:
    """What each model recites, side by side."""
    texts = [_recitation(group) for group in groups if group.results[0]["recited"]]
    shown = [tag("div", *texts[:_IN_VIEW], class_="texts")] if texts else []
    if folded := texts[_IN_VIEW:]:
        summary = tag("summary", f"{len(folded)} more")
        shown.append(tag("details", summary, tag("div", *folded, class_="texts")))
    return shown


def _recitation(group: Measured) -> Html:
    result = group.results[0]
    recited, truth = result["recited"], result["person"]["facts"]
    parts, end = [], 0
    for fact in recited["facts"]:
        parts += [recited["text"][end : fact["start"]], _marked(recited["text"], fact)]
        end = fact["end"]
    facts = [Fact(**fact) for fact in recited["facts"]]
    small = f"{group.wording}; {score(facts, len(truth), recited.get('given', 0))}"
    read = tag("details", tag("summary", "what it read"), tag("p", result["read"]))
    head = tag("h3", f"{group.label} recites ", tag("small", small))
    return tag("div", head, tag("p", *parts, recited["text"][end:]), read)


def _marked(text: str, fact: Mapping) -> Html:
    value = text[fact["start"] : fact["end"]]
    if fact["right"]:
        return tag("mark", value)
    return tag("mark", f"{value} ✗ ", tag("small", f"{fact['truth']} is right"), class_="wrong")


def _questions(groups: Sequence[Measured]) -> list[Html]:
    """The questions, and the answer of each model, side by side."""
    by_model = [
        {answer["question"]: answer for answer in group.results[0]["answers"]} for group in groups
    ]
    if not (asked := {q: answer["truth"] for of in by_model for q, answer in of.items()}):
        return []
    heads = ["question", "right answer", *(f"{group.label} answers" for group in groups)]
    rows = [
        tag(
            "tr",
            tag("th", question.removesuffix(ANSWER_MARK), scope="row"),
            tag("td", truth),
            *(_answer(of.get(question)) for of in by_model),
        )
        for question, truth in asked.items()
    ]
    head = tag("thead", tag("tr", *(tag("th", each, scope="col") for each in heads)))
    name = f"answers about {groups[0].results[0]['person']['name']}"
    inside = tag("table", head, tag("tbody", *rows), class_="answers", aria_label=name)
    return [tag("div", inside, class_="scroll", role="group", tabindex=0, aria_label=name)]


def _answer(answer: Mapping | None) -> Html:
    if answer is None:
        return tag("td", "–")
    mark, kind = ("✓", None) if answer["right"] else ("✗", "wrong")
    return tag("td", tag("mark", f"{mark} {answer['answer'] or '(nothing)'}", class_=kind))
