"""`statements` finds the facts that biographies state, and wrong ones too."""

from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.api.world import World
from kstore_jax.world.stated import statements

WORLD = World(people=300, seed=3)
VARIANTS = st.sampled_from(["single", "multi5+permute", "multi2+fullname", "multi5+reverse6"])


@given(person=st.integers(0, 299), variant=VARIANTS, entry=st.integers(0, 1))
def test_every_fact_of_a_biography_is_found_where_it_is(person, variant, entry):
    text = WORLD[person].text(variant, entry * (not variant.startswith("single")))
    found = statements(WORLD.language, text)
    spans = {span: fact for fact, of_fact in text.spans.items() for span in of_fact}
    assert [(start, end) for _, start, end in found] == sorted(
        span for span, fact in spans.items() if fact != "name"
    )
    assert all(spans[start, end] in attributes for attributes, start, end in found)


def test_values_of_others_and_unknown_ones_are_found_too():
    text = "Anna Conway was born in Princeton, NJ. They majored in Underwater Basket Weaving."
    found = [(text[a:b], names) for names, a, b in statements(WORLD.language, text)]
    assert found == [
        ("Princeton, NJ", ("birth_city",)),
        ("Underwater Basket Weaving", ("major",)),
    ]


def test_a_text_that_states_nothing():
    assert statements(WORLD.language, "") == []
    assert statements(WORLD.language, "The cat sat on the mat.") == []
